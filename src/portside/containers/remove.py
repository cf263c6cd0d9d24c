"""Removing a container: its record, its layer, its anonymous volumes, its directories."""

from __future__ import annotations

import logging

from portside.containers import mounts
from portside.containers.container import Container, Record
from portside.containers.core import Core, unless_removed
from portside.containers.inspect import PRUNE_FILTERS, choose
from portside.containers.processes import remove_state
from portside.containers.stop import end_now
from portside.model import filters as matching
from portside.model.containerstate import ContainersPruned
from portside.model.errors import Conflict, PortsideError
from portside.model.filters import Filters
from portside.store.failpoints import reach

log = logging.getLogger(__name__)


async def remove_container(
    core: Core, container: Container, *, force: bool = False, volumes: bool = False, name: str = ""
) -> None:
    """Remove a container, which the request calls ``name``. Raises Conflict in Docker's words."""
    record = container.record
    if container.removed:
        return
    if record.removing:
        raise Conflict(f"removal of container {record.id} is already in progress")
    while not container.removed:
        _check_removable(record, force, name or record.name)
        container.cancel_restart()
        if record.running:
            record.stopped_by_user = record.removing = True  # no request or policy starts it again
            try:
                await end_now(core, container)
            except BaseException:
                record.removing = False
                raise
        async with container.lock:
            if not container.removed and not record.running:
                await remove_locked(core, container, volumes=volumes)
        # when it runs, a start was under way: look again


def _check_removable(record: Record, force: bool, name: str) -> None:
    if not record.alive or force:
        return
    state = record.status
    advice = (
        "container is paused and must be unpaused first"
        if state == "paused"
        else f"container is {state}: stop the container before removing or force remove"
    )
    raise Conflict(f'cannot remove container "{name}": {advice}')


async def remove_locked(core: Core, container: Container, *, volumes: bool) -> None:
    """The removal itself: record marked, things given back, record gone."""
    record = container.record
    record.removing, record.restarting, record.remove_volumes = True, False, volumes
    try:
        container.close_pending()
        if record.mounts:
            core.save(container)
            reach("container.remove:marked")
            await mounts.release(core, record, remove_anonymous=volumes)
        core.forget(container)  # with its layer, in one step; files without a record are swept
        reach("container.remove:forgotten")
        core.store.trash.discard(core.directory(record.id))
        remove_state(core, record.id)
    except BaseException as err:
        record.removing, record.dead = False, True
        record.error = str(err)
        core.save(container)
        container.wake_removed(record.exit_code, str(err))
        raise
    core.event(container, "destroy")
    container.wake_removed(record.exit_code)


async def prune_containers(core: Core, filters: Filters) -> ContainersPruned:
    """Remove every container that does not run and matches."""
    matching.check(filters, PRUNE_FILTERS)
    until = matching.until(filters)
    labels = {name: values for name, values in filters.items() if name != "until"}
    removed: list[str] = []
    freed = 0
    for container in choose(core, labels, all=True, limit=0):
        record = container.record
        if record.status not in ("created", "exited", "dead"):
            continue
        if until is not None and record.created_ns >= until:
            continue
        try:
            with unless_removed(container):
                size = await core.store.writables.size_rw(record.id)
            await remove_container(core, container)
        except PortsideError as err:
            log.debug("prune passes over container %s: %s", record.id, err)
            continue
        removed.append(record.id)
        freed += size
    return ContainersPruned(containers_deleted=tuple(removed) or None, space_reclaimed=freed)
