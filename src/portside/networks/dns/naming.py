"""Which container has which names on which network, and the name servers that answer for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from portside.model.network import IPAddress
from portside.networks.dns.name_server import MAX_FORWARDED, DnsSockets, NameServer
from portside.networks.dns.resolver import Upstream
from portside.networks.etc_files import HostFiles
from portside.networks.netns_pool import Namespace, NamespaceWorker
from portside.networks.network_store import Catalogue, EndpointRecord, SandboxRecord
from portside.networks.shares import Shares

HOST_NAMES = ("host.docker.internal", "gateway.docker.internal")
"""Names of the host as containers see it."""


class Directory:
    """Names and addresses of all running containers, by network."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], dict[str, EndpointRecord]] = {}
        self._addresses: dict[tuple[str, str], str] = {}

    def add(self, container_id: str, endpoint: EndpointRecord) -> None:
        names = endpoint.settings.dns_names or ()
        for name in names:
            self._names.setdefault((endpoint.network_id, name.lower()), {})[container_id] = endpoint
        for address in (endpoint.ipv4, endpoint.ipv6):
            if address and names:
                full = f"{names[0]}.{endpoint.network}"
                self._addresses[endpoint.network_id, address] = full

    def remove(self, container_id: str, endpoint: EndpointRecord) -> None:
        """Forget an endpoint's names and addresses; other containers with the same name keep it."""
        for name in endpoint.settings.dns_names or ():
            key = (endpoint.network_id, name.lower())
            holders = self._names.get(key, {})
            holders.pop(container_id, None)
            if not holders:
                self._names.pop(key, None)
        for address in (endpoint.ipv4, endpoint.ipv6):
            self._addresses.pop((endpoint.network_id, address), None)

    def lookup(self, network_id: str, name: str) -> list[IPAddress] | None:
        """Addresses of all names on one network."""
        holders = self._names.get((network_id, name))
        if not holders:
            return None
        found = (endpoint.address(version) for endpoint in holders.values() for version in (4, 6))
        return [address for address in found if address is not None]

    def reverse(self, network_id: str, address: IPAddress) -> str | None:
        return self._addresses.get((network_id, str(address)))


class ContainerNames:
    """Names that one container can resolve: on its networks, its links, the host."""

    def __init__(
        self,
        record: Callable[[], SandboxRecord],
        directory: Directory,
        named: Callable[[EndpointRecord], bool],
        host: Callable[[], Sequence[IPAddress]],
        servers: Callable[[SandboxRecord], Sequence[Upstream]],
    ) -> None:
        self._record, self._directory, self._named = record, directory, named
        self._host, self._servers = host, servers

    def _endpoints(self) -> list[EndpointRecord]:
        return [endpoint for endpoint in self._record().endpoints if self._named(endpoint)]

    def addresses(self, name: str) -> list[IPAddress] | None:
        """The first of the container's networks that knows the name answers."""
        for endpoint in self._endpoints():
            links = (*(endpoint.settings.links or ()), *self._record().request.links)
            wanted = _linked(links, name)
            found = self._directory.lookup(endpoint.network_id, wanted)
            if found is None:
                suffix = f".{endpoint.network.lower()}"  # whose name may have dots itself
                if wanted.endswith(suffix):
                    found = self._directory.lookup(endpoint.network_id, wanted.removesuffix(suffix))
            if found is not None:
                return found
        return list(self._host()) if name in HOST_NAMES else None

    def name_of(self, address: IPAddress) -> str | None:
        for endpoint in self._endpoints():
            found = self._directory.reverse(endpoint.network_id, address)
            if found is not None:
                return found
        return None

    def servers(self) -> Sequence[Upstream]:
        return self._servers(self._record())


def _linked(links: Sequence[str], name: str) -> str:
    """The container that a name is an alias of, by links such as ``db:database``."""
    for link in links:
        target, colon, alias = link.partition(":")
        if (alias if colon else target).lower() == name:
            return target.lstrip("/").lower()
    return name


class Sandbox(Protocol):
    """A running container's network, as far as its name server needs it."""

    record: SandboxRecord
    space: Namespace | None
    server: NameServer | None

    @property
    def container_id(self) -> str: ...


class Naming:
    """Keeps the directory of names and serves containers on user networks."""

    def __init__(self, catalogue: Catalogue, files: HostFiles, worker: NamespaceWorker) -> None:
        self._catalogue, self._files, self._worker = catalogue, files, worker
        self._queries = Shares(MAX_FORWARDED)
        self.directory = Directory()

    def named(self, endpoint: EndpointRecord) -> bool:
        """Whether the endpoint's network has names."""
        network = self._catalogue.find(endpoint.network_id)
        return network is not None and network.has_names

    def serve(self, sandbox: Sandbox) -> None:
        """Enter the container's names, and answer its questions where it may ask."""
        space = sandbox.space
        for endpoint in sandbox.record.endpoints:
            self.directory.add(sandbox.container_id, endpoint)
        if space is None or space.names is None or sandbox.server is not None:
            return
        names = ContainerNames(
            lambda: sandbox.record,
            self.directory,
            self.named,
            self._host_addresses,
            self._files.upstream,
        )
        sandbox.server = NameServer(space.names, names, space.fd, self._queries)
        space.names = None  # the server owns them now

    async def prepare(self, sandbox: Sandbox) -> None:
        """A container that comes to its first user network gets a name server."""
        space = sandbox.space
        assert space is not None
        if sandbox.server is not None or space.names is not None:
            return
        if any(self.named(endpoint) for endpoint in sandbox.record.endpoints):
            space.names = await self._worker.visit(space.fd, DnsSockets.open)

    def remove(self, container_id: str, endpoints: Sequence[EndpointRecord]) -> None:
        """Take names out."""
        for endpoint in endpoints:
            self.directory.remove(container_id, endpoint)

    def _host_addresses(self) -> Sequence[IPAddress]:
        return self._files.host_gateways()
