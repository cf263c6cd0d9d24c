"""The networks service: what the rest of the engine sees of this folder."""

from __future__ import annotations

import builtins
import contextlib
import ipaddress
import logging
from collections.abc import Sequence

import msgspec

from portside.kernel import idmapped
from portside.model import filters as matching
from portside.model.errors import Forbidden, InvalidParameter, NotFound, PortsideError
from portside.model.events import Publisher
from portside.model.filters import Filters
from portside.model.golang.timestamps import rfc3339_or_zero
from portside.model.idmap import IDMappings
from portside.model.instance import Instance
from portside.model.network import (
    PREDEFINED,
    EndpointResource,
    EndpointSettings,
    IPAMStatus,
    NetworkAttachment,
    NetworkCreate,
    NetworkCreated,
    NetworkOptions,
    NetworkRequest,
    NetworkResource,
    NetworkSettings,
    NetworkStatus,
    PathStep,
    RunningContainer,
)
from portside.model.quiet_teardown import teardown
from portside.networks import etc_files, explain, network_store
from portside.networks.endpoints import check_settings, dns_names, network_settings
from portside.networks.firewall.firewall_table import Firewall
from portside.networks.firewall.ruleset import network_rules
from portside.networks.netns_pool import NamespacePool, NamespaceWorker
from portside.networks.network_interfaces import Links, enable_forwarding
from portside.networks.network_store import LIST_FILTERS, PRUNE_FILTERS, Catalogue, NetworkRecord
from portside.networks.portmapper import parse_wanted
from portside.networks.sandbox import Sandboxes
from portside.store.db import Database

log = logging.getLogger(__name__)


class NetworkService:
    """Networks, and the network side of every running container.

    The service knows running containers only: what a stopped container asked for (its
    ``EndpointSettings`` by network) is kept by the containers service, which passes it to
    ``attach``. So the API's connect and disconnect go to the containers service, which
    calls ``connect``/``disconnect`` here and keeps the result.
    """

    def __init__(
        self, db: Database, instance: Instance, options: NetworkOptions, publish: Publisher,
        helper: idmapped.Helper | None = None,
    ) -> None:  # fmt: skip
        """``helper``: see :class:`NamespaceWorker`."""
        self._instance, self._options, self._publish = instance, options, publish
        self._catalogue = Catalogue(db, instance, options)
        self._links = Links(instance, options.firewall)
        self._firewall = Firewall(instance.table, options.firewall, options.publish_policy)
        self._worker = NamespaceWorker(helper)
        self._pool = NamespacePool(self._worker, instance, options.id_mappings)
        self._sandboxes = Sandboxes(
            db, instance, options, self._catalogue, self._links, self._firewall,
            self._worker, self._pool, publish,
        )  # fmt: skip

    async def start(self) -> None:
        """Make or repair the default bridge, the firewall table and the first prepared
        namespaces. Call ``restore`` right after."""
        stored = self._sandboxes.book.stored()
        in_use = {endpoint.network_id for record in stored for endpoint in record.endpoints}
        network_store.ensure_predefined(
            self._catalogue, self._instance, self._options, self._links.rtnl, in_use
        )
        if self._options.ip_forward:
            ipv6 = self._options.ipv6 or any(n.config(6) for n in self._catalogue.all())
            enable_forwarding(ipv6)
        for record in self._catalogue.all():
            try:
                changed = self._links.ensure(record)
            except (OSError, PortsideError) as err:
                if record.name == "bridge":
                    raise
                log.warning("network %s is not usable: %s", record.name, err)
                continue
            if changed is not record:
                self._catalogue.put(changed)
        self._firewall.start()
        # what the metadata says runs keeps its ports until restore has looked
        rules = {
            record.id: network_rules(record)
            for record in self._catalogue.all()
            if record.driver == "bridge"
        }
        members = [m for record in stored for m in self._sandboxes.ports.members(record.ports)]
        self._firewall.preload(rules, members, {})
        self._firewall.apply()
        self._firewall.follow()
        self._warn_of_forward_policy()
        self._sandboxes.files.follow()
        await self._pool.start()
        self._expect_names()

    def _warn_of_forward_policy(self) -> None:
        """A drop in another table's forward chain is final, whatever our table says."""
        chain = self._firewall.closed_by_host("tcp", 443, "forward")
        if chain:
            log.warning(
                "the host's firewall (%s) drops forwarded packets it has no rule for: containers "
                "reach other hosts, and are reached by them, only if it accepts traffic of the "
                "interfaces ps* (beside dockerd: iptables -I DOCKER-USER -i ps+ -j ACCEPT and "
                "iptables -I DOCKER-USER -o ps+ -j ACCEPT)",
                chain,
            )

    async def restore(self, running: Sequence[RunningContainer]) -> None:
        """Take the running containers' sandboxes over again (addresses, ports, names) and
        undo whatever belongs to containers that are gone."""
        for problem in await self._sandboxes.restore(running):
            log.warning("restoring networks: %s", problem)
        await self._sweep(self._catalogue.all())

    async def _sweep(self, networks: Sequence[NetworkRecord]) -> None:
        """Delete the interfaces of ours that neither these networks nor a container have."""
        known = self._sandboxes.known_links() | {network.link for network in networks}
        await self._worker.run(lambda: self._delete_stale(known))

    def _delete_stale(self, known: set[str]) -> None:
        """In the worker, where no namespace is being prepared meanwhile."""
        stale = self._links.stale(known | self._pool.links())
        if stale:
            log.info("deleting interfaces without a network or container: %s", ", ".join(stale))
            self._links.delete(stale)

    def host_gateways(self) -> list[str]:
        """The host's addresses as containers see them (``host-gateway``)."""
        return [str(address) for address in self._sandboxes.files.host_gateways()]

    async def close(self) -> None:
        """Stop serving names and preparing namespaces; containers keep their network."""
        self._sandboxes.files.close()
        await self._sandboxes.close()
        await self._pool.close()
        self._firewall.close()
        self._links.close()
        self._worker.close()

    def in_use(self) -> bool:
        """Whether a container runs."""
        return bool(self._sandboxes.book.records())

    async def clean(self) -> None:
        """Remove what the engine made on this host: its table and its bridges without
        containers. The next start makes them again."""
        used = {e.network_id for r in self._sandboxes.book.records() for e in r.endpoints}
        kept = []
        for record in self._catalogue.all():
            if record.id in used:
                kept.append(record)
            else:
                self._links.remove(record)
        await self._sweep(kept)
        if not used:
            self._firewall.clean()

    def _expect_names(self) -> None:
        self._pool.expect_names(any(record.has_names for record in self._catalogue.all()))

    # -- a container's life --------------------------------------------------------------

    def validate(self, request: NetworkRequest) -> builtins.list[str]:
        """Check a request without acting (``containers/create``): InvalidParameter for bad
        addresses, ports or options; NotFound for unknown networks is left to ``attach``, as
        in Docker. Returns warnings."""
        wanted = parse_wanted(
            request.port_bindings, request.exposed_ports, request.publish_all,
            self._options.default_binding_ip,
        )  # fmt: skip
        etc_files.parse_extra_hosts(request.extra_hosts, ["192.0.2.1"])
        for server in request.dns:
            try:
                ipaddress.ip_address(server.partition("%")[0])
            except ValueError as err:
                raise InvalidParameter(f"{server} is not an IP address (--dns)") from err
        for key, settings in request.endpoints.items():
            self._check_endpoint("bridge" if key == "default" else key, settings)
        if request.mode == "host" and request.port_bindings:
            return ["Published ports are discarded when using host network mode"]
        if request.mode in ("host", "none") or request.mode.startswith("container:"):
            return []
        return self._sandboxes.ports.warnings(wanted)

    def _check_endpoint(self, name: str, wanted: EndpointSettings) -> None:
        network = None
        with contextlib.suppress(PortsideError):
            network = self._catalogue.resolve(name)
        try:
            check_settings(network.name if network is not None else name, network, wanted)
        except InvalidParameter as err:
            raise InvalidParameter(f"invalid config for network {name}: {err}") from None

    def expect(self, mappings: IDMappings) -> None:
        """A container with a user namespace of these mappings is likely to be started soon."""
        self._pool.expect(mappings)

    async def attach(self, request: NetworkRequest) -> NetworkAttachment:
        """Give a container about to start its network, ready to use: loopback, interfaces,
        addresses, routes, published ports, names, and its files in ``request.directory``.

        Raises NotFound (network), Conflict or InvalidParameter (address, port),
        SystemFailure; nothing is left behind then. Costs about one millisecond."""
        return await self._sandboxes.attach(request)

    def announce(self, container_id: str) -> None:
        """Publish the ``connect`` events of a container, once its process has started."""
        self._sandboxes.announce(container_id)

    async def detach(self, container_id: str, *, announce: bool = True) -> None:
        """Take a container's network away after it exited (or never started): ports and
        addresses are free when this returns, links vanish afterwards. Idempotent.
        ``announce``: with ``disconnect`` events."""
        await self._sandboxes.detach(container_id, announce=announce)

    def settings(self, container_id: str) -> NetworkSettings | None:
        """Current settings of a running container; None when it has no sandbox."""
        record = self._sandboxes.find(container_id)
        return network_settings(record) if record is not None else None

    def rename(self, container_id: str, name: str) -> None:
        """A running container changed its name: names follow."""
        self._sandboxes.connections.rename(container_id, name)

    async def republish(self, request: NetworkRequest) -> None:
        """Change a running container's published ports to those of ``request``, live;
        SystemFailure and nothing changed when a host port is taken."""
        await self._sandboxes.connections.republish(request)

    async def connect(
        self, network: str, container_id: str, config: EndpointSettings | None
    ) -> EndpointSettings:
        """Connect a container. A running container is connected at once, and the settings returned
        have its addresses. For one that is not running, the settings are only checked; the
        containers service keeps the result."""
        record = self._catalogue.resolve(network)
        return await self._sandboxes.connections.connect(
            record, container_id, config or EndpointSettings()
        )

    async def disconnect(self, network: str, container_id: str, force: bool = False) -> str:
        """Disconnect a running container; the name of the network. With ``force`` a container
        that is not there is no error."""
        record = self._catalogue.resolve(network)
        if force and self._sandboxes.find(container_id) is None:
            return record.name
        await self._sandboxes.connections.disconnect(record, container_id)
        return record.name

    # -- networks ------------------------------------------------------------------------

    async def create(self, request: NetworkCreate) -> NetworkCreated:
        """Create a network; Conflict when the name is taken, InvalidParameter, Forbidden."""
        record = self._catalogue.plan(request, self._links.rtnl)
        self._catalogue.insert(record)  # the intent: a restart makes the interface
        try:
            if not record.resource.config_only:
                made = self._links.ensure(record)
                if made is not record:
                    self._catalogue.put(made)
                record = made
                if record.config(6) is not None and self._options.ip_forward:
                    enable_forwarding(True)
                if record.driver == "bridge":
                    self._firewall.set_network(record.id, network_rules(record))
        except BaseException:
            self._undo_create(record)
            raise
        self._expect_names()
        self._announce("create", record)
        return NetworkCreated(record.id)

    def _undo_create(self, record: NetworkRecord) -> None:
        with teardown(log, f"interface of network {record.name}"):
            self._links.remove(record)
        self._catalogue.delete(record)

    def _announce(self, action: str, record: NetworkRecord) -> None:
        self._publish("network", action, record.id, {"name": record.name, "type": record.driver})

    def list(self, filters: Filters | None = None) -> builtins.list[NetworkResource]:
        """All networks that match Docker's filters."""
        wanted = filters or {}
        matching.check(wanted, LIST_FILTERS)
        return [
            self._resource(record)
            for record in self._catalogue.all()
            if network_store.matches(
                record.resource, wanted, bool(self._sandboxes.book.on_network(record.id))
            )
        ]

    def inspect(self, name: str) -> NetworkResource:
        """One network by name, id or unique beginning of its id; NotFound."""
        record = self._catalogue.resolve(name)
        subnets = {
            str(subnet.network): subnet.status()
            for version in (4, 6)
            for subnet in self._catalogue.subnets(record, version)
        }
        status = NetworkStatus(IPAMStatus(subnets))
        return msgspec.structs.replace(self._resource(record), status=status)

    def kept(
        self, network: str, request: NetworkRequest, settings: EndpointSettings
    ) -> EndpointSettings:
        """What stays known of an endpoint after its container's end: the network's ID and the
        container's names there. The network may be gone."""
        try:
            record = self._catalogue.resolve(network)
        except (NotFound, InvalidParameter):
            return settings
        return msgspec.structs.replace(
            settings,
            network_id=settings.network_id or record.id,
            dns_names=dns_names(request, settings) if record.has_names else None,
        )

    def _resource(self, record: NetworkRecord) -> NetworkResource:
        containers = {
            sandbox.request.container_id: EndpointResource(
                sandbox.request.name,
                endpoint.endpoint_id,
                endpoint.mac,
                f"{endpoint.ipv4}/{endpoint.prefix4}" if endpoint.ipv4 else "",
                f"{endpoint.ipv6}/{endpoint.prefix6}" if endpoint.ipv6 else "",
            )
            for sandbox, endpoint in self._sandboxes.book.on_network(record.id)
        }
        return msgspec.structs.replace(record.resource, containers=containers)

    async def remove(self, name: str) -> str:
        """Remove a network; its id. Forbidden for predefined or used ones."""
        record = self._catalogue.resolve(name)
        if record.name in PREDEFINED:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        users = self._sandboxes.book.on_network(record.id)
        if users:
            who = ", ".join(
                f'(name:"{sandbox.request.name}" id:"{sandbox.request.container_id[:12]}")'
                for sandbox, _ in users
            )
            raise Forbidden(
                f"error while removing network: network {record.name} has active endpoints {who}"
            )
        for other in self._catalogue.all():
            if record.resource.config_only and other.resource.config_from.network == record.name:
                raise Forbidden(
                    "error while removing network: "
                    f'configuration network "{record.name}" is in use by {other.name}'
                )
        await self._take_down(record)
        self._expect_names()
        self._announce("destroy", record)
        return record.id

    async def _take_down(self, record: NetworkRecord) -> None:
        """The record goes last: a crash before that leaves a network that can be removed again.
        Meanwhile no container finds it."""
        self._catalogue.hide(record)
        try:
            if record.driver == "bridge":
                self._firewall.set_network(record.id, None)
            await self._worker.run(lambda: self._links.remove(record))
        except BaseException:
            self._catalogue.put(record)
            if record.driver == "bridge":
                self._firewall.set_network(record.id, network_rules(record))
            raise
        self._catalogue.delete(record)

    async def prune(self, filters: Filters | None = None) -> builtins.list[str]:
        """Remove all unused user networks; returns their names."""
        wanted = filters or {}
        matching.check(wanted, PRUNE_FILTERS)
        until = matching.until(wanted)
        removed: builtins.list[str] = []
        for record in self._catalogue.all():
            used = bool(self._sandboxes.book.on_network(record.id))
            if record.name in PREDEFINED or used:
                continue
            if until is not None and rfc3339_or_zero(record.resource.created) >= until:
                continue
            if matching.labels_match(wanted, record.resource.labels):
                with contextlib.suppress(Forbidden, NotFound):
                    await self.remove(record.id)
                    removed.append(record.name)
        return removed

    def explain(self, container_id: str) -> builtins.list[PathStep]:
        """The way of a running container's packets: interface, veth, bridge, rules."""
        record = self._sandboxes.find(container_id)
        return [] if record is None else explain.steps(record, self._catalogue, self._instance)
