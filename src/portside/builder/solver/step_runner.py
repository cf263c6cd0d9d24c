"""Steps run in the engine's own runtime: a container without a container object.

The specification is a default container's (capabilities, seccomp, masked paths, limits); the
writable layer is created for the step and becomes a layer of the store afterwards.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from portside.builder import llb
from portside.builder.llb import Vertex
from portside.builder.solver.build_events import Log, Report
from portside.builder.solver.cache_records import CacheStore
from portside.builder.solver.entitlements import check_modes, device_edits
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.log_clip import LogClip, LogLimits
from portside.builder.solver.solver import Made
from portside.builder.solver.step_container import Limits, ProcessIO, StepContainer, frames_of
from portside.builder.solver.step_mounts import CacheLocks, NoSecrets, Secrets, StepMounts
from portside.builder.solver.tree import Tree
from portside.containers.core import Core
from portside.model import ociruntime as oci
from portside.model.container import HostConfig
from portside.model.errors import Cancelled, PortsideError, SystemFailure, reworded
from portside.model.golang.quoting import quote
from portside.model.ids import new_id
from portside.runtime.messages import Exited

if TYPE_CHECKING:
    from portside.containers.spec.cdi import Edits

STANDARD_STUBS = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Paths where the runtime mounts something into every container."""
MAX_LOG = 64 << 10


def _incomplete(args: Sequence[str], why: str) -> str:
    return f"process {quote(' '.join(args))} did not complete successfully: {why}"


class StepFailed(SystemFailure):
    """A step's command ended with an error."""

    def __init__(self, vertex: Vertex, args: Sequence[str], exited: Exited) -> None:
        self.vertex, self.args_, self.code = vertex, tuple(args), exited.code
        why = "cannot allocate memory: " if exited.oom_killed else ""
        super().__init__(_incomplete(args, f"{why}exit code: {exited.code}"))


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a request permits its steps, and their limits. Not part of a step's identity."""

    entitlements: frozenset[str] = frozenset()
    host: HostConfig = field(default_factory=HostConfig)
    """Limits (memory, processors) for all steps."""
    secrets: Secrets = field(default_factory=NoSecrets)
    environment: tuple[str, ...] = ()
    log: LogLimits = field(default_factory=LogLimits.of_environment)
    """How much of a step's output is reported."""
    on_failure: Callable[[FailedStep], Awaitable[None]] | None = None
    """Called with a step that has failed, while its mounts still exist."""
    network: str = ""
    """A network's name, or ``container:ID``, for steps in the sandbox's network; empty: the default
    one."""

    @property
    def limits(self) -> Limits:
        return Limits(self.host, self.environment, self.network)


class Terminal(Protocol):
    """The client's terminal (or pipes) for a process of a step."""

    is_tty: bool
    """The process gets a terminal; else pipes."""

    async def relay(
        self, sock: socket.socket, resize: Callable[[int, int], Awaitable[None]]
    ) -> None:
        """Copy between the process's terminal and the user until the process has ended.
        ``resize`` takes rows and columns."""
        ...


@dataclass(kw_only=True)
class FailedStep:
    """A step that has failed, and a way into it."""

    vertex: Vertex
    code: int
    run: Callable[[Sequence[str], Terminal], Awaitable[int]]
    """Runs a command in the step's mounts and environment; its exit status."""
    keep: Callable[[], Awaitable[KeptStep]]
    """Hands over what is mounted, which else goes with the step. Nothing can run in it then."""


class KeptStep:
    """What a failed step was given and what it left, by the number of its mounts."""

    def __init__(
        self, op: llb.ExecOp, trees: Sequence[Tree], mounts: StepMounts, stack: AsyncExitStack,
        committer: LayerCommitter,
    ) -> None:  # fmt: skip
        self._op, self._trees, self._mounts = op, trees, mounts
        self._stack, self._committer = stack, committer
        self._lock = asyncio.Lock()
        self._left: dict[int, Tree] | None = None

    def given(self, number: int) -> Tree:
        """What was mounted when the step began."""
        source = self._op.mounts[number].input
        return self._trees[source] if source >= 0 else Tree()

    async def left(self, number: int) -> Tree:
        """What is in the mount after the step; layers are made of it when this is asked first."""
        async with self._lock:
            if self._left is None:
                found = dict(self._mounts.changed)
                for writable in self._mounts.writables:
                    made = await self._committer.commit(
                        writable.id, writable.below, _stubs_of(self._op)
                    )
                    found[writable.mount] = made.outputs[0]
                self._left = found
        return self._left.get(number) or self.given(number)

    async def close(self) -> None:
        await self._stack.aclose()


class StepRunner:
    """Runs exec operations."""

    def __init__(self, core: Core, cache: CacheStore, committer: LayerCommitter) -> None:
        self._core, self._cache, self._committer = core, cache, committer
        self._locks = CacheLocks()

    async def run(
        self, vertex: Vertex, op: llb.ExecOp, trees: Sequence[Tree], settings: StepSettings,
        report: Report,
    ) -> Made:  # fmt: skip
        """Run a step and commit what it wrote. StepFailed; Forbidden without an entitlement."""
        devices = self.check(op, settings)
        identifier = new_id()
        async with AsyncExitStack() as stack:
            mounts = StepMounts(
                self._core, self._cache, self._locks, settings.secrets, stack, identifier
            )
            await mounts.add_all(op, trees)
            secret_env = await self._secret_env(op, mounts)
            ending = await stack.enter_async_context(AsyncExitStack())

            async def execute(op: llb.ExecOp, terminal: Terminal | None = None) -> Exited:
                return await self._execute(
                    vertex, op, identifier, mounts.mounts, secret_env, devices, settings, report,
                    ending, terminal,
                )  # fmt: skip

            try:
                exited = await execute(op)
            except Cancelled:
                raise
            except PortsideError as err:
                raise reworded(err, _incomplete(op.meta.args, str(err))) from err
            if exited.code not in (op.meta.valid_exit_codes or (0,)):
                if settings.on_failure is not None:

                    async def enter(args: Sequence[str], terminal: Terminal) -> int:
                        await ending.aclose()  # the name of the step is free again
                        meta = msgspec.structs.replace(op.meta, args=tuple(args))
                        shell = msgspec.structs.replace(op, meta=meta)
                        return (await execute(shell, terminal)).code

                    async def keep() -> KeptStep:
                        await ending.aclose()
                        await mounts.unlock()
                        return KeptStep(op, trees, mounts, stack.pop_all(), self._committer)

                    await settings.on_failure(
                        FailedStep(vertex=vertex, code=exited.code, run=enter, keep=keep)
                    )
                raise StepFailed(vertex, op.meta.args, exited)
            return await self._commit(op, mounts)

    def check(self, op: llb.ExecOp, settings: StepSettings) -> list[Edits]:
        """What the step's devices change in its container. NotFound; Forbidden for what the
        request does not allow."""
        check_modes(op, settings.entitlements)
        if not op.cdi_devices:
            return []
        directories = self._core.options.cdi_spec_dirs
        return device_edits(op.cdi_devices, settings.entitlements, directories)

    async def _secret_env(self, op: llb.ExecOp, mounts: StepMounts) -> tuple[str, ...]:
        found = []
        for item in op.secret_env:
            data = await mounts.secret(item.id, item.optional)
            if data is not None:
                found.append(f"{item.name}={data.decode('utf-8', 'surrogateescape')}")
        return tuple(found)

    async def _commit(self, op: llb.ExecOp, mounts: StepMounts) -> Made:
        stubs = _stubs_of(op)
        outputs: list[Tree] = [Tree()] * llb.output_count(op)
        blobs: list[str] = []
        size = 0
        for writable in mounts.outputs:
            made = await self._committer.commit(writable.id, writable.below, stubs)
            outputs[writable.output] = made.outputs[0]
            blobs += made.blobs
            size += made.size
        for mount in op.mounts:
            if mount.output >= 0 and mount.readonly and mount.dest != "/":
                raise SystemFailure(f"the read-only mount {mount.dest} cannot be an output")
        return Made(tuple(outputs), tuple(blobs), size)

    # -- running -------------------------------------------------------------------------

    async def _execute(
        self, vertex: Vertex, op: llb.ExecOp, identifier: str, mounts: Sequence[oci.Mount],
        secret_env: tuple[str, ...], devices: Sequence[Edits], settings: StepSettings,
        report: Report, stack: AsyncExitStack, terminal: Terminal | None = None,
    ) -> Exited:  # fmt: skip
        container = StepContainer(self._core, identifier, mounts, settings.limits, stack, devices)
        io = ProcessIO()
        if terminal is not None:
            io = ProcessIO(stdin=True, tty=terminal.is_tty, raw=True)
        async with container.running(op, io, secret_env) as process:
            if terminal is not None:
                process.sock.setblocking(False)
                await terminal.relay(process.sock, process.resize)
                return await process.wait()
            reader, writer = await asyncio.open_unix_connection(sock=process.sock)
            try:
                await _read_output(reader, vertex, report, settings.log)
                return await process.wait()
            finally:
                writer.close()

    @asynccontextmanager
    async def container(
        self, op: llb.ExecOp, trees: Sequence[Tree], settings: StepSettings
    ) -> AsyncIterator[StepContainer]:
        """A container on the mounts of ``op`` in which nothing runs yet. What it writes goes with
        it. Forbidden without an entitlement."""
        devices = self.check(op, settings)
        identifier = new_id()
        async with AsyncExitStack() as stack:
            mounts = StepMounts(
                self._core, self._cache, self._locks, settings.secrets, stack, identifier
            )
            await mounts.add_all(op, trees)
            ending = await stack.enter_async_context(AsyncExitStack())
            yield StepContainer(
                self._core, identifier, mounts.mounts, settings.limits, ending, devices
            )


def _stubs_of(op: llb.ExecOp) -> tuple[str, ...]:
    return (*STANDARD_STUBS, *(mount.dest for mount in op.mounts if mount.dest != "/"))


async def _read_output(
    reader: asyncio.StreamReader, vertex: Vertex, report: Report, limits: LogLimits
) -> None:
    """Report both streams until they have ended."""
    clips: dict[int, LogClip] = {}
    async for stream, data in frames_of(reader, MAX_LOG):
        clip = clips.get(stream)
        if clip is None:
            clip = clips[stream] = LogClip(limits)
        if shown := clip(data):
            report(Log(vertex, stream, shown))
