"""Who has names, and the name servers of those who ask."""

from __future__ import annotations

from collections.abc import Sequence

from portside.model.network import IPAddress
from portside.networks.dns.name_server import MAX_FORWARDED, DnsSockets, NameServer
from portside.networks.dns.name_table import ContainerNames, Directory
from portside.networks.hostfiles import HostFiles
from portside.networks.netns_pool import NamespaceWorker
from portside.networks.network_records import EndpointRecord
from portside.networks.network_store import Catalogue
from portside.networks.sandbox import Sandbox
from portside.networks.shares import Shares


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
