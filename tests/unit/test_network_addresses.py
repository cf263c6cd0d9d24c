"""Subnets and addresses: pools, live routes, ranges, and what is refused."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from portside.kernel.netlink import Route
from portside.model.errors import Conflict, Forbidden, InvalidParameter, SystemFailure
from portside.model.network import (
    AddressPool,
    IPAMConfig,
    NetworkResource,
    NetworkStatus,
    SubnetStatus,
)
from portside.networks import ipam


def net(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)


def route(text: str) -> Route:
    return Route(2, net(text), None, 7, 3, 0)


def test_hundreds_of_networks_fit() -> None:
    pools = ipam.parse_pools(ipam.DEFAULT_POOLS)
    taken: list[ipam.IPNetwork] = []
    for _ in range(400):
        taken.append(ipam.choose_subnet(pools, 4, taken, (), {}))
    assert len(set(taken)) == 400
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(taken))  # type: ignore[arg-type]


def test_live_routes_are_passed_over() -> None:
    pools = ipam.parse_pools([AddressPool("10.9.0.0/16", 24)])
    found = ipam.choose_subnet(pools, 4, [], [route("10.9.0.0/17")], {7: "vpn0"})
    assert found == net("10.9.128.0/24")
    with pytest.raises(Forbidden, match=r"route 10\.8\.0\.0/15 dev vpn0 is in the way"):
        ipam.choose_subnet(pools, 4, [], [route("10.8.0.0/15")], {7: "vpn0"})


def test_a_default_route_shadows_nothing() -> None:
    assert ipam.shadowed(net("10.0.0.0/8"), [Route(2, None, None, 1, 3, 0)]) is None


def test_lowest_free_address_first() -> None:
    subnet = ipam.Subnet.of(IPAMConfig("10.1.0.0/29", "", "10.1.0.1", {"x": "10.1.0.2"}))
    assert [str(subnet.allocate()) for _ in range(4)] == [f"10.1.0.{n}" for n in (3, 4, 5, 6)]
    with pytest.raises(Conflict, match="no available addresses"):
        subnet.allocate()
    subnet.release(ipaddress.ip_address("10.1.0.4"))
    assert str(subnet.allocate()) == "10.1.0.4"


@pytest.mark.parametrize("text", ["10.1.0.0", "10.1.0.1", "10.1.0.7"])
def test_addresses_that_are_taken(text: str) -> None:
    subnet = ipam.Subnet.of(IPAMConfig("10.1.0.0/29", "", "10.1.0.1"))
    with pytest.raises(Forbidden, match="Address already in use"):
        subnet.claim(ipaddress.ip_address(text))
    with pytest.raises(InvalidParameter, match="does not belong"):
        subnet.claim(ipaddress.ip_address("10.2.0.1"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (IPAMConfig("bad"), "invalid CIDR block notation"),
        (IPAMConfig("10.1.0.0"), "invalid CIDR block notation"),
        (IPAMConfig("10.1.0.1/24"), "it should be 10.1.0.0/24"),
        (IPAMConfig("10.1.0.0/24", "10.2.0.0/25"), "doesn't contain ip-range"),
        (IPAMConfig("10.1.0.0/24", "10.1.0.1/25"), "it should be 10.1.0.0/25"),
        (IPAMConfig("10.1.0.0/24", "fd00::/64"), "parent subnet is an IPv4 block"),
        (IPAMConfig("10.1.0.0/24", "", "fd00::1"), "parent subnet is an IPv4 block"),
        (IPAMConfig("10.1.0.0/24", "", "x"), "invalid gateway x: invalid address"),
        (IPAMConfig("10.1.0.0/24", "10.1.0.0/16"), "bigger than its parent"),
        (IPAMConfig("10.1.0.0/24", "", "10.2.0.1"), "invalid gateway"),
        (IPAMConfig("10.1.0.0/24", "", "", {"a": "10.2.0.1"}), "auxiliary address a"),
    ],
)
def test_refused_ranges(config: IPAMConfig, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        ipam.checked(config)


def test_everything_wrong_is_reported_at_once() -> None:
    with pytest.raises(InvalidParameter) as told:
        ipam.check([IPAMConfig("10.1.0.1/24", "", "10.2.0.1")])
    assert str(told.value) == (
        "invalid network config:\n"
        "* invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24\n"
        "* invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain this address"
    )


def test_the_smallest_networks() -> None:
    pair = ipam.with_gateway(ipam.checked(IPAMConfig("10.1.0.0/31")))
    assert pair.gateway == "10.1.0.0"
    subnet = ipam.Subnet.of(pair)
    assert str(subnet.allocate()) == "10.1.0.1"
    with pytest.raises(Conflict, match="no available addresses"):
        subnet.allocate()
    assert ipam.with_gateway(ipam.checked(IPAMConfig("10.1.0.9/32"))).gateway == "10.1.0.9"
    assert ipam.with_gateway(ipam.checked(IPAMConfig("fd00::/127"))).gateway == "fd00::1"
    assert ipam.with_gateway(ipam.checked(IPAMConfig("10.1.0.0/31")), False).gateway == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (IPAMConfig("10.1.0.0/24", "", "10.1.0.0"), "gateway (10.1.0.0)"),
        (IPAMConfig("10.1.0.0/24", "", "10.1.0.255"), "gateway (10.1.0.255)"),
        (IPAMConfig("10.1.0.0/24", "", "", {"a": "10.1.0.1"}), "address (a:10.1.0.1)"),
        (IPAMConfig("10.1.0.0/24", "", "10.1.0.9", {"a": "10.1.0.9"}), "address (a:10.1.0.9)"),
    ],
)
def test_addresses_that_cannot_be_reserved(config: IPAMConfig, words: str) -> None:
    with pytest.raises(SystemFailure) as told:
        ipam.with_gateway(ipam.checked(config))
    assert words in str(told.value) and "Address already in use" in str(told.value)


def test_pools_are_checked() -> None:
    for pools in ([AddressPool("10.0.0.0/16", 8)], [AddressPool("x", 24)]):
        with pytest.raises(InvalidParameter):
            ipam.parse_pools(pools)
    with pytest.raises(InvalidParameter, match="overlap"):
        ipam.parse_pools([AddressPool("10.0.0.0/8", 24), AddressPool("10.1.0.0/16", 24)])


def test_unique_local_pool_is_stable() -> None:
    one, same, other = map(ipam.unique_local_pool, ("a", "a", "b"))
    assert one == same != other
    assert ipaddress.ip_network(one.base).subnet_of(ipaddress.IPv6Network("fd00::/8"))  # type: ignore[arg-type]


def test_how_full_a_subnet_is() -> None:
    """As Engine API 1.52 counts: the network's own addresses and the gateway are in use."""
    whole = ipam.Subnet.of(ipam.with_gateway(IPAMConfig("10.1.0.0/24")))
    assert whole.status() == SubnetStatus(3, 253)
    whole.allocate()
    assert whole.status() == SubnetStatus(4, 252)
    part = ipam.Subnet.of(
        IPAMConfig("10.1.0.0/24", "10.1.0.128/25", "10.1.0.1", {"a": "10.1.0.200"})
    )
    assert part.status() == SubnetStatus(4, 126)
    six = ipam.Subnet.of(ipam.with_gateway(IPAMConfig("fd00::/64")))
    assert six.status() == SubnetStatus(2, 2**64 - 2)
    assert ipam.Subnet.of(IPAMConfig("fd00::/48")).status().dynamic_ips_available == 2**64 - 1


def test_status_is_reported_from_its_version_on() -> None:
    resource = NetworkResource(name="n", id="1", status=NetworkStatus())
    assert "Status" not in resource.wire((1, 51))
    assert resource.wire((1, 52))["Status"] == {"IPAM": {"Subnets": {}}}
    assert "Status" not in NetworkResource(name="n", id="1").wire((1, 52)), "of a list"
