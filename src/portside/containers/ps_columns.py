"""Processes from proc(5), and the columns of ps(1) that show them."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, from ``/proc/PID/stat`` and its neighbours."""

    pid: int
    lwp: int
    """The thread; of a whole process its PID."""
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
    major_faults: int
    code: int
    """Bytes of its program's code."""
    stack: int
    """Address of the bottom of its stack, and below the stack and instruction pointers, which
    the kernel only shows of processes that end."""
    pointers: tuple[int, int]
    policy: int
    """Scheduling policy (sched(7))."""


def read(pid: int, boot: float, lwp: int = 0) -> Process | None:
    """A process, or with ``lwp`` one of its threads; None when it is gone."""
    base = Path(f"/proc/{pid}/task/{lwp}" if lwp else f"/proc/{pid}")
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
        pid=pid, lwp=lwp or pid, ppid=int(f[1]), pgid=int(f[2]), sid=int(f[3]), tty=int(f[4]),
        foreground=int(f[5]), state=f[0], name=name, uid=uid,
        command=command.strip() or f"[{name}]",
        ticks=int(f[11]) + int(f[12]), started=boot + int(f[19]) / _TICKS, vsize=int(f[20]),
        rss=int(f[21]) * _PAGE, nice=int(f[16]), priority=int(f[15]), threads=int(f[17]),
        flags=int(f[6]), processor=int(f[36]), sleeps_in="" if channel == "0" else channel,
        major_faults=int(f[9]), code=int(f[24]) - int(f[23]), stack=int(f[25]),
        pointers=(int(f[26]), int(f[27])), policy=int(f[38]),
    )  # fmt: skip


def threads(pid: int) -> list[int]:
    """IDs of a process's threads, sorted; empty when it is gone."""
    try:
        return sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _base(p: Process) -> str:
    return f"/proc/{p.pid}/task/{p.lwp}"


def _label(p: Process) -> str:
    """Its security label; ``-`` where no security module has one."""
    try:
        return Path(f"{_base(p)}/attr/current").read_text(errors="replace").strip("\0\n") or "-"
    except OSError:
        return "-"


def _signals(name: str) -> Callable[[Process], str]:
    """A signal set of ``/proc/PID/status``, in hexadecimal digits."""

    def show(p: Process) -> str:
        try:
            lines = Path(f"{_base(p)}/status").read_text(errors="replace").splitlines()
        except OSError:
            return "-"
        return next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "-")

    return show


_POLICIES = {0: "TS", 1: "FF", 2: "RR", 3: "B", 5: "IDL", 6: "DLN"}


@lru_cache(maxsize=256)
def user(uid: int) -> str:
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
COLUMNS: dict[str, Column] = {
    "lwp": ("LWP", lambda p: str(p.lwp)),
    "spid": ("SPID", lambda p: str(p.lwp)),
    "label": ("LABEL", _label),
    "cls": ("CLS", lambda p: _POLICIES.get(p.policy, "?")),
    "cpri": ("PRI", lambda p: str(39 - p.priority)),
    "majflt": ("MAJFL", lambda p: str(p.major_faults)),
    "trs": ("TRS", lambda p: str(p.code >> 10)),
    "drs": ("DRS", lambda p: str((p.vsize - p.code) >> 10)),
    "stackp": ("STACKP", lambda p: f"{p.stack:016x}"),
    "esp": ("ESP", lambda p: f"{p.pointers[0]:016x}"),
    "eip": ("EIP", lambda p: f"{p.pointers[1]:016x}"),
    "tmout": ("TMOUT", lambda p: "-"),
    "alarm": ("ALARM", lambda p: "-"),
    "pending": ("PENDING", _signals("SigPnd")),
    "blocked": ("BLOCKED", _signals("SigBlk")),
    "ignored": ("IGNORED", _signals("SigIgn")),
    "caught": ("CAUGHT", _signals("SigCgt")),
    "uid": ("UID", lambda p: str(p.uid)),
    "user": ("USER", lambda p: user(p.uid)),
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
    "euser": ("UID", lambda p: user(p.uid)),
}
OTHER_NAMES = {
    "args": "command", "pcpu": "%cpu", "pmem": "%mem", "tname": "tty",
    "tt": "tty", "cputime": "time", "state": "s", "nice": "ni", "vsize": "vsz", "rssize": "rss",
    "thcount": "nlwp", "ruser": "user", "uname": "user", "euid": "uid", "ruid": "uid",
    "start_time": "stime", "tid": "lwp", "class": "cls", "policy": "cls", "maj_flt": "majflt",
    "context": "label", "sig": "pending", "sigmask": "blocked", "sigignore": "ignored",
    "sigcatch": "caught", "session": "sid", "fname": "comm",
}  # fmt: skip
