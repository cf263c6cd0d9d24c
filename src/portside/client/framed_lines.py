"""Splits what a container wrote: out of Docker's frames into pieces, and into lines."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = 8
_STDERR = 2
FRAMED = "application/vnd.docker.multiplexed-stream"
"""Content type of a stream in frames: one byte of stream, three zeros, four of length, data."""


class Frames:
    """Parses frames from pieces of any length."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._fd = 1

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """The frames' contents, as they arrive: 1 (output) or 2 (error), and a piece."""
        view = memoryview(data)
        while view:
            if self._left:
                piece = view[: self._left]
                self._left -= len(piece)
                view = view[len(piece) :]
                yield self._fd, piece
                continue
            wanted = _HEAD - len(self._head)
            self._head += bytes(view[:wanted])
            view = view[wanted:]
            if len(self._head) == _HEAD:
                self._fd = _STDERR if self._head[0] == _STDERR else 1
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""


class Lines:
    """Lines of one stream. ``longest``: bytes after which a line is ended (0: never)."""

    def __init__(self, framed: bool, longest: int = 0) -> None:
        self._frames = Frames() if framed else None
        self._longest = longest
        self._rest = [b"", b""]

    def feed(self, data: bytes) -> Iterator[tuple[str, bool]]:
        """The lines that are complete now, and whether each is of standard error."""
        if self._frames is None:
            yield from self._split(data, False)
            return
        for fd, piece in self._frames.feed(data):
            yield from self._split(bytes(piece), fd == _STDERR)

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
