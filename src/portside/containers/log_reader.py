"""Reading a container's log: tail, since, until, follow; exact while the log is rotated.

The log is Docker's json-file, written by the monitor; which files it is made of, see
``portside.containers.log_files``.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portside.containers.container import Container
from portside.containers.core import Core
from portside.containers.log_files import PIECE, Generation, LogWatch, open_generations
from portside.model.errors import NotImplementedHere
from portside.model.golang.timestamps import rfc3339_or_zero

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
    if driver == "none":
        raise NotImplementedHere("configured logging driver does not support reading")
    config = container.record.host.log_config.config or {}
    if driver in ("syslog", "journald") and config.get("cache-disabled") == "true":
        raise NotImplementedHere(
            f"configured logging driver does not support reading: read it with the host's "
            f"{'journalctl' if driver == 'journald' else 'syslog'} tools"
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
        self, path: Path, container: Container, options: LogsOptions, watch: LogWatch
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
