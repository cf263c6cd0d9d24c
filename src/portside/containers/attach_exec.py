"""Attaching to a container and executing in it: who gets which socket.

A client's socket goes straight to the container's monitor, which speaks Docker's framing on
it; the engine copies nothing. ``take`` is called once all checks are done: it sends the
answer's head and hands the socket over, which is closed here once the monitor has it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from portside.containers.container import Container, ExecInstance, hang_up
from portside.containers.core import Core, not_running, unless_ended
from portside.containers.spec import oci_process
from portside.model import capabilities
from portside.model import ociruntime as oci
from portside.model.container import ExecConfig, ExecStart
from portside.model.containerstate import ExecInspect, ExecProcess
from portside.model.errors import (
    CommandNotFound,
    Conflict,
    InvalidParameter,
    NotFound,
    NotRunning,
    PortsideError,
    SystemFailure,
    Unavailable,
)
from portside.model.ids import new_id
from portside.runtime.messages import Exec, Exited, Identity, Streams
from portside.store.failpoints import reach

Take = Callable[[bool], socket.socket]
"""Called with whether there is a terminal; answers the client's socket, blocking and owned."""

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_KEPT_EXECS = 300.0
"""Seconds for which an ended exec can still be inspected."""
_MOST_EXECS = 1000
"""Execs of a container that are known and do not run; the oldest makes room."""
_LOOKUP_WITHIN = 10.0
"""Seconds that reading a container's passwd and group may take."""
_STARTS_WITHIN = 10.0
"""Seconds that a change of its terminal's size waits for an exec to be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """Query of ``POST /containers/{id}/attach``."""

    stream: bool = False
    logs: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    detach_keys: str = ""
    raw: bool = False
    """Without frame headers also when there is no terminal (websockets)."""


def parse_keys(text: str) -> bytes:
    """The bytes of a detach sequence such as ``ctrl-p,ctrl-q`` or ``a,ctrl-x``."""
    found = bytearray()
    for word in text.split(","):
        if len(word) == 1:
            found.append(ord(word))
            continue
        prefix, _, key = word.partition("-")
        code = ord(key.upper()) - 64 if len(key) == 1 else -1
        if prefix != "ctrl" or not 0 <= code < 32:
            raise InvalidParameter(
                f"Invalid escape keys ({text}) provided: unknown character: '{word}'"
            )
        found.append(code)
    return bytes(found)


# -- attach ----------------------------------------------------------------------------------


async def attach_container(
    core: Core, container: Container, options: AttachOptions, take: Take, *, name: str
) -> None:
    """Connect a client to a container's streams, now or at its next start.

    Raises Conflict for one that is paused or restarting, before ``take``; the message has ``name``,
    which is what the client calls the container.
    """
    record = container.record
    keys = parse_keys(options.detach_keys or DEFAULT_KEYS)
    if record.paused:
        raise Conflict(f"container {name} is paused, unpause the container before attach")
    if record.restarting:
        raise Conflict(f"container {name} is restarting, wait until the container is running")
    terminal = record.config.tty
    monitor = container.monitor
    sock = take(terminal)
    streams = Streams(
        stdin=options.stdin and record.config.open_stdin,
        stdout=options.stdout,
        stderr=options.stderr,
        raw=terminal or options.raw,
        detach_keys=keys if options.stdin and terminal else b"",
    )
    core.event(container, "attach")
    owned: socket.socket | None = sock
    try:
        if options.logs:
            await _send_logs(core, container, options, sock)
        if not options.stream:
            return
        monitor = monitor or container.monitor  # started while the log was sent
        if monitor is not None:
            with suppress(Unavailable):  # it has just ended: the client reads the end
                await monitor.attach(sock, streams)
                sock.close()  # the monitor has a copy
                owned = None
        elif not container.removed:
            container.add_pending(streams, sock)
            owned = None
    finally:
        if owned is not None:
            hang_up(owned)


async def _send_logs(
    core: Core, container: Container, options: AttachOptions, sock: socket.socket
) -> None:
    """The container's output so far, in the framing of the stream."""
    from portside.containers.log_reader import LogsOptions, read_logs

    wanted = LogsOptions(stdout=options.stdout, stderr=options.stderr)
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    with suppress(OSError):
        async for piece in read_logs(core, container, wanted):
            await loop.sock_sendall(sock, piece)
    sock.setblocking(True)


# -- exec ------------------------------------------------------------------------------------


async def create_exec(
    core: Core, container: Container, config: ExecConfig, *, name: str = ""
) -> ExecInstance:
    """Prepare an exec. Raises Conflict, InvalidParameter; ``name`` is what the client calls the
    container, as the errors say it."""
    if not config.cmd:
        raise InvalidParameter("No exec command specified")
    _check_runs(container, name)
    if config.user:
        with unless_ended(container):
            await _check_user(core, container.record.pid, config.user)
        _check_runs(container, name)
    parse_keys(config.detach_keys or DEFAULT_KEYS)
    waiting = [each for each in container.execs.values() if not each.running]
    if len(waiting) >= _MOST_EXECS:
        core.forget_exec(waiting[0])
    instance = ExecInstance(new_id(), container, config)
    container.execs[instance.id] = instance
    core.execs[instance.id] = instance
    core.event(container, f"exec_create: {shown(config.cmd)}", {"execID": instance.id})
    return instance


async def _check_user(core: Core, pid: int, user: str) -> None:
    """Raises InvalidParameter for a user or group that the running container does not have.

    Numbers need no file, and are checked here.
    """
    from portside.containers.container_jobs import LookUpUser
    from portside.runtime import privileges

    try:
        if not privileges.are_numbers(user):
            async with asyncio.timeout(_LOOKUP_WITHIN):
                await core.store.workers.run(LookUpUser(user=user, pid=pid))
    except SystemFailure as err:
        raise InvalidParameter(str(err)) from None
    except TimeoutError:
        raise SystemFailure(
            "the container's /etc/passwd and /etc/group could not be read within "
            f"{_LOOKUP_WITHIN:g} s: give the user and group as numbers (UID:GID)"
        ) from None


def shown(command: Sequence[str]) -> str:
    """A command as events show it: its words, with a blank after a single one as in Docker."""
    return f"{command[0]} {' '.join(command[1:])}" if command else ""


def _check_runs(container: Container, name: str = "") -> None:
    record = container.record
    if record.paused:
        raise Conflict(
            f"Container {name or record.id} is paused, unpause the container before exec"
        )
    if record.restarting:
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    if not record.running or container.monitor is None:
        raise not_running(container)


async def start_exec(
    core: Core, instance: ExecInstance, start: ExecStart, take: Take | None
) -> None:
    """Run it. With ``take`` the client gets its streams; errors then go there as text."""
    container, config = instance.container, instance.config
    if instance.started:
        if instance.running:
            raise Conflict(f"exec {instance.id} is already running")
        raise Conflict(f"exec {instance.id} has already run")
    _check_runs(container)
    instance.started = True
    sock = take(start.tty) if take is not None else None
    request = _exec_request(core, instance, start, attached=sock is not None)
    core.event(container, f"exec_start: {shown(config.cmd or ())}", {"execID": instance.id})
    monitor = container.monitor
    assert monitor is not None
    try:
        instance.running = True
        with unless_ended(container):
            instance.pid = await monitor.exec(request, [sock] if sock is not None else [])
        reach("container.exec:started")
    except PortsideError as err:
        instance.running = False
        instance.exit_code = _exit_code(err)
        _forget_later(core, instance)
        if sock is None:
            raise
        _write_error(sock, f"{err}\r\n", start.tty)
        hang_up(sock)
        sock = None
    finally:
        instance.begun.set()
        if sock is not None:
            sock.close()


def _exit_code(err: PortsideError) -> int:
    return 127 if isinstance(err, CommandNotFound) else 126


def _write_error(sock: socket.socket, text: str, terminal: bool) -> None:
    """Write an error where the client reads its output; never waits."""
    data = text.encode()
    if not terminal:
        data = struct.pack(">BxxxL", 1, len(data)) + data
    with suppress(OSError):
        sock.send(data, socket.MSG_DONTWAIT)


def _exec_request(core: Core, instance: ExecInstance, start: ExecStart, attached: bool) -> Exec:
    container, config = instance.container, instance.config
    streams: tuple[Streams, ...] = ()
    if attached:
        streams = (
            Streams(
                stdin=config.attach_stdin,
                stdout=config.attach_stdout,
                # without frames there is no way to know what is an error: as dockerd has it
                stderr=config.attach_stderr and not start.tty,
                raw=start.tty,
                detach_keys=parse_keys(config.detach_keys or DEFAULT_KEYS)
                if config.attach_stdin and config.tty else b"",
            ),
        )  # fmt: skip
    return Exec(
        exec_id=instance.id,
        process=process_of(core, container, config, start),
        identity=Identity(config.user or container.record.config.user or "0",
                          container.record.host.group_add or ()),
        open_stdin=config.attach_stdin and attached,
        attachments=streams,
    )  # fmt: skip


def process_of(
    core: Core, container: Container, config: ExecConfig, start: ExecStart
) -> oci.Process:
    """The container's own process settings with the exec's laid over them."""
    from portside.containers import selinux_labels
    from portside.containers.spec import security_options
    from portside.containers.spec.oci_spec import apparmor_of

    record = container.record
    host, defaults = record.host, core.defaults()
    options = security_options.parse_security(host.security_opt, defaults.no_new_privileges)
    privileged = host.privileged or config.privileged
    caps = capabilities.tweak(host.cap_add or (), host.cap_drop or (), privileged)
    environment = oci_process.environment(
        record.config, record.config.hostname, record.link_variables, terminal=config.tty
    )
    size = start.console_size or config.console_size
    return oci.Process(
        terminal=config.tty,
        console_size=oci.Box(*(*size, 0, 0)[:2]) if size and config.tty else None,
        user=oci.User(0, 0),
        args=tuple(config.cmd or ()),
        env=oci_process.merge(environment, config.env or ()),
        cwd=config.working_dir or record.config.working_dir or "/",
        capabilities=oci_process.capabilities(caps),
        rlimits=oci_process.rlimits(host.ulimits, defaults.ulimits),
        no_new_privileges=options.no_new_privileges,
        apparmor_profile=apparmor_of(options, privileged, defaults),
        oom_score_adj=oci_process.oom_score_adj(host.oom_score_adj),
        selinux_label=selinux_labels.of(core, record).process,
    )


def exec_ended(core: Core, exit: Exited) -> None:
    """A monitor reports that an exec has ended."""
    probe = core.probes.get(exit.exec_id)
    if probe is not None and not probe.done():
        probe.set_result(exit)
    instance = core.execs.get(exit.exec_id)
    if instance is None:
        return
    instance.running, instance.exit_code = False, exit.code
    core.event(instance.container, "exec_die", {"execID": instance.id, "exitCode": str(exit.code)})
    _forget_later(core, instance)


def _forget_later(core: Core, instance: ExecInstance) -> None:
    asyncio.get_running_loop().call_later(_KEPT_EXECS, core.forget_exec, instance)


def inspect_exec(instance: ExecInstance) -> ExecInspect:
    """An exec as ``GET /exec/{id}/json`` shows it; its monitor killed, it ended with 137."""
    config = instance.config
    if instance.running and instance.container.monitor is not None:
        instance.container.monitor.take_all()
        if instance.container.monitor.gone:  # the monitor was killed, and the exec with it
            instance.running, instance.exit_code = False, 137
    command = config.cmd or ("",)
    return ExecInspect(
        id=instance.id,
        running=instance.running,
        exit_code=instance.exit_code,
        process_config=ExecProcess(
            tty=config.tty,
            entrypoint=command[0],
            arguments=command[1:],
            privileged=config.privileged,
            user=config.user or instance.container.record.config.user,
        ),
        open_stdin=config.attach_stdin,
        open_stderr=config.attach_stderr,
        open_stdout=config.attach_stdout,
        container_id=instance.container.id,
        detach_keys=parse_keys(config.detach_keys) if config.detach_keys else b"",
        pid=instance.pid,
    )


async def resize(core: Core, container: Container, height: int, width: int) -> None:
    """Change the terminal's size. Raises NotRunning."""
    if container.monitor is None:
        raise not_running(container)
    with unless_ended(container):
        await container.monitor.resize(height, width)
    core.event(container, "resize", {"height": str(height), "width": str(width)})


async def resize_exec(instance: ExecInstance, height: int, width: int) -> None:
    """Change the size of an exec's terminal, which clients ask for beside its start.

    Raises NotRunning when it is over, InvalidParameter when it could not be started,
    SystemFailure when it is not started within ten seconds (as dockerd has it).
    """
    container = instance.container
    if not instance.begun.is_set():
        await _begun_or_ended(instance)
    if container.monitor is None:
        raise not_running(container)
    if not instance.begun.is_set():
        raise SystemFailure("timeout waiting for exec session ready")
    if not instance.pid:
        raise InvalidParameter("exec process is not started")
    if not instance.running:
        raise NotRunning(f"exec {instance.id} is not running")
    try:
        with unless_ended(container):
            await container.monitor.resize(height, width, instance.id)
    except NotFound:
        raise NotRunning(f"exec {instance.id} is not running") from None


async def _begun_or_ended(instance: ExecInstance) -> None:
    """Until the exec is started, its container has ended, or it has taken too long."""
    loop = asyncio.get_running_loop()
    events = (instance.begun, instance.container.exited)
    waits = [loop.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=_STARTS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
