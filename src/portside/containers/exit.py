"""Handling of a container's exit, and waiting for it.

The monitor reports the end (or has written it to ``exit.json`` before it was killed). The engine
records it, gives network, volumes and state directory back, wakes waiting clients, and decides
whether the restart policy requires another start.
"""

from __future__ import annotations

import asyncio
import logging
import time

from portside.containers.container import Container, Waiter
from portside.containers.core import Core
from portside.containers.processes import end_processes, give_back, read_exit
from portside.containers.remove import remove_locked
from portside.model.containerstate import Waited, WaitError
from portside.model.errors import (
    InvalidParameter,
    PortsideError,
)
from portside.model.golang.quoting import quote
from portside.runtime.messages import Exited
from portside.store.failpoints import reach

log = logging.getLogger(__name__)

MONITOR_LOST = 255
"""Exit status of a container whose end no monitor reported."""
MONITOR_KILLED = "the container's monitor was killed, so the container was ended"


async def monitor_lost(core: Core, container: Container) -> Exited:
    """The monitor is gone without a word: read what it wrote, or end what it left."""
    found = read_exit(core, container)
    if found is not None:
        return found
    await asyncio.to_thread(end_processes, core, container)
    return Exited(137, time.time_ns(), error=MONITOR_KILLED)


async def handle_exit(core: Core, container: Container, exit: Exited) -> int | None:
    """Record the end, give everything back, and remove the container with ``--rm``.

    Returns for how many nanoseconds it ran when its policy asks for another start, which the
    caller schedules; else None.
    """
    async with container.lock:
        record = container.record
        if not record.running:
            return None
        probed = container.health is not None
        if container.health is not None:
            container.health.end()
            container.health = None
        if container.monitor is not None:
            container.monitor.close()
            container.monitor = None
        reach("container.exit:reported")
        lived = max(0, exit.at_ns - record.started_ns)
        again = wants_restart(container, exit, lived)
        _record_exit(core, container, exit)
        record.restarting = again
        if probed:
            record.health_status = "unhealthy"  # as in Docker, when probes have ended
        core.save(container)
        reach("container.exit:recorded")
        try:
            await give_back(core, container)
        except PortsideError as err:
            log.warning("after the end of container %s: %s", record.id, err)
        seconds = str(lived // 10**9)
        for _ in range(container.stops):
            core.event(container, "stop")
        core.event(container, "die", {"exitCode": str(exit.code), "execDuration": seconds})
        container.exited.set()
        container.wake(exit.code, exit.error)
        if again:
            return lived
        if record.host.auto_remove and not container.kept:
            await remove_locked(core, container, volumes=True)
        return None


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


def wants_restart(container: Container, exit: Exited, lived_ns: int) -> bool:
    """Whether the policy asks for another start after this end."""
    record, policy = container.record, container.record.host.restart_policy
    if container.stopping or record.stopped_by_user or record.removing:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            limit = policy.maximum_retry_count
            return exit.code != 0 and (not limit or record.restart_count < limit)
        case "on-unhealthy":
            return record.health_status == "unhealthy" or exit.code != 0
    return False


# -- wait ------------------------------------------------------------------------------------


def check_condition(condition: str) -> None:
    """Raises InvalidParameter for an unknown condition."""
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise InvalidParameter(f"invalid condition: {quote(condition)}")


def wait_container(container: Container, condition: str) -> asyncio.Future[tuple[int, str]]:
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
