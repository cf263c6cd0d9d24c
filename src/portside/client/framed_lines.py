"""Splits what a container wrote into lines, out of Docker's frames or a terminal's plain bytes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = 8
_STDERR = 2
FRAMED = "application/vnd.docker.multiplexed-stream"
"""Content type of a stream in frames: one byte of stream, three zeros, four of length, data."""


class Lines:
    """Lines of one stream. ``longest``: bytes after which a line is ended (0: never)."""

    def __init__(self, framed: bool, longest: int = 0) -> None:
        self._framed, self._longest = framed, longest
        self._head = b""
        self._left = 0
        self._rest = [b"", b""]
        self._is_error = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bool]]:
        """The lines that are complete now, and whether each is of standard error."""
        if not self._framed:
            yield from self._split(data, False)
            return
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield from self._split(piece, self._is_error)
                continue
            wanted = _HEAD - len(self._head)
            self._head, data = self._head + data[:wanted], data[wanted:]
            if len(self._head) == _HEAD:
                self._is_error = self._head[0] == _STDERR
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""

    def _split(self, data: bytes, is_error: bool) -> Iterator[tuple[str, bool]]:
        *whole, rest = (self._rest[is_error] + data).split(b"\n")
        while self._longest and len(rest) > self._longest:
            whole.append(rest[: self._longest])
            rest = rest[self._longest :]
        self._rest[is_error] = rest
        for line in whole:
            yield _text(line), is_error

    def end(self) -> Iterator[tuple[str, bool]]:
        """Lines that have no end."""
        for is_error, rest in zip((False, True), self._rest, strict=True):
            if rest:
                yield _text(rest), is_error


def _text(line: bytes) -> str:
    return line.decode(errors="replace").removesuffix("\r")
