"""Restart policies with Docker's back-off: 100 ms, doubled each time, at most a minute.

A container that lived for ten seconds starts again at 100 ms.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from portside.model.errors import PortsideError

if TYPE_CHECKING:
    from portside.containers.container import Container
    from portside.containers.core import Core
    from portside.runtime.messages import Exited

log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
_LONG_LIFE = 10 * 10**9


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


def schedule(core: Core, container: Container, lived_ns: int) -> None:
    """Start the container again after its delay."""
    if lived_ns >= _LONG_LIFE or not container.restart_delay:
        container.restart_delay = FIRST_DELAY
    else:
        container.restart_delay = min(container.restart_delay * 2, LONGEST_DELAY)
    container.restart = core.spawn(_restart(core, container, container.restart_delay))


def cancel(container: Container) -> None:
    """Forget a restart that is due: somebody decided otherwise."""
    if container.restart is not None:
        container.restart.cancel()
        container.restart = None


async def _restart(core: Core, container: Container, delay: float) -> None:
    from portside.containers import lifecycle

    await asyncio.sleep(delay)
    async with container.lock:
        container.restart = None
        record = container.record
        if record.running or record.removing or not record.restarting:
            return
        record.restart_count += 1
        try:
            await lifecycle.launch(core, container)
        except PortsideError as err:
            log.warning("container %s could not be restarted: %s", record.id, err)
            container.exited.set()
            container.wake(record.exit_code, str(err))
