"""What people write after -p, and what a host firewall says to it."""

from __future__ import annotations

from typing import Any

import pytest

from portside.model.errors import InvalidParameter
from portside.model.network import PortBinding
from portside.networks.hostfirewall import HostFirewall
from portside.networks.portmapper import Publication, Wanted, parse_port, parse_range, parse_wanted
from portside.networks.ruleset import elements


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


def rule(*expressions: dict[str, Any], chain: str = "input") -> dict[str, Any]:
    where = {"family": "inet", "table": "filter", "chain": chain}
    return {"rule": {**where, "expr": list(expressions)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
SOURCE = {"payload": {"protocol": "ip", "field": "saddr"}}
BASE = {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input"}


def firewall(policy: str, *objects: dict[str, Any]) -> HostFirewall:
    return HostFirewall([{"chain": {**BASE, "policy": policy}}, *objects], "portside")


def test_host_firewall_is_read_as_the_kernel_would() -> None:
    allowed = {"set": [22, {"range": [8000, 8010]}]}
    found = firewall("drop", rule(match(DPORT, allowed), {"counter": None}, {"accept": None}))
    assert [found.closes("tcp", port) for port in (22, 8005, 80)] == ["", "", "inet filter input"]
    assert found.closes("udp", 22) == "inet filter input"
    named = {"set": {"family": "inet", "table": "filter", "name": "ok", "elem": [80, 443]}}
    found = firewall("drop", named, rule(match(DPORT, "@ok"), {"accept": None}))
    assert found.closes("tcp", 443) == "" and found.closes("tcp", 81)
    found = firewall("accept", rule(match(DPORT, 80), {"reject": None}))
    assert found.closes("tcp", 80) and not found.closes("tcp", 81)


def test_host_firewall_follows_jumps_and_doubts_what_it_cannot_know() -> None:
    state = match({"ct": {"key": "state"}}, ["established", "related"])
    found = firewall(
        "drop",
        rule(state, {"accept": None}),
        rule(match(SOURCE, "10.0.0.0/8"), {"accept": None}),
        rule({"jump": {"target": "more"}}),
        rule(match(DPORT, 80), {"return": None}, chain="more"),
        rule(match(DPORT, 79, "!="), {"accept": None}, chain="more"),
    )
    assert found.closes("tcp", 80) and found.closes("tcp", 79) and not found.closes("tcp", 90)
    ours = {"chain": {**BASE, "table": "portside", "policy": "drop"}}
    assert HostFirewall([ours], "portside").closes("tcp", 80) == ""
    loop = firewall("drop", rule({"jump": {"target": "input"}}))
    assert loop.closes("tcp", 80)


def test_forward_chains_are_told_apart() -> None:
    forward = {"chain": {**BASE, "name": "forward", "hook": "forward", "policy": "drop"}}
    found = firewall("accept", forward)
    assert found.closes("tcp", 443) == ""
    assert found.closes("tcp", 443, "forward") == "inet filter forward"
