"""``docker top``: a container's processes from proc(5), with the columns of ps(1).

The usual ways to ask are understood: ``-ef`` (the default), ``aux``, the other formats of ps,
threads, and columns of one's own by ``-o``. No ps program is executed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.processes import cgroup_of
from portside.containers.ps_columns import (
    COLUMNS,
    OTHER_NAMES,
    Column,
    Process,
    read,
    threads,
    user,
)
from portside.model.containerstate import Top
from portside.model.errors import Conflict, InvalidParameter, SystemFailure

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
_VIRTUAL = ("pid", "tty", "stat", "bsdtime", "majflt", "trs", "drs", "rss", "%mem", "command")
_SIGNALS = ("uid", "pid", "pending", "blocked", "ignored", "caught", "stat", "tty", "bsdtime",
            "command")  # fmt: skip
_REGISTERS = ("pid", "stackp", "esp", "eip", "tmout", "alarm", "stat", "tty", "bsdtime", "command")
_OF_BOTH = frozenset(("uid", "time", "bsdtime", "pending"))
_OF_THREADS = frozenset(("stat", "s", "lwp", "spid", "blocked", "ignored", "caught", "cls"))
"""With ``m``, a process and its threads have lines of their own; other columns are of processes."""


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


@dataclass(slots=True)
class _Options:
    """What ps's arguments ask for."""

    chosen: list[str] = field(default_factory=list)
    """Columns by ``-o``, with ``=TITLE`` where it was given."""
    bsd: str = ""
    """Letters of BSD syntax."""
    letters: str = ""
    """Letters of UNIX syntax."""
    is_bsd: bool = False
    forest: bool = False
    sort: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    @property
    def per_thread(self) -> bool:
        """A line for each thread instead of each process."""
        return bool(set(self.letters) & set("LT")) or "H" in self.bsd

    @property
    def with_threads(self) -> bool:
        """Lines for the threads after the one of their process."""
        return "m" in self.letters or "m" in self.bsd


_VALUED = {"C": "commands", "u": "users", "U": "users", "o": "chosen"}
_LONG_VALUED = {
    "--sort": "sort", "--format": "chosen", "--user": "users", "--User": "users",
    "--cols": "", "--columns": "", "--width": "", "--rows": "", "--lines": "",
}  # fmt: skip


_ALSO_BSD = ("-x", "-u", "-aux", "-auxw", "-auxww")
"""Words that ps reads as BSD syntax all the same."""


def parse(arguments: str) -> _Options:
    """Read ps's arguments. Raises InvalidParameter for what is not supported."""
    found, words = _Options(), deque(arguments.split())
    while words:
        word = words.popleft()
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if word == "--forest":
                found.forest = True
            elif name in _LONG_VALUED:
                value = value if equals else _next(words)
                if _LONG_VALUED[name]:
                    getattr(found, _LONG_VALUED[name]).extend(value.split(","))
            else:
                raise _unsupported(word)
        elif word == "-u" and words and not words[0].startswith("-"):
            found.users.extend(words.popleft().split(","))
        elif word.startswith("-") and word not in _ALSO_BSD:
            _unix(found, word, words)
        else:
            _bsd(found, word.lstrip("-"), words)
    return found


def _next(words: deque[str]) -> str:
    return words.popleft() if words else ""


def _unsupported(word: str) -> InvalidParameter:
    return InvalidParameter(f"ps option {word} is not supported: use -ef, aux or -o")


def _unix(found: _Options, word: str, words: deque[str]) -> None:
    for at, letter in enumerate(word[1:], 1):
        if letter in _VALUED:
            value = word[at + 1 :].removeprefix("=") or _next(words)
            getattr(found, _VALUED[letter]).extend(filter(None, value.split(",")))
            return
        if letter not in "eAadwlLTjcfFyHmMZ":
            raise _unsupported(word)
        found.letters += letter
    if "y" in found.letters and "l" not in found.letters:
        raise InvalidParameter("ps: error: modifier -y without format -l makes no sense")


def _bsd(found: _Options, letters: str, words: deque[str]) -> None:
    found.is_bsd = True
    for at, letter in enumerate(letters):
        if letter == "o":
            value = letters[at + 1 :].removeprefix("=") or _next(words)
            found.chosen.extend(filter(None, value.split(",")))
            return
        if letter not in "aAcefghHjlmnsSTuvwxXZ":
            raise InvalidParameter("ps: error: unsupported option (BSD syntax)")
        found.bsd += letter
    found.forest = found.forest or "f" in letters


def _style(options: _Options) -> list[str]:
    """The columns of the format that the letters choose."""
    if options.is_bsd:
        formats = {"u": _USER, "l": _BSD_LONG, "j": _BSD_JOBS, "v": _VIRTUAL, "s": _SIGNALS,
                   "X": _REGISTERS}  # fmt: skip
        style = next((formats[letter] for letter in formats if letter in options.bsd), _BSD)
    else:
        style = _unix_style(options.letters)
    names = list(style)
    if options.is_bsd and "c" in options.bsd:
        names = ["comm" if name == "command" else name for name in names]
    if "L" in options.letters:
        after = next(name for name in ("ppid", "sid", "pid") if name in names)
        names.insert(names.index(after) + 1, "lwp")
        if "l" not in options.letters and "c" in names:
            names.insert(names.index("c") + 1, "nlwp")
    if "T" in options.letters:
        names.insert(names.index("pid") + 1, "spid")
    if "c" in options.letters:
        at = names.index("c") if "c" in names else names.index("pid") + 1
        names[at : at + ("c" in names)] = ["cls", "cpri"]
    if set("MZ") & set(options.letters) or "Z" in options.bsd:
        names.insert(0, "label")
    return names


def _unix_style(letters: str) -> tuple[str, ...]:
    if "l" in letters:
        if "f" in letters:
            return _LONG_FULL
        return _LONG_Y if "y" in letters else _LONG
    if "F" in letters:
        return _EXTRA_FULL
    if "f" in letters:
        return _FULL
    return _JOBS if "j" in letters else _PLAIN


def _named(text: str) -> tuple[str, Column]:
    """Name and column of ``NAME`` or ``NAME=TITLE``."""
    name, equals, title = text.partition("=")
    key = OTHER_NAMES.get(name, name)
    found = COLUMNS.get(key)
    if found is None:
        raise InvalidParameter(f'ps: error: unknown user-defined format specifier "{name}"')
    return key, (title, found[1]) if equals else found


def table(pids: list[int], arguments: str) -> Top:
    """The processes as rows under titles. Raises InvalidParameter, and SystemFailure when a
    choice of commands or users leaves none."""
    options = parse(arguments or "-ef")
    wanted = [_named(name) for name in options.chosen or _style(options)]
    if not any(title == "PID" for _, (title, _) in wanted):
        raise InvalidParameter("Couldn't find PID field in ps output")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = [process for pid in sorted(pids) if (process := read(pid, boot)) is not None]
    found = [process for process in found if _is_chosen(process, options)]
    if not found and (options.commands or options.users):
        raise SystemFailure("ps: exit status 1")
    if options.forest:
        found = list(_by_parent(found))
    for key in reversed(options.sort):
        _, (_, show) = _named(key.lstrip("+-"))
        found.sort(key=_sort_key(show), reverse=key.startswith("-"))
    rows = [row for process in found for row in _rows(process, options, wanted, boot)]
    return Top(titles=tuple(title for _, (title, _) in wanted), processes=tuple(rows))


def _is_chosen(p: Process, options: _Options) -> bool:
    if options.commands and p.name not in options.commands:
        return False
    return not options.users or user(p.uid) in options.users or str(p.uid) in options.users


def _sort_key(show: Callable[[Process], str]) -> Callable[[Process], tuple[float, str]]:
    def key(p: Process) -> tuple[float, str]:
        text = show(p)
        try:
            return float(text), text
        except ValueError:
            return 0.0, text

    return key


def _by_parent(processes: Sequence[Process]) -> Iterator[Process]:
    """Each process before its children."""
    known = {p.pid for p in processes}
    waiting = [p for p in reversed(processes) if p.ppid not in known]
    while waiting:
        process = waiting.pop()
        yield process
        waiting += [p for p in reversed(processes) if p.ppid == process.pid]


def _rows(
    p: Process, options: _Options, wanted: Sequence[tuple[str, Column]], boot: float
) -> Iterator[tuple[str, ...]]:
    if options.per_thread:
        for lwp in threads(p.pid):
            if (thread := read(p.pid, boot, lwp)) is not None:
                yield tuple(_cell(thread, name, show, options) for name, (_, show) in wanted)
        return
    if not options.with_threads:
        yield tuple(_cell(p, name, show, options) for name, (_, show) in wanted)
        return
    yield tuple(
        "-" if name in _OF_THREADS else _cell(p, name, show, options) for name, (_, show) in wanted
    )
    for lwp in threads(p.pid):
        if (thread := read(p.pid, boot, lwp)) is not None:
            yield tuple(
                show(thread) if name in _OF_BOTH | _OF_THREADS else "-"
                for name, (_, show) in wanted
            )


def _cell(p: Process, name: str, show: Callable[[Process], str], options: _Options) -> str:
    """In a forest every command has a branch: the container's first process is a child, too."""
    text = show(p)
    return f"\\_ {text}" if options.forest and name in ("cmd", "command", "ucmd", "comm") else text
