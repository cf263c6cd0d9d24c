"""Endpoints: a container's place on one network, from what was asked to what it gets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec

from portside.model.errors import Conflict, InvalidParameter, SystemFailure
from portside.model.ids import new_id, short
from portside.model.network import (
    PREDEFINED,
    EndpointSettings,
    IPAddress,
    NetworkRequest,
    NetworkSettings,
    PortBinding,
)
from portside.networks import ipam, network_interfaces, network_options, network_store
from portside.networks.network_store import Catalogue, EndpointRecord, NetworkRecord, SandboxRecord
from portside.networks.portmapper import Publication, readable_ports


def dns_names(request: NetworkRequest, wanted: EndpointSettings) -> tuple[str, ...]:
    """Names a container answers to on a user network, its own first."""
    names = [request.name, *(wanted.aliases or ()), short(request.container_id)]
    if request.hostname:
        names.append(request.hostname)
    return tuple(dict.fromkeys(name for name in names if name))


class Endpoints:
    """Makes endpoints, with addresses leased in memory until ``release``."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def make(
        self,
        network: NetworkRecord,
        request: NetworkRequest,
        wanted: EndpointSettings,
        interface: str,
        link: str,
    ) -> EndpointRecord:
        """An endpoint with its addresses; Forbidden when one is in use, SystemFailure when none is
        left."""
        ipv4 = self._lease(network, 4, wanted)
        try:
            ipv6 = self._lease(network, 6, wanted)
        except BaseException:
            self._give_back(network, ipv4)
            raise
        mac = network_interfaces.mac_text(wanted.mac_address)
        endpoint = EndpointRecord(
            network_id=network.id,
            network=network.name,
            endpoint_id=new_id(),
            interface=interface,
            link=link,
            mac=mac if interface and network.driver != "ipvlan" else "",
            ipv4=str(ipv4 or ""),
            ipv6=str(ipv6 or ""),
            prefix4=_prefix(network, ipv4),
            prefix6=_prefix(network, ipv6),
            gateway4=_gateway(network, ipv4),
            gateway6=_gateway(network, ipv6),
            settings=wanted,
        )
        return self.with_settings(network, request, endpoint)

    def with_settings(
        self, network: NetworkRecord, request: NetworkRequest, endpoint: EndpointRecord
    ) -> EndpointRecord:
        """The endpoint with the settings that the API shows."""
        wanted = endpoint.settings
        settings = msgspec.structs.replace(
            wanted,
            mac_address=endpoint.mac,
            network_id=network.id,
            endpoint_id=endpoint.endpoint_id,
            gateway=endpoint.gateway4,
            ip_address=endpoint.ipv4,
            ip_prefix_len=endpoint.prefix4,
            ipv6_gateway=endpoint.gateway6,
            global_ipv6_address=endpoint.ipv6,
            global_ipv6_prefix_len=endpoint.prefix6,
            dns_names=dns_names(request, wanted) if network.has_names else None,
        )
        return msgspec.structs.replace(endpoint, settings=settings)

    def release(self, endpoint: EndpointRecord) -> None:
        """Free an endpoint's addresses; the network may be gone already."""
        network = self._catalogue.find(endpoint.network_id)
        if network is not None:
            for version in (4, 6):
                self._give_back(network, endpoint.address(version))

    def restore(self, endpoint: EndpointRecord) -> None:
        """Mark the addresses of an endpoint from the metadata as taken."""
        network = self._catalogue.find(endpoint.network_id)
        for version in (4, 6):
            address = endpoint.address(version)
            subnet = self._subnet(network, address) if network is not None else None
            if address is not None and subnet is not None:
                subnet.restore(address)

    def _subnet(self, network: NetworkRecord, address: IPAddress | None) -> ipam.Subnet | None:
        """The range of a network that an address is in."""
        if address is None:
            return None
        found = self._catalogue.subnets(network, address.version)
        return next((subnet for subnet in found if address in subnet.network), None)

    def _lease(
        self, network: NetworkRecord, version: int, wanted: EndpointSettings
    ) -> IPAddress | None:
        subnets = self._catalogue.subnets(network, version)
        ranges = wanted.ipam_config or network_store.NO_IPAM
        text = ranges.ipv4_address if version == 4 else ranges.ipv6_address
        if not subnets:
            return None  # an address of a version that is switched off is of no account
        if text:
            address = unmapped(text)
            subnet = self._subnet(network, address)
            if subnet is None:
                raise InvalidParameter(
                    f"invalid address {address}: It does not belong to any of this network's "
                    "subnets"
                )
            subnet.claim(address)
            return address
        for subnet in subnets:
            with suppress(Conflict):
                return subnet.allocate()
        raise SystemFailure(
            f"no available IPv{version} addresses on this network's address pools: "
            f"{network.name} ({network.id})"
        )

    def _give_back(self, network: NetworkRecord, address: IPAddress | None) -> None:
        subnet = self._subnet(network, address)
        if subnet is not None and address is not None:
            subnet.release(address)


def unmapped(text: str) -> IPAddress:
    """An address; one of IPv4 when it is written as an IPv6 address (``::ffff:10.0.0.1``)."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _prefix(network: NetworkRecord, address: IPAddress | None) -> int:
    config = network.config_of(address) if address is not None else None
    return ipaddress.ip_network(config.subnet).prefixlen if config is not None else 0


def _gateway(network: NetworkRecord, address: IPAddress | None) -> str:
    """The endpoint's default gateway; empty on internal networks and layer 3 ipvlans."""
    config = network.config_of(address) if address is not None else None
    if config is None or address is None or network.resource.internal:
        return ""
    if network.driver == "ipvlan" and network.option("ipvlan_mode", "l2") != "l2":
        return ""
    mode = network_options.BRIDGE_MODE4 if address.version == 4 else network_options.BRIDGE_MODE6
    return "" if network.option(mode) == "isolated" else config.gateway


def interface_name(prefix: str, taken: Iterable[str]) -> str:
    """The first free name such as eth0."""
    used = set(taken)
    number = 0
    while f"{prefix}{number}" in used:
        number += 1
    return f"{prefix}{number}"


def choose_interface(
    network: NetworkRecord, wanted: EndpointSettings, others: Sequence[EndpointRecord]
) -> str:
    """The name of an endpoint's interface inside: the user's, or the first free one."""
    if network.driver == "null":
        return ""
    taken = [endpoint.interface for endpoint in others]
    chosen = (wanted.driver_opts or {}).get(network_options.ENDPOINT_NAME, "")
    if not chosen:
        return interface_name(network.option(network_options.PREFIX) or "eth", taken)
    if chosen in taken or chosen == "lo" or "/" in chosen or not 0 < len(chosen) < 16:
        raise InvalidParameter(f"invalid or used interface name: {chosen!r}")
    return chosen


def network_settings(record: SandboxRecord) -> NetworkSettings:
    """The API's view of a running container's network."""
    default = next((e for e in record.endpoints if e.network == "bridge"), None)
    flat = default.settings if default is not None else EndpointSettings()
    return NetworkSettings(
        sandbox_id=record.sandbox_id if record.kind != "shared" else "",
        ports=port_map(record.request.exposed_ports, record.request, record.ports)
        if any(map(_reached_by_ports, record.endpoints))
        else {},
        endpoint_id=flat.endpoint_id,
        gateway=flat.gateway,
        global_ipv6_address=flat.global_ipv6_address,
        global_ipv6_prefix_len=flat.global_ipv6_prefix_len,
        ip_address=flat.ip_address,
        ip_prefix_len=flat.ip_prefix_len,
        ipv6_gateway=flat.ipv6_gateway,
        mac_address=flat.mac_address,
        networks={endpoint.network: endpoint.settings for endpoint in record.endpoints},
    )


def _reached_by_ports(endpoint: EndpointRecord) -> bool:
    """Whether ports can be published there: on bridges, and not on internal ones."""
    return bool(endpoint.link and (endpoint.gateway4 or endpoint.gateway6))


def port_map(
    exposed: Sequence[str], request: NetworkRequest, ports: Sequence[Publication]
) -> dict[str, tuple[PortBinding, ...] | None]:
    """``NetworkSettings.Ports``: exposed ports with null, published ones with their hosts."""
    found: dict[str, list[PortBinding]] = {}
    for publication in ports:
        key = f"{publication.container_port}/{publication.protocol}"
        binding = PortBinding(publication.host_ip, str(publication.host_port))
        found.setdefault(key, []).append(binding)
    table: dict[str, tuple[PortBinding, ...] | None] = {}
    for first, last, protocol in readable_ports((*exposed, *request.port_bindings)):
        for port in range(first, last + 1):
            table.setdefault(f"{port}/{protocol}", None)
    table.update({key: tuple(bindings) for key, bindings in found.items()})
    return table


# -- checks of what is asked for -----------------------------------------------------------


def check_settings(name: str, network: NetworkRecord | None, wanted: EndpointSettings) -> None:
    """InvalidParameter with all that the network ``name`` cannot give; None: it does not exist
    yet, so that only the form is checked."""
    found = [*_misplaced(name, wanted), *_bad_addresses(wanted)]
    if network is not None:
        found += _outside(network, wanted)
    found += _bad_sysctls(wanted)
    if found:
        raise InvalidParameter(f"invalid endpoint settings:\n{ipam.listed(found)}")
    if wanted.mac_address:
        network_interfaces.parse_mac(wanted.mac_address)


def check_link_local(wanted: EndpointSettings) -> None:
    """Docker checks only at the start of a container that these are link-local addresses."""
    for text in (wanted.ipam_config or network_store.NO_IPAM).link_local_ips:
        if not unmapped(text).is_link_local:
            raise InvalidParameter(f"invalid link local IP address: {text}")


def _misplaced(name: str, wanted: EndpointSettings) -> Iterator[str]:
    if name not in (*PREDEFINED, "default"):
        return
    ranges = wanted.ipam_config or network_store.NO_IPAM
    if ranges.ipv4_address or ranges.ipv6_address:
        yield "user specified IP address is supported on user defined networks only"
    if wanted.aliases:
        yield "network-scoped alias is supported only for containers in user defined networks"


def _bad_addresses(wanted: EndpointSettings) -> Iterator[str]:
    ranges = wanted.ipam_config or network_store.NO_IPAM
    if ranges.ipv4_address and _address_version(ranges.ipv4_address) != 4:
        yield f"invalid IPv4 address: {ranges.ipv4_address}"
    if ranges.ipv6_address and _address_version(ranges.ipv6_address) != 6:
        yield f"invalid IPv6 address: {ranges.ipv6_address}"
    for text in ranges.link_local_ips:
        if not _address_version(text):
            yield f"invalid link-local IP address: {text}"


def _address_version(text: str) -> int:
    """4 or 6; 0 for a text that is not an address of one host."""
    try:
        address = unmapped(text)
    except ValueError:
        return 0
    return 0 if address.is_unspecified else address.version


def _outside(network: NetworkRecord, wanted: EndpointSettings) -> Iterator[str]:
    ranges = wanted.ipam_config or network_store.NO_IPAM
    for version, text in ((4, ranges.ipv4_address), (6, ranges.ipv6_address)):
        subnets = network.user_subnets(version)
        if not text:
            continue
        if not subnets:
            yield (
                "user specified IP address is supported only when connecting to networks with "
                "user configured subnets"
            )
        elif _address_version(text) != version or not any(
            unmapped(text) in subnet for subnet in subnets
        ):
            yield f"no configured subnet or ip-range contain the IP address {text}"


def _bad_sysctls(wanted: EndpointSettings) -> Iterator[str]:
    text = (wanted.driver_opts or {}).get(network_options.ENDPOINT_SYSCTLS, "")
    for item in filter(None, text.split(",")):
        if not _SYSCTL.fullmatch(item):
            yield (
                f"unrecognised network interface sysctl '{item}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )


_SYSCTL = re.compile(
    r"net\.(ipv4|ipv6|mpls)\.[^./=]+\.ifname\.[^./=]+(\.[^./=]+)*=.*", re.IGNORECASE
)
"""The docker CLI writes IFNAME in small letters."""
