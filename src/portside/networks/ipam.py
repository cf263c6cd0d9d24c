"""Addresses: which subnet a network gets, and which address an endpoint.

Subnets are chosen so that nothing the host can reach today is shadowed: a candidate that
overlaps a live route or another network is passed over. Addresses are the lowest free
ones of the network's range. What is in use is kept here in memory and, by the service, as
unique names in the metadata, so that a crash never leads to an address given twice.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from portside.kernel.netlink import Route
from portside.model.errors import Conflict, Forbidden, InvalidParameter, SystemFailure
from portside.model.network import AddressPool, IPAddress, IPAMConfig, IPNetwork, SubnetStatus

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
        # a network of one or two addresses has neither of the two (RFC 3021), and IPv6 has no
        # broadcast address, but one for any of its routers (RFC 4291, section 2.6.1)
        small = network.version == 4 and network.num_addresses <= 2
        self._edges = set() if small else {first, last} if network.version == 4 else {first}
        self._first = max(first if small else first + 1, int(self.range.network_address))
        end = last - 1 if last in self._edges else last
        self._last = min(end, int(self.range.broadcast_address))
        self._next = self._first

    @classmethod
    def of(cls, config: IPAMConfig) -> Subnet:
        """A subnet from a network's stored configuration."""
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
        raise Conflict("no available addresses on this pool")

    def claim(self, address: IPAddress) -> None:
        """Take one address; Forbidden when it is in use, InvalidParameter when outside."""
        if address not in self.network:
            raise InvalidParameter(
                f"invalid address {address}: It does not belong to any of this network's subnets"
            )
        number = int(address)
        if number in self._used or number in self._edges:
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

    def status(self) -> SubnetStatus:
        """Numbers of used and free addresses."""
        used = self._used | self._edges
        first, last = int(self.range.network_address), int(self.range.broadcast_address)
        taken = sum(first <= number <= last for number in used)
        free = last - first + 1 - taken
        return SubnetStatus(len(used), min(free, (1 << 64) - 1))

    def _address(self, number: int) -> IPAddress:
        if self.network.version == 4:
            return ipaddress.IPv4Address(number)
        return ipaddress.IPv6Address(number)


def problems(config: IPAMConfig) -> list[str]:
    """Docker's error texts for a user's range; empty when it is valid."""
    interface = _cidr(config.subnet)
    if interface is None:
        return [f"invalid subnet {config.subnet}: invalid CIDR block notation"]
    network, found = interface.network, []
    if interface.ip != network.network_address:
        found.append(f"invalid subnet {config.subnet}: it should be {network}")
    if config.ip_range:
        found += _range_problems(config.ip_range, network)
    wanted = {f"gateway {config.gateway}": config.gateway} if config.gateway else {}
    for name, value in (config.aux_addresses or {}).items():
        wanted[f"auxiliary address {name}"] = value
    for what, text in wanted.items():
        reason = _address_problem(text, network)
        if reason:
            found.append(f"invalid {what}: {reason}")
    return found


def _cidr(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    """An address with a prefix length; None for anything else, also for a netmask."""
    if not re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]+", text):
        return None
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        return None
    mapped = isinstance(interface, ipaddress.IPv6Interface) and interface.ip.ipv4_mapped
    return None if mapped else interface


def _range_problems(text: str, network: IPNetwork) -> list[str]:
    interface = _cidr(text)
    if interface is None:
        return [f"invalid ip-range {text}: invalid CIDR block notation"]
    inner = interface.network
    if inner.version != network.version:
        return [f"invalid ip-range {text}: parent subnet is an IPv{network.version} block"]
    found = []
    if inner.prefixlen < network.prefixlen:
        found.append(
            f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {network}"
        )
    if interface.ip != inner.network_address:
        found.append(f"invalid ip-range {text}: it should be {inner}")
    if not overlap(inner, network):
        found.append(f"invalid ip-range {text}: parent subnet {network} doesn't contain ip-range")
    return found


def _address_problem(text: str, network: IPNetwork) -> str:
    try:
        address = ipaddress.ip_address(_bare(text))
    except ValueError:
        return "invalid address"
    if address.version != network.version:
        return f"parent subnet is an IPv{network.version} block"
    return "" if address in network else f"parent subnet {network} doesn't contain this address"


def _bare(text: str) -> str:
    """An address without the prefix length that some clients send with it."""
    return text.partition("/")[0]


def check(configs: Iterable[IPAMConfig]) -> None:
    """InvalidParameter with all that is wrong with a network's ranges."""
    found = [problem for config in configs for problem in problems(config)]
    if found:
        raise InvalidParameter(f"invalid network config:\n{listed(found)}")


def listed(problems: Sequence[str]) -> str:
    """Join errors as Docker does: a single one as it is, several one per line."""
    return problems[0] if len(problems) == 1 else "* " + "\n* ".join(problems)


def checked(config: IPAMConfig) -> IPAMConfig:
    """A range with its values checked against each other and normalized. InvalidParameter names
    what is wrong."""
    check([config])
    network = ipaddress.ip_network(config.subnet)
    inner = ipaddress.ip_interface(config.ip_range).network if config.ip_range else ""
    gateway = str(ipaddress.ip_address(_bare(config.gateway))) if config.gateway else ""
    auxiliary = {
        name: str(ipaddress.ip_address(_bare(value)))
        for name, value in (config.aux_addresses or {}).items()
    }
    return IPAMConfig(str(network), str(inner), gateway, auxiliary or None)


def with_gateway(config: IPAMConfig, wanted: bool = True) -> IPAMConfig:
    """A checked range whose gateway is set: the range's first address when none was given and
    one is ``wanted``. SystemFailure when the gateway or an auxiliary address cannot be had."""
    subnet = Subnet.of(IPAMConfig(config.subnet, config.ip_range))
    try:
        if config.gateway:
            subnet.claim(ipaddress.ip_address(config.gateway))
        gateway = config.gateway
        if not gateway and wanted:
            gateway = str(subnet.allocate())
    except (Conflict, Forbidden) as err:
        raise SystemFailure(f"failed to allocate gateway ({config.gateway}): {err}") from None
    for name, address in (config.aux_addresses or {}).items():
        try:
            subnet.claim(ipaddress.ip_address(address))
        except Forbidden as err:
            raise SystemFailure(
                f"failed to allocate secondary ip address ({name}:{address}): {err}"
            ) from None
    if subnet.network.version == 6 and subnet.network.is_multicast:
        shown = f"{gateway}/{subnet.network.prefixlen}"
        raise InvalidParameter(f"multicast subnet '{shown}' is not allowed")
    return IPAMConfig(config.subnet, config.ip_range, gateway, config.aux_addresses)


def parse_subnet(text: str) -> IPNetwork:
    """A subnet of the daemon's options. InvalidParameter says what is wrong."""
    check([IPAMConfig(text)])
    return ipaddress.ip_network(text)
