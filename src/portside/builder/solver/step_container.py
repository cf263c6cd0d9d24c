"""A container without a container object: for a build's step, a frontend, or a frontend's own.

Its first process is PID 1; others join it while that runs. The specification is a default
container's. After a crash the next start of the engine finds a runtime directory that belongs to no
container and ends what runs there (:func:`portside.containers.processes.drop_leftover`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from portside.builder import llb
from portside.containers import processes, start, user_mapping
from portside.containers.core import Core
from portside.containers.spec.oci_spec import SpecInputs, build_spec
from portside.kernel.cgroup import Cgroup
from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, HostConfig, Ulimit
from portside.model.errors import NotRunning, SystemFailure
from portside.model.ids import new_id, short
from portside.model.network import NetworkRequest
from portside.model.quiet_teardown import teardown
from portside.runtime.messages import Exec, Exited, Identity, LogConfig, StartRequest, Streams

if TYPE_CHECKING:
    from portside.containers.spec.cdi import Edits
    from portside.runtime.monitor_client import MonitorClient

log = logging.getLogger(__name__)

DEFAULT_HOSTNAME = "buildkitsandbox"


class ProcessIO(NamedTuple):
    """How a process is connected to the socket that carries its streams."""

    stdin: bool = False
    tty: bool = False
    """A terminal; the bytes are raw then."""
    raw: bool = False
    """Standard output and error as they come; else in frames with a head of eight bytes."""
    marks_end: bool = False
    """A frame without data says that its stream has ended."""

    @property
    def streams(self) -> Streams:
        return Streams(
            stdin=self.stdin, stdout=True, stderr=not self.tty, raw=self.raw or self.tty,
            marks_end=self.marks_end,
        )  # fmt: skip


class Limits(NamedTuple):
    """A request's limits of its containers; see ``StepSettings``."""

    host: HostConfig
    environment: tuple[str, ...]
    network: str


class StepProcess:
    """A process that runs; ``sock`` carries its streams as :class:`ProcessIO` says."""

    def __init__(self, client: MonitorClient, sock: socket.socket, exec_id: str = "") -> None:
        self._client, self.sock, self._exec = client, sock, exec_id

    async def resize(self, rows: int, columns: int) -> None:
        await self._client.resize(rows, columns, self._exec)

    async def signal(self, number: int) -> None:
        await self._client.signal(number, self._exec)

    async def wait(self) -> Exited:
        """Wait for the process's end. Unavailable when its monitor is gone."""
        if not self._exec:
            return await asyncio.shield(self._client.exited)
        found = await self._client.wait_exec(self._exec)
        assert found is not None
        return found


class StepContainer:
    """One container; ``stack`` waits for the end of what is cleaned up after it."""

    def __init__(
        self, core: Core, identifier: str, mounts: Sequence[oci.Mount], limits: Limits,
        stack: AsyncExitStack, devices: Sequence[Edits] = (),
    ) -> None:  # fmt: skip
        """``devices``: what requested devices change in it."""
        self._core, self._id, self._mounts = core, identifier, tuple(mounts)
        self._devices = devices
        self._limits, self._stack = limits, stack
        self._client: MonitorClient | None = None
        self._directory = str(core.directory(identifier))

    @asynccontextmanager
    async def running(
        self, op: llb.ExecOp, io: ProcessIO, secret_env: tuple[str, ...] = ()
    ) -> AsyncIterator[StepProcess]:
        """Start PID 1; it is killed at the end of the block, if it has not ended."""
        core = self._core
        hostname = op.meta.hostname or DEFAULT_HOSTNAME
        host = self._host(op)
        mappings = core.options.id_mappings
        user_mapping.check(core, host)
        await core.store.writables.store_as(self._id, mappings)
        attachment = await core.networks.attach(
            NetworkRequest(
                container_id=self._id, name=f"build-{short(self._id)}", hostname=hostname,
                mode=host.network_mode, directory=self._directory,
                extra_hosts=tuple(f"{item.host}:{item.ip}" for item in op.meta.extra_hosts),
                id_mappings=mappings,
            )
        )  # fmt: skip
        self._directory = attachment.directory or self._directory
        ours, theirs = socket.socketpair()
        cgroup = ""
        try:
            spec, groups = self._spec(op, host, io, secret_env)
            assert spec.linux is not None
            cgroup = spec.linux.cgroups_path
            request = StartRequest(
                id=self._id,
                state_dir=start.write_bundle(core, self._id, spec),
                rootfs=start.mapped_root(core, self._id, mappings),
                cgroup=cgroup,
                log=LogConfig(driver="none"),
                identity=Identity(op.meta.user or "0", groups),
                has_netns=attachment.netns_fd is not None,
                has_userns=attachment.userns_fd is not None,
                has_seccomp=spec.linux.seccomp is not None,
                seccomp_flags=start.seccomp_flags(spec),
                open_stdin=io.stdin,
                stdin_once=io.stdin,
                attachments=(io.streams,),
            )
            with theirs:
                client = await self._started(
                    core.launcher.start(
                        request,
                        netns_fd=attachment.netns_fd,
                        userns_fd=attachment.userns_fd,
                        seccomp=start.seccomp_program(core, spec),
                        sockets=(theirs,),
                    ),
                    cgroup,
                )
            core.launcher.refill()
            self._client = client
            try:
                yield StepProcess(client, ours)
            finally:
                self._client = None
                await _ended(asyncio.create_task(self._end(client, cgroup)))
        finally:
            ours.close()
            theirs.close()
            # beside the commit: nothing of it needs the network or the control group
            cleaning = asyncio.create_task(self._clean(cgroup))
            self._stack.push_async_callback(_ended, cleaning)

    async def join(
        self, op: llb.ExecOp, io: ProcessIO, secret_env: tuple[str, ...] = ()
    ) -> StepProcess:
        """Start another process beside PID 1; the caller closes its socket. NotRunning, and
        CommandNotFound and the like."""
        if self._client is None:
            raise NotRunning("the container does not run any more")
        spec, groups = self._spec(op, self._host(op), io, secret_env)
        process = spec.process
        if process is None:
            raise SystemFailure("the container has no process")
        identifier = new_id()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                request = Exec(
                    exec_id=identifier, process=process,
                    identity=Identity(op.meta.user or "0", groups),
                    open_stdin=io.stdin, attachments=(io.streams,),
                )  # fmt: skip
                await self._client.exec(request, [theirs])
        except BaseException:
            ours.close()
            raise
        return StepProcess(self._client, ours, identifier)

    # -- the specification ---------------------------------------------------------------

    def _host(self, op: llb.ExecOp) -> HostConfig:
        """The step's options, with the network that the build's options mean by its sandbox."""
        sandbox = self._limits.network or "default"
        if sandbox.startswith("container:"):
            sandbox = f"container:{self._core.find(sandbox.partition(':')[2]).id}"
        mode = {"sandbox": sandbox, "host": "host", "none": "none"}[op.network]
        return _host(op, mode, self._limits)

    def _spec(
        self, op: llb.ExecOp, host: HostConfig, io: ProcessIO, secret_env: tuple[str, ...]
    ) -> tuple[oci.Spec, tuple[str, ...]]:
        """The specification, and groups of the process that its devices want."""
        core = self._core
        hostname = op.meta.hostname or DEFAULT_HOSTNAME
        spec = build_spec(
            SpecInputs(
                id=self._id,
                config=_config(op, hostname, secret_env, self._limits, io),
                host=host,
                directory=self._directory,
                mounts=self._mounts,
                id_mappings=core.options.id_mappings,
                defaults=core.defaults(),
            )
        )
        if not self._devices:
            return spec, ()
        from portside.containers.spec.cdi import inject

        return spec, tuple(inject(spec, self._devices))

    async def _started(
        self, work: Coroutine[Any, Any, MonitorClient], cgroup: str
    ) -> MonitorClient:
        """The monitor of a start. A start that is cancelled is waited for and ended: its monitor
        would write into the runtime directory while that is removed."""
        starting = asyncio.create_task(work)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _ended(asyncio.create_task(self._end_start(starting, cgroup)))
            raise

    async def _end_start(self, starting: asyncio.Task[MonitorClient], cgroup: str) -> None:
        with teardown(log, f"the start of step {self._id}"):
            await self._end(await starting, cgroup)

    async def _end(self, client: MonitorClient, cgroup: str) -> None:
        """Kill PID 1 unless it has ended."""
        if not client.exited.done():
            await _kill(cgroup)
            with teardown(log, f"the end of step {self._id}"):
                async with asyncio.timeout(10):
                    await asyncio.shield(client.exited)
        client.close()

    async def _clean(self, cgroup: str) -> None:
        """Give network, control group and runtime directory back, whatever happened."""
        core = self._core
        await core.networks.detach(self._id, announce=False)
        await asyncio.to_thread(processes.drop_leftover, core, core.state_dir(self._id))


async def frames_of(reader: asyncio.StreamReader, size: int) -> AsyncIterator[tuple[int, bytes]]:
    """Output of a process in frames (:class:`ProcessIO`): the stream's number and a piece of its
    data of at most ``size`` bytes, empty where the stream has ended. Ends with the connection."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(8)
            left = int.from_bytes(head[4:], "big")
            if not left:
                yield head[0], b""
            while left:
                data = await reader.read(min(left, size))
                if not data:
                    return
                left -= len(data)
                yield head[0], data


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for a task that continues when we are cancelled, however often; that counts once it has
    ended, since what comes next removes what the task uses, as the monitor does until its end."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as err:
            cancelled = err
    if cancelled is not None:
        raise cancelled
    task.result()


async def _kill(cgroup: str) -> None:
    with teardown(log, f"kill control group {cgroup}"):
        await asyncio.to_thread(Cgroup(cgroup).kill)


def _config(
    op: llb.ExecOp, hostname: str, secret_env: tuple[str, ...], limits: Limits, io: ProcessIO
) -> ContainerConfig:
    proxy = tuple(f"{name}={value}" for name, value in op.meta.proxy.items())
    return ContainerConfig(
        hostname=hostname,
        user=op.meta.user,
        env=(*limits.environment, *proxy, *op.meta.env, *secret_env),
        cmd=op.meta.args,
        working_dir=op.meta.cwd,
        tty=io.tty,
        open_stdin=io.stdin,
        stdin_once=io.stdin,
    )


def _host(op: llb.ExecOp, mode: str, limits: Limits) -> HostConfig:
    given = limits.host
    ulimits = tuple(Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in op.meta.ulimits)
    return msgspec.structs.replace(
        given,
        network_mode=mode,
        privileged=op.security == "insecure",
        shm_size=op.shm_size or given.shm_size,
        ulimits=ulimits or given.ulimits,
        cgroup_parent=op.meta.cgroup_parent or given.cgroup_parent,
    )
