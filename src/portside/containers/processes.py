"""Release of what a container has in the kernel and beneath the exec root.

Its control group, its processes, and its state directory.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.containers import mounts
from portside.containers.container import Container
from portside.containers.core import Core
from portside.model.counted import counted
from portside.model.errors import NotFound, PortsideError
from portside.model.quiet_teardown import teardown
from portside.runtime.messages import Exited, StateFile
from portside.runtime.state_files import clean

if TYPE_CHECKING:
    from portside.kernel.cgroup import Cgroup

log = logging.getLogger(__name__)


def cgroup_of(core: Core, container: Container) -> Cgroup:
    """The container's control group."""
    from portside.containers.spec.oci_spec import cgroup_path

    path = cgroup_path(container.id, container.record.host, core.defaults())
    return _group(path, core.state_dir(container.id))


def _group(path: str, state_dir: Path) -> Cgroup:
    """A control group; without control groups, the processes that a state directory names."""
    from portside.kernel.cgroup import Cgroup, detect

    if detect().mode != "none":
        return Cgroup(path)
    from portside.kernel.process_tree import ProcessTree, Root

    def roots() -> list[Root]:
        try:
            state = StateFile.read(state_dir)
        except (OSError, msgspec.MsgspecError):
            return []
        return [Root(state.monitor_pid, state.monitor_started, False),
                Root(state.pid, state.pid_started, True)]  # fmt: skip

    return ProcessTree(path, roots)


def end_processes(core: Core, container: Container) -> bool:
    """Kill what is left of a container without a monitor; returns whether there was anything."""
    try:
        left = cgroup_of(core, container).end()
    except (PortsideError, OSError) as err:
        log.warning("what is left of container %s: %s", container.id, err)
        return False
    if left:
        log.warning(
            "container %s: killed %s without a monitor", container.id, counted(left, "processes")
        )
    return bool(left)


async def give_back(core: Core, container: Container) -> None:
    """Network, volumes and the runtime's directory, after an exit or a failed start."""
    if container.networked:
        container.networked = False
        await core.networks.detach(container.id)
    if container.record.mounts:
        await mounts.unmount(core, container.record)
    directory = core.state_dir(container.id)
    clean(str(directory))
    for name in ("monitor.sock", "state.json"):
        (directory / name).unlink(missing_ok=True)


def drop_leftover(core: Core, directory: Path) -> None:
    """A runtime directory whose container is unknown: end what runs there and delete it."""
    path = f"{core.defaults().cgroup_parent}/{directory.name}"
    with suppress(OSError, msgspec.MsgspecError):
        path = StateFile.read(directory).cgroup
    group = _group(path, directory)
    with teardown(log, f"control group {path}"):
        if group.exists():
            group.kill()
            group.delete()
    clean(str(directory))
    with teardown(log, f"remove {directory}"):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()


def read_exit(core: Core, container: Container) -> Exited | None:
    """The exit that the monitor wrote, if it did."""
    try:
        data = (core.state_dir(container.id) / "exit.json").read_bytes()
        return msgspec.json.decode(data, type=Exited)
    except (OSError, msgspec.MsgspecError):
        return None


def last_spec(core: Core, container: Container) -> bytes:
    """The runtime-spec configuration of the last start. Raises NotFound."""
    try:
        return (core.state_dir(container.id) / "config.json").read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"container {container.name} has not been started since the machine was: "
            "there is no configuration yet"
        ) from None


def remove_state(core: Core, identifier: str) -> None:
    directory = core.state_dir(identifier)
    with suppress(FileNotFoundError):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()
