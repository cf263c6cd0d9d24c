"""What people write after -p."""

from __future__ import annotations

import pytest

from portside.model.errors import InvalidParameter
from portside.model.network import PortBinding
from portside.networks.firewall.ruleset import elements
from portside.networks.portmapper import Publication, Wanted, parse_port, parse_range, parse_wanted


def test_ranges_pair_up_or_choose() -> None:
    pairs = parse_wanted({"80-82/tcp": [PortBinding("", "8080-8082")]}, (), False)
    assert [(w.container_port, w.first, w.last) for w in pairs] == [
        (80, 8080, 8080), (81, 8081, 8081), (82, 8082, 8082),
    ]  # fmt: skip
    (choice,) = parse_wanted({"80/tcp": [PortBinding("", "8080-8082")]}, (), False)
    assert choice == Wanted("tcp", 80, "", 8080, 8082)


def test_publish_all_leaves_named_ones() -> None:
    found = parse_wanted({"80/tcp": [PortBinding("", "8080")]}, ("80/tcp", "53/udp"), True)
    assert [(w.protocol, w.container_port, w.first) for w in found] == [
        ("tcp", 80, 8080), ("udp", 53, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["0/tcp", "80/foo", "x", "70000/tcp", "9-8/tcp", "-1/tcp", "²/tcp"]
)
def test_refused_container_ports(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_port(text)


@pytest.mark.parametrize("text", ["abc", "70000", "9-8", "", "1-", "٣"])
def test_refused_host_ports(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_range(text)


def test_refused_addresses() -> None:
    with pytest.raises(InvalidParameter, match="invalid IP address"):
        parse_wanted({"80/tcp": [PortBinding("nowhere", "80")]}, (), False)


def test_elements() -> None:
    everywhere = Publication("tcp", "0.0.0.0", 8080, "172.17.0.2", 80)
    assert elements(everywhere) == [("anywhere4", "tcp . 8080", "172.17.0.2 . 80")]
    one = Publication("udp", "::1", 53, "fd00::2", 5353)
    assert elements(one, asks_host=True) == [
        ("published6", "::1 . udp . 53", "fd00::2 . 5353"),
        ("ask6", "::1 . udp . 53", ""),
    ]
    assert Publication("tcp", "::", 1, "10.0.0.1", 1).relayed and not everywhere.relayed
