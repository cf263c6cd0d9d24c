"""``docker top``: a container's processes from proc(5), with the columns of ps(1).

The usual ways to ask are understood: ``-ef`` (the default), ``aux``, and columns of one's
own by ``-o``. No ps program is executed.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.processes import cgroup_of
from portside.model.containerstate import Top
from portside.model.errors import Conflict, InvalidParameter

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, from ``/proc/PID/stat`` and its neighbours."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    tty: int
    foreground: int
    """The process group that has the terminal."""
    state: str
    name: str
    command: str
    uid: int
    ticks: int
    """User and system time in clock ticks."""
    started: float
    """Seconds since the epoch."""
    vsize: int
    rss: int
    nice: int
    priority: int
    threads: int
    flags: int
    processor: int
    """Where it ran last."""
    sleeps_in: str
    """The kernel's function it waits in; empty where the kernel does not say."""


def read(pid: int, boot: float) -> Process | None:
    """A process, or None when it is gone."""
    base = Path(f"/proc/{pid}")
    try:
        text = (base / "stat").read_text(errors="replace")
        uid = base.stat().st_uid
        command = (base / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        channel = (base / "wchan").read_text(errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")
    f = rest.split()
    name = head.partition("(")[2]
    return Process(
        pid=pid, ppid=int(f[1]), pgid=int(f[2]), sid=int(f[3]), tty=int(f[4]),
        foreground=int(f[5]), state=f[0], name=name, uid=uid,
        command=command.strip() or f"[{name}]",
        ticks=int(f[11]) + int(f[12]), started=boot + int(f[19]) / _TICKS, vsize=int(f[20]),
        rss=int(f[21]) * _PAGE, nice=int(f[16]), priority=int(f[15]), threads=int(f[17]),
        flags=int(f[6]), processor=int(f[36]), sleeps_in="" if channel == "0" else channel,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _bsd_clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _start(p: Process) -> str:
    at = time.localtime(p.started)
    if time.time() - p.started < 86400:
        return time.strftime("%H:%M", at)
    return time.strftime("%b%d" if time.time() - p.started < 86400 * 365 else "%Y", at)


def _tty(p: Process) -> str:
    if not p.tty:
        return "?"
    major, minor = os.major(p.tty), os.minor(p.tty)
    return f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}"


def _stat(p: Process) -> str:
    """The state with the marks of ps(1), "PROCESS STATE CODES"."""
    marks = {"<": p.nice < 0, "N": p.nice > 0, "s": p.sid == p.pid, "l": p.threads > 1,
             "+": p.tty and p.foreground == p.pgid}  # fmt: skip
    return p.state + "".join(mark for mark, holds in marks.items() if holds)


def _share(p: Process) -> float:
    alive = max(time.time() - p.started, 0.01)
    return p.ticks / _TICKS / alive * 100


@lru_cache(maxsize=1)
def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


Column = tuple[str, Callable[[Process], str]]
_COLUMNS: dict[str, Column] = {
    "uid": ("UID", lambda p: str(p.uid)),
    "user": ("USER", lambda p: _user(p.uid)),
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.ppid)),
    "pgid": ("PGID", lambda p: str(p.pgid)),
    "sid": ("SID", lambda p: str(p.sid)),
    "tpgid": ("TPGID", lambda p: str(p.foreground)),
    "c": ("C", lambda p: str(int(_share(p)))),
    "stime": ("STIME", _start),
    "start": ("START", _start),
    "tty": ("TTY", _tty),
    "time": ("TIME", lambda p: _clock(p.ticks / _TICKS)),
    "etime": ("ELAPSED", lambda p: _clock(time.time() - p.started)),
    "etimes": ("ELAPSED", lambda p: str(int(time.time() - p.started))),
    "cmd": ("CMD", lambda p: p.command),
    "command": ("COMMAND", lambda p: p.command),
    "ucmd": ("CMD", lambda p: p.name),
    "comm": ("COMMAND", lambda p: p.name),
    "stat": ("STAT", _stat),
    "s": ("S", lambda p: p.state),
    "%cpu": ("%CPU", lambda p: f"{_share(p):.1f}"),
    "%mem": ("%MEM", lambda p: f"{p.rss / _memory() * 100:.1f}"),
    "vsz": ("VSZ", lambda p: str(p.vsize >> 10)),
    "rss": ("RSS", lambda p: str(p.rss >> 10)),
    "ni": ("NI", lambda p: str(p.nice)),
    "pri": ("PRI", lambda p: str(p.priority)),
    "nlwp": ("NLWP", lambda p: str(p.threads)),
    "bsdtime": ("TIME", lambda p: _bsd_clock(p.ticks / _TICKS)),
    "f": ("F", lambda p: str(p.flags >> 6 & 7)),
    "sz": ("SZ", lambda p: str(p.vsize // _PAGE)),
    "psr": ("PSR", lambda p: str(p.processor)),
    "addr": ("ADDR", lambda p: "-"),
    "wchan": ("WCHAN", lambda p: p.sleeps_in[:6] or "-"),
    "opri": ("PRI", lambda p: str(p.priority + 60)),
    "euser": ("UID", lambda p: _user(p.uid)),
}
_OTHER_NAMES = {
    "args": "command", "pcpu": "%cpu", "pmem": "%mem", "tname": "tty",
    "tt": "tty", "cputime": "time", "state": "s", "nice": "ni", "vsize": "vsz", "rssize": "rss",
    "thcount": "nlwp", "ruser": "user", "uname": "user", "euid": "uid", "ruid": "uid",
    "start_time": "stime", "session": "sid", "fname": "comm",
}  # fmt: skip
_FULL = ("euser", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_EXTRA_FULL = ("euser", "pid", "ppid", "c", "sz", "rss", "psr", "stime", "tty", "time", "cmd")
_LONG = ("f", "s", "uid", "pid", "ppid", "c", "opri", "ni", "addr", "sz", "wchan", "tty", "time",
         "ucmd")  # fmt: skip
_LONG_FULL = ("f", "s", "euser", "pid", "ppid", "c", "opri", "ni", "addr", "sz", "wchan", "stime",
              "tty", "time", "cmd")  # fmt: skip
_LONG_Y = ("s", "uid", "pid", "ppid", "c", "opri", "ni", "rss", "sz", "wchan", "tty", "time",
           "ucmd")  # fmt: skip
_BSD_LONG = ("f", "uid", "pid", "ppid", "pri", "ni", "vsz", "rss", "wchan", "stat", "tty",
             "bsdtime", "command")  # fmt: skip
_USER = ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command")
_PLAIN = ("pid", "tty", "time", "ucmd")
_BSD = ("pid", "tty", "stat", "bsdtime", "command")
_JOBS = ("pid", "pgid", "sid", "tty", "time", "ucmd")
_BSD_JOBS = ("ppid", "pid", "pgid", "sid", "tty", "tpgid", "stat", "uid", "bsdtime", "command")


async def processes_of(core: Core, container: Container, arguments: str) -> Top:
    """The processes of a container. Raises Conflict when it does not run."""
    record = container.record
    if record.restarting:
        raise Conflict(f"Container {record.id} is restarting, wait until the container is running")
    if not record.running:
        raise Conflict(f"container {record.id} is not running")
    group = cgroup_of(core, container)
    found = await asyncio.to_thread(lambda: table(group.pids(), arguments))
    core.event(container, "top")
    return found


def columns(arguments: str) -> list[Column]:
    """The columns that ps's arguments ask for. Raises InvalidParameter."""
    words = arguments.split()
    chosen: list[Column] = []
    style: tuple[str, ...] = _PLAIN
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        letters = word.lstrip("-")
        if letters.startswith(("o", "eo", "Ao", "axo")) and "o" in letters:
            names = letters.partition("o")[2].removeprefix("=")
            if not names and position < len(words):
                names = words[position]
                position += 1
            chosen += [_column(name) for name in names.split(",") if name]
        elif word == "--format" and position < len(words):
            chosen += [_column(name) for name in words[position].split(",")]
            position += 1
        elif word.startswith("--"):
            raise InvalidParameter(f"ps option {word} is not supported: use -ef, aux or -o")
        else:
            style = _style(word) or style
    return chosen or [_COLUMNS[name] for name in style]


def _style(word: str) -> tuple[str, ...] | None:
    """The columns of a word of options such as ``aux`` (BSD syntax) or ``-ef``; None: it chooses
    none. Raises InvalidParameter."""
    letters = word.lstrip("-")
    if word.startswith("-") and letters not in ("x", "u"):  # ps takes these two as BSD's
        if letters.strip("eAaxwlTjcfFy"):
            raise InvalidParameter(f"ps option {word} is not supported: use -ef, aux or -o")
        if "l" in letters and "f" in letters:
            return _LONG_FULL
        if "l" in letters:
            return _LONG_Y if "y" in letters else _LONG
        if "y" in letters:
            raise InvalidParameter("ps: error: modifier -y without format -l makes no sense")
        if "F" in letters:
            return _EXTRA_FULL
        if "f" in letters:
            return _FULL
        return _JOBS if "j" in letters else None
    if letters.strip("aAcefhjlSTuwxX"):
        raise InvalidParameter("ps: error: unsupported option (BSD syntax)")
    if "u" in letters:
        return _USER
    if "l" in letters:
        return _BSD_LONG
    return _BSD_JOBS if "j" in letters else _BSD


def _column(name: str) -> Column:
    name, equals, title = name.partition("=")
    found = _COLUMNS.get(_OTHER_NAMES.get(name, name))
    if found is None:
        raise InvalidParameter(f'ps: error: unknown user-defined format specifier "{name}"')
    return (title, found[1]) if equals else found


def table(pids: list[int], arguments: str) -> Top:
    """The processes as rows under titles."""
    wanted = columns(arguments or "-ef")
    if not any(title == "PID" for title, _ in wanted):
        raise InvalidParameter("Couldn't find PID field in ps output")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    processes = [process for pid in sorted(pids) if (process := read(pid, boot)) is not None]
    return Top(
        titles=tuple(title for title, _ in wanted),
        processes=tuple(tuple(show(p) for _, show in wanted) for p in processes),
    )
