"""Containers that a frontend or a client runs beside its build (``NewContainer``).

The first process of a container is PID 1; later ones join it, and end with it. What
they write goes when the container is released, or with the build.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder import llb
from portside.builder.solver.step_container import (
    ProcessIO,
    StepContainer,
    StepProcess,
    frames_of,
)
from portside.builder.solver.tree import Tree
from portside.builder.wire.definition_decoder import NETWORKS, meta_of, mount_of
from portside.builder.wire.proto import gateway_pb2 as pb
from portside.builder.wire.wire_errors import status_of
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError

if TYPE_CHECKING:
    from portside.builder.wire.build_job import BuildJob

MAX_CONTAINERS = 64
"""Containers that one caller has at the same time."""
MAX_PROCESSES = 64
"""Processes of one call at the same time."""
MAX_MOUNTS = 256
UNKNOWN_STATUS = 255
"""The exit code that BuildKit reports for a process that could not be started."""
_PIECE = 32 << 10
_WAITING = 16
"""Pieces of input that wait for a process to read."""

Send = Callable[..., Awaitable[None]]


class GatewayContainers:
    """All containers of one caller."""

    def __init__(self, job: BuildJob) -> None:
        self._job = job
        self._containers: dict[str, _Container] = {}

    async def new(self, request: Any) -> None:
        """Make a container; nothing runs in it yet. InvalidParameter, Forbidden, NotFound."""
        identifier = request.ContainerID
        if not identifier:
            raise InvalidParameter("the container has no ID")
        if identifier in self._containers:
            raise Conflict(f"the container {identifier[:80]} exists")
        if len(self._containers) >= MAX_CONTAINERS:
            raise InvalidParameter(f"a frontend has at most {MAX_CONTAINERS} containers at once")
        found = _Container(self._job)
        self._containers[identifier] = found
        try:
            await found.open(request)
        except BaseException:
            self._containers.pop(identifier, None)
            await found.close()
            raise

    async def release(self, identifier: str) -> None:
        """End a container and all that runs in it. NotFound."""
        found = self._containers.pop(identifier, None)
        if found is None:
            raise NotFound(f"container {identifier[:80]!r} was previously released or not created")
        await found.close()

    async def close(self) -> None:
        while self._containers:
            _, container = self._containers.popitem()
            await container.close()

    async def execute(self, stream: Any) -> None:
        """``ExecProcess``: processes by ID, their input, output and end, on one stream."""
        lock = asyncio.Lock()

        async def send(process: str, **fields: Any) -> None:
            async with lock:
                await stream.send_message(pb.ExecMessage(ProcessID=process, **fields))

        processes: dict[str, _Process] = {}
        try:
            while (message := await stream.recv_message()) is not None:
                await self._take(message, processes, send)
            await asyncio.gather(*(process.ended() for process in processes.values()))
        finally:
            for process in processes.values():
                await process.close()

    async def _take(self, message: Any, processes: dict[str, _Process], send: Send) -> None:
        identifier = message.ProcessID
        kind = message.WhichOneof("Input")
        if kind == "Init":
            if identifier in processes:
                raise Conflict(f"Process {identifier[:80]} already exists")
            for name in [name for name, each in processes.items() if each.is_over]:
                await processes.pop(name).close()
            if len(processes) >= MAX_PROCESSES:
                raise InvalidParameter(f"a call has at most {MAX_PROCESSES} processes at once")
            container = self._containers.get(message.Init.ContainerID)
            if container is None:
                raise NotFound(
                    f"container {message.Init.ContainerID[:80]!r} was previously released "
                    "or not created"
                )
            process = processes[identifier] = _Process(identifier, message.Init, send)
            await process.begin(container)
            return
        found = processes.get(identifier)
        if found is None:
            raise NotFound(f"there is no process {identifier[:80]!r}")
        if kind == "File":
            await found.feed(message.File)
        elif kind == "Resize":
            await found.resize(message.Resize.Rows, message.Resize.Cols)
        elif kind == "Signal":
            await found.signal(message.Signal.Name)


class _Container:
    def __init__(self, job: BuildJob) -> None:
        self._job = job
        self._stack = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._op: llb.ExecOp | None = None
        self._container: StepContainer | None = None
        self._is_started = False

    async def open(self, request: Any) -> None:
        job = self._job
        assert job.work is not None
        if len(request.Mounts) > MAX_MOUNTS:
            raise InvalidParameter(f"a container has at most {MAX_MOUNTS} mounts")
        mounts, trees = await self._mounts(request.Mounts)
        if sum(mount.dest == "/" for mount in mounts) != 1:
            raise InvalidParameter("a container needs one mount at /")
        self._op = llb.ExecOp(
            meta=llb.Meta(
                args=(), hostname=request.hostname,
                extra_hosts=tuple(
                    llb.HostAlias(host=each.Host, ip=each.IP) for each in request.extraHosts
                ),
            ),
            mounts=mounts,
            network=NETWORKS.get(request.Network, "sandbox"),
        )  # fmt: skip
        # at its end its name, network and mounts are free again
        self._container = await self._stack.enter_async_context(
            job.work.runner.container(self._op, trees, job.inputs.settings)
        )

    async def _mounts(self, given: Sequence[Any]) -> tuple[tuple[llb.Mount, ...], list[Tree]]:
        mounts: list[llb.Mount] = []
        trees: list[Tree] = []
        for each in given:
            mount = mount_of(each)
            place = llb.SCRATCH
            if each.resultID:
                place = len(trees)
                trees.append(await self._job.tree(self._job.reference(each.resultID)))
            mounts.append(msgspec.structs.replace(mount, input=place, output=llb.NO_OUTPUT))
        return tuple(mounts), trees

    async def start(self, init: Any, io: ProcessIO) -> StepProcess:
        """Run a process; Forbidden, and what starting raises."""
        job = self._job
        assert job.work is not None and self._op is not None and self._container is not None
        own = meta_of(init.Meta)
        if not own.args:
            raise InvalidParameter("a process needs arguments")
        base = self._op.meta
        meta = msgspec.structs.replace(
            own, hostname=base.hostname, extra_hosts=(*base.extra_hosts, *own.extra_hosts)
        )
        op = msgspec.structs.replace(
            self._op, meta=meta, security="insecure" if init.Security == 1 else "sandbox"
        )
        job.work.runner.check(op, job.inputs.settings)
        secrets = []
        for each in init.secretenv:
            data = await job.inputs.settings.secrets.secret(each.ID)
            if data is None and not each.optional:
                raise NotFound(f"secret {each.ID[:80]}: not found")
            if data is not None:
                secrets.append(f"{each.name}={data.decode('utf-8', 'surrogateescape')}")
        async with self._starting:
            if self._is_started:
                return await self._container.join(op, io, tuple(secrets))
            found = await self._stack.enter_async_context(
                self._container.running(op, io, tuple(secrets))
            )
            self._is_started = True
            return found

    async def close(self) -> None:
        await self._stack.aclose()


class _Process:
    """One process of an ``ExecProcess`` call."""

    def __init__(self, identifier: str, init: Any, send: Send) -> None:
        self._id, self._init, self._send = identifier, init, send
        self._fds = frozenset(init.Fds)
        self._io = ProcessIO(stdin=0 in self._fds, tty=init.Tty)
        self._process: StepProcess | None = None
        self._input: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, container: _Container) -> None:
        try:
            process = await container.start(self._init, self._io)
        except PortsideError as err:
            await self._ended(UNKNOWN_STATUS, status_of(err))
            return
        process.sock.setblocking(False)
        self._process = process
        await self._send(self._id, Started=pb.StartedMessage())
        work = [self._output(process)]
        if self._io.stdin:
            work.append(self._feeding(process))
        self._tasks = [asyncio.get_running_loop().create_task(each) for each in work]

    @property
    def is_over(self) -> bool:
        return not self._tasks or self._tasks[0].done()

    async def ended(self) -> None:
        if self._tasks:
            await self._tasks[0]

    # -- what the client sends -----------------------------------------------------------

    async def feed(self, file: Any) -> None:
        if file.Fd != 0 or not self._io.stdin or self.is_over:
            return
        feeding = self._tasks[1]
        for piece in ([file.Data] if file.Data else []) + ([b""] if file.EOF else []):
            put = asyncio.ensure_future(self._input.put(piece))
            await asyncio.wait({put, feeding}, return_when=asyncio.FIRST_COMPLETED)
            put.cancel()  # a process that reads no more does not keep the others waiting

    async def resize(self, rows: int, columns: int) -> None:
        if self._process is not None and self._io.tty and not self.is_over:
            with suppress(PortsideError):
                await self._process.resize(min(rows, 0xFFFF), min(columns, 0xFFFF))

    async def signal(self, name: str) -> None:
        number = getattr(signal.Signals, name, None)
        if number is None:
            raise InvalidParameter(f"unknown signal {name[:40]!r}")
        if self._process is not None and not self.is_over:
            with suppress(PortsideError):
                await self._process.signal(int(number))

    async def _feeding(self, process: StepProcess) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while piece := await self._input.get():
                await loop.sock_sendall(process.sock, piece)
            process.sock.shutdown(1)  # SHUT_WR

    # -- what it is sent -----------------------------------------------------------------

    async def _output(self, process: StepProcess) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=process.sock.dup())
        try:
            if self._io.tty:
                while data := await reader.read(_PIECE):
                    await self._send_output(1, data)
            else:
                async for fd, data in frames_of(reader, _PIECE):
                    await self._send_output(fd, data)
        except ConnectionError:
            pass
        finally:
            writer.close()
        for fd in sorted(self._fds - {0}):
            await self._send(self._id, File=pb.FdMessage(Fd=fd, EOF=True))
        try:
            code = (await process.wait()).code
        except PortsideError as err:
            await self._ended(UNKNOWN_STATUS, status_of(err))
            return
        failed = status_of(PortsideError(f"exit code: {code}")) if code else None
        await self._ended(code, failed)

    async def _send_output(self, fd: int, data: bytes) -> None:
        if fd in self._fds:
            await self._send(self._id, File=pb.FdMessage(Fd=fd, Data=data))

    async def _ended(self, code: int, error: Any) -> None:
        await self._send(self._id, Exit=pb.ExitMessage(Code=code, Error=error))
        await self._send(self._id, Done=pb.DoneMessage())

    async def close(self) -> None:
        """Kill it, if it still runs."""
        process = self._process
        if process is None:
            return
        if not self.is_over:
            with suppress(PortsideError):
                await process.signal(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        process.sock.close()
