"""The files of one log, opened so that none is missed or read twice while they are rotated.

``ID-json.log`` is the newest generation, ``ID-json.log.1`` the one before, and so on; older
ones may be ``.gz``. A rotation shifts every name up by one. So they are opened from the newest
to the oldest: one that was shifted meanwhile is met again, never jumped over, and is known by
its first record, whose stamp no other generation has. While a rotation is under way one name
after the other is missing, so a missing name is the end only when no older one is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from portside.kernel.inotify import (
    IN_CREATE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Inotify,
)

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


class LogWatch:
    """Used from the event loop only. The inotify instance exists while a client follows."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._followers: dict[int, set[asyncio.Event]] = {}
        """Followers by watch descriptor."""

    @contextmanager
    def changes(self, directory: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever a file in ``directory`` is written, made or renamed, and
        when the directory is gone. The caller clears it."""
        changed = asyncio.Event()
        if self._inotify is None:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable)
        try:
            watch = self._inotify.watch(str(directory), IN_MODIFY | IN_CREATE | IN_MOVED_TO)
            self._followers.setdefault(watch, set()).add(changed)
            try:
                yield changed
            finally:
                self._leave(watch, changed)
        finally:
            self._rest()

    def _leave(self, watch: int, changed: asyncio.Event) -> None:
        followers = self._followers.get(watch)
        if followers is None or changed not in followers:
            return  # the kernel has dropped the watch with the directory
        followers.discard(changed)
        if not followers:
            del self._followers[watch]
            assert self._inotify is not None
            self._inotify.unwatch(watch)

    def _rest(self) -> None:
        """Close the inotify instance when no client follows any more."""
        if self._inotify is not None and not self._followers:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _readable(self) -> None:
        assert self._inotify is not None
        for watch, mask, _ in self._inotify.read():
            if mask & IN_Q_OVERFLOW:  # events were lost: wake every follower
                wakened = {event for followers in self._followers.values() for event in followers}
            elif mask & IN_IGNORED:
                wakened = self._followers.pop(watch, set())
            else:
                wakened = self._followers.get(watch, set())
            for changed in wakened:
                changed.set()
