"""The files of one log, opened so that none is missed or read twice while they are rotated.

``ID-json.log`` is the newest generation, ``ID-json.log.1`` the one before, and so on; older
ones may be ``.gz``. A rotation shifts every name up by one. So they are opened from the newest
to the oldest: one that was shifted meanwhile is met again, never jumped over, and is known by
its first record, whose stamp no other generation has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

PIECE = 256 << 10
_FIRST_LINE = 1 << 20
"""Bytes within which a file's first record ends: 16 KiB of text, escaped, and attributes."""
_GENERATIONS = 1000


class Generation:
    """One open file of a log."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.first = b""
        """Its first record; empty while there is none."""
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
        """Where the last whole line ends."""
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


def open_generations(path: Path, known: bytes = b"") -> list[Generation]:
    """All generations from the newest down to, without it, the one that begins with ``known``.

    The first in the list is the one that is written to; the list is empty when there is no
    log yet. The caller closes them.
    """
    found: list[Generation] = []
    seen: set[bytes] = set()
    for number in range(_GENERATIONS):
        file = _open(path.with_name(f"{path.name}.{number}") if number else path)
        if file is None:
            if number:
                break
            continue  # between the rename and the new file
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
