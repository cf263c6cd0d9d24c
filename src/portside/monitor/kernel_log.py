"""``/dev/kmsg``: processes killed for lack of memory, and errors of the kernel.

Records are ``priority,sequence,microseconds,flags;text`` (Documentation/ABI/testing/dev-kmsg).
"""

from __future__ import annotations

import errno
import os
import re

import msgspec

_OOM = re.compile(
    r"oom-kill:constraint=(\w+),.*?oom_memcg=([^,]*),task_memcg=([^,]*),task=(.*),pid=(\d+),uid="
)
_GLOBAL = re.compile(r"oom-kill:constraint=(\w+),.*?task_memcg=([^,]*),task=(.*),pid=(\d+),uid=")
_KILLED = re.compile(r"(Memory cgroup out|Out) of memory: Killed process ")
"""What follows an OOM kill's record, and says the same once more."""
_ERROR = 3
"""``LOG_ERR`` of syslog(3): this level and those below are errors."""


class OomKill(msgspec.Struct, frozen=True):
    group: str
    """The control group of the process."""
    victim_group: str
    """The group whose limit was reached, ``/`` for the machine."""
    pid: int
    process: str
    constraint: str


class KernelError(msgspec.Struct, frozen=True):
    level: int
    text: str


class KernelLog:
    """New records of the kernel's log. Raises OSError where the log is not readable."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._fd, 0, os.SEEK_END)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, most: int = 200) -> list[OomKill | KernelError]:
        """The new records; each read(2) returns one."""
        found: list[OomKill | KernelError] = []
        for _ in range(most):
            try:
                record = os.read(self._fd, 8192)
            except BlockingIOError:
                break
            except OSError as err:
                if err.errno == errno.EPIPE:
                    continue  # records were overwritten before they were read
                break
            entry = parse(record.decode(errors="replace"))
            if entry is not None:
                found.append(entry)
        return found


def parse(record: str) -> OomKill | KernelError | None:
    """Parse one record; None if it is neither an OOM kill nor an error."""
    head, _, text = record.partition(";")
    text = text.partition("\n")[0]
    priority = head.partition(",")[0]
    if not priority.isdecimal():
        return None
    facility, level = divmod(int(priority), 8)
    if found := _OOM.search(text):
        return OomKill(found[3], found[2], int(found[5]), found[4], found[1])
    if found := _GLOBAL.search(text):
        return OomKill(found[2], "/", int(found[4]), found[3], found[1])
    if facility == 0 and level <= _ERROR and not _KILLED.match(text):
        return KernelError(level, text)
    return None
