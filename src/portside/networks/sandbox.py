"""The networks of running containers: attach, detach, take over after a restart, live changes.

``Sandbox`` is one container's network as the engine holds it; ``Book`` keeps the metadata and the
memory of all of them together: a record is written, with the unique names that stand for its
addresses, in the same transaction, before anything in the kernel changes. So after a crash between
any two steps the next start finishes what the records say.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import msgspec

from portside.kernel import netns
from portside.kernel.host_sockets import HostSockets
from portside.model.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    PortsideError,
    SystemFailure,
    reworded,
)
from portside.model.events import Publisher
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import (
    UNCONNECTED,
    EndpointSettings,
    NetworkAttachment,
    NetworkOptions,
    NetworkRequest,
    RunningContainer,
)
from portside.networks import network_interfaces, network_options
from portside.networks.dns.name_server import NameServer
from portside.networks.dns.naming import Naming
from portside.networks.endpoints import (
    Endpoints,
    check_link_local,
    check_settings,
    choose_interface,
    network_settings,
)
from portside.networks.etc_files import HostFiles
from portside.networks.firewall.firewall_table import Firewall
from portside.networks.firewall.ruleset import LinkRule
from portside.networks.netns_pool import Namespace, NamespacePool, NamespaceWorker, inside_setup
from portside.networks.network_interfaces import Links, Plumbing
from portside.networks.network_store import (
    Catalogue,
    EndpointRecord,
    NetworkRecord,
    SandboxRecord,
    lease_names,
)
from portside.networks.portmapper import usable_ports
from portside.networks.publish import PortPublisher, forget_flows
from portside.store.db import Database, NameTaken


@dataclass(slots=True)
class Sandbox:
    """A running container's network: its record and what the engine holds open for it."""

    record: SandboxRecord
    space: Namespace | None = None
    server: NameServer | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def container_id(self) -> str:
        return self.record.request.container_id

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.space is not None:
            self.space.close()
            self.space = None


class Book:
    """All sandboxes, by container."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._documents = db.collection("sandbox", SandboxRecord)
        self._sandboxes: dict[str, Sandbox] = {}

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._sandboxes

    def get(self, container_id: str) -> Sandbox | None:
        return self._sandboxes.get(container_id)

    def all(self) -> list[Sandbox]:
        return list(self._sandboxes.values())

    def records(self) -> list[SandboxRecord]:
        return [sandbox.record for sandbox in self._sandboxes.values()]

    def stored(self) -> list[SandboxRecord]:
        """All records in the metadata, also of sandboxes that are not taken over yet."""
        return self._documents.all()

    def on_network(self, network_id: str) -> list[tuple[SandboxRecord, EndpointRecord]]:
        """Running containers on a network with their endpoints."""
        return [
            (record, endpoint)
            for record in self.records()
            for endpoint in record.endpoints
            if endpoint.network_id == network_id
        ]

    def add(self, sandbox: Sandbox) -> None:
        """Record a new one; Forbidden when the metadata says that an address is in use."""
        record = sandbox.record
        claims = [name for endpoint in record.endpoints for name in lease_names(endpoint)]
        try:
            self._documents.insert(sandbox.container_id, record, *claims)
        except NameTaken as err:
            raise Forbidden(f"Address already in use: {err}") from err
        self._sandboxes[sandbox.container_id] = sandbox

    def take_over(self, record: SandboxRecord) -> Sandbox:
        """One that the metadata knows already."""
        sandbox = self._sandboxes[record.request.container_id] = Sandbox(record)
        return sandbox

    def change(self, sandbox: Sandbox, **changes: object) -> None:
        record = msgspec.structs.replace(sandbox.record, **changes)
        self._documents.put(sandbox.container_id, record)
        sandbox.record = record

    def claim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        """Record one more endpoint and its addresses."""
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.claim(name, sandbox.container_id)
            self.change(sandbox, endpoints=(*sandbox.record.endpoints, endpoint))

    def unclaim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        rest = tuple(e for e in sandbox.record.endpoints if e.endpoint_id != endpoint.endpoint_id)
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.release(name)
            self.change(sandbox, endpoints=rest)

    def forget(self, container_id: str) -> None:
        """Drop a container's record and its addresses' names from the metadata."""
        self._documents.delete(container_id)
        self._sandboxes.pop(container_id, None)

    def clear(self) -> None:
        """Let go of everything; the metadata stays."""
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._sandboxes.clear()


# -- all sandboxes: attach, detach, restore ------------------------------------------------


class Sandboxes:
    """All running containers' networks."""

    def __init__(
        self,
        db: Database,
        instance: Instance,
        options: NetworkOptions,
        catalogue: Catalogue,
        links: Links,
        firewall: Firewall,
        worker: NamespaceWorker,
        pool: NamespacePool,
        publish: Publisher,
    ) -> None:
        self._instance, self._catalogue, self._links = instance, catalogue, links
        self._worker, self._pool, self._publish = worker, pool, publish
        self._endpoints = Endpoints(catalogue)
        self.book = Book(db)
        outside = HostSockets(options.host_sockets).bind if options.host_sockets else None
        self.ports = PortPublisher(firewall, catalogue, options, outside)
        self.files = HostFiles(options, catalogue, self.book.records)
        self._plumbing = Plumbing(catalogue, links, worker)
        self._naming = Naming(catalogue, self.files, worker)
        self.connections = Connections(
            self.book, instance, catalogue, self._endpoints, self._plumbing, self._naming,
            self.ports, self.files, self._announce,
        )  # fmt: skip

    def find(self, container_id: str) -> SandboxRecord | None:
        sandbox = self.book.get(container_id)
        return sandbox.record if sandbox is not None else None

    # -- attach ----------------------------------------------------------------------------

    async def attach(self, request: NetworkRequest) -> NetworkAttachment:
        """Make a container's network, join another's or the host's. Raises Conflict, NotFound,
        InvalidParameter, Forbidden, SystemFailure."""
        if request.container_id in self.book:
            raise Conflict(f"container {request.name} has a network already")
        mode = request.mode or "default"
        try:
            if mode == "host":
                return self._attach_plain(request, "host")
            if mode.startswith("container:"):
                return self._attach_shared(request, mode.partition(":")[2])
            return await self._attach_own(request)
        except (NotFound, InvalidParameter, Forbidden, SystemFailure) as err:  # Docker's words
            raise reworded(err, f"failed to set up container networking: {err}") from err
        except OSError as err:
            raise SystemFailure(f"cannot set up the network of {request.name}: {err}") from err

    def _attach_plain(self, request: NetworkRequest, name: str) -> NetworkAttachment:
        """The host's namespace: nothing to make but the files."""
        network = self._catalogue.resolve(name)
        wanted = self._wanted(request, network)
        endpoint = self._endpoints.make(network, request, wanted, "", "")
        record = SandboxRecord(
            request=request, kind=name, sandbox_id=new_id(), endpoints=(endpoint,)
        )
        self.book.add(Sandbox(record))
        try:
            self.files.write(record)
        except BaseException:
            self.book.forget(request.container_id)
            raise
        return self._attachment(record, None)

    def _attach_shared(self, request: NetworkRequest, owner: str) -> NetworkAttachment:
        target = self.book.get(owner)
        while target is not None and target.record.kind == "shared":  # it has joined another's
            owner = target.record.owner
            target = self.book.get(owner)
        if target is None:
            raise Conflict(f"cannot join network of a non running container: {owner}")
        record = SandboxRecord(
            request=request, kind="shared", sandbox_id=target.record.sandbox_id, owner=owner
        )
        self.book.add(Sandbox(record))
        fd = target.space.fd if target.space is not None else None
        return NetworkAttachment(
            netns_fd=fd,
            settings=network_settings(record),
            directory=target.record.request.directory,
        )

    def _wanted(self, request: NetworkRequest, network: NetworkRecord) -> EndpointSettings:
        for key in (network.name, network.id):
            if key in request.endpoints:
                return request.endpoints[key].wanted()
        for key, settings in request.endpoints.items():
            if key == "default" and network.name == "bridge":
                return settings.wanted()
        return EndpointSettings()

    def plan(self, request: NetworkRequest) -> list[tuple[NetworkRecord, EndpointSettings]]:
        """The networks of a request in the order of their interfaces; NotFound."""
        mode = request.mode or "default"
        if mode == UNCONNECTED:
            return []
        first = self._catalogue.resolve("bridge" if mode == "default" else mode)
        wanted = self._wanted(request, first)
        if request.mac_address and not wanted.mac_address:
            wanted = msgspec.structs.replace(wanted, mac_address=request.mac_address)
        plans = {first.id: (first, wanted)}
        for key in sorted(request.endpoints):
            network = first if key == "default" else self._catalogue.resolve(key)
            if network.id not in plans:
                plans[network.id] = (network, request.endpoints[key].wanted())
        for network, settings in plans.values():
            if network.resource.config_only:
                raise Forbidden(
                    "cannot create endpoint on configuration-only network: "
                    f"{network.name} is only a template for others"
                )
            if len(plans) > 1 and network.driver in ("host", "null"):
                raise Conflict(
                    f"container cannot be connected to network {network.name} and others at once"
                )
            check_settings(network.name, network, settings)
        return list(plans.values())

    async def _attach_own(self, request: NetworkRequest) -> NetworkAttachment:
        plans = self.plan(request)
        names = any(network.has_names for network, _ in plans)
        if plans and plans[0][0].driver == "bridge":
            space = await self._pool.take(names, request.userns_path or request.id_mappings)
        else:
            space = await self._pool.take_bare(names, request.userns_path or request.id_mappings)
        with ExitStack() as undo:
            undo.callback(space.close)
            endpoints = self._make_endpoints(plans, request, space, undo)
            ports = self.ports.reserve(request, endpoints)
            undo.callback(self.ports.unreserve, ports)
            record = SandboxRecord(
                request=request,
                kind="own",
                sandbox_id=new_id(),
                endpoints=endpoints,
                ports=ports,
            )
            sandbox = Sandbox(record, space)
            self.book.add(sandbox)
            undo.callback(self.book.forget, request.container_id)
            await self._plumbing.plug_all(record, space)
            self.ports.open(record)
            undo.callback(self.ports.shut, record)
            environment = self.files.write(record)
            self.ports.set_links(record, self._link_rules(record))
            self._naming.serve(sandbox)
            if any(port.protocol != "tcp" for port in ports):
                await self._worker.run(lambda: forget_flows(ports))
            undo.pop_all()
        attachment = self._attachment(record, space.fd, environment)
        if space.userns >= 0:
            attachment = msgspec.structs.replace(attachment, userns_fd=space.userns)
        return attachment

    def _link_rules(self, record: SandboxRecord) -> list[LinkRule]:
        """Rules of legacy links on a default bridge without inter-container communication."""
        bridge = next((e for e in record.endpoints if e.network == "bridge"), None)
        if bridge is None or not record.request.links:
            return []
        if self._catalogue.get(bridge.network_id).flag(network_options.BRIDGE_ICC, True):
            return []
        return [
            LinkRule(bridge.ipv4, endpoint.ipv4, protocol, port)
            for other, endpoint, _ in self.files.linked(record)
            for port, protocol in usable_ports(other.request.exposed_ports)
        ]

    def _make_endpoints(
        self,
        plans: Sequence[tuple[NetworkRecord, EndpointSettings]],
        request: NetworkRequest,
        space: Namespace,
        undo: ExitStack,
    ) -> tuple[EndpointRecord, ...]:
        made: list[EndpointRecord] = []
        for network, wanted in plans:
            check_link_local(wanted)
            interface, link = choose_interface(network, wanted, made), ""
            if network.driver == "bridge":
                free = space.link and all(e.link != space.link for e in made)
                link = space.link if free else self._instance.link(new_id())
            endpoint = self._endpoints.make(network, request, wanted, interface, link)
            undo.callback(self._endpoints.release, endpoint)
            made.append(endpoint)
        return tuple(made)

    def _attachment(
        self, record: SandboxRecord, fd: int | None, environment: Sequence[str] = ()
    ) -> NetworkAttachment:
        return NetworkAttachment(
            netns_fd=fd,
            settings=network_settings(record),
            directory=record.request.directory,
            environment=tuple(environment),
        )

    def announce(self, container_id: str) -> None:
        """Publish a ``connect`` event for each network of a container that has started."""
        if (sandbox := self.book.get(container_id)) is not None:
            self._announce("connect", sandbox.record)

    def _announce(self, action: str, record: SandboxRecord, only: str = "") -> None:
        for endpoint in record.endpoints:
            if not only or endpoint.network_id == only:
                network = self._catalogue.find(endpoint.network_id)
                attributes = {
                    "container": record.request.container_id,
                    "name": endpoint.network,
                    "type": network.driver if network is not None else "",
                }
                self._publish("network", action, endpoint.network_id, attributes)

    # -- detach ----------------------------------------------------------------------------

    async def detach(self, container_id: str, *, announce: bool = True) -> None:
        """Take a container's network down; nothing happens when it has none."""
        sandbox = self.book.get(container_id)
        if sandbox is None:
            return
        async with sandbox.lock:
            if self.book.get(container_id) is not sandbox:
                return
            self._take_down(sandbox)
        if announce:
            self._announce("disconnect", sandbox.record)

    def _take_down(self, sandbox: Sandbox) -> None:
        record, space = sandbox.record, sandbox.space
        container_id = record.request.container_id
        self.ports.shut(record)
        self.ports.unreserve(record.ports)
        if record.ports:
            self._plumbing.in_background(lambda: forget_flows(record.ports))
        self._naming.remove(container_id, record.endpoints)
        shared = any(other.owner == container_id for other in self.book.records())
        self._plumbing.drop(record, space, shared)
        self.book.forget(container_id)
        for endpoint in record.endpoints:
            self._endpoints.release(endpoint)
        sandbox.close()

    # -- after a restart -------------------------------------------------------------------

    async def restore(self, running: Sequence[RunningContainer]) -> list[str]:
        """Take over what runs and undo the rest; what could not be restored is reported."""
        pids = {item.request.container_id: item.pid for item in running}
        problems: list[str] = []
        for record in self.book.stored():
            container_id = record.request.container_id
            if container_id in self.book:
                continue  # attached by this engine
            for endpoint in record.endpoints:
                self._endpoints.restore(endpoint)
            sandbox = self.book.take_over(record)
            pid = pids.get(container_id)
            try:
                if pid is None or not await self._reopen(sandbox, pid):
                    self._take_down(sandbox)
                    continue
            except (OSError, SystemFailure) as err:
                problems.append(f"container {record.request.name}: {err}")
            self.book.change(sandbox, ports=self.ports.repair(record))
            problems += self.ports.hold(sandbox.record)
            self._naming.serve(sandbox)
        for item in running:
            try:
                await self._agree(item.request)
            except (OSError, PortsideError) as err:
                problems.append(f"container {item.request.name}: {err}")
        for record in self.book.records():
            with suppress(Conflict):  # the linked container is gone
                self.ports.set_links(record, self._link_rules(record))
        return problems

    async def _agree(self, request: NetworkRequest) -> None:
        """Bring a running container in line with what its own record wants: a connect,
        disconnect, rename or publication that a crash cut in half is undone."""
        sandbox = self.book.get(request.container_id)
        if sandbox is None or sandbox.record.kind != "own" or sandbox.space is None:
            return
        plans = {network.id: (network, wanted) for network, wanted in self.plan(request)}
        have = {endpoint.network_id for endpoint in sandbox.record.endpoints}
        for identifier in have - set(plans):
            network = self._catalogue.get(identifier)
            await self.connections.disconnect(network, request.container_id)
        for identifier in set(plans) - have:
            network, wanted = plans[identifier]
            await self.connections.connect(network, request.container_id, wanted)
        kept = sandbox.record.request
        if request.name != kept.name:
            self.connections.rename(request.container_id, request.name)
        if (request.port_bindings, request.publish_all) != (kept.port_bindings, kept.publish_all):
            await self.connections.republish(request)

    async def _reopen(self, sandbox: Sandbox, pid: int) -> bool:
        """Hold a running container's namespace again; False when it is gone."""
        if sandbox.record.kind != "own":
            return True
        try:
            fd = netns.open_of(pid)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES):
                return False
            raise
        names = any(self._naming.named(endpoint) for endpoint in sandbox.record.endpoints)
        try:
            sandbox.space = await self._worker.visit(
                fd, lambda: inside_setup(fd, names, sysctls=False)
            )
        except BaseException:
            os.close(fd)
            raise
        await self._plumbing.repair(sandbox.record, sandbox.space)
        return True

    def known_links(self) -> set[str]:
        """Host-side interfaces that belong to running containers."""
        return {endpoint.link for record in self.book.records() for endpoint in record.endpoints}

    async def close(self) -> None:
        """Let go of everything; the containers keep their network."""
        await self._plumbing.wait()
        self.book.clear()
        self.ports.close()


# -- changes to a running container --------------------------------------------------------


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
        ports: PortPublisher,
        files: HostFiles,
        announce: Callable[[str, SandboxRecord, str], None],
    ) -> None:
        self._book, self._instance, self._catalogue = book, instance, catalogue
        self._endpoints, self._plumbing, self._naming = endpoints, plumbing, naming
        self._ports, self._files, self._announce = ports, files, announce

    def rename(self, container_id: str, name: str) -> None:
        """Give a running container its new name on each of its networks."""
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
        """Change the published ports of a running container. SystemFailure for one in use."""
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
        """Connect a container, at once when it runs; returns the endpoint's settings.

        Raises InvalidParameter, Forbidden, Conflict, SystemFailure.
        """
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
        """Disconnect a running container. Raises NotFound when it is not connected, Conflict."""
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
                network_interfaces.drop_addresses(endpoint, sandbox.space)
            self._reroute(sandbox, record)
            self._files.update(sandbox.record, record)
            if endpoint.interface:
                await self._plumbing.unplug(sandbox.space, endpoint)
            self._endpoints.release(endpoint)
        self._announce("disconnect", record, network.id)
