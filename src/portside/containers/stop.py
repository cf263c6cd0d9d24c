"""Signals to a container: stop, kill, pause and resume."""

from __future__ import annotations

import asyncio
import logging
import os
import signal as signals
import time
from contextlib import suppress

from msgspec import MsgspecError

from portside.containers.container import Container
from portside.containers.core import Core, held, not_running, unless_ended
from portside.containers.processes import cgroup_of
from portside.model.errors import (
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    PortsideError,
    SystemFailure,
    Unavailable,
)
from portside.model.quiet_teardown import teardown
from portside.model.signals import parse_signal, signal_name, stop_signal
from portside.runtime.messages import StateFile
from portside.runtime.state_files import start_ticks, takes_signal
from portside.store.failpoints import reach

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL unless set otherwise."""
_KILL_TIMEOUT = 10.0
_EARLY = 10_000_000_000
"""Nanoseconds since its start in which a program may still be about to handle its stop signal."""
_LEAST_LOOK, _MOST_LOOK = 0.01, 0.25
"""Seconds between two looks for a handler of the stop signal, at first and at most."""
_REPORT_TIMEOUT = 2.0
"""Seconds a monitor may take to report an exit that has happened."""


# -- stop and kill ---------------------------------------------------------------------------


async def stop_container(
    core: Core, container: Container, signal: str = "", timeout: int | None = None
) -> str:
    """Ask for the end, and force it after ``timeout`` seconds (-1: never).

    Returns a message for the user when the container had to be killed. Raises NotModified when
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
        number = stop_signal(signal or record.config.stop_signal)
    except InvalidParameter as err:
        raise InvalidParameter(f"cannot stop container: {record.name}: {err}") from None
    container.stopping = record.stopped_by_user = True
    container.stops += 1
    try:
        return await _end(core, container, number, timeout)
    finally:
        container.stops -= 1


async def _end(core: Core, container: Container, number: int, timeout: int) -> str:
    """Send the signal, and SIGKILL when it does not end in time."""
    core.save(container)
    is_early = time.time_ns() - container.record.started_ns < _EARLY
    may_be_lost = is_early and not takes_signal(container.record.pid, number)
    await send_signal(core, container, number)
    reach("container.stop:signalled")
    repeating = asyncio.create_task(_signal_once_taken(container, number)) if may_be_lost else None
    try:
        if await _exits_within(container, timeout if timeout >= 0 else None):
            return ""
    finally:
        if repeating:
            repeating.cancel()
    warning = (
        f"container {container.record.name} did not end {timeout} seconds after "
        f"{signal_name(number)}: its PID 1 ignores it (see --init and --stop-signal); "
        "it was killed"
    )
    log.info("%s", warning)
    await end_now(core, container)
    return warning


async def _signal_once_taken(container: Container, number: int) -> None:
    """Send a stop signal that the kernel has dropped again, as soon as the program handles it.

    A program that was started a moment ago has no handlers yet: an interpreter needs tens of
    milliseconds. Nothing reports that it has one, so it is looked for.
    """
    delay = _LEAST_LOOK
    while not container.exited.is_set():
        await asyncio.sleep(delay)
        if takes_signal(container.record.pid, number):
            if container.monitor is not None:
                with suppress(Unavailable):  # it has just ended
                    await container.monitor.signal(number)
            return
        delay = min(2 * delay, _MOST_LOOK)


def _give_up_restart(core: Core, container: Container) -> None:
    """The policy's next start will not come; the lock is held."""
    container.cancel_restart()
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
        with suppress(Conflict):  # it has ended, or another request resumed it
            await unpause_container(core, container)
    return delivered


async def end_now(core: Core, container: Container) -> None:
    """SIGKILL, and not returning before the end was handled. Raises SystemFailure."""
    container.stopping = True
    monitor = container.monitor
    delivered = await send_signal(core, container, signals.SIGKILL)
    # where the signal did not arrive it has usually just ended, and its control group may already
    # be that of its next start, which nobody wants to kill
    if container.monitor is not monitor:
        return
    if await _exits_within(container, _KILL_TIMEOUT if delivered else _REPORT_TIMEOUT):
        return
    group = cgroup_of(core, container)
    with teardown(log, f"kill control group {group.path}"):
        await asyncio.to_thread(group.kill)
    if not await _exits_within(container, _REPORT_TIMEOUT) and not group.pids():
        _end_monitor(core, container)
    if not await _exits_within(container, _KILL_TIMEOUT):
        raise SystemFailure(
            f"container {container.id} cannot be killed: a process of it is stuck in the kernel "
            f"(state D): {group.pids()}"
        )


async def stop_all(core: Core, timeout: int) -> None:
    """Stop every running container at once (``portside daemon stop --containers``, the end of the
    machine). ``timeout``: seconds for each, unless it has asked for more."""
    running = [item for item in core.containers.values() if item.record.running]
    work = (
        stop_container(core, item, "", max(timeout, item.record.config.stop_timeout or 0))
        for item in running
    )
    await asyncio.gather(*work, return_exceptions=True)
    for item in running:
        item.record.stopped_by_user = False
        core.save(item)


async def kill_by_name(core: Core, name: str, signal: str = "") -> None:
    """Send a signal by its name or number. Raises InvalidParameter, NotFound, Conflict."""
    words = f"cannot kill container: {name}"
    try:
        number = parse_signal(signal or "KILL")
        container = core.find(name)
    except InvalidParameter as err:
        raise InvalidParameter(f"{words}: {err}") from None
    except NotFound as err:
        raise NotFound(f"{words}: {err}") from None
    await kill_container(core, container, number, called=name)


async def kill_container(
    core: Core, container: Container, number: int = signals.SIGKILL, *, called: str = ""
) -> None:
    """Send a signal. Raises Conflict when it does not run; it names it as ``called``."""
    record = container.record
    if record.restarting and not record.running:
        async with container.lock:
            if record.restarting and not record.running:
                _give_up_restart(core, container)
                return
    if not record.running or container.monitor is None:
        name = called or record.name
        raise Conflict(f"cannot kill container: {name}: container {record.id} is not running")
    stops_by = record.config.stop_signal
    if number == signals.SIGKILL or number == stop_signal(stops_by):
        container.stopping = True
        record.stopped_by_user = True
        core.save(container)
    if number == signals.SIGKILL:
        await end_now(core, container)
    else:
        meant_to_end = not stops_by or number == stop_signal(stops_by)
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


# -- pause -----------------------------------------------------------------------------------


async def pause_container(core: Core, container: Container, *, quiet: bool = False) -> None:
    """Freeze every process of it; ``quiet`` when it is the engine itself that asks, for a while.

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


async def unpause_container(core: Core, container: Container) -> None:
    """Resume it. Raises Conflict."""
    async with held(core, container):
        record = container.record
        if not record.running or not record.paused:
            raise Conflict(f"Container {record.id} is not paused")
        with unless_ended(container):
            cgroup_of(core, container).thaw()
        record.paused = record.quieted = False
        core.save(container)
        core.event(container, "unpause")
