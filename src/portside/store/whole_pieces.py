"""Streams cut again into pieces of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

PIECE = 1 << 19


def whole_pieces(pieces: Iterable[bytes], size: int = PIECE) -> Iterator[bytes]:
    """The same bytes in pieces of ``size`` bytes, the last one shorter.

    What a compressor writes depends on where its input is cut, and a pipe cuts anywhere: only so
    do the same bytes give the same blob.
    """
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        while length + len(piece) >= size:
            head, piece = piece[: size - length], piece[size - length :]
            yield b"".join([*held, head]) if held else head
            held, length = [], 0
        if piece:
            held.append(piece)
            length += len(piece)
    if held:
        yield b"".join(held)
