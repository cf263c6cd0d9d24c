"""Freezing a group, and waiting for the state that its events file reports.

Version 2 freezes by ``cgroup.freeze`` and says when it is done in ``cgroup.events``, which
poll(2) reports as POLLPRI. It is used on hybrid machines as well, since a container is in
the version 2 hierarchy there too. Version 1 (``freezer-subsystem.rst``) can only be asked.
"""

from __future__ import annotations

import os
import select
import time

from portside.kernel.cgroup import files
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.kernel.cgroup.group_view import GroupView

_STEP = 0.002
"""Seconds between two looks, only where the kernel has no notification (version 1)."""


def freeze(group: GroupView, timeout: float) -> None:
    """Stop every process of the group within ``timeout`` seconds. Raises SystemFailure with the
    process that does not stop; the group then runs on."""
    request(group, True)
    done = _wait_event(group, "frozen", 1, timeout) if _by_v2(group) else _wait_v1(group, timeout)
    if not done:
        request(group, False)
        raise SystemFailure(
            f"cannot freeze {group.path} within {timeout:g} s: {_stuck(group)} does not stop "
            "(it waits in the kernel, perhaps for a disk or a network file system)"
        )


def thaw(group: GroupView) -> None:
    """Let the group's processes run. Raises SystemFailure."""
    request(group, False)


def frozen(group: GroupView) -> bool:
    """Whether the group is frozen or being frozen."""
    return files.read_or(file_of(group)).strip() in ("1", "FROZEN", "FREEZING")


def file_of(group: GroupView) -> str:
    """The file that sets the state and reports it."""
    if _by_v2(group):
        return f"{group.directory('unified')}/cgroup.freeze"
    return f"{group.directory('freezer')}/freezer.state"


def request(group: GroupView, frozen: bool) -> None:
    """Ask for the state without waiting for it. Raises SystemFailure."""
    path = file_of(group)
    value = str(int(frozen))
    if path.endswith("/freezer.state"):
        value = "FROZEN" if frozen else "THAWED"
    try:
        files.write(path, value)
    except OSError as error:
        raise files.failure(path, value, error) from error


def wait_empty(group: GroupView, timeout: float) -> None:
    """Wait up to ``timeout`` seconds until the group has no process. Raises SystemFailure."""
    if group.layout.unified:
        empty = _wait_event(group, "populated", 0, timeout)
    else:
        deadline = time.monotonic() + timeout
        while not (empty := not group.pids()) and time.monotonic() < deadline:
            time.sleep(_STEP)
    if not empty:
        raise SystemFailure(f"processes of {group.path} do not end: {_stuck(group)}")


def _by_v2(group: GroupView) -> bool:
    """Linux 5.2 and later have the file in every group but the root."""
    unified = group.layout.unified
    if not unified:
        return False
    return not group.layout.v1("freezer") or os.path.exists(f"{unified}{group.path}/cgroup.freeze")


def _wait_event(group: GroupView, key: str, value: int, timeout: float) -> bool:
    """Until ``key`` of ``cgroup.events`` is ``value``; a group that is gone counts as reached."""
    try:
        fd = os.open(f"{group.directory('unified')}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        deadline = time.monotonic() + timeout
        while True:
            try:
                if files.keyed(os.pread(fd, 4096, 0).decode()).get(key) == value:
                    return True
            except OSError:  # ENODEV: removed
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(left * 1000)
    finally:
        os.close(fd)


def _wait_v1(group: GroupView, timeout: float) -> bool:
    """A process that was just forked can keep a group FREEZING for ever: asking again helps."""
    path = f"{group.directory('freezer')}/freezer.state"
    deadline = time.monotonic() + timeout
    looks = 0
    while files.read_or(path).strip() != "FROZEN":
        if time.monotonic() > deadline:
            return False
        looks += 1
        if looks % 25 == 0:
            files.write(path, "THAWED")
        files.write(path, "FROZEN")
        time.sleep(_STEP)
    return True


def _stuck(group: GroupView) -> str:
    """Names of a few processes that are in the way."""
    found = []
    for pid in group.pids():
        if "\nState:\tZ" in (text := files.read_or(f"/proc/{pid}/status")):
            continue
        name = text.partition("\n")[0].removeprefix("Name:\t")
        found.append(f"process {pid} ({name or 'gone'})")
    return ", ".join(found[:5]) or "a process"
