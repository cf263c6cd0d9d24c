"""Changes to a running container's network: connect, disconnect, rename, publish anew.

The record is changed first, so that after a crash between any two steps the next start
finishes what the record says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from portside.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, SystemFailure
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import EndpointSettings, NetworkRequest
from portside.networks import host_links as kernel_links
from portside.networks.container_interfaces import Plumbing
from portside.networks.dns.naming import Naming
from portside.networks.endpoint_options import check_link_local, check_settings
from portside.networks.endpoints import Endpoints, choose_interface
from portside.networks.hostfiles import HostFiles
from portside.networks.network_records import EndpointRecord, NetworkRecord, SandboxRecord
from portside.networks.network_store import Catalogue
from portside.networks.publish import Publisher, forget_flows
from portside.networks.sandbox import Book, Sandbox

HOST_CONFLICT = "container cannot be disconnected from host network or connected to host network"
NONE_CONFLICT = (
    "container cannot be connected to multiple networks with one of the networks in private "
    "(none) mode"
)


class Connections:
    """Live changes to sandboxes."""

    def __init__(
        self,
        book: Book,
        instance: Instance,
        catalogue: Catalogue,
        endpoints: Endpoints,
        plumbing: Plumbing,
        naming: Naming,
        ports: Publisher,
        files: HostFiles,
        announce: Callable[[str, SandboxRecord, str], None],
    ) -> None:
        self._book, self._instance, self._catalogue = book, instance, catalogue
        self._endpoints, self._plumbing, self._naming = endpoints, plumbing, naming
        self._ports, self._files, self._announce = ports, files, announce

    def rename(self, container_id: str, name: str) -> None:
        sandbox = self._book.get(container_id)
        if sandbox is None:
            return
        request = msgspec.structs.replace(sandbox.record.request, name=name)
        endpoints = []
        for endpoint in sandbox.record.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            self._naming.directory.remove(container_id, endpoint)
            changed = self._endpoints.with_settings(network, request, endpoint)
            self._naming.directory.add(container_id, changed)
            endpoints.append(changed)
        self._book.change(sandbox, request=request, endpoints=tuple(endpoints))

    async def republish(self, request: NetworkRequest) -> None:
        sandbox = self._book.get(request.container_id)
        if sandbox is None or sandbox.record.kind != "own":
            return
        async with sandbox.lock:
            wanted = msgspec.structs.replace(
                sandbox.record.request,
                port_bindings=request.port_bindings,
                exposed_ports=request.exposed_ports,
                publish_all=request.publish_all,
            )
            before = sandbox.record.ports
            ports = self._ports.change(sandbox.record, wanted)
            self._plumbing.in_background(lambda: forget_flows((*before, *ports)))
            self._book.change(sandbox, request=wanted, ports=ports)

    async def connect(
        self, network: NetworkRecord, container_id: str, config: EndpointSettings
    ) -> EndpointSettings:
        check_settings(network.name, network, config)
        sandbox = self._book.get(container_id)
        if network.driver == "host":
            raise InvalidParameter(HOST_CONFLICT)
        if network.resource.config_only:
            raise Forbidden(
                "cannot create endpoint on configuration-only network: "
                f"{network.name} is only a template for others"
            )
        if sandbox is None:
            return msgspec.structs.replace(config.wanted(), network_id=network.id)
        async with sandbox.lock:
            if self._book.get(container_id) is not sandbox:
                return msgspec.structs.replace(config.wanted(), network_id=network.id)
            try:
                endpoint = await self._connect_live(sandbox, network, config.wanted())
            except OSError as err:
                raise SystemFailure(
                    f"cannot connect {sandbox.record.request.name} to {network.name}: {err}"
                ) from err
        self._announce("connect", sandbox.record, network.id)
        return endpoint.settings

    async def _connect_live(
        self, sandbox: Sandbox, network: NetworkRecord, wanted: EndpointSettings
    ) -> EndpointRecord:
        record, space = sandbox.record, sandbox.space
        if record.kind != "own" or space is None:
            raise InvalidParameter(
                "container sharing network namespace with another container or host cannot be "
                "connected to any other network"
            )
        if any(endpoint.network_id == network.id for endpoint in record.endpoints):
            raise Forbidden(
                f"endpoint with name {record.request.name} already exists in network {network.name}"
            )
        others = [self._catalogue.get(other.network_id) for other in record.endpoints]
        if others and "null" in (network.driver, *(other.driver for other in others)):
            raise InvalidParameter(NONE_CONFLICT)
        container_id = record.request.container_id
        check_link_local(wanted)
        with ExitStack() as undo:
            interface = choose_interface(network, wanted, record.endpoints)
            link = self._instance.link(new_id()) if network.driver == "bridge" else ""
            endpoint = self._endpoints.make(network, record.request, wanted, interface, link)
            undo.callback(self._endpoints.release, endpoint)
            self._book.claim(sandbox, endpoint)
            undo.callback(self._book.unclaim, sandbox, endpoint)
            if interface:
                undo.callback(self._plumbing.remove_later, endpoint)
                await self._plumbing.plug(space, endpoint)
            await self._naming.prepare(sandbox)
            self._reroute(sandbox, record)
            undo.callback(self._naming.directory.remove, container_id, endpoint)
            self._files.update(sandbox.record, record)
            self._naming.serve(sandbox)
            undo.pop_all()
        return endpoint

    def _reroute(self, sandbox: Sandbox, before: SandboxRecord) -> None:
        """Default routes and published ports follow the container's networks."""
        assert sandbox.space is not None
        self._plumbing.set_gateways(sandbox.space, sandbox.record.endpoints)
        ports = self._ports.move(before, sandbox.record)
        if ports != sandbox.record.ports:
            self._plumbing.in_background(lambda: forget_flows((*before.ports, *ports)))
            self._book.change(sandbox, ports=ports)

    async def disconnect(self, network: NetworkRecord, container_id: str) -> None:
        sandbox = self._book.get(container_id)
        if sandbox is None:
            raise NotFound(f"container {container_id} is not connected to network {network.name}")
        async with sandbox.lock:
            record = sandbox.record
            endpoint = next((e for e in record.endpoints if e.network_id == network.id), None)
            if endpoint is None:
                raise NotFound(
                    f"container {container_id} is not connected to network {network.name}"
                )
            if record.kind != "own":
                raise Conflict(f"container cannot be disconnected from {network.name} network")
            self._book.unclaim(sandbox, endpoint)
            self._naming.directory.remove(container_id, endpoint)
            assert sandbox.space is not None
            if endpoint.interface:
                kernel_links.drop_addresses(endpoint, sandbox.space)
            self._reroute(sandbox, record)
            self._files.update(sandbox.record, record)
            if endpoint.interface:
                await self._plumbing.unplug(sandbox.space, endpoint)
            self._endpoints.release(endpoint)
        self._announce("disconnect", record, network.id)
