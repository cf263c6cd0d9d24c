"""A container's interfaces: plugged in, set up, routed, and taken out again.

What takes microseconds is done on the event loop; sysctls, which must be written from inside
the namespace, and deleted links, which the kernel takes 30 ms for, go to the worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from portside.kernel import netlink
from portside.networks import host_links as kernel_links
from portside.networks import network_records
from portside.networks.endpoints import gateway_endpoint
from portside.networks.host_links import Links
from portside.networks.netns_pool import Namespace, NamespaceWorker
from portside.networks.network_records import EndpointRecord, SandboxRecord
from portside.networks.network_store import Catalogue

LINGER = 5.0
"""Seconds that a pair gets to die with its namespace. One that does not is kept by TCP connections
that nobody closes any more, which the kernel lets go of after minutes only."""


class Plumbing:
    """Changes the interfaces of containers' namespaces."""

    def __init__(self, catalogue: Catalogue, links: Links, worker: NamespaceWorker) -> None:
        self._catalogue, self._links, self._worker = catalogue, links, worker
        self._removals: set[asyncio.Task[None]] = set()
        self._dying: set[str] = set()
        self._look: asyncio.TimerHandle | None = None

    async def plug_all(self, record: SandboxRecord, space: Namespace) -> None:
        """All interfaces of a new sandbox, and its default routes."""
        for endpoint in record.endpoints:
            if endpoint.interface:
                await self.plug(space, endpoint)
        self.set_gateways(space, record.endpoints)

    async def plug(self, space: Namespace, endpoint: EndpointRecord) -> None:
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

    def set_gateways(self, space: Namespace, endpoints: Sequence[EndpointRecord]) -> None:
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

    async def repair(self, record: SandboxRecord, space: Namespace) -> None:
        """Make a living namespace what its record says, after a crash between any two steps."""
        for endpoint in record.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if endpoint.interface and not self._links.intact(network, endpoint, space):
                await self.plug(space, endpoint)
        self.set_gateways(space, record.endpoints)

    def drop(self, record: SandboxRecord, space: Namespace | None, shared: bool) -> None:
        """Addresses off at once; the pairs die with the namespace, or in the background when
        something else lives on in it (``shared``)."""
        for endpoint in record.endpoints:
            if not endpoint.interface:
                continue
            if space is not None:
                try:
                    kernel_links.drop_addresses(endpoint, space)
                except OSError:
                    pass  # the namespace is being taken down already
            if shared or space is None:
                self.remove_later(endpoint)
            elif endpoint.link:
                self._dying.add(endpoint.link)
        if self._dying and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LINGER, self._delete_dying)

    def _delete_dying(self) -> None:
        names, self._dying, self._look = sorted(self._dying), set(), None
        self.in_background(lambda: self._links.delete(names))

    def remove_later(self, endpoint: EndpointRecord) -> None:
        self.in_background(lambda: self._links.unplug(endpoint))

    def in_background(self, work: Callable[[], None]) -> None:
        """Do something in the worker that nobody waits for but ``wait``."""
        task = asyncio.get_running_loop().create_task(self._worker.run(work))
        self._removals.add(task)
        task.add_done_callback(self._removal_done)

    def _removal_done(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if not task.cancelled():
            task.exception()  # a link that is gone already; what stays is found at the next start

    async def unplug(self, space: Namespace, endpoint: EndpointRecord) -> None:
        """Delete one interface of a living namespace."""
        if endpoint.link:
            await self._worker.run(lambda: self._links.unplug(endpoint))
            return
        await self._worker.visit(space.fd, lambda: _delete_link(endpoint.interface))

    async def wait(self) -> None:
        """Until the links of containers that have ended are gone."""
        if self._look is not None:
            self._look.cancel()
            self._delete_dying()
        await asyncio.gather(*self._removals, return_exceptions=True)


def _sysctls(endpoint: EndpointRecord) -> list[tuple[str, str]]:
    """Settings of one interface inside: IPv6 where it has an address, and the user's own."""
    found: list[tuple[str, str]] = []
    if endpoint.ipv6:
        found.append((f"ipv6/conf/{endpoint.interface}/disable_ipv6", "0"))
    text = (endpoint.settings.driver_opts or {}).get(network_records.ENDPOINT_SYSCTLS, "")
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")  # its form was checked by endpoint_options
        parts = name.split(".")
        parts[3] = endpoint.interface
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
