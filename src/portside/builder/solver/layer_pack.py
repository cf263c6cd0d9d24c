"""A layer's tar, digested and compressed in one pass. In job processes."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from portside.store.whole_pieces import PIECE, whole_pieces

GZIP_LEVEL = 1
"""Of ISA-L, which has levels 0 to 3; this one packs about as well as zlib's 4 and ten times as
fast."""


class Packed(NamedTuple):
    diff_id: str
    digest: str
    """Of the compressed bytes; empty when only digested."""
    size: int
    """Bytes of the compressed blob."""
    plain_size: int


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: str, level: int | None) -> _Compressor:
    """For gzip, zstd or uncompressed; the same bytes give the same bytes."""
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3 if level is None else level).compressobj()
    if kind == "uncompressed":
        return _Plain()
    if level is None or level <= GZIP_LEVEL:
        from isal import isal_zlib

        found: Any = isal_zlib.compressobj(level=GZIP_LEVEL if level is None else level, wbits=31)
        return found  # type: ignore[no-any-return]
    return zlib.compressobj(level, zlib.DEFLATED, 31)


def pack(
    write: Callable[[int], object], target: str, kind: str, level: int | None = None
) -> Packed:
    """Digest the tar that ``write`` writes to a descriptor; with a ``target``, also compress it
    into that new file."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sink = _Sink(reading, target, kind, level)
    thread = threading.Thread(target=sink.run)
    thread.start()
    try:
        write(writing)
    finally:
        os.close(writing)
        thread.join()
        os.close(reading)
    if sink.error is not None:
        raise sink.error
    return sink.packed()


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, PIECE):
        yield piece


class _Sink:
    """Reads a tar from a pipe in a thread of its own: the compressors and hashlib let go of the
    interpreter lock."""

    def __init__(self, source: int, target: str, kind: str, level: int | None) -> None:
        self._source, self._target, self._kind, self._level = source, target, kind, level
        self._plain, self._digest = hashlib.sha256(), hashlib.sha256()
        self._size = self._plain_size = 0
        self.error: Exception | None = None

    def packed(self) -> Packed:
        digest = f"sha256:{self._digest.hexdigest()}" if self._target else ""
        diff_id = f"sha256:{self._plain.hexdigest()}"
        return Packed(diff_id, digest, self._size, self._plain_size)

    def run(self) -> None:
        try:
            if self._target:
                with Path(self._target).open("xb", buffering=0) as out:
                    self._compress(out.write)
            else:
                for piece in whole_pieces(_pieces(self._source)):
                    self._read(piece)
        except Exception as err:
            self.error = err
            while os.read(self._source, PIECE):
                pass  # the writer must not wait for ever

    def _compress(self, write: Callable[[memoryview], int | None]) -> None:
        state = compressor(self._kind, self._level)
        for piece in whole_pieces(_pieces(self._source)):
            self._read(piece)
            self._put(write, state.compress(piece))
        self._put(write, state.flush())

    def _read(self, piece: bytes) -> None:
        self._plain.update(piece)
        self._plain_size += len(piece)

    def _put(self, write: Callable[[memoryview], int | None], data: bytes) -> None:
        view = memoryview(data)
        self._digest.update(view)
        self._size += len(view)
        while view:
            view = view[write(view) or 0 :]
