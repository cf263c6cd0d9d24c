"""Notification of an OOM kill as it happens, by a descriptor to poll.

Version 1: an eventfd registered with ``cgroup.event_control`` (``cgroup-v1/memory.rst``,
"OOM Control"). Version 2: inotify(7) on ``memory.events``, which the kernel modifies.
"""

from __future__ import annotations

import ctypes
import os

from portside.kernel.cgroup import files
from portside.kernel.polling import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.kernel.cgroup.group_view import GroupView

_IN_MODIFY = 2


class OomWatch:
    """Readable (``fileno``) when something may have happened; ask :meth:`kills` then."""

    __slots__ = ("_fd", "_group", "_seen")

    def __init__(self, group: GroupView) -> None:
        """Raises OSError where the kernel offers no notification."""
        self._group = group
        self._seen = group.oom_kills()
        self._fd = _v1(group) if group.layout.v1("memory") else _v2(group)

    def fileno(self) -> int:
        return self._fd

    def kills(self) -> int:
        """Kills since the last call; empties the descriptor without blocking."""
        while readable(self._fd, timeout=0) and os.read(self._fd, 4096):
            pass
        now = self._group.oom_kills()
        fresh, self._seen = now - self._seen, max(now, self._seen)
        return max(fresh, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _v1(group: GroupView) -> int:
    directory = group.directory("memory")
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(f"{directory}/cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(event)
        raise
    return event


def _v2(group: GroupView) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    path = f"{group.directory('unified')}/memory.events"
    if fd < 0 or libc.inotify_add_watch(fd, path.encode(), _IN_MODIFY) < 0:
        errno = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(errno, os.strerror(errno), path)
    return fd
