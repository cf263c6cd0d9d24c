"""Steps run in the engine's own runtime: a container without a container object.

The specification is a default container's (capabilities, seccomp, masked paths, limits); the
writable layer is created for the step and becomes a layer of the store afterwards. After a crash
the next start of the engine finds a runtime directory that belongs to no container and ends what
runs there (:func:`portside.containers.processes.drop_leftover`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from portside.builder import llb
from portside.builder.llb import Vertex
from portside.builder.solver.build_events import Log, Report
from portside.builder.solver.cache_records import CacheStore
from portside.builder.solver.layer_commit import LayerCommitter
from portside.builder.solver.log_clip import LogClip, LogLimits
from portside.builder.solver.solver import Made
from portside.builder.solver.step_mounts import CacheLocks, NoSecrets, Secrets, StepMounts
from portside.builder.solver.tree import Tree
from portside.containers import processes, start, user_mapping
from portside.containers.core import Core
from portside.containers.spec.oci_spec import SpecInputs, build_spec
from portside.kernel.cgroup import Cgroup
from portside.model import ociruntime as oci
from portside.model.container import ContainerConfig, HostConfig, Ulimit
from portside.model.errors import Forbidden, SystemFailure
from portside.model.ids import new_id, short
from portside.model.network import NetworkRequest
from portside.model.quiet_teardown import teardown
from portside.runtime.messages import Exited, Identity, LogConfig, StartRequest, Streams

log = logging.getLogger(__name__)

NETWORK_HOST, SECURITY_INSECURE = "network.host", "security.insecure"
"""Entitlements, as BuildKit names them."""
STANDARD_STUBS = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""Where the runtime mounts something into every container."""
DEFAULT_HOSTNAME = "buildkitsandbox"
MAX_LOG = 64 << 10


class StepFailed(SystemFailure):
    """A step's command ended with an error."""

    def __init__(self, vertex: Vertex, args: Sequence[str], exited: Exited) -> None:
        self.vertex, self.args_, self.code = vertex, tuple(args), exited.code
        why = "cannot allocate memory: " if exited.oom_killed else ""
        super().__init__(
            f'process "{" ".join(args)}" did not complete successfully: {why}'
            f"exit code: {exited.code}"
        )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a request allows its steps, and bounds them to. No part of a step's identity."""

    entitlements: frozenset[str] = frozenset()
    host: HostConfig = field(default_factory=HostConfig)
    """Limits (memory, processors) for all steps."""
    secrets: Secrets = field(default_factory=NoSecrets)
    environment: tuple[str, ...] = ()
    log: LogLimits = field(default_factory=LogLimits.of_environment)
    """How much of a step's output is told."""
    on_failure: Callable[[FailedStep], Awaitable[None]] | None = None
    """Told of a step that has failed, while its mounts are still there."""
    network: str = ""
    """A network's name, or ``container:ID``, for steps in the sandbox's network; empty: the default
    one."""


class Terminal(Protocol):
    """Whoever sits before a process of a step."""

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
        _check(op, settings)
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
                    vertex, op, identifier, mounts.mounts, secret_env, settings, report, ending,
                    terminal,
                )  # fmt: skip

            exited = await execute(op)
            if exited.code not in (op.meta.valid_exit_codes or (0,)):
                if settings.on_failure is not None:

                    async def enter(args: Sequence[str], terminal: Terminal) -> int:
                        await ending.aclose()  # the name of the step is free again
                        meta = msgspec.structs.replace(op.meta, args=tuple(args))
                        shell = msgspec.structs.replace(op, meta=meta)
                        return (await execute(shell, terminal)).code

                    await settings.on_failure(
                        FailedStep(vertex=vertex, code=exited.code, run=enter)
                    )
                raise StepFailed(vertex, op.meta.args, exited)
            return await self._commit(op, mounts)

    async def _secret_env(self, op: llb.ExecOp, mounts: StepMounts) -> tuple[str, ...]:
        found = []
        for item in op.secret_env:
            data = await mounts.secret(item.id, item.optional)
            if data is not None:
                found.append(f"{item.name}={data.decode('utf-8', 'surrogateescape')}")
        return tuple(found)

    async def _commit(self, op: llb.ExecOp, mounts: StepMounts) -> Made:
        stubs = (*STANDARD_STUBS, *(m.dest for m in op.mounts if m.dest != "/"))
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
        secret_env: tuple[str, ...], settings: StepSettings, report: Report,
        stack: AsyncExitStack, terminal: Terminal | None = None,
    ) -> Exited:  # fmt: skip
        core = self._core
        sandbox = settings.network or "default"
        if sandbox.startswith("container:"):
            sandbox = f"container:{core.find(sandbox.partition(':')[2]).id}"
        mode = {"sandbox": sandbox, "host": "host", "none": "none"}[op.network]
        hostname = op.meta.hostname or DEFAULT_HOSTNAME
        mappings = core.options.id_mappings
        user_mapping.check(core, _host(op, mode, settings))
        attachment = await core.networks.attach(
            NetworkRequest(
                container_id=identifier, name=f"build-{short(identifier)}", hostname=hostname,
                mode=mode, directory=str(core.directory(identifier)),
                extra_hosts=tuple(f"{item.host}:{item.ip}" for item in op.meta.extra_hosts),
                id_mappings=mappings,
            )
        )  # fmt: skip
        ours, theirs = socket.socketpair()
        cgroup = ""
        try:
            spec = build_spec(
                SpecInputs(
                    id=identifier,
                    config=_config(op, hostname, secret_env, settings, terminal),
                    host=_host(op, mode, settings),
                    directory=attachment.directory or str(core.directory(identifier)),
                    mounts=tuple(mounts),
                    id_mappings=mappings,
                    defaults=core.defaults(),
                )
            )
            assert spec.linux is not None
            cgroup = spec.linux.cgroups_path
            request = StartRequest(
                id=identifier,
                state_dir=start.write_bundle(core, identifier, spec),
                rootfs=start.mapped_root(core, identifier, mappings),
                cgroup=cgroup,
                log=LogConfig(driver="none"),
                identity=Identity(op.meta.user or "0"),
                has_netns=attachment.netns_fd is not None,
                has_userns=attachment.userns_fd is not None,
                has_seccomp=spec.linux.seccomp is not None,
                seccomp_flags=start.seccomp_flags(spec),
                open_stdin=terminal is not None,
                stdin_once=terminal is not None,
                attachments=(
                    Streams(
                        stdin=terminal is not None,
                        stdout=True,
                        stderr=terminal is None or not terminal.is_tty,
                        raw=terminal is not None,
                    ),
                ),
            )
            with theirs:
                client = await core.launcher.start(
                    request,
                    netns_fd=attachment.netns_fd,
                    userns_fd=attachment.userns_fd,
                    seccomp=start.seccomp_program(core, spec),
                    sockets=(theirs,),
                )
            core.launcher.refill()
            try:
                if terminal is not None:
                    ours.setblocking(False)
                    await terminal.relay(ours, client.resize)
                    return await client.exited
                reader, writer = await asyncio.open_unix_connection(sock=ours)
                try:
                    await _read_output(reader, vertex, report, settings.log)
                    return await client.exited
                finally:
                    writer.close()
            finally:
                if not client.exited.done():
                    await _kill(cgroup)
                    with teardown(log, f"the end of step {identifier}"):
                        async with asyncio.timeout(10):
                            await asyncio.shield(client.exited)
                client.close()
        finally:
            ours.close()
            theirs.close()
            # beside the commit: nothing of it needs the network or the control group
            cleaning = asyncio.create_task(self._clean(identifier, cgroup))
            stack.push_async_callback(_ended, cleaning)

    async def _clean(self, identifier: str, cgroup: str) -> None:
        """Give network, control group and runtime directory back, whatever happened."""
        core = self._core
        await core.networks.detach(identifier, announce=False)
        await asyncio.to_thread(processes.drop_leftover, core, core.state_dir(identifier))


async def _ended(task: asyncio.Task[None]) -> None:
    await task


async def _kill(cgroup: str) -> None:
    with teardown(log, f"kill control group {cgroup}"):
        await asyncio.to_thread(Cgroup(cgroup).kill)


async def _read_output(
    reader: asyncio.StreamReader, vertex: Vertex, report: Report, limits: LogLimits
) -> None:
    """Frames of eight bytes' head each, until both streams have ended."""
    clips: dict[int, LogClip] = {}
    try:
        while True:
            head = await reader.readexactly(8)
            left = int.from_bytes(head[4:], "big")
            while left:
                data = await reader.read(min(left, MAX_LOG))
                if not data:
                    return
                left -= len(data)
                clip = clips.get(head[0])
                if clip is None:
                    clip = clips[head[0]] = LogClip(limits)
                if told := clip(data):
                    report(Log(vertex, head[0], told))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return


def _check(op: llb.ExecOp, settings: StepSettings) -> None:
    wanted = []
    if op.network == "host":
        wanted.append(NETWORK_HOST)
    if op.security == "insecure":
        wanted.append(SECURITY_INSECURE)
    for name in wanted:
        if name not in settings.entitlements:
            raise Forbidden(f"{name} is not allowed: give --allow {name} with the build")


def _config(
    op: llb.ExecOp, hostname: str, secret_env: tuple[str, ...], settings: StepSettings,
    terminal: Terminal | None,
) -> ContainerConfig:  # fmt: skip
    proxy = tuple(f"{name}={value}" for name, value in op.meta.proxy.items())
    return ContainerConfig(
        hostname=hostname,
        user=op.meta.user,
        env=(*settings.environment, *proxy, *op.meta.env, *secret_env),
        cmd=op.meta.args,
        working_dir=op.meta.cwd,
        tty=terminal is not None and terminal.is_tty,
        open_stdin=terminal is not None,
        stdin_once=terminal is not None,
    )


def _host(op: llb.ExecOp, mode: str, settings: StepSettings) -> HostConfig:
    given = settings.host
    ulimits = tuple(Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in op.meta.ulimits)
    return msgspec.structs.replace(
        given,
        network_mode=mode,
        privileged=op.security == "insecure",
        shm_size=op.shm_size or given.shm_size,
        ulimits=ulimits or given.ulimits,
        cgroup_parent=op.meta.cgroup_parent or given.cgroup_parent,
    )
