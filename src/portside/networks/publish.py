"""Publishing: from a container's wishes to reserved host ports and firewall elements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from portside.model.errors import SystemFailure
from portside.model.network import IPAddress, NetworkOptions, NetworkRequest
from portside.networks import records
from portside.networks.catalogue import Catalogue
from portside.networks.endpoints import gateway_endpoint
from portside.networks.firewall import Firewall, LinkRule, elements
from portside.networks.ports import HostPorts, Publication, Wanted, parse_wanted
from portside.networks.records import EndpointRecord, SandboxRecord

MODES = {4: records.BRIDGE_MODE4, 6: records.BRIDGE_MODE6}


class Publisher:
    """The published ports of all running containers."""

    def __init__(self, firewall: Firewall, catalogue: Catalogue, options: NetworkOptions) -> None:
        self._firewall, self._catalogue, self._options = firewall, catalogue, options
        self._ports = HostPorts()

    def reserve(
        self, request: NetworkRequest, endpoints: Sequence[EndpointRecord]
    ) -> tuple[Publication, ...]:
        """Host ports for a container about to start; SystemFailure in Docker's words."""
        if not request.port_bindings and not request.publish_all:
            return ()
        found: list[Publication] = []
        for version in (4, 6):
            endpoint = self._outlet(endpoints, version)
            if endpoint is not None:
                found += self._reserve_version(request, endpoint, version, found)
        return tuple(found)

    def _reserve_version(
        self,
        request: NetworkRequest,
        endpoint: EndpointRecord,
        version: int,
        already: Sequence[Publication],
    ) -> list[Publication]:
        network = self._catalogue.get(endpoint.network_id)
        binding = network.option(records.BRIDGE_BINDING) or self._options.default_binding_ip
        wanted = parse_wanted(
            request.port_bindings, request.exposed_ports, request.publish_all, binding
        )
        address = endpoint.address(version)
        if self._routed(endpoint, version):
            return [
                Publication(item.protocol, "", 0, str(address), item.container_port)
                for item in wanted
            ]
        wanted = [_same_port(item, already) for item in wanted]
        pair: tuple[IPAddress | None, IPAddress | None] = (
            (address, None) if version == 4 else (None, address)
        )
        try:
            return self._ports.reserve(wanted, *pair)
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
        self._ports.release([port for port in ports if port.host_port])

    def hold(self, record: SandboxRecord) -> list[str]:
        """Reserve again after a restart; tells which ports others took meanwhile."""
        told = [self._ports.hold(port) for port in record.ports if port.host_port]
        return [problem for problem in told if problem]

    def members(self, ports: Sequence[Publication]) -> list[tuple[str, str, str]]:
        return [item for port in ports for item in elements(port, routed=not port.host_port)]

    def open(self, record: SandboxRecord) -> None:
        self._firewall.add(self.members(record.ports))

    def shut(self, record: SandboxRecord) -> None:
        self._firewall.remove(self.members(record.ports))
        self._firewall.set_links(record.request.container_id, ())

    def set_links(self, record: SandboxRecord, rules: Sequence[LinkRule]) -> None:
        self._firewall.set_links(record.request.container_id, tuple(rules))

    def move(self, before: SandboxRecord, after: SandboxRecord) -> tuple[Publication, ...]:
        """Ports after a live connect or disconnect: they follow the default route and keep
        their host ports."""
        ports: list[Publication] = []
        for version in (4, 6):
            mine = [port for port in before.ports if port.version == version]
            old = self._outlet(before.endpoints, version)
            new = self._outlet(after.endpoints, version)
            if new is None:
                self._firewall.remove(self.members(mine))
                self.unreserve(mine)
            elif old is None:
                fresh = self._reserve_version(after.request, new, version, ())
                self._firewall.add(self.members(fresh))
                ports += fresh
            elif old.endpoint_id == new.endpoint_id:
                ports += mine
            else:
                address = str(new.address(version))
                moved = [msgspec.structs.replace(port, container_ip=address) for port in mine]
                self._firewall.remove(self.members(mine))
                self._firewall.add(self.members(moved))
                ports += moved
        return tuple(ports)

    def warnings(self, record: SandboxRecord) -> list[str]:
        return []

    def close(self) -> None:
        self._ports.close()


def _same_port(item: Wanted, already: Sequence[Publication]) -> Wanted:
    """A random port is the same for both IP versions, as clients expect."""
    if item.host_ip or (item.first and item.first == item.last):
        return item
    for other in already:
        if (other.protocol, other.container_port) == (item.protocol, item.container_port):
            return item._replace(first=other.host_port, last=other.host_port)
    return item
