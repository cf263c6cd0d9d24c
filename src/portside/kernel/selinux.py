"""SELinux (selinux(8)): the label a process gets at execve(2).

A kernel without SELinux ignores labels, as runtimes do everywhere.
"""

from __future__ import annotations

import os
from functools import cache

from portside.model.errors import SystemFailure


@cache
def enabled() -> bool:
    """Whether the running kernel has SELinux and its file system is mounted."""
    return os.path.exists("/sys/fs/selinux/enforce")


def enter_at_exec(label: str) -> None:
    """Have the calling thread, and what it forks, get a label at the next execve(2).

    To be called while /proc is the host's. Raises SystemFailure when the policy refuses it.
    """
    if not label or not enabled():
        return
    try:
        fd = os.open("/proc/thread-self/attr/exec", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, label.encode())
        finally:
            os.close(fd)
    except OSError as err:
        raise SystemFailure(f"cannot apply the SELinux label {label!r}: {err.strerror}") from err
