"""A container's life after its creation: start, end, stop, kill, pause, restart, removal.

::

    created ──start──► running ──pause──► paused
       ▲                 │  ▲                │
       │                exit └───unpause─────┘
       │                 ▼
       │              exited ──policy──► restarting ──► running
       └── remove ◄──────┘
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal as signals
import time
from contextlib import suppress

from msgspec import MsgspecError

from portside.containers import mounts, restart_policy
from portside.containers.container import Container, Waiter
from portside.containers.core import Core
from portside.containers.ended import held, not_running, unless_ended
from portside.containers.record import Record
from portside.containers.signal_names import name_of, parse
from portside.containers.start import bring_up, cgroup_of, check_startable, end_processes, give_back
from portside.model.containerstate import Waited, WaitError
from portside.model.errors import (
    Conflict,
    InvalidParameter,
    NotModified,
    PortsideError,
    SystemFailure,
    Unavailable,
)
from portside.model.golang.quoting import quote
from portside.runtime.messages import Exited, StateFile
from portside.runtime.state_files import start_ticks
from portside.store.failpoints import reach

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL unless somebody says otherwise."""
_KILL_TIMEOUT = 10.0
_TELL_TIMEOUT = 2.0
"""Seconds a monitor may take to tell of an end that has come."""
MONITOR_LOST = 255
"""Exit status of a container whose end nobody saw."""
MONITOR_KILLED = "the container's monitor was killed, so the container was ended"


# -- start -----------------------------------------------------------------------------------


async def start(core: Core, container: Container) -> None:
    """Start a container. Raises NotModified, Conflict, CommandNotFound and their kin."""
    restart_policy.cancel(container)
    async with container.lock:
        check_startable(container)
        container.record.restart_count, container.restart_delay = 0, 0.0
        try:
            await launch(core, container)
        except PortsideError:
            if container.record.host.auto_remove:
                await _remove_locked(core, container, volumes=True)
            raise


async def launch(core: Core, container: Container) -> None:
    """Bring it up, watch its end, tell the world; the lock is held."""
    await bring_up(core, container)
    watch(core, container)
    core.event(container, "start")
    if container.record.config.healthcheck is not None:
        from portside.containers.health import HealthMonitor

        container.health = HealthMonitor.begin(core, container)


def watch(core: Core, container: Container) -> None:
    """Handle the container's end whenever it comes."""
    monitor = container.monitor
    assert monitor is not None

    def ended(future: asyncio.Future[Exited]) -> None:
        if container.monitor is monitor:
            core.spawn(_ended(core, container, future))

    monitor.exited.add_done_callback(ended)
    monitor.on_exec_exit = lambda exit: core.exec_ended(exit)
    monitor.on_oom = lambda: _out_of_memory(core, container)


def _out_of_memory(core: Core, container: Container) -> None:
    """The kernel has killed a process of it for want of memory; it may go on without."""
    container.record.oom_killed = True
    core.save(container)
    core.event(container, "oom")


async def _ended(core: Core, container: Container, future: asyncio.Future[Exited]) -> None:
    try:
        exit = future.result()
    except Unavailable:
        exit = await _monitor_lost(core, container)
    await handle_exit(core, container, exit)


async def _monitor_lost(core: Core, container: Container) -> Exited:
    """The monitor is gone without a word: read what it wrote, or end what it left."""
    found = read_exit(core, container)
    if found is not None:
        return found
    await asyncio.to_thread(end_processes, core, container)
    return Exited(137, time.time_ns(), error=MONITOR_KILLED)


def read_exit(core: Core, container: Container) -> Exited | None:
    """What the monitor wrote about the end, if it did."""
    import msgspec

    try:
        data = (core.state_dir(container.id) / "exit.json").read_bytes()
        return msgspec.json.decode(data, type=Exited)
    except (OSError, msgspec.MsgspecError):
        return None


async def handle_exit(core: Core, container: Container, exit: Exited) -> None:
    """Record the end, give everything back, and do what policy and ``--rm`` ask for."""
    async with container.lock:
        record = container.record
        if not record.running:
            return
        probed = container.health is not None
        if container.health is not None:
            container.health.end()
            container.health = None
        if container.monitor is not None:
            container.monitor.close()
            container.monitor = None
        reach("container.exit:told")
        lived = max(0, exit.at_ns - record.started_ns)
        again = restart_policy.wants_restart(container, exit, lived)
        _record_exit(core, container, exit)
        record.restarting = again
        if probed:
            record.health_status = "unhealthy"  # as Docker has it when nobody probes any more
        core.save(container)
        reach("container.exit:recorded")
        try:
            await give_back(core, container)
        except PortsideError as err:
            log.warning("after the end of container %s: %s", record.id, err)
        seconds = str(lived // 10**9)
        core.event(container, "die", {"exitCode": str(exit.code), "execDuration": seconds})
        container.exited.set()
        container.wake(exit.code, exit.error)
        if again:
            restart_policy.schedule(core, container, lived)
        elif record.host.auto_remove and not container.kept:
            await _remove_locked(core, container, volumes=True)


def _record_exit(core: Core, container: Container, exit: Exited) -> None:
    record = container.record
    record.running = record.paused = record.quieted = False
    record.pid = 0
    record.exit_code, record.error = exit.code, exit.error
    record.finished_ns = exit.at_ns
    if exit.oom_killed and not record.oom_killed:
        core.event(container, "oom")
        record.oom_killed = True
    _end_execs(core, container)


def _end_execs(core: Core, container: Container) -> None:
    """Whatever ran beside the container was killed with its PID 1; what was not started yet is
    forgotten, as in dockerd. The others can be asked for their exit code until the next start."""
    for instance in list(container.execs.values()):
        if instance.running:
            instance.running = False
            instance.exit_code = 137 if instance.exit_code is None else instance.exit_code
        elif not instance.started:
            core.forget_exec(instance)


# -- wait ------------------------------------------------------------------------------------


def check_condition(condition: str) -> None:
    """InvalidParameter for what nobody can wait for."""
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise InvalidParameter(f"invalid condition: {quote(condition)}")


def wait(container: Container, condition: str) -> asyncio.Future[tuple[int, str]]:
    """Register for ``not-running``, ``next-exit`` or ``removed``; cancel to give up."""
    check_condition(condition)
    future: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
    record = container.record
    if condition in ("", "not-running") and not record.running and not record.restarting:
        future.set_result((record.exit_code, record.error))
        return future
    waiter = Waiter(future, removed=condition == "removed")
    container.waiters.append(waiter)

    def forget(_: object) -> None:
        if waiter in container.waiters:
            container.waiters.remove(waiter)

    future.add_done_callback(forget)
    return future


def waited(result: tuple[int, str]) -> Waited:
    code, error = result
    return Waited(status_code=code, error=WaitError(message=error) if error else None)


# -- stop and kill ---------------------------------------------------------------------------


async def stop(
    core: Core, container: Container, signal: str = "", timeout: int | None = None
) -> str:
    """Ask for the end, and force it after ``timeout`` seconds (-1: never).

    Returns a word to the user when the container had to be killed. Raises NotModified when
    it does not run.
    """
    record = container.record
    if not record.running:
        async with container.lock:  # a start may be under way
            if not record.running:
                if not record.restarting:
                    raise NotModified(f"container {record.id} is already stopped")
                _give_up_restart(core, container)
                return ""
    if timeout is None:
        timeout = record.config.stop_timeout
    if timeout is None:
        timeout = STOP_TIMEOUT
    try:
        number = parse(signal or record.config.stop_signal or "TERM")
    except InvalidParameter as err:
        raise InvalidParameter(f"cannot stop container: {record.name}: {err}") from None
    container.stopping = record.stopped_by_user = True
    core.save(container)
    await send_signal(core, container, number)
    reach("container.stop:signalled")
    word = ""
    if not await _exits_within(container, timeout if timeout >= 0 else None):
        word = (
            f"container {record.name} did not end {timeout} seconds after "
            f"{name_of(number)}: its PID 1 ignores it (see --init and --stop-signal); "
            "it was killed"
        )
        log.info("%s", word)
        await end_now(core, container)
    core.event(container, "stop")
    return word


def _give_up_restart(core: Core, container: Container) -> None:
    """The policy's next start will not come; the lock is held."""
    restart_policy.cancel(container)
    container.record.restarting = False
    container.record.stopped_by_user = True
    core.save(container)
    container.wake(container.record.exit_code)


async def _exits_within(container: Container, seconds: float | None) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await container.exited.wait()
    except TimeoutError:
        return False
    return True


async def send_signal(
    core: Core, container: Container, number: int, *, resume: bool = True
) -> bool:
    """Deliver a signal to PID 1; a paused container is resumed so that it can act on it.

    False when the monitor did not pass it on.
    """
    monitor = container.monitor
    if monitor is None:
        return False
    delivered = True
    try:
        await monitor.signal(number)
    except Unavailable as err:  # it has just ended, or its monitor is stuck
        log.info("signal %d for container %s: %s", number, container.id, err)
        delivered = False
    core.event(container, "kill", {"signal": str(number)})
    if container.record.paused and resume:
        with suppress(Conflict):  # it has ended, or somebody else was quicker
            await unpause(core, container)
    return delivered


async def end_now(core: Core, container: Container) -> None:
    """SIGKILL, and not returning before the end was handled. Raises SystemFailure."""
    container.stopping = True
    delivered = await send_signal(core, container, signals.SIGKILL)
    if delivered and await _exits_within(container, _KILL_TIMEOUT):
        return
    group = cgroup_of(core, container)
    with suppress(PortsideError, OSError):
        await asyncio.to_thread(group.kill)
    if not await _exits_within(container, _TELL_TIMEOUT) and not group.pids():
        _end_monitor(core, container)
    if not await _exits_within(container, _KILL_TIMEOUT):
        raise SystemFailure(
            f"container {container.id} cannot be killed: a process of it is stuck in the kernel "
            f"(state D): {group.pids()}"
        )


async def kill(core: Core, container: Container, number: int = signals.SIGKILL) -> None:
    """Send a signal. Raises Conflict when it does not run."""
    record = container.record
    if record.restarting and not record.running:
        async with container.lock:
            if record.restarting and not record.running:
                _give_up_restart(core, container)
                return
    if not record.running or container.monitor is None:
        raise Conflict(
            f"cannot kill container: {record.name}: container {record.id} is not running"
        )
    stop_signal = record.config.stop_signal
    if number == signals.SIGKILL or number == parse(stop_signal or "TERM"):
        container.stopping = True
        record.stopped_by_user = True
        core.save(container)
    if number == signals.SIGKILL:
        await end_now(core, container)
    else:
        meant_to_end = not stop_signal or number == parse(stop_signal)
        await send_signal(core, container, number, resume=meant_to_end)


def _end_monitor(core: Core, container: Container) -> None:
    """Nothing of the container is left, and its monitor does not say so: end it, too.

    The engine then hears the end of the conversation and takes it from there.
    """
    with suppress(OSError, MsgspecError):  # it is gone
        state = StateFile.read(core.state_dir(container.id))
        if start_ticks(state.monitor_pid) == state.monitor_started:
            log.warning("the monitor of container %s does not answer: it is ended", container.id)
            os.kill(state.monitor_pid, signals.SIGKILL)


async def restart(
    core: Core, container: Container, signal: str = "", timeout: int | None = None
) -> None:
    """Stop if it runs, and start."""
    container.kept = True
    try:
        with suppress(NotModified):
            await stop(core, container, signal, timeout)
        with suppress(NotModified):  # somebody else has started it meanwhile
            await start(core, container)
    finally:
        container.kept = False
    core.event(container, "restart")


# -- pause -----------------------------------------------------------------------------------


async def pause(core: Core, container: Container, *, quiet: bool = False) -> None:
    """Freeze every process of it; ``quiet`` when it is the engine's own wish, for a while.

    Raises Conflict.
    """
    async with held(core, container):
        record = container.record
        if record.restarting:
            raise Conflict(
                f"Container {record.id} is restarting, wait until the container is running"
            )
        if not record.running:
            raise not_running(container)
        if record.paused:
            raise Conflict(f"Container {record.id} is already paused")
        record.quieted = quiet
        if quiet:
            core.save(container)  # before the deed: a crash must not leave it frozen
        try:
            with unless_ended(container):
                await asyncio.to_thread(cgroup_of(core, container).freeze)
        except PortsideError:
            record.quieted = False
            raise
        reach("container.pause:frozen")
        record.paused = True
        core.save(container)
        core.event(container, "pause")


async def unpause(core: Core, container: Container) -> None:
    """Let it go on. Raises Conflict."""
    async with held(core, container):
        record = container.record
        if not record.running or not record.paused:
            raise Conflict(f"Container {record.id} is not paused")
        with unless_ended(container):
            cgroup_of(core, container).thaw()
        record.paused = record.quieted = False
        core.save(container)
        core.event(container, "unpause")


# -- removal ---------------------------------------------------------------------------------


async def remove(
    core: Core, container: Container, *, force: bool = False, volumes: bool = False
) -> None:
    """Remove a container. Raises Conflict in Docker's words."""
    record = container.record
    if container.removed:
        return
    if record.removing:
        raise Conflict(f"removal of container {record.id} is already in progress")
    while not container.removed:
        _check_removable(record, force)
        restart_policy.cancel(container)
        if record.running:
            record.stopped_by_user = record.removing = True  # nobody starts it again meanwhile
            try:
                await end_now(core, container)
            except BaseException:
                record.removing = False
                raise
        async with container.lock:
            if not container.removed and not record.running:
                await _remove_locked(core, container, volumes=volumes)
        # when it runs, a start was under way: look again


def _check_removable(record: Record, force: bool) -> None:
    if not record.alive or force:
        return
    state = record.status
    advice = (
        "container is paused and must be unpaused first"
        if state == "paused"
        else f"container is {state}: stop the container before removing or force remove"
    )
    raise Conflict(f'cannot remove container "/{record.name}": {advice}')


async def _remove_locked(core: Core, container: Container, *, volumes: bool) -> None:
    """The removal itself: record marked, things given back, record gone."""
    record = container.record
    record.removing, record.restarting, record.remove_volumes = True, False, volumes
    try:
        container.close_pending()
        if record.mounts:
            core.save(container)
            reach("container.remove:marked")
            await mounts.release(core, record, remove_anonymous=volumes)
        core.forget(container)  # with its layer, in one step; files without a record are nobody's
        reach("container.remove:forgotten")
        core.store.trash.discard(core.directory(record.id))
        _remove_state(core, record.id)
    except BaseException as err:
        record.removing, record.dead = False, True
        record.error = str(err)
        core.save(container)
        container.wake_removed(record.exit_code, str(err))
        raise
    core.event(container, "destroy")
    container.wake_removed(record.exit_code)


def _remove_state(core: Core, identifier: str) -> None:
    directory = core.state_dir(identifier)
    with suppress(FileNotFoundError):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()
