"""What an operation answers when its container ends, or is removed, while it is at work.

An operation looks at a container's record, and does something about its processes a moment
later. In between the container may end: the kernel then refuses (ENOENT of a control group,
EPIPE of the monitor's socket), before anybody has been told of the end. Such a refusal is not
a failure of the engine; it is what the operation would have answered a moment later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from portside.containers.container import Container
from portside.containers.core import Core
from portside.model.errors import Conflict, NotFound, NotRunning, PortsideError
from portside.runtime.state_files import is_alive


def not_running(container: Container) -> NotRunning:
    """The refusal in Docker's words."""
    return NotRunning(f"container {container.id} is not running")


def removed(container: Container) -> NotFound:
    return NotFound(f"No such container: {container.name}")


def has_ended(container: Container) -> bool:
    """Whether its first process is over, also when its monitor has not said so yet."""
    record, monitor = container.record, container.monitor
    if container.removed or not record.running or monitor is None:
        return True
    return monitor.gone or monitor.exited.done() or not is_alive(record.pid)


@contextmanager
def unless_ended(container: Container) -> Iterator[None]:
    """Work that needs the running container: raises NotRunning when it failed since that ended.

    What has been refused on purpose (Conflict, NotFound) stays as it is.
    """
    try:
        yield
    except (Conflict, NotFound):
        raise
    except (PortsideError, OSError) as err:
        if not has_ended(container):
            raise
        raise not_running(container) from err


@contextmanager
def unless_removed(container: Container) -> Iterator[None]:
    """Work on a container's files: raises NotFound when it failed since that was removed."""
    try:
        yield
    except (PortsideError, OSError) as err:
        if not container.removed and not container.record.removing:
            raise
        raise removed(container) from err


@asynccontextmanager
async def held(core: Core, container: Container) -> AsyncIterator[None]:
    """Its lock; raises NotFound when it was removed while we waited."""
    async with container.lock:
        if container.removed:
            raise removed(container)
        yield
