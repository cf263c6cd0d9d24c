"""Prepared network namespaces: what is slow about a container's network, done beforehand.

A namespace in stock has its loopback up, IPv6 held off until a network asks for it, an
``eth0`` whose other end lies in the host's namespace, and a routing socket opened inside.
Giving it to a container then takes one or two netlink sends. All of it dies with its
descriptors: a killed engine leaves nothing of its stock behind.

::

    worker thread                         event loop
    unshare(CLONE_NEWNET)
    lo up, sysctls, netlink socket
    setns(host)
    veth eth0 <-> ps…          ──stock──► take() ──► attach: enslave, address, route
                               ◄──wake──  refill after the answer
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from portside.kernel import idmapped, netlink, netns
from portside.model.errors import SystemFailure
from portside.model.idmap import IDMappings
from portside.model.instance import Instance
from portside.networks.dns.name_server import DnsSockets

T = TypeVar("T")

SYSCTLS = (
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/autoconf", "0"),
    ("ipv4/conf/default/arp_notify", "1"),
    ("ipv6/conf/default/ndisc_notify", "1"),
)
"""Set before eth0 exists: no neighbour may hand a container routes (CVE-2020-13401), and
neighbours hear of the hardware address that an address has now."""
STOCK = 4
"""Namespaces kept ready, of each kind that is wanted."""
BARE = 3
"""The same without an eth0, which fewer containers want."""
EXPECTED = 4
"""Namespaces kept for user namespaces that are expected (:meth:`NamespacePool.expect`)."""
REFILL_DELAY = 0.1
"""Seconds of quiet before the stock is filled up again: longer than a start takes, so as not to
compete with the one that took from it."""
EXPECTED_DELAY = 0.02
"""The same for what is expected, which is known when a start is over."""
FIRST = "eth0"

Userns = IDMappings | str | None
"""The user namespace that a network namespace belongs to: a new one with these mappings, an
existing one by its path in /proc, or the host's."""


@dataclass(slots=True)
class Namespace:
    """A network namespace held by its descriptor, with a routing socket inside."""

    fd: int
    inside: netlink.Rtnl
    link: str = ""
    """Name of the host's end of eth0, empty when there is no such pair."""
    link_index: int = 0
    eth0_index: int = 0
    indexes: dict[str, int] = field(default_factory=dict)
    """Indexes of the interfaces that were set up inside, by name."""
    names: DnsSockets | None = None
    """Sockets of the name server, while nobody serves them yet."""
    userns: int = -1
    """Descriptor of the user namespace that it belongs to, until the container is in it."""

    def interface(self, name: str) -> int:
        """The index of an interface inside; FileNotFoundError when it is gone."""
        if name not in self.indexes:
            link = self.inside.link(name)
            if link is None:
                raise FileNotFoundError(errno.ENODEV, "the container has no interface", name)
            self.indexes[name] = link.index
        return self.indexes[name]

    def close(self) -> None:
        """Let go; the namespace dies with the last process in it."""
        if self.names is not None:
            self.names.close()
        self.inside.close()
        self.release_userns()
        os.close(self.fd)

    def release_userns(self) -> None:
        """Let go of the user namespace; the network namespace keeps it."""
        if self.userns >= 0:
            os.close(self.userns)
            self.userns = -1


class NamespaceWorker:
    """One thread that visits network namespaces; it never belongs to one between jobs."""

    def __init__(self, helper: idmapped.Helper | None = None) -> None:
        """``helper``: forks for user namespaces."""
        self._helper = helper
        self._host = netns.open_own()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netns")

    async def visit(self, fd: int, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread, inside the namespace of ``fd``."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._visit, fd, work
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the thread, in the host's namespace."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _visit(self, fd: int, work: Callable[[], T]) -> T:
        netns.setns_net(fd)
        try:
            return work()
        finally:
            netns.setns_net(self._host)

    def fresh_now(self, names: bool, mappings: Userns) -> Namespace:
        """A new namespace, for a caller that is in the thread; with ``mappings`` it belongs to a
        new user namespace of these."""
        if mappings is not None:
            return self._fresh_in_userns(names, mappings)
        netns.unshare_net()
        try:
            fd = netns.open_own()
            try:
                return inside_setup(fd, names)
            except BaseException:
                os.close(fd)
                raise
        finally:
            netns.setns_net(self._host)

    def _fresh_in_userns(self, names: bool, mappings: IDMappings | str) -> Namespace:
        if isinstance(mappings, str):
            user = os.open(mappings, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fd = idmapped.network_namespace_of(user, self._helper)
            except BaseException:
                os.close(user)
                raise
        else:
            user, fd = idmapped.user_and_network_namespace(
                mappings.uids, mappings.gids, self._helper
            )
        try:
            made = self._visit(fd, lambda: inside_setup(fd, names))
        except BaseException:
            os.close(fd)
            os.close(user)
            raise
        made.userns = user
        return made

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
        os.close(self._host)


def inside_setup(fd: int, names: bool = False, sysctls: bool = True) -> Namespace:
    """Set up a new namespace; called inside it. A namespace taken over after a restart keeps its
    own settings."""
    for name, value in SYSCTLS if sysctls else ():
        # a kernel booted without IPv6 has none of these
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", name).write_text(value)
    rtnl = netlink.Rtnl()
    try:
        rtnl.run(netlink.link_message(1, up=True))
        return Namespace(fd, rtnl, names=DnsSockets.open() if names else None)
    except BaseException:
        rtnl.close()
        raise


class Kind(Enum):
    """Contents of a prepared namespace besides its loopback interface."""

    PLAIN = "eth0"
    NAMES = "eth0, and the name server's sockets"
    BARE = "nothing"


@dataclass(slots=True)
class _Expected:
    """A namespace that a start is likely to ask for; without ``space`` it is to be made."""

    kind: Kind
    space: Namespace | None = None


class NamespacePool:
    """A stock of each kind. ``take`` waits only when the right one is empty."""

    def __init__(
        self, worker: NamespaceWorker, instance: Instance, mappings: IDMappings | None = None
    ) -> None:
        """``mappings``: of the user namespaces that most containers will have."""
        self._worker, self._instance, self._mappings = worker, instance, mappings
        self._stock: dict[Kind, deque[Namespace]] = {kind: deque() for kind in Kind}
        self._sizes = {Kind.PLAIN: STOCK, Kind.NAMES: 0, Kind.BARE: BARE}
        self._expected: dict[IDMappings, _Expected] = {}
        """Those that belong to user namespaces of these mappings."""
        self._mapped_kind = Kind.PLAIN
        """What the last container with mappings other than the stock's took."""
        self._made: set[str] = set()
        """Links made in the worker that the loop has not put into stock or use yet."""
        self._rtnl: netlink.Rtnl | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Make the first namespace; the rest follow in the background."""
        self._rtnl = await self._worker.run(netlink.Rtnl)
        self._stock[Kind.PLAIN].append(await self._make(Kind.PLAIN, self._mappings))
        self._schedule()

    def expect_names(self, expected: bool) -> None:
        """Whether there are user networks, so that a stock for them is worth having."""
        self._sizes[Kind.NAMES] = STOCK if expected else 0
        self._schedule()

    def expect(self, mappings: IDMappings) -> None:
        """A container with a user namespace of these mappings is likely to be started soon, with
        a network of the kind that the last one had. The oldest expectation that did not come true
        is given up."""
        if mappings in self._expected or self._closed:
            return
        while len(self._expected) >= EXPECTED:
            self._give_up(self._expected.pop(next(iter(self._expected))))
        self._expected[mappings] = _Expected(self._mapped_kind)
        self._schedule()

    async def take(self, names: bool = False, mappings: Userns = None) -> Namespace:
        """A namespace with an eth0 pair, from stock or made now; ``mappings`` are those of the
        user namespace it is to belong to."""
        return await self._take(Kind.NAMES if names else Kind.PLAIN, mappings)

    async def take_bare(self, names: bool = False, mappings: Userns = None) -> Namespace:
        """A namespace with a loopback only (``--network none``, macvlan)."""
        if names:
            return await self._worker.run(lambda: self._worker.fresh_now(names, mappings))
        return await self._take(Kind.BARE, mappings)

    async def _take(self, kind: Kind, mappings: Userns) -> Namespace:
        if mappings == self._mappings:
            stock = self._stock[kind]
            space = stock.popleft() if stock else None
        else:
            space = self._take_expected(kind, mappings)
        space = space or await self._make(kind, mappings)
        self._made.discard(space.link)
        self._schedule()
        return space

    def _take_expected(self, kind: Kind, mappings: Userns) -> Namespace | None:
        if not isinstance(mappings, IDMappings):
            return None
        self._mapped_kind = kind
        expected = self._expected.pop(mappings, None)
        if expected is None:
            return None
        if expected.kind is kind:
            return expected.space
        self._give_up(expected)
        return None

    def _give_up(self, expected: _Expected) -> None:
        if expected.space is not None:
            expected.space.close()

    def links(self) -> set[str]:
        """The host's ends of what is in stock."""
        ready = {space.link for stock in self._stock.values() for space in stock}
        ready |= {one.space.link for one in self._expected.values() if one.space is not None}
        return self._made | ready - {""}

    async def close(self) -> None:
        """End the filling and close every namespace in stock."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._filling is not None:
            await asyncio.gather(self._filling, return_exceptions=True)
        for stock in self._stock.values():
            while stock:
                stock.popleft().close()
        while self._expected:
            self._give_up(self._expected.popitem()[1])
        if self._rtnl is not None:
            self._rtnl.close()

    def _missing(self) -> list[Kind]:
        return [kind for kind, size in self._sizes.items() if len(self._stock[kind]) < size]

    def _next_expected(self) -> IDMappings | None:
        """Mappings of an expected namespace that is to be made."""
        return next((key for key, one in self._expected.items() if one.space is None), None)

    def _schedule(self) -> None:
        """Refill soon: at once when a stock is low, else when the engine has been quiet."""
        missing = self._missing()
        if self._closed or not (missing or self._next_expected()):
            return
        if self._timer is not None:
            self._timer.cancel()
        low = any(len(self._stock[kind]) * 2 < self._sizes[kind] for kind in missing)
        delay = EXPECTED_DELAY if self._next_expected() else REFILL_DELAY
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(0.0 if low else delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._filling is None or self._filling.done():
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        while not self._closed:
            missing = self._missing()
            expected = None if missing else self._next_expected()
            if missing:
                kind, mappings = missing[0], self._mappings
            elif expected is not None:
                kind, mappings = self._expected[expected].kind, expected
            else:
                return
            try:
                space = await self._make(kind, mappings)
            except (OSError, SystemFailure):
                if expected is not None:
                    self._expected.pop(expected, None)
                return  # the next take makes its own, and raises the error to its caller
            self._made.discard(space.link)
            if not self._put(kind, expected, space):
                space.close()

    def _put(self, kind: Kind, expected: IDMappings | None, space: Namespace) -> bool:
        """Keep what was made; False when it was taken, or given up, meanwhile."""
        if self._closed:
            return False
        if expected is None:
            self._stock[kind].append(space)
            return True
        one = self._expected.get(expected)
        if one is None or one.kind is not kind:
            return False
        one.space = space
        return True

    async def _make(self, kind: Kind, mappings: Userns) -> Namespace:
        return await self._worker.run(lambda: self._make_now(kind, mappings))

    def _make_now(self, kind: Kind, mappings: Userns) -> Namespace:
        assert self._rtnl is not None
        rtnl = self._rtnl
        made = self._worker.fresh_now(kind is Kind.NAMES, mappings)
        if kind is Kind.BARE:
            return made
        name = self._instance.link(os.urandom(8).hex())
        try:
            self._made.add(name)
            rtnl.run(netlink.veth_message(name, FIRST, made.fd))
            link = rtnl.link(name)
            assert link is not None
            quiet = netlink.no_link_local()
            rtnl.run(
                netlink.link_message(link.index, quiet), netlink.link_message(link.index, up=True)
            )
            inner = made.inside.link(FIRST)
            assert inner is not None
            made.inside.run(netlink.link_message(inner.index, up=True))
        except BaseException:
            self._made.discard(name)
            made.close()
            raise
        made.link, made.link_index, made.eth0_index = name, link.index, inner.index
        return made
