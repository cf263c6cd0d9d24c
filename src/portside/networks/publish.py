"""Publishing: from a container's bindings to reserved host ports and firewall elements."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence

import msgspec

from portside.kernel import conntrack
from portside.kernel.host_sockets import Bind
from portside.kernel.netlink import Rtnl
from portside.model.errors import SystemFailure
from portside.model.network import IPAddress, NetworkOptions, NetworkRequest
from portside.networks import network_options
from portside.networks.client_addresses import ClientAddresses
from portside.networks.firewall.firewall_table import Firewall
from portside.networks.firewall.ruleset import LinkRule, Member, elements
from portside.networks.network_store import (
    Catalogue,
    EndpointRecord,
    SandboxRecord,
    gateway_endpoint,
)
from portside.networks.portmapper import HostPorts, Publication, Wanted, parse_wanted
from portside.networks.relay import Relays

log = logging.getLogger(__name__)

MODES = {4: network_options.BRIDGE_MODE4, 6: network_options.BRIDGE_MODE6}


class PortPublisher:
    """The published ports of all running containers."""

    def __init__(
        self,
        firewall: Firewall,
        catalogue: Catalogue,
        options: NetworkOptions,
        bind: Bind | None = None,
    ) -> None:
        """``bind``: the host's ports are in another network namespace, and all are relayed."""
        self._firewall, self._catalogue, self._options = firewall, catalogue, options
        self._relays_all = bind is not None
        self._ports = HostPorts(options.userland_proxy, bind)
        self._relays = Relays(ClientAddresses() if self._relays_all else None)

    def reserve(
        self,
        request: NetworkRequest,
        endpoints: Sequence[EndpointRecord],
        had: Sequence[Publication] = (),
    ) -> tuple[Publication, ...]:
        """Host ports for a container about to start; SystemFailure in Docker's words.

        Where any port will do, the one it ``had`` is taken.
        """
        if not request.port_bindings and not request.publish_all:
            return ()
        found: list[Publication] = []
        for version in (4, 6):
            endpoint = self._outlet(endpoints, version)
            if endpoint is not None:
                dual = self._outlet(endpoints, 10 - version) is not None
                found += self._reserve_version(request, endpoint, version, [*found, *had], dual)
        return tuple(found)

    def change(self, record: SandboxRecord, request: NetworkRequest) -> tuple[Publication, ...]:
        """Publish what ``request`` wants from now on; what stays is not interrupted. All or
        nothing: SystemFailure in Docker's words when a host port cannot be had."""
        return self._anew(record, request, record.endpoints)

    def _anew(
        self, before: SandboxRecord, request: NetworkRequest, endpoints: Sequence[EndpointRecord]
    ) -> tuple[Publication, ...]:
        self.unreserve(before.ports)
        try:
            ports = self.reserve(request, endpoints, before.ports)
        except BaseException:
            self.hold(before)
            raise
        self._replace(before.ports, ports)
        return ports

    def _replace(self, old: Sequence[Publication], new: Sequence[Publication]) -> None:
        """Open what is new and shut what is gone; what stays is not interrupted."""
        before, after = self.members(old), self.members(new)
        for port in old:
            if self._relayed(port) and port not in new:
                self._relays.close(port)
        self._firewall.remove([member for member in before if member not in after])
        self._firewall.add([member for member in after if member not in before])
        self._open_relays(new)

    def _open_relays(self, ports: Sequence[Publication]) -> None:
        for port in ports:
            listener = self._ports.socket(port) if self._relayed(port) else None
            if listener is not None:
                self._relays.open(port, listener)

    def _relayed(self, port: Publication) -> bool:
        """Whether clients outside are passed on by the engine, not by the firewall."""
        return port.relayed or (self._relays_all and bool(port.host_port))

    def _reserve_version(
        self,
        request: NetworkRequest,
        endpoint: EndpointRecord,
        version: int,
        already: Sequence[Publication],
        dual: bool,
    ) -> list[Publication]:
        network = self._catalogue.get(endpoint.network_id)
        binding = network.option(network_options.BRIDGE_BINDING) or self._options.default_binding_ip
        if binding == "0.0.0.0":
            binding = ""  # as an option it means every address, also the other version's
        wanted = parse_wanted(
            request.port_bindings, request.exposed_ports, request.publish_all, binding
        )
        address = endpoint.address(version)
        if self._routed(endpoint, version):
            return [
                Publication(item.protocol, "", 0, str(address), item.container_port)
                for item in wanted
            ]
        had = [port for port in already if port.host_port and not port.relayed]
        wanted = [_same_port(item, had) for item in wanted]
        pair: tuple[IPAddress | None, IPAddress | None] = (
            (address, None) if version == 4 else (None, address)
        )
        try:
            return self._ports.reserve(wanted, *pair, dual)
        except SystemFailure as err:
            self._ports.release([p for p in already if p.host_port])
            raise SystemFailure(
                "driver failed programming external connectivity on endpoint "
                f"{request.name} ({endpoint.endpoint_id}): {err}"
            ) from err

    def _outlet(self, endpoints: Sequence[EndpointRecord], version: int) -> EndpointRecord | None:
        """The endpoint published ports lead to: the one with the default route, if it is on a
        bridge."""
        endpoint = gateway_endpoint(endpoints, version)
        if endpoint is None or endpoint.address(version) is None:
            return None
        network = self._catalogue.find(endpoint.network_id)
        return endpoint if network is not None and network.driver == "bridge" else None

    def _routed(self, endpoint: EndpointRecord, version: int) -> bool:
        return self._catalogue.get(endpoint.network_id).option(MODES[version]) == "routed"

    def unreserve(self, ports: Sequence[Publication]) -> None:
        for port in ports:
            if self._relayed(port):
                self._relays.close(port)
        self._ports.release([port for port in ports if port.host_port])

    def hold(self, record: SandboxRecord) -> list[str]:
        """Reserve ports again after a restart; returns a text for each port that is taken."""
        problems = [self._ports.hold(port) for port in record.ports if port.host_port]
        self._open_relays(record.ports)
        return [problem for problem in problems if problem]

    def members(self, ports: Sequence[Publication]) -> list[Member]:
        asks = self._firewall.asks_host
        return [
            item
            for port in ports
            if not port.relayed
            for item in elements(port, not port.host_port, asks)
        ]

    def open(self, record: SandboxRecord) -> None:
        self._replace((), record.ports)

    def shut(self, record: SandboxRecord) -> None:
        self._replace(record.ports, ())
        self._firewall.set_links(record.request.container_id, ())

    def set_links(self, record: SandboxRecord, rules: Sequence[LinkRule]) -> None:
        self._firewall.set_links(record.request.container_id, tuple(rules))

    def move(self, before: SandboxRecord, after: SandboxRecord) -> tuple[Publication, ...]:
        """Ports after a live connect or disconnect: they follow the default route and keep
        their host ports."""
        return self._anew(before, after.request, after.endpoints)

    def repair(self, record: SandboxRecord) -> tuple[Publication, ...]:
        """Ports after a crash amid a change of the container's networks: those that lead to an
        address it has no more are led to its present one, or taken back."""
        ports: list[Publication] = []
        for version in (4, 6):
            outlet = self._outlet(record.endpoints, version)
            mine = [port for port in record.ports if port.version == version]
            if outlet is not None:
                address = str(outlet.address(version))
                ports += [msgspec.structs.replace(port, container_ip=address) for port in mine]
        if tuple(ports) != record.ports:
            self._replace(record.ports, ports)
        return tuple(ports)

    def warnings(self, wanted: Sequence[Wanted]) -> list[str]:
        """Ports that will be open to others although the host's own firewall would drop what
        comes for them."""
        if self._firewall.asks_host:
            return []
        warnings = []
        for item in wanted:
            if item.host_ip and ipaddress.ip_address(item.host_ip).is_loopback:
                continue
            chain = self._firewall.closed_by_host(item.protocol, item.first)
            if chain:
                port = f"{item.first or 'a random port'}/{item.protocol}"
                warnings.append(
                    f"Port {port} will be reachable from other hosts although the host's firewall "
                    f"({chain}) drops such connections: publish it on 127.0.0.1, or start the "
                    "engine with --publish-policy=host"
                )
        return warnings

    def close(self) -> None:
        self._relays.close_all()
        self._ports.close()


def forget_flows(ports: Sequence[Publication]) -> None:
    """Have clients of published ports decided about anew: those that sent before a port was
    published, or to the container that had it before. For the worker: the kernel walks through
    all connections."""
    ports = [port for port in ports if port.host_port and not port.relayed]
    if not ports:
        return
    rtnl = Rtnl()
    try:
        own = {item.address.packed for item in rtnl.addresses()}
    finally:
        rtnl.close()
    for port in ports:
        addresses = own if port.any_address else {ipaddress.ip_address(port.host_ip).packed}
        try:
            conntrack.forget(port.protocol, port.host_port, addresses, port.version)
        except OSError as err:
            log.debug("connections to %s are not looked at: %s", port.host, err)


def _same_port(item: Wanted, already: list[Publication]) -> Wanted:
    """A port that may be any is the one it was, and the same for both IP versions, as clients
    expect; what is found is taken out of ``already``."""
    if item.first and item.first == item.last:
        return item
    for other in already:
        fits = item.first <= other.host_port <= (item.last or 65535)
        same = (other.protocol, other.container_port) == (item.protocol, item.container_port)
        if fits and same and item.host_ip in ("", other.host_ip):
            already.remove(other)
            return item._replace(first=other.host_port, last=other.host_port)
    return item
