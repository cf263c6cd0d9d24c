"""Processes of a control group: how many, what they have open, what they are."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable

import msgspec

from portside.monitor.samples import Ulimit

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST = 4096
"""Processes of one group that are looked into."""
_ULIMITS = {
    b"Max cpu time": "cpu_time", b"Max file size": "file_size", b"Max data size": "data_size",
    b"Max stack size": "stack_size", b"Max core file size": "core_file_size",
    b"Max resident set": "resident_set", b"Max processes": "max_processes",
    b"Max open files": "max_open_files", b"Max locked memory": "max_locked_memory",
    b"Max address space": "max_address_space", b"Max file locks": "max_file_locks",
    b"Max pending signals": "max_pending_signals", b"Max msgqueue size": "max_msgqueue_size",
    b"Max nice priority": "max_nice_priority", b"Max realtime priority": "max_realtime_priority",
    b"Max realtime timeout": "max_realtime_timeout",
}  # fmt: skip
_STATES = {
    "S": "sleeping", "I": "sleeping", "R": "running", "T": "stopped", "t": "stopped",
    "D": "uninterruptible",
}  # fmt: skip


class Opened(msgspec.Struct, frozen=True):
    """Open descriptors of a group's processes."""

    processes: int = 0
    descriptors: int = 0
    sockets: int = 0
    limit: int = 0
    """Soft limit of the process nearest to its limit; 0: none could be read."""
    highest: int = 0
    """Descriptors of that process."""
    ulimits: tuple[Ulimit, ...] = ()
    tasks: dict[str, int] = {}
    schedstat: tuple[int, int, int] = (0, 0, 0)


def pids_of(procs_file: str) -> list[int]:
    """``cgroup.procs``: processes that this PID namespace sees; empty for a removed group."""
    try:
        with open(procs_file, "rb") as file:
            return [pid for pid in map(int, file.read().split()) if pid > 0]
    except (OSError, ValueError):
        return []


def look(proc: str, pids: list[int]) -> Opened:
    """The open descriptors of these processes; ended processes are left out."""
    descriptors = sockets = limit = highest = 0
    ratio = -1.0
    tasks = dict.fromkeys(("sleeping", "running", "stopped", "uninterruptible", "iowait"), 0)
    ran = waited = slices = 0
    ulimits: tuple[Ulimit, ...] = ()
    for number, pid in enumerate(pids[:_MOST]):
        directory = f"{proc}/{pid}"
        opened, of_sockets = _descriptors(directory)
        descriptors += opened
        sockets += of_sockets
        limits = _limits(directory) if number < 64 else ()
        ulimits = ulimits or limits
        most = next((found.soft for found in limits if found.name == "max_open_files"), 0)
        if most > 0 and opened / most > ratio:
            ratio, limit, highest = opened / most, most, opened
        state = _state(directory)
        if state in _STATES:
            tasks[_STATES[state]] += 1
        stat = _schedstat(directory)
        ran, waited, slices = ran + stat[0], waited + stat[1], slices + stat[2]
    return Opened(
        len(pids), descriptors, sockets, limit, highest, ulimits, tasks, (ran, waited, slices)
    )


def _descriptors(directory: str) -> tuple[int, int]:
    """How many are open, and how many of them are sockets."""
    try:
        names = os.listdir(f"{directory}/fd")
    except OSError:
        return 0, 0
    sockets = 0
    for name in names:
        try:
            sockets += os.readlink(f"{directory}/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return len(names), sockets


_known_limits: dict[str, tuple[float, tuple[Ulimit, ...]]] = {}
_LIMITS_AGE = 60.0
"""Seconds for which a process's limits are believed: they hardly ever change."""


def _limits(directory: str) -> tuple[Ulimit, ...]:
    now = time.monotonic()
    when, found = _known_limits.get(directory, (-_LIMITS_AGE, ()))
    if now - when < _LIMITS_AGE:
        return found
    if len(_known_limits) > 5000:
        _known_limits.clear()
    try:
        with open(f"{directory}/limits", "rb") as file:
            found = parse_limits(file.read())
    except OSError:
        return ()
    _known_limits[directory] = (now, found)
    return found


def parse_limits(text: bytes) -> tuple[Ulimit, ...]:
    """``/proc/PID/limits``: a name of up to 25 characters, soft and hard limit, unit."""
    found = []
    for line in text.splitlines()[1:]:
        name, words = line[:26].strip(), line[26:].split()
        if name in _ULIMITS and len(words) >= 2:
            soft, hard = (-1 if word == b"unlimited" else int(word) for word in words[:2])
            found.append(Ulimit(_ULIMITS[name], soft, hard))
    return tuple(found)


def _state(directory: str) -> str:
    try:
        with open(f"{directory}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def _schedstat(directory: str) -> tuple[int, int, int]:
    """Nanoseconds on a processor, nanoseconds on a run queue, slices (sched-stats.rst)."""
    try:
        with open(f"{directory}/schedstat", "rb") as file:
            ran, waited, slices = map(int, file.read().split()[:3])
            return ran, waited, slices
    except (OSError, ValueError):
        return 0, 0, 0


class ProcessInfo(msgspec.Struct, frozen=True):
    """One process, as cAdvisor's ``ps`` shows it."""

    user: str
    pid: int
    parent_pid: int
    start_time: str
    percent_cpu: float
    percent_mem: float
    rss: int
    virtual_size: int
    status: str
    running_time: str
    cgroup_path: str
    cmd: str
    fd_count: int
    psr: int


class DatedProcess(ProcessInfo, frozen=True):
    started: float
    """Seconds since the epoch: ``start_time`` is text in this machine's time zone."""


def processes(proc: str, pids: Iterable[int], cgroup: str, most: int = _MOST) -> list[DatedProcess]:
    """The table of these processes; ended ones are left out."""
    memory = os.sysconf("SC_PHYS_PAGES")
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = []
    for pid in list(pids)[:most]:
        info = _process(proc, pid, cgroup, memory, uptime)
        if info is not None:
            found.append(info)
    return found


def _process(proc: str, pid: int, cgroup: str, memory: int, uptime: float) -> DatedProcess | None:
    directory = f"{proc}/{pid}"
    try:
        with open(f"{directory}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        owner = os.stat(directory).st_uid
    except OSError:
        return None
    words = tail.split()
    command = head.partition(b"(")[2].decode(errors="replace")
    seconds = (int(words[11]) + int(words[12])) / _TICKS
    age = max(uptime - int(words[19]) / _TICKS, 0.01)
    rss = int(words[21])
    return DatedProcess(
        started=time.time() - age,
        user=_user(owner),
        pid=pid,
        parent_pid=int(words[1]),
        start_time=_started(time.time() - age, age),
        percent_cpu=round(100 * seconds / age, 1),
        percent_mem=round(100 * rss / memory, 1),
        rss=rss * _PAGE,
        virtual_size=int(words[20]),
        status=words[0].decode(),
        running_time=_clock(int(seconds)),
        cgroup_path=cgroup,
        cmd=command,
        fd_count=_descriptors(directory)[0],
        psr=int(words[36]) if len(words) > 36 else 0,
    )


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _started(moment: float, age: float) -> str:
    """As ps(1) shows it: the time within a day, else the date."""
    return time.strftime("%H:%M" if age < 86400 else "%b%d", time.localtime(moment))
