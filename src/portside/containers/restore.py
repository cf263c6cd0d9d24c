"""After an engine's start: take over what runs, record what ended, repair the rest."""

from __future__ import annotations

import asyncio
import logging
import re
import time

from portside.containers import mounts, processes, selinux_labels, start
from portside.containers.container import Container, Record
from portside.containers.container_networks import network_request
from portside.containers.core import Core
from portside.containers.exit import MONITOR_KILLED, MONITOR_LOST, handle_exit
from portside.containers.remove import remove_container
from portside.kernel.cgroup import Cgroup, children
from portside.model.counted import counted
from portside.model.errors import NotFound, PortsideError, Unavailable
from portside.model.network import RunningContainer
from portside.runtime.messages import Exited
from portside.runtime.monitor_client import MonitorClient

log = logging.getLogger(__name__)


async def restore(core: Core) -> None:
    """Read all records and make them true again."""
    ended: list[tuple[Container, Exited]] = []
    for identifier, record in core.store.db.collection("container", Record).items():
        container = Container(record)
        core.containers[identifier] = container
        core.by_name[record.name] = identifier
        if not record.running and not _was_started(core, container):
            container.exited.set()
            continue
        exit = _reconnect(core, container)
        if exit is not None:
            ended.append((container, exit))
    running = [item for item in core.containers.values() if item.monitor is not None]
    await selinux_labels.label_layers(core)
    await core.networks.restore(
        [RunningContainer(network_request(core, item.record), item.record.pid)
         for item in running]
    )  # fmt: skip
    await core.volumes.restore(item.id for item in running)
    for container in running:
        container.networked = True
        start.watch(core, container)
        _settle_freezer(core, container)
        _resume_health(core, container)
    for container, exit in ended:
        container.networked = True
        lived = await handle_exit(core, container, exit)
        if lived is not None:
            start.schedule_restart(core, container, lived)
    await _repair(core)
    _start_what_should_run(core, {item.id for item, _ in ended})


def _was_started(core: Core, container: Container) -> bool:
    """Whether it runs, or ran, without the record knowing: the engine was killed while it
    waited for the start. Then the record is made to know; what is half up is ended."""
    record, directory = container.record, core.state_dir(container.id)
    if record.removing or not directory.exists():
        return False
    exit = processes.read_exit(core, container)
    if exit is not None and exit.at_ns > max(record.finished_ns, record.started_ns):
        record.running, record.started_ns = True, record.started_ns or exit.at_ns
        return True
    if exit is not None:
        return False
    try:
        container.monitor = MonitorClient.connect(directory)
    except Unavailable:
        processes.end_processes(core, container)
        return False
    record.running, record.pid = True, container.monitor.pid
    record.started_ns = container.monitor.started_ns
    core.save(container)
    return True


def _reconnect(core: Core, container: Container) -> Exited | None:
    """Find the monitor again; else how the container ended."""
    if container.monitor is not None:
        return None
    try:
        container.monitor = MonitorClient.connect(core.state_dir(container.id))
        container.record.pid = container.monitor.pid
        return None
    except Unavailable:
        pass
    found = processes.read_exit(core, container)
    if found is not None:
        return found
    if processes.end_processes(core, container):
        return Exited(137, time.time_ns(), error=MONITOR_KILLED)
    return Exited(MONITOR_LOST, time.time_ns())


def _settle_freezer(core: Core, container: Container) -> None:
    """Whether it is paused is the kernel's word; what only a commit had paused is resumed."""
    record = container.record
    group = processes.cgroup_of(core, container)
    try:
        frozen = group.frozen()
        if frozen and record.quieted:
            group.thaw()
            frozen = False
    except (PortsideError, OSError) as err:
        log.warning("the freezer of container %s: %s", record.id, err)
        return
    if frozen != record.paused or record.quieted:
        record.paused, record.quieted = frozen, False
        core.save(container)


def _resume_health(core: Core, container: Container) -> None:
    if container.record.config.healthcheck is not None:
        from portside.containers.health import HealthMonitor

        container.health = HealthMonitor.begin(core, container, resumed=True)


async def _repair(core: Core) -> None:
    """Finish removals, undo creations that have no root, drop what has no owner."""
    for container in list(core.containers.values()):
        record = container.record
        if record.removing:
            record.removing = False
            await _remove(core, container, record.remove_volumes)
        elif record.host.auto_remove and record.finished_ns and not record.alive:
            await _remove(core, container, volumes=True)
        elif record.making or not _has_root(core, record.id):
            log.info("container %s was never finished: removing it", record.id)
            await mounts.release_unfinished(core, record)
            await _remove(core, container, volumes=True)
    await asyncio.to_thread(_drop_unknown, core)
    await asyncio.to_thread(_sweep_groups, core)
    core.store.trash.empty_soon()


def _has_root(core: Core, identifier: str) -> bool:
    try:
        core.store.writables.rootfs(identifier)
    except NotFound:
        return False
    return True


async def _remove(core: Core, container: Container, volumes: bool) -> None:
    try:
        await remove_container(core, container, force=True, volumes=volumes)
    except PortsideError as err:
        log.warning("container %s could not be removed: %s", container.id, err)


_ID = re.compile(r"[0-9a-f]{64}")


def _sweep_groups(core: Core) -> None:
    """End what runs in control groups of ours that no running container accounts for.

    Ours are those below the parent that has this engine's name, and those of containers we know
    below any other parent, which may be shared.
    """
    for container in core.containers.values():
        if container.monitor is None:
            processes.end_processes(core, container)
    ours = core.instance.cgroup
    known = set(core.store.db.collection("container", Record).ids())
    for name in children(ours):
        if _ID.fullmatch(name) and name not in known:
            try:
                left = Cgroup(f"{ours}/{name}").end()
            except (PortsideError, OSError) as err:
                log.warning("control group %s/%s: %s", ours, name, err)
            else:
                log.warning("control group %s/%s: no container; killed %d", ours, name, left)


def _drop_unknown(core: Core) -> None:
    """Directories without a container; in a runtime's one a monitor may still run.

    A container whose record cannot be read is not unknown: `system check --repair` decides.
    """
    known = set(core.store.db.collection("container", Record).ids())
    directory = core.instance.exec_root / "containers"
    swept = 0
    if directory.is_dir():
        for entry in directory.iterdir():
            if entry.name not in known:
                processes.drop_leftover(core, entry)
                swept += 1
    for entry in core.store.writables.containers_dir.iterdir():
        if entry.name not in known:  # also a build step's of a killed engine
            mounts.unbind_all(entry)
            core.store.writables.forget(entry.name)
            core.store.trash.discard(entry)
            swept += 1
    for entry in core.instance.exec_root.glob("build-*"):  # secrets and agents' sockets of steps
        for file in entry.iterdir():
            file.unlink(missing_ok=True)
        entry.rmdir()
        swept += 1
    if swept:
        log.warning("%s of containers that no record names: removed", counted(swept, "directories"))


def _start_what_should_run(core: Core, ended: set[str]) -> None:
    """Containers whose policy wants them running, and that were not stopped by hand."""
    for container in core.containers.values():
        record = container.record
        if record.running or container.restart is not None:
            continue
        name = record.host.restart_policy.name
        wanted = name == "always" or (name == "unless-stopped" and not record.stopped_by_user)
        if record.restarting or (wanted and record.started_ns and record.id not in ended):
            record.restarting = True
            start.schedule_restart(core, container, 10**11)
