"""Reading a container's log: tail, since, until, follow; exact while the log is rotated.

The log is Docker's json-file, written by the monitor. ``ID-json.log`` is the newest generation,
``ID-json.log.1`` the one before, and so on; older ones may be ``.gz``. A rotation shifts every name
up by one. So they are opened from the newest to the oldest: one that was shifted meanwhile is met
again, never jumped over, and is known by its first record, whose stamp no other generation has.
While a rotation is under way one name after the other is missing, so a missing name is the end only
when no older one is there.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.kernel.inotify import DirectoryWatch
from portside.model.errors import NotImplementedHere
from portside.model.golang.booleans import parse_bool
from portside.model.golang.timestamps import rfc3339_or_zero
from portside.model.log_drivers import NONE, REMOTE

# -- the files of one log ------------------------------------------------------------------------

PIECE = 256 << 10
_FIRST_LINE = 1 << 20
"""Bytes within which a file's first record ends: 16 KiB of text, escaped, and attributes."""
_GENERATIONS = 1000
_GAPS = 2
"""Names that may be missing in a row without a look at the directory: it may not show a name
that is being changed (readdir(3))."""


class Generation:
    """One open file of a log."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.first = b""
        """The file's first record; empty while the file is empty."""
        self.identify()

    def identify(self) -> bytes:
        """The first record, read once; the file's position stays."""
        if not self.first:
            position = self.file.tell()
            self.file.seek(0)
            line = self.file.readline(_FIRST_LINE)
            self.file.seek(position)
            self.first = line if line.endswith(b"\n") else b""
        return self.first

    def lines(self) -> Iterator[list[bytes]]:
        """All lines, in pieces; a last one without an end too."""
        rest = b""
        while data := self.file.read(PIECE):
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            yield lines
        if rest:
            yield [rest]

    def last_lines(self, count: int) -> list[bytes]:
        """The last ``count`` whole lines; the file's position is then behind them."""
        if isinstance(self.file, _Packed):
            return [line for piece in self.lines() for line in piece if line][-count:]
        end = self.file.seek(0, os.SEEK_END)
        if count <= 0:
            whole = self._whole_until(end)
            self.file.seek(whole)
            return []
        data, position = b"", end
        while position > 0 and data.count(b"\n") <= count:
            step = min(PIECE, position)
            position -= step
            self.file.seek(position)
            data = self.file.read(step) + data
        whole = data.rfind(b"\n") + 1
        self.file.seek(end - (len(data) - whole))
        return data[:whole].split(b"\n")[:-1][-count:]

    def _whole_until(self, end: int) -> int:
        """Offset at which the last whole line ends."""
        position = end
        while position > 0:
            step = min(PIECE, position)
            position -= step
            self.file.seek(position)
            found = self.file.read(step).rfind(b"\n")
            if found >= 0:
                return position + found + 1
        return 0

    def close(self) -> None:
        self.file.close()


class _Packed:
    """Marks a compressed file: it can be read from its beginning only."""


def _unpacked(path: Path) -> BinaryIO:
    import gzip

    class Packed(gzip.GzipFile, _Packed):
        """A gzip file that is known for one."""

    return cast(BinaryIO, Packed(path, "rb"))


def _open(path: Path) -> BinaryIO | None:
    """A generation under its name or its compressed one's; None when there is neither."""
    with suppress(FileNotFoundError):
        return path.open("rb")
    with suppress(FileNotFoundError):
        return _unpacked(path.with_name(f"{path.name}.gz"))
    with suppress(FileNotFoundError):  # compressed between the two looks: .1 → .1.gz is covered,
        return path.open("rb")  # a rotation put a new plain one here
    return None


def _is_older(path: Path, number: int) -> bool:
    """Whether a generation has a higher number."""
    names = (entry.name.removeprefix(f"{path.name}.") for entry in path.parent.iterdir())
    numbers = (name.removesuffix(".gz") for name in names)
    return any(text.isdecimal() and int(text) > number for text in numbers)


def open_generations(path: Path, known: bytes = b"") -> list[Generation]:
    """All generations from the newest down to, without it, the one that begins with ``known``.

    The first in the list is the one that is written to; the list is empty when there is no
    log yet. The caller closes them.
    """
    found: list[Generation] = []
    seen: set[bytes] = set()
    missing = 0
    for number in range(_GENERATIONS):
        file = _open(path.with_name(f"{path.name}.{number}") if number else path)
        if file is None:
            missing += 1
            if missing > _GAPS and not _is_older(path, number):
                break
            continue  # between two renames, or between the last one and the new file
        missing = 0
        generation = Generation(file)
        if known and generation.first == known:
            generation.close()
            break
        if generation.first in seen or (not generation.first and number):
            generation.close()
            continue
        if generation.first:
            seen.add(generation.first)
        found.append(generation)
    return found


# -- one client's request ------------------------------------------------------------------------

_NUMBERS = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsOptions:
    """Query of ``GET /containers/{id}/logs``; times in nanoseconds, 0 for none."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    details: bool = False
    tail: str = "all"

    @property
    def lines(self) -> int | None:
        """Lines to show from the end; None for all, also when ``tail`` is not a number, as in
        Docker."""
        try:
            count = int(self.tail)
        except ValueError:
            return None
        return count if count >= 0 else None


class Entry(msgspec.Struct):
    """One record of the log."""

    log: str = ""
    raw: bytes = b""
    """In place of ``log`` where that would not be exact (the ``local`` driver)."""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


_decode = msgspec.json.Decoder(Entry).decode


def check(container: Container, options: LogsOptions) -> None:
    """Raise when this container's log cannot be read."""
    driver = container.record.host.log_config.type
    if driver == NONE:
        raise NotImplementedHere("configured logging driver does not support reading")
    config = container.record.host.log_config.config or {}
    if driver in REMOTE and parse_bool(config.get("cache-disabled", "false")):
        where = {"journald": "journalctl", "syslog": "the host's syslog tools"}.get(driver)
        raise NotImplementedHere(
            "configured logging driver does not support reading"
            + (f": read it with {where}" if where else "")
        )


def open_logs(
    core: Core, container: Container, options: LogsOptions
) -> tuple[bool, AsyncIterator[bytes]]:
    """Whether there is a terminal, and the log in its framing. Raises NotImplementedHere."""
    check(container, options)
    return container.record.config.tty, read_logs(core, container, options)


async def read_logs(core: Core, container: Container, options: LogsOptions) -> AsyncIterator[bytes]:
    """The log as clients get it: framed unless there is a terminal."""
    reader = _Reader(Path(core.log_path(container.id)), container, options, core.log_watch)
    try:
        async for piece in reader.pieces():
            yield piece
    finally:
        reader.close()


class _Reader:
    """One client's way through a log."""

    def __init__(
        self, path: Path, container: Container, options: LogsOptions, watch: DirectoryWatch
    ) -> None:
        self._path, self._container, self._options = path, container, options
        self._current: Generation | None = None
        self._known = b""
        """First record of the newest generation that was read to its end."""
        self._rest = b""
        self._ended = False
        self._watch, self._stack = watch, ExitStack()
        self._raw = container.record.config.tty

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
        self._stack.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        if self._options.follow:
            # before the first look, so that nothing is missed
            self._changed = self._stack.enter_context(self._watch.changes(self._path.parent))
        if self._options.lines is None:
            async for piece in self._newer(open_generations(self._path)):
                yield piece
        else:
            yield self._render(self._tail(self._options.lines))
        if self._options.follow:
            async for piece in self._follow():
                yield piece

    # -- what is there already ---------------------------------------------------------------

    async def _newer(self, generations: list[Generation]) -> AsyncIterator[bytes]:
        """All of these, from the oldest; the newest stays open where it was read to."""
        older = self._wanted(generations)
        try:
            while len(older) > 1 and not self._ended:
                for lines in older[-1].lines():
                    yield self._render(self._entries(lines))
                    await asyncio.sleep(0)
                older.pop().close()
            if older:
                self._current = older.pop()
        finally:
            for generation in older:
                generation.close()
        while not self._ended and (piece := self._read_on()) is not None:
            yield piece
            await asyncio.sleep(0)

    def _wanted(self, generations: list[Generation]) -> list[Generation]:
        """Without those that ended before ``since``: the next one began before it too."""
        for index, generation in enumerate(generations):
            first = next(self._entries([generation.first]), None)
            if first is not None and rfc3339_or_zero(first.time) < self._options.since_ns:
                for old in generations[index + 1 :]:
                    old.close()
                return generations[: index + 1]
        return generations

    def _tail(self, count: int) -> list[Entry]:
        """The last ``count`` records; the newest file stays open where it was read to."""
        lines: list[bytes] = []
        generations = open_generations(self._path)
        for generation in generations[: 1 if count <= 0 else None]:
            if len(lines) >= count > 0:
                break
            lines = generation.last_lines(count - len(lines)) + lines
        for generation in generations[1:]:
            generation.close()
        if generations:
            self._current = generations[0]
        return list(self._entries(lines))

    def _read_on(self) -> bytes | None:
        """The next records of the newest file; None at its present end."""
        if self._current is None:
            return None
        data = self._current.file.read(PIECE)
        if not data:
            return None
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return self._render(self._entries(lines))

    # -- what comes ------------------------------------------------------------------------------

    async def _follow(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while not self._ended:
            self._changed.clear()
            over = not self._container.record.running
            found = False
            if self._current is None:
                async for fresh in self._newer(open_generations(self._path, self._known)):
                    yield fresh
            while (piece := self._read_on()) is not None:
                found = True
                yield piece
            if self._rotated():
                async for piece in self._catch_up():
                    yield piece
                continue
            if over and not found:
                return
            if over:
                continue
            waits = [loop.create_task(self._changed.wait()),
                     loop.create_task(self._container.exited.wait())]  # fmt: skip
            try:
                timeout = None
                if self._options.until_ns:
                    import time

                    timeout = max(0.0, (self._options.until_ns - time.time_ns()) / 1e9)
                done, _ = await asyncio.wait(
                    waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    return
            finally:
                for task in waits:
                    task.cancel()

    def _rotated(self) -> bool:
        if self._current is None:
            return False
        try:
            return os.fstat(self._current.file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False  # between rename and creation: its creation wakes us

    async def _catch_up(self) -> AsyncIterator[bytes]:
        """The file we read was rotated away: finish it, then whatever is newer."""
        while (piece := self._read_on()) is not None:
            yield piece
        read = self._current
        assert read is not None
        self._current, self._rest = None, b""
        self._known = read.identify() or self._known
        read.close()
        async for piece in self._newer(open_generations(self._path, self._known)):
            yield piece

    # -- records ---------------------------------------------------------------------------------

    def _entries(self, lines: list[bytes]) -> Iterator[Entry]:
        for line in lines:
            if not line:
                continue
            try:
                yield _decode(line)
            except msgspec.MsgspecError:
                continue  # a line cut off by a full disk

    def _render(self, entries: Iterator[Entry] | list[Entry]) -> bytes:
        options, found = self._options, []
        for entry in entries:
            if not (options.stdout if entry.stream == "stdout" else options.stderr):
                continue
            if options.since_ns or options.until_ns:
                at = rfc3339_or_zero(entry.time)
                if at < options.since_ns:
                    continue
                if options.until_ns and at > options.until_ns:
                    self._ended = True
                    break
            before = ""
            if options.details:
                before = f"{_details(entry.attrs)} "
            if options.timestamps:
                before = f"{_padded(entry.time)} {before}"
            data = before.encode() + (entry.raw or entry.log.encode())
            if not self._raw:
                found.append(struct.pack(">BxxxL", _NUMBERS.get(entry.stream, 1), len(data)))
            found.append(data)
        return b"".join(found)


def _padded(stamp: str) -> str:
    """Nine digits of fraction, as Docker prints them."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"


def _details(attributes: dict[str, str]) -> str:
    from urllib.parse import quote_plus as quote

    return ",".join(f"{quote(key)}={quote(value)}" for key, value in sorted(attributes.items()))
