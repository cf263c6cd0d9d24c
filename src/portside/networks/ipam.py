"""Addresses: which subnet a network gets, and which address an endpoint.

Subnets are chosen so that nothing the host can reach today is shadowed: a candidate that
overlaps a live route or another network is passed over. Addresses are the lowest free
ones of the network's range. What is in use is kept here in memory and, by the service, as
unique names in the metadata, so that a crash never leads to an address given twice.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from portside.kernel.netlink import Route
from portside.model.errors import Conflict, Forbidden, InvalidParameter
from portside.model.network import AddressPool, IPAddress, IPAMConfig, IPNetwork

DEFAULT_POOLS = (
    AddressPool("172.17.0.0/16", 16),
    AddressPool("172.18.0.0/15", 20),
    AddressPool("172.20.0.0/14", 20),
    AddressPool("172.24.0.0/13", 20),
    AddressPool("192.168.0.0/16", 24),
)
"""Docker's ranges; after the default bridge's own /16 they are cut into 480 networks, where
Docker makes 31."""

MACHINE_ID = Path("/etc/machine-id")


def unique_local_pool(seed: str) -> AddressPool:
    """This engine's unique-local /48 (RFC 4193), cut into /64 networks; stable for a seed."""
    try:
        machine = MACHINE_ID.read_bytes()
    except OSError:
        machine = b""
    digest = hashlib.sha256(machine + b"\0" + seed.encode()).digest()
    base = ipaddress.IPv6Address(b"\xfd" + digest[:5] + bytes(10))
    return AddressPool(f"{base}/48", 64)


def parse_pools(pools: Sequence[AddressPool]) -> list[tuple[IPNetwork, int]]:
    """Checked pools as (base, prefix length of the cut); InvalidParameter."""
    parsed: list[tuple[IPNetwork, int]] = []
    for pool in pools:
        try:
            base = ipaddress.ip_network(pool.base)
        except ValueError as err:
            raise InvalidParameter(f"invalid base pool {pool.base!r}: {err}") from err
        if not base.prefixlen <= pool.size <= base.max_prefixlen - 2:
            raise InvalidParameter(
                f"the size of a pool must lie between the base's prefix length and "
                f"{base.max_prefixlen - 2}: {pool.base} has size {pool.size}"
            )
        for other, _ in parsed:
            if overlap(base, other):
                raise InvalidParameter(f"address pools overlap: {base} and {other}")
        parsed.append((base, pool.size))
    return parsed


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.overlaps(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.overlaps(other)
    return False


def describe(route: Route, interfaces: dict[int, str]) -> str:
    """A route as ip-route(8) would write it."""
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.network}{via} dev {interfaces.get(route.oif, route.oif)}"


def shadowed(subnet: IPNetwork, routes: Iterable[Route]) -> Route | None:
    """The live route a subnet would shadow or be hidden by; default routes do not count."""
    for route in routes:
        if route.network is not None and overlap(subnet, route.network):
            return route
    return None


def choose_subnet(
    pools: Sequence[tuple[IPNetwork, int]],
    version: int,
    taken: Sequence[IPNetwork],
    routes: Sequence[Route],
    interfaces: dict[int, str],
) -> IPNetwork:
    """The first subnet of the pools that is free; Forbidden names what stands in the way."""
    live = [
        route for route in routes if route.network is not None and route.network.version == version
    ]
    busy = [network for network in taken if network.version == version]
    covered = _merged([*busy, *(route.network for route in live if route.network is not None)])
    for base, size in pools:
        if base.version == version:
            position = _first_free(base, size, covered)
            if position is not None:
                return _subnet(version, position, size)
    message = "all predefined address pools have been fully subnetted"
    blocking = next((r for base, _ in pools if (r := shadowed(base, live)) is not None), None)
    if blocking is not None:
        message += f" (the host's route {describe(blocking, interfaces)} is in the way)"
    raise Forbidden(f"{message}: add one with --default-address-pool, or give --subnet")


def _merged(networks: Iterable[IPNetwork]) -> list[tuple[int, int]]:
    """First and last addresses of what networks cover, in order, without overlaps."""
    spans = sorted((int(n.network_address), int(n.broadcast_address)) for n in networks)
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _first_free(base: IPNetwork, size: int, covered: Sequence[tuple[int, int]]) -> int | None:
    """The first address of the first part of ``base`` that nothing covers."""
    step = 1 << (base.max_prefixlen - size)
    position = int(base.network_address)
    for first, last in covered:
        if last < position:
            continue
        if first >= position + step:
            break
        position = (last // step + 1) * step
    return position if position <= int(base.broadcast_address) else None


def _subnet(version: int, position: int, size: int) -> IPNetwork:
    if version == 4:
        return ipaddress.IPv4Network((position, size))
    return ipaddress.IPv6Network((position, size))


class Subnet:
    """One address range of a network, and which of its addresses are in use."""

    def __init__(
        self,
        network: IPNetwork,
        gateway: IPAddress | None,
        ip_range: IPNetwork | None = None,
        reserved: Iterable[IPAddress] = (),
    ) -> None:
        self.network, self.gateway, self.range = network, gateway, ip_range or network
        self._used: set[int] = {int(address) for address in reserved}
        if gateway is not None:
            self._used.add(int(gateway))
        first, last = int(network.network_address), int(network.broadcast_address)
        self._first = max(first + 1, int(self.range.network_address))
        # IPv6 has no broadcast address; /31 and /32 networks are not given out
        end = last if network.version == 6 else last - 1
        self._last = min(end, int(self.range.broadcast_address))
        self._next = self._first

    @classmethod
    def of(cls, config: IPAMConfig) -> Subnet:
        """From a network's stored configuration."""
        return cls(
            ipaddress.ip_network(config.subnet),
            ipaddress.ip_address(config.gateway) if config.gateway else None,
            ipaddress.ip_network(config.ip_range) if config.ip_range else None,
            [ipaddress.ip_address(a) for a in (config.aux_addresses or {}).values() if a],
        )

    def allocate(self) -> IPAddress:
        """The lowest free address of the range; Conflict when there is none."""
        for number in range(self._next, self._last + 1):
            if number not in self._used:
                self._used.add(number)
                self._next = number + 1
                return self._address(number)
        raise Conflict(f"no available IPv{self.network.version} addresses on this network's "
                       f"address pools: {self.range} is full")  # fmt: skip

    def claim(self, address: IPAddress) -> None:
        """Take one address; Forbidden when it is in use, InvalidParameter when outside."""
        if address not in self.network:
            raise InvalidParameter(
                f"invalid address {address}: It does not belong to any of this network's subnets"
            )
        number = int(address)
        edges = {int(self.network.network_address)}
        if self.network.version == 4:
            edges.add(int(self.network.broadcast_address))
        if number in self._used or number in edges:
            raise Forbidden("Address already in use")
        self._used.add(number)

    def restore(self, address: IPAddress) -> None:
        """Mark an address that the metadata says is in use."""
        self._used.add(int(address))

    def release(self, address: IPAddress) -> None:
        number = int(address)
        self._used.discard(number)
        if self._first <= number < self._next:
            self._next = number

    def _address(self, number: int) -> IPAddress:
        if self.network.version == 4:
            return ipaddress.IPv4Address(number)
        return ipaddress.IPv6Address(number)


def checked(config: IPAMConfig) -> IPAMConfig:
    """A user's range with its values checked against each other and normalized.

    The gateway is the range's first address unless given. InvalidParameter names the value.
    """
    network = parse_subnet(config.subnet)
    inner: IPNetwork | None = None
    if config.ip_range:
        try:
            inner = ipaddress.ip_network(config.ip_range, strict=False)
        except ValueError as err:
            raise InvalidParameter(f"invalid ip-range {config.ip_range}: {err}") from err
        if inner.version != network.version or not overlap(inner, network):
            raise InvalidParameter(f"invalid ip-range {inner}: it is not within subnet {network}")
        if inner.prefixlen < network.prefixlen:
            raise InvalidParameter(
                f"invalid ip-range {inner}: CIDR block is bigger than its parent subnet {network}"
            )
    gateway = config.gateway
    if gateway:
        gateway = str(_inside(gateway, network, "gateway"))
    auxiliary = {
        name: str(_inside(value, network, f"auxiliary address {name}"))
        for name, value in (config.aux_addresses or {}).items()
    }
    return IPAMConfig(str(network), str(inner) if inner else "", gateway, auxiliary or None)


def with_gateway(config: IPAMConfig) -> IPAMConfig:
    """A checked range whose gateway is set: the first free address when none was given."""
    if config.gateway:
        return config
    subnet = Subnet.of(config)
    return IPAMConfig(config.subnet, config.ip_range, str(subnet.allocate()), config.aux_addresses)


def parse_subnet(text: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError as err:
            raise InvalidParameter(f"invalid subnet {text}: invalid CIDR address") from err
        raise InvalidParameter(f"invalid subnet {text}: it should be {network}") from None
    if network.prefixlen > network.max_prefixlen - 2:
        raise InvalidParameter(f"invalid subnet {text}: it has no room for a gateway and a host")
    return network


def _inside(text: str, network: IPNetwork, what: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text.partition("/")[0])
    except ValueError as err:
        raise InvalidParameter(f"invalid {what} {text}: not an address") from err
    if address not in network:
        raise InvalidParameter(f"invalid {what} {text}: it is not in subnet {network}")
    return address
