"""Endpoints: a container's place on one network, from what was asked to what it gets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from portside.model.errors import Conflict, InvalidParameter, SystemFailure
from portside.model.ids import new_id, short
from portside.model.network import (
    EndpointSettings,
    IPAddress,
    NetworkRequest,
    NetworkSettings,
    PortBinding,
)
from portside.networks import host_links, ipam, network_records
from portside.networks.network_records import EndpointRecord, NetworkRecord, SandboxRecord
from portside.networks.network_store import Catalogue
from portside.networks.portmapper import Publication, parse_port


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
        mac = host_links.mac_text(wanted.mac_address)
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
        """The endpoint with the settings the API tells about it."""
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
        ranges = wanted.ipam_config or network_records.NO_IPAM
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
    """The router the endpoint is told; none on internal networks and layer 3 ipvlans."""
    config = network.config_of(address) if address is not None else None
    if config is None or address is None or network.resource.internal:
        return ""
    if network.driver == "ipvlan" and network.option("ipvlan_mode", "l2") != "l2":
        return ""
    mode = network_records.BRIDGE_MODE4 if address.version == 4 else network_records.BRIDGE_MODE6
    return "" if network.option(mode) == "isolated" else config.gateway


def lease_names(endpoint: EndpointRecord) -> list[str]:
    """The unique names in the metadata that stand for the endpoint's addresses."""
    addresses = (endpoint.ipv4, endpoint.ipv6)
    return [f"{endpoint.network_id}/{address}" for address in addresses if address]


def gateway_endpoint(endpoints: Iterable[EndpointRecord], version: int) -> EndpointRecord | None:
    """The endpoint whose gateway is the container's default route: highest gw-priority,
    then the first network by name."""
    able = [e for e in endpoints if (e.gateway4 if version == 4 else e.gateway6)]
    return min(able, key=lambda e: (-e.settings.gw_priority, e.network), default=None)


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
    chosen = (wanted.driver_opts or {}).get(network_records.ENDPOINT_NAME, "")
    if not chosen:
        return interface_name(network.option(network_records.PREFIX) or "eth", taken)
    if chosen in taken or chosen == "lo" or "/" in chosen or not 0 < len(chosen) < 16:
        raise InvalidParameter(f"invalid or used interface name: {chosen!r}")
    return chosen


def network_settings(record: SandboxRecord) -> NetworkSettings:
    """The API's view of a running container's network."""
    default = next((e for e in record.endpoints if e.network == "bridge"), None)
    flat = default.settings if default is not None else EndpointSettings()
    return NetworkSettings(
        sandbox_id=record.sandbox_id if record.kind != "shared" else "",
        ports=port_map(record.request.exposed_ports, record.request, record.ports),
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
    for text in (*exposed, *request.port_bindings):
        first, last, protocol = parse_port(text)
        for port in range(first, last + 1):
            table.setdefault(f"{port}/{protocol}", None)
    table.update({key: tuple(bindings) for key, bindings in found.items()})
    return table
