"""The network side of running containers: attach, detach, connect, disconnect, restore.

Order of every change, so that a crash between any two steps is repaired at the next start:
the metadata is written first (with the addresses' unique names, in one transaction), then
the kernel, the firewall, the files and the names; taking away goes the other way round,
except that the record is changed before a live disconnect touches the kernel. What the
kernel has and no record accounts for is deleted at the start.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from portside.kernel import netlink, netns
from portside.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, SystemFailure
from portside.model.events import Publisher
from portside.model.ids import new_id
from portside.model.instance import Instance
from portside.model.network import (
    EndpointSettings,
    IPAddress,
    NetworkAttachment,
    NetworkOptions,
    NetworkRequest,
    RunningContainer,
)
from portside.networks import links as kernel_links
from portside.networks import records
from portside.networks.catalogue import Catalogue
from portside.networks.dns import DnsSockets, Forwarder, NameServer
from portside.networks.endpoints import (
    Endpoints,
    check_settings,
    gateway_endpoint,
    interface_name,
    lease_names,
    network_settings,
)
from portside.networks.firewall import Firewall, LinkRule
from portside.networks.hostfiles import HostFiles
from portside.networks.links import Links
from portside.networks.names import ContainerNames, Directory
from portside.networks.pool import Namespace, NamespacePool, NamespaceWorker, inside_setup
from portside.networks.ports import parse_port
from portside.networks.publish import Publisher as PortPublisher
from portside.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from portside.store.db import Database, NameTaken


@dataclass(slots=True)
class Sandbox:
    """A running container's network: its record and what the engine holds open for it."""

    record: SandboxRecord
    space: Namespace | None = None
    server: NameServer | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.space is not None:
            self.space.close()
            self.space = None


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
        self._documents = db.collection("sandbox", SandboxRecord)
        self._db, self._instance = db, instance
        self._catalogue, self._links, self._firewall = catalogue, links, firewall
        self._worker, self._pool, self._publish = worker, pool, publish
        self._endpoints = Endpoints(catalogue)
        self._directory = Directory()
        self._forwarder = Forwarder()
        self.ports = PortPublisher(firewall, catalogue, options)
        self.files = HostFiles(options, catalogue, self.all_records)
        self._sandboxes: dict[str, Sandbox] = {}
        self._removals: set[asyncio.Task[None]] = set()

    # -- looking ---------------------------------------------------------------------------

    def all_records(self) -> list[SandboxRecord]:
        return [sandbox.record for sandbox in self._sandboxes.values()]

    def stored(self) -> list[SandboxRecord]:
        """What the metadata says, before ``restore`` took it over."""
        return self._documents.all()

    def find(self, container_id: str) -> SandboxRecord | None:
        sandbox = self._sandboxes.get(container_id)
        return sandbox.record if sandbox is not None else None

    def on_network(self, network_id: str) -> list[tuple[SandboxRecord, EndpointRecord]]:
        """Running containers on a network with their endpoints."""
        return [
            (record, endpoint)
            for record in self.all_records()
            for endpoint in record.endpoints
            if endpoint.network_id == network_id
        ]

    # -- attach ----------------------------------------------------------------------------

    async def attach(self, request: NetworkRequest) -> NetworkAttachment:
        if request.container_id in self._sandboxes:
            raise Conflict(f"container {request.name} has a network already")
        mode = request.mode or "default"
        try:
            if mode == "host":
                return self._attach_plain(request, "host")
            if mode.startswith("container:"):
                return self._attach_shared(request, mode.partition(":")[2])
            return await self._attach_own(request)
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
        self._documents.insert(request.container_id, record)
        self._sandboxes[request.container_id] = Sandbox(record)
        try:
            self.files.write(record)
        except BaseException:
            self._forget(request.container_id)
            raise
        self._announce("connect", record)
        return self._attachment(record, None)

    def _attach_shared(self, request: NetworkRequest, owner: str) -> NetworkAttachment:
        target = self._sandboxes.get(owner)
        if target is None:
            raise Conflict(f"cannot join network of a non running container: {owner}")
        record = SandboxRecord(
            request=request, kind="shared", sandbox_id=target.record.sandbox_id, owner=owner
        )
        self._documents.insert(request.container_id, record)
        self._sandboxes[request.container_id] = Sandbox(record)
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
        first = self._catalogue.resolve("bridge" if mode == "default" else mode)
        wanted = self._wanted(request, first)
        if request.mac_address and not wanted.mac_address:
            wanted = msgspec.structs.replace(wanted, mac_address=request.mac_address)
        if request.links and first.has_names:
            wanted = msgspec.structs.replace(wanted, links=(*(wanted.links or ()), *request.links))
        plans = {first.id: (first, wanted)}
        for key in sorted(request.endpoints):
            network = first if key == "default" else self._catalogue.resolve(key)
            if network.id not in plans:
                plans[network.id] = (network, request.endpoints[key].wanted())
        for network, settings in plans.values():
            if network.resource.config_only:
                raise Forbidden(
                    f"cannot connect container to network {network.name}: "
                    "it is a configuration-only network"
                )
            if len(plans) > 1 and network.driver in ("host", "null"):
                raise Conflict(
                    f"container cannot be connected to network {network.name} and others at once"
                )
            if network.has_names:
                check_settings(network, settings)
        return list(plans.values())

    async def _attach_own(self, request: NetworkRequest) -> NetworkAttachment:
        plans = self.plan(request)
        names = any(network.has_names for network, _ in plans)
        if plans[0][0].driver == "bridge":
            space = await self._pool.take(names)
        else:
            space = await self._pool.take_bare(names)
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
            self._store_new(record)
            undo.callback(self._forget, request.container_id)
            sandbox = Sandbox(record, space)
            self._sandboxes[request.container_id] = sandbox
            await self._plug_all(sandbox)
            self.ports.open(record)
            undo.callback(self.ports.shut, record)
            environment = self.files.write(record)
            self.ports.set_links(record, self._link_rules(record))
            self._serve(sandbox)
            undo.pop_all()
        self._announce("connect", record)
        return self._attachment(record, space.fd, environment)

    def _link_rules(self, record: SandboxRecord) -> list[LinkRule]:
        """What legacy links allow on a default bridge whose containers may not talk."""
        bridge = next((e for e in record.endpoints if e.network == "bridge"), None)
        if bridge is None or not record.request.links:
            return []
        if self._catalogue.get(bridge.network_id).flag(records.BRIDGE_ICC, True):
            return []
        return [
            LinkRule(bridge.ipv4, endpoint.ipv4, protocol, port)
            for other, endpoint, _ in self.files.linked(record)
            for first, last, protocol in map(parse_port, other.request.exposed_ports)
            for port in range(first, last + 1)
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
            interface, link = self._interface(network, wanted, made), ""
            if network.driver == "bridge":
                free = space.link and all(e.link != space.link for e in made)
                link = space.link if free else self._instance.link(new_id())
            endpoint = self._endpoints.make(network, request, wanted, interface, link)
            undo.callback(self._endpoints.release, endpoint)
            made.append(endpoint)
        return tuple(made)

    @staticmethod
    def _interface(
        network: NetworkRecord, wanted: EndpointSettings, others: Sequence[EndpointRecord]
    ) -> str:
        if network.driver == "null":
            return ""
        taken = [endpoint.interface for endpoint in others]
        chosen = (wanted.driver_opts or {}).get(records.ENDPOINT_NAME, "")
        if not chosen:
            return interface_name(network.option(records.PREFIX) or "eth", taken)
        if chosen in taken or chosen == "lo" or "/" in chosen or not 0 < len(chosen) < 16:
            raise InvalidParameter(f"invalid or used interface name: {chosen!r}")
        return chosen

    def _store_new(self, record: SandboxRecord) -> None:
        claims = [name for endpoint in record.endpoints for name in lease_names(endpoint)]
        try:
            self._documents.insert(record.request.container_id, record, *claims)
        except NameTaken as err:
            raise Conflict(f"Address already in use: {err}") from err

    async def _plug_all(self, sandbox: Sandbox) -> None:
        space, record = sandbox.space, sandbox.record
        assert space is not None
        for endpoint in record.endpoints:
            if endpoint.interface:
                await self._plug(space, endpoint)
        self._set_gateways(space, record.endpoints)

    async def _plug(self, space: Namespace, endpoint: EndpointRecord) -> None:
        network = self._catalogue.get(endpoint.network_id)
        index = self._links.plug(network, endpoint, space)
        space.indexes[endpoint.interface] = index
        settings = _sysctls(endpoint)
        if endpoint.ipv6:
            # before IPv6 is let in, so that the link-local address follows the final address
            kernel_links.prepare_ipv6(endpoint, index, space)
        if settings:
            await self._worker.visit(space.fd, lambda: _write_all(settings))
        kernel_links.configure(endpoint, index, space, network.driver == "ipvlan")

    def _set_gateways(self, space: Namespace, endpoints: Sequence[EndpointRecord]) -> None:
        for version in (4, 6):
            chosen = gateway_endpoint(endpoints, version)
            routed = self._layer3(endpoints) if chosen is None else None
            endpoint = chosen or routed
            if endpoint is None or (version == 6 and not endpoint.ipv6):
                continue
            gateway = endpoint.gateway4 if version == 4 else endpoint.gateway6
            index = space.interface(endpoint.interface)
            kernel_links.set_gateway(space, index, gateway, version)

    def _layer3(self, endpoints: Sequence[EndpointRecord]) -> EndpointRecord | None:
        """An ipvlan in layer 3 mode has its default route over the link itself."""
        for endpoint in endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if network.driver == "ipvlan" and network.option("ipvlan_mode", "l2") != "l2":
                return endpoint
        return None

    def _serve(self, sandbox: Sandbox) -> None:
        """Enter the container's names, and answer its questions where it may ask."""
        record, space = sandbox.record, sandbox.space
        for endpoint in record.endpoints:
            self._directory.add(record.request.container_id, endpoint)
        if space is None or space.names is None or sandbox.server is not None:
            return
        names = ContainerNames(
            lambda: sandbox.record,
            self._directory,
            self._named,
            self._host_addresses,
            self.files.upstream,
        )
        sandbox.server = NameServer(space.names, names, self._forwarder)
        space.names = None  # the server owns them now

    def _named(self, endpoint: EndpointRecord) -> bool:
        network = self._catalogue.find(endpoint.network_id)
        return network is not None and network.has_names

    def _host_addresses(self) -> Sequence[IPAddress]:
        return self.files.host_gateways()

    def _attachment(
        self, record: SandboxRecord, fd: int | None, environment: Sequence[str] = ()
    ) -> NetworkAttachment:
        return NetworkAttachment(
            netns_fd=fd,
            settings=network_settings(record),
            directory=record.request.directory,
            environment=tuple(environment),
            warnings=tuple(self.ports.warnings(record)),
        )

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

    def _forget(self, container_id: str) -> None:
        """Drop a container's record and its leases in the metadata."""
        self._documents.delete(container_id)
        self._sandboxes.pop(container_id, None)

    async def detach(self, container_id: str) -> None:
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            return
        async with sandbox.lock:
            if self._sandboxes.get(container_id) is not sandbox:
                return
            self._take_down(sandbox)
        self._announce("disconnect", sandbox.record)

    def _take_down(self, sandbox: Sandbox) -> None:
        record, space = sandbox.record, sandbox.space
        container_id = record.request.container_id
        self.ports.shut(record)
        self.ports.unreserve(record.ports)
        for endpoint in record.endpoints:
            self._directory.remove(container_id, endpoint)
        self._drop_interfaces(record, space)
        self._forget(container_id)
        for endpoint in record.endpoints:
            self._endpoints.release(endpoint)
        sandbox.close()

    def _drop_interfaces(self, record: SandboxRecord, space: Namespace | None) -> None:
        """Addresses off at once; the pairs die with the namespace, or in the background when
        something else lives on in it."""
        shared = any(other.owner == record.request.container_id for other in self.all_records())
        for endpoint in record.endpoints:
            if not endpoint.interface:
                continue
            if space is not None:
                try:
                    kernel_links.drop_addresses(endpoint, space)
                except OSError:
                    pass  # the namespace is being taken down already
            if shared or space is None:
                self._remove_later(endpoint)

    def _remove_later(self, endpoint: EndpointRecord) -> None:
        task = asyncio.get_running_loop().create_task(
            self._worker.run(lambda: self._links.unplug(endpoint))
        )
        self._removals.add(task)
        task.add_done_callback(self._removal_done)

    def _removal_done(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if not task.cancelled():
            task.exception()  # a link that is gone already; what stays is found at the next start

    # -- live changes ----------------------------------------------------------------------

    def rename(self, container_id: str, name: str) -> None:
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None:
            return
        request = msgspec.structs.replace(sandbox.record.request, name=name)
        endpoints = []
        for endpoint in sandbox.record.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            self._directory.remove(container_id, endpoint)
            changed = self._endpoints.with_settings(network, request, endpoint)
            self._directory.add(container_id, changed)
            endpoints.append(changed)
        self._store(sandbox, request=request, endpoints=tuple(endpoints))

    def _store(self, sandbox: Sandbox, **changes: object) -> None:
        record = msgspec.structs.replace(sandbox.record, **changes)
        self._documents.put(record.request.container_id, record)
        sandbox.record = record

    async def connect(
        self, network: NetworkRecord, container_id: str, config: EndpointSettings
    ) -> EndpointSettings:
        check_settings(network, config)
        sandbox = self._sandboxes.get(container_id)
        if network.driver in ("host", "null"):
            raise Conflict(
                f"container cannot be connected to {network.name} network: "
                f"cannot connect container to {network.name} network"
            )
        if network.resource.config_only:
            raise Forbidden(f"network {network.name} is a configuration-only network")
        if sandbox is None:
            return msgspec.structs.replace(config.wanted(), network_id=network.id)
        async with sandbox.lock:
            if self._sandboxes.get(container_id) is not sandbox:
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
        if record.kind != "own" or space is None or record.request.mode == "none":
            raise InvalidParameter(
                "container sharing network namespace with another container or host cannot be "
                "connected to any other network"
            )
        if any(endpoint.network_id == network.id for endpoint in record.endpoints):
            raise Forbidden(
                f"endpoint with name {record.request.name} already exists in network {network.name}"
            )
        container_id = record.request.container_id
        with ExitStack() as undo:
            interface = self._interface(network, wanted, record.endpoints)
            link = self._instance.link(new_id()) if network.driver == "bridge" else ""
            endpoint = self._endpoints.make(network, record.request, wanted, interface, link)
            undo.callback(self._endpoints.release, endpoint)
            self._claim(sandbox, endpoint)
            undo.callback(self._unclaim, sandbox, endpoint)
            undo.callback(self._remove_later, endpoint)
            await self._plug(space, endpoint)
            await self._ready_names(sandbox)
            self._reroute(sandbox, record)
            undo.callback(self._directory.remove, container_id, endpoint)
            self.files.update(sandbox.record, record)
            self._serve(sandbox)
            undo.pop_all()
        return endpoint

    def _claim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        container_id = sandbox.record.request.container_id
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.claim(name, container_id)
            self._store(sandbox, endpoints=(*sandbox.record.endpoints, endpoint))

    def _unclaim(self, sandbox: Sandbox, endpoint: EndpointRecord) -> None:
        rest = tuple(e for e in sandbox.record.endpoints if e.endpoint_id != endpoint.endpoint_id)
        with self._db.transaction():
            for name in lease_names(endpoint):
                self._documents.release(name)
            self._store(sandbox, endpoints=rest)

    async def _ready_names(self, sandbox: Sandbox) -> None:
        """A container that comes to its first user network gets a name server."""
        space = sandbox.space
        assert space is not None
        if sandbox.server is not None or space.names is not None:
            return
        if any(self._named(endpoint) for endpoint in sandbox.record.endpoints):
            space.names = await self._worker.visit(space.fd, DnsSockets.open)

    def _reroute(self, sandbox: Sandbox, before: SandboxRecord) -> None:
        """Default routes and published ports follow the container's networks."""
        assert sandbox.space is not None
        self._set_gateways(sandbox.space, sandbox.record.endpoints)
        ports = self.ports.move(before, sandbox.record)
        if ports != sandbox.record.ports:
            self._store(sandbox, ports=ports)

    async def disconnect(self, network: NetworkRecord, container_id: str) -> None:
        sandbox = self._sandboxes.get(container_id)
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
            self._unclaim(sandbox, endpoint)
            self._directory.remove(container_id, endpoint)
            assert sandbox.space is not None
            kernel_links.drop_addresses(endpoint, sandbox.space)
            self._reroute(sandbox, record)
            self.files.update(sandbox.record, record)
            await self._unplug(sandbox.space, endpoint)
            self._endpoints.release(endpoint)
        self._announce("disconnect", record, network.id)

    async def _unplug(self, space: Namespace, endpoint: EndpointRecord) -> None:
        """Delete one interface of a living namespace."""
        if endpoint.link:
            await self._worker.run(lambda: self._links.unplug(endpoint))
            return
        await self._worker.visit(space.fd, lambda: _delete_link(endpoint.interface))

    # -- after a restart -------------------------------------------------------------------

    async def restore(self, running: Sequence[RunningContainer]) -> list[str]:
        """Take over what runs and undo the rest; what could not be restored is told."""
        pids = {item.request.container_id: item.pid for item in running}
        problems: list[str] = []
        for record in self._documents.all():
            container_id = record.request.container_id
            if container_id in self._sandboxes:
                continue  # attached by this engine
            for endpoint in record.endpoints:
                self._endpoints.restore(endpoint)
            sandbox = Sandbox(record)
            self._sandboxes[container_id] = sandbox
            pid = pids.get(container_id)
            try:
                if pid is None or not await self._reopen(sandbox, pid):
                    self._take_down(sandbox)
                    continue
            except (OSError, SystemFailure) as err:
                problems.append(f"container {record.request.name}: {err}")
            problems += self.ports.hold(record)
            self._serve(sandbox)
        return problems

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
        names = any(self._named(endpoint) for endpoint in sandbox.record.endpoints)
        try:
            sandbox.space = await self._worker.visit(
                fd, lambda: inside_setup(fd, names, sysctls=False)
            )
        except BaseException:
            os.close(fd)
            raise
        for endpoint in sandbox.record.endpoints:
            if endpoint.link and not self._links.present(endpoint):
                await self._plug(sandbox.space, endpoint)
        self._set_gateways(sandbox.space, sandbox.record.endpoints)
        return True

    def known_links(self) -> set[str]:
        """Host-side interfaces that belong to running containers."""
        return {endpoint.link for record in self.all_records() for endpoint in record.endpoints}

    async def close(self) -> None:
        """Let go of everything; the containers keep their network."""
        await asyncio.gather(*self._removals, return_exceptions=True)
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._sandboxes.clear()
        self.ports.close()


def _sysctls(endpoint: EndpointRecord) -> list[tuple[str, str]]:
    """Settings of one interface inside: IPv6 where it has an address, and the user's own."""
    found: list[tuple[str, str]] = []
    if endpoint.ipv6:
        found.append((f"ipv6/conf/{endpoint.interface}/disable_ipv6", "0"))
    text = (endpoint.settings.driver_opts or {}).get(records.ENDPOINT_SYSCTLS, "")
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        parts = name.replace("IFNAME", endpoint.interface).split(".")
        if not equals or parts[0] != "net" or "IFNAME" not in name or "" in parts or "/" in name:
            raise InvalidParameter(f"invalid endpoint sysctl {item!r}: net.X.Y.IFNAME.Z=VALUE")
        found.append(("/".join(parts[1:]), value))
    return found


def _write_all(settings: Sequence[tuple[str, str]]) -> None:
    for name, value in settings:
        kernel_links.write_sysctl(name, value)


def _delete_link(interface: str) -> None:
    """Delete an interface of the calling thread's namespace."""
    rtnl = netlink.Rtnl()
    try:
        link = rtnl.link(interface)
        if link is not None:
            rtnl.run(netlink.del_link_message(link.index))
    finally:
        rtnl.close()
