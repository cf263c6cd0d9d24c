"""One container: its record in the metadata, and in the engine's memory its monitor and who waits.

The record holds the options and the last known state; it is stored after each change.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from portside.model import containerstate
from portside.model.container import ContainerConfig, ExecConfig, HostConfig
from portside.model.containerstate import HealthResult
from portside.model.idmap import IDMappings
from portside.model.image import Descriptor
from portside.model.network import EndpointSettings
from portside.runtime.messages import Streams

if TYPE_CHECKING:
    from portside.runtime.monitor_client import MonitorClient


# -- the record ------------------------------------------------------------------------------


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount of a container as it was asked for; see ``portside.containers.mounts``."""

    type: str
    """bind, volume, tmpfs or image."""
    destination: str
    source: str = ""
    """Host path; of a volume its mount point, of an image its ID."""
    name: str = ""
    driver: str = ""
    rw: bool = True
    mode: str = ""
    propagation: str = ""
    subpath: str = ""
    no_copy: bool = False
    anonymous: bool = False
    create_source: bool = False
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    idmap: str = ""
    tmpfs: tuple[str, ...] = ()
    chain: str = ""
    """For an image mount, the chain ID of its topmost layer: the image may be deleted by force."""

    def shown(self) -> containerstate.MountPoint:
        """The mount as ``inspect`` and ``ps`` show it."""
        return containerstate.MountPoint(
            type=self.type,
            name=self.name if self.type != "tmpfs" else "",
            source=self.source,
            destination=self.destination,
            driver=self.driver,
            mode=self.mode,
            rw=self.rw,
            propagation=self.propagation,
        )


def keep_copy(directory: Path, record: Record) -> None:
    """Write a container's record into its own directory, for when the metadata are lost."""
    new = directory / "container.json.new"
    new.write_bytes(msgspec.json.encode(record))
    new.rename(directory / "container.json")


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One container. Times are nanoseconds since the epoch, 0 for never."""

    id: str
    name: str
    """Without the slash."""
    created_ns: int
    image: str
    """The image's name as the user gave it."""
    image_id: str
    image_manifest: Descriptor | None = None
    """The platform's manifest in the image that the container was made from."""
    platform: str = "linux"
    config: ContainerConfig
    """The configuration with the image's merged in."""
    host: HostConfig
    id_mappings: IDMappings | None = None
    """The range of this container alone (``--userns=auto``)."""
    process_label: str = ""
    """This container's SELinux label; empty where SELinux is off, and with ``label=disable``."""
    mount_label: str = ""
    endpoints: dict[str, EndpointSettings] = {}
    """Settings that the user requested, by network name or ID."""
    mounts: tuple[MountPoint, ...] = ()

    making: bool = False
    """The creation is not finished: an engine that starts and finds this undoes it."""
    running: bool = False
    paused: bool = False
    quieted: bool = False
    """Paused by the engine itself, for a commit: one that was cut short resumes it."""
    restarting: bool = False
    removing: bool = False
    remove_volumes: bool = False
    """The removal that is going on takes the anonymous volumes along."""
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    link_targets: dict[str, str] = {}
    """IDs of the containers that legacy links lead to, by ``HostConfig.Links``' texts."""
    link_variables: tuple[str, ...] = ()
    """Variables that legacy links gave to the present run."""
    stopped_by_user: bool = False
    """An ``unless-stopped`` container stays down after it was stopped by hand."""
    health_status: str = ""
    health_streak: int = 0
    health_log: tuple[HealthResult, ...] = ()

    @property
    def alive(self) -> bool:
        """Running in Docker's sense: it runs, or its policy is about to start it again."""
        return self.running or self.restarting

    @property
    def status(self) -> str:
        """Docker's word for the state."""
        if self.running:
            if self.paused:
                return "paused"
            return "restarting" if self.restarting else "running"
        if self.removing:
            return "removing"
        if self.dead:
            return "dead"
        if self.restarting:
            return "restarting"
        return "exited" if self.started_ns else "created"


# -- in memory -------------------------------------------------------------------------------


_MOST_PENDING = 32
"""Clients that may wait for the start of one container; a message carries 64 descriptors."""


@dataclass(slots=True)
class ExecInstance:
    """A process that runs, or ran, beside a container's own."""

    id: str
    container: Container
    config: ExecConfig
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its start has succeeded or failed."""


@dataclass(slots=True)
class Waiter:
    """Someone who waits: for the next exit, or for the removal."""

    future: asyncio.Future[tuple[int, str]]
    removed: bool


class HealthProbes(Protocol):
    """A container's health check (:class:`portside.containers.health.HealthMonitor`)."""

    def end(self) -> None:
        """Probe no more."""


@dataclass(slots=True)
class PendingAttachment:
    """A client that attached before the start."""

    streams: Streams
    sock: socket.socket


@dataclass(slots=True, eq=False)
class Container:
    """Changes of state happen under ``lock``; the record is stored after each of them."""

    record: Record
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    monitor: MonitorClient | None = None
    waiters: list[Waiter] = field(default_factory=list)
    pending: list[PendingAttachment] = field(default_factory=list)
    execs: dict[str, ExecInstance] = field(default_factory=dict)
    health: HealthProbes | None = None
    restart: asyncio.Task[None] | None = None
    """The delayed restart that its policy asks for."""
    restart_delay: float = 0.0
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it does not run and its exit has been handled."""
    stopping: bool = False
    """Someone has asked for its end: the restart policy keeps out."""
    stops: int = 0
    """Stop requests under way; their events precede that of the end, as with dockerd."""
    kept: bool = False
    """The container is stopped only to be started again: ``--rm`` does not remove it."""
    removed: bool = False
    networked: bool = False
    """The container has a sandbox that must be released."""
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds of the last start's steps (``run --timings``)."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    def cancel_restart(self) -> None:
        """Cancel a restart that is due: a request decided otherwise."""
        if self.restart is not None:
            self.restart.cancel()
            self.restart = None

    def add_pending(self, streams: Streams, sock: socket.socket) -> None:
        """Keep a client for the next start, until it leaves; beyond some the oldest goes."""
        if len(self.pending) >= _MOST_PENDING:
            self.drop_pending(self.pending[0])
        item = PendingAttachment(streams, sock)
        self.pending.append(item)
        _clients().watch(self, item)

    def drop_pending(self, item: PendingAttachment) -> None:
        if item in self.pending:
            self.pending.remove(item)
            _clients().forget(item)
            item.sock.close()

    def take_pending(self) -> list[PendingAttachment]:
        taken, self.pending = self.pending, []
        for item in taken:
            _clients().forget(item)
        return taken

    def close_pending(self) -> None:
        for item in self.take_pending():
            hang_up(item.sock)

    def wake(self, code: int, error: str = "") -> None:
        """The container has exited: answer the clients that wait for an exit."""
        self._wake([w for w in self.waiters if not w.removed], code, error)

    def wake_removed(self, code: int, error: str = "") -> None:
        """The container is removed (or could not be): answer every waiting client."""
        self._wake(list(self.waiters), code, error)

    def _wake(self, waiters: list[Waiter], code: int, error: str) -> None:
        for waiter in waiters:
            self.waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_result((code, error))


class _Clients:
    """Watches clients that wait for a start: one that leaves gives its descriptor back at once.

    epoll(7) reports a hang-up (both directions are closed) of whatever it watches, and a client
    that is silent or only half closed wakes nobody.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, tuple[Container, PendingAttachment]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._left)

    def watch(self, container: Container, item: PendingAttachment) -> None:
        self._owners[item.sock.fileno()] = container, item
        self._epoll.register(item.sock.fileno(), 0)

    def forget(self, item: PendingAttachment) -> None:
        fd = item.sock.fileno()
        if self._owners.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        if not self._owners:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            _watches.pop(self._loop, None)

    def _left(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if found := self._owners.get(fd):
                found[0].drop_pending(found[1])


_watches: dict[asyncio.AbstractEventLoop, _Clients] = {}


def _clients() -> _Clients:
    loop = asyncio.get_running_loop()
    if loop not in _watches:
        _watches[loop] = _Clients()
    return _watches[loop]


# -- clients that leave --------------------------------------------------------------------


LINGER = 10.0
"""Seconds that a client has to end its side."""
_PIECE = 64 << 10
_tasks: set[asyncio.Task[None]] = set()


def hang_up(sock: socket.socket) -> None:
    """Takes the socket over; returns at once."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    task = asyncio.get_running_loop().create_task(drain(sock))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def drain(sock: socket.socket) -> None:
    """Read to the client's end, for a while, and close."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with sock, suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            while await loop.sock_recv(sock, _PIECE):
                pass
