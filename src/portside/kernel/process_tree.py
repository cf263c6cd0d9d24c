"""A container's processes where there are no control groups to hold them.

Without root, and without a delegated control group, a container is known by its monitor, which
is the ancestor of all its processes (PR_SET_CHILD_SUBREAPER), and by its PID namespace. Freezing
is SIGSTOP, and limits cannot be had. The interface is :class:`Cgroup`'s.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from portside.kernel.cgroup import Cgroup
from portside.kernel.cgroup.stats import CgroupStats, CpuUse, MemoryUse, PidsUse
from portside.model.errors import SystemFailure

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_STEP = 0.002
"""Seconds between two checks: the kernel reports a stop only to the parent process."""


class Root(NamedTuple):
    """Where to look: a process by its PID and start time (clock ticks since boot); whether it
    belongs to the container itself."""

    pid: int
    started: int
    inside: bool


class _Stat(NamedTuple):
    ppid: int
    state: str
    user: int
    kernel: int
    started: int
    rss: int


class ProcessTree(Cgroup):
    """The processes below some roots; ``roots`` is asked anew each time."""

    __slots__ = ("_roots",)

    def __init__(self, path: str, roots: Callable[[], list[Root]]) -> None:
        super().__init__(path)
        self._roots = roots

    def exists(self) -> bool:
        return bool(self.pids())

    def pids(self) -> list[int]:
        return list(self._members())

    def _members(self) -> dict[int, _Stat]:
        table = _all()
        living = [r for r in self._roots() if r.pid in table and table[r.pid].started == r.started]
        children: dict[int, list[int]] = {}
        for pid, stat in table.items():
            children.setdefault(stat.ppid, []).append(pid)
        found: dict[int, _Stat] = {}
        queue = [pid for r in living for pid in ([r.pid] if r.inside else children.get(r.pid, ()))]
        spaces = {space for r in living if r.inside and (space := _namespace(r.pid))}
        spaces.discard(_namespace(os.getpid()))
        if spaces:
            queue += [pid for pid in table if _namespace(pid) in spaces]
        while queue:
            pid = queue.pop()
            if pid not in found:
                found[pid] = table[pid]
                queue += children.get(pid, ())
        return {pid: stat for pid, stat in found.items() if stat.state not in "ZX"}

    def freeze(self, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while running := [p for p, s in self._members().items() if s.state not in "Tt"]:
            if time.monotonic() > deadline:
                self.thaw()
                raise SystemFailure(f"cannot stop processes {running[:5]} within {timeout:g} s")
            _signal(running, signal.SIGSTOP)
            time.sleep(_STEP)

    def thaw(self) -> None:
        _signal(self.pids(), signal.SIGCONT)

    def frozen(self) -> bool:
        members = self._members()
        return bool(members) and all(stat.state in "Tt" for stat in members.values())

    def kill(self, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while left := self.pids():
            if time.monotonic() > deadline:
                raise SystemFailure(f"processes {left[:5]} of {self.path} do not end")
            _signal(left, signal.SIGKILL)
            time.sleep(_STEP)

    def wait_empty(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.pids() and time.monotonic() < deadline:
            time.sleep(_STEP)

    def end(self) -> int:
        left = len(self.pids())
        self.kill()
        return left

    def delete(self, timeout: float = 2.0) -> None:
        self.kill(timeout)

    def stats(self) -> CgroupStats:
        """Usage of the processes that live now, from proc(5); ended processes are not counted."""
        members = self._members().values()
        user = sum(stat.user for stat in members) * 1_000_000_000 // _TICKS
        kernel = sum(stat.kernel for stat in members) * 1_000_000_000 // _TICKS
        return CgroupStats(
            cpu=CpuUse(total=user + kernel, user=user, kernel=kernel),
            memory=MemoryUse(usage=sum(stat.rss for stat in members) * _PAGE),
            pids=PidsUse(current=len(members)),
        )


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _all() -> dict[int, _Stat]:
    """Every process we can see (proc_pid_stat(5))."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            f = file.read().rpartition(b")")[2].split()
            found[int(name)] = _Stat(
                int(f[1]), f[0].decode(), int(f[11]), int(f[12]), int(f[19]), int(f[21])
            )
    return found
