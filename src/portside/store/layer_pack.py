"""A layer's tar, digested and compressed in one pass. In job processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from portside.store.whole_pieces import PIECE, whole_pieces

GZIP_LEVEL = 1
"""ISA-L's level (0 to 3). Level 1 packs about as well as zlib's 4 and is ten times as
fast."""
SAMPLE = 1 << 14
"""Bytes in the middle of a piece that show whether it is worth compressing."""
EACH = 4
"""One of so many pieces has a sample taken to estimate what compression would save."""
ALONE = 1 << 17
"""Bytes of a piece below which it is digested sooner than a thread for that starts."""
_F_SETPIPE_SZ = 1031
"""fcntl(2)"""
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


class Packed(NamedTuple):
    diff_id: str
    digest: str
    """Digest of the compressed bytes; empty when only ``diff_id`` was computed."""
    size: int
    """Bytes of the compressed blob."""
    plain_size: int
    gain: float
    """What compression would save, as a fraction, by samples: measured when only ``diff_id`` is
    computed."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Gzip:
    """gzip members one after the other (RFC 1952): data that does not become smaller is stored,
    which takes a tenth of the time of finding that out for every byte of it."""

    def __init__(self, level: int) -> None:
        from isal import isal_zlib

        self._zlib: Any = isal_zlib
        self._level = level
        self._member: Any = None
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        self._begun = True
        if len(data) >= SAMPLE * 2 and not self._shrinks(data):
            return self._ended() + self._stored(data)
        if self._member is None:
            self._member = self._zlib.compressobj(level=self._level, wbits=31)
        found: bytes = self._member.compress(data)
        return found

    def flush(self) -> bytes:
        return self._ended() if self._begun else self._stored(b"")

    def _shrinks(self, data: bytes) -> bool:
        return _packed_size(_middle(data), self._level) < SAMPLE * 31 // 32

    def _ended(self) -> bytes:
        if self._member is None:
            return b""
        found: bytes = self._member.flush()
        self._member = None
        return found

    def _stored(self, data: bytes) -> bytes:
        """A member of stored blocks (RFC 1951, section 3.2.4)."""
        parts = [_GZIP_HEAD]
        for at in range(0, len(data) or 1, 0xFFFF):
            block = data[at : at + 0xFFFF]
            is_last, size = at + len(block) == len(data), len(block)
            parts += [struct.pack("<BHH", is_last, size, size ^ 0xFFFF), block]
        parts.append(struct.pack("<II", self._zlib.crc32(data), len(data) & 0xFFFFFFFF))
        return b"".join(parts)


def _middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[middle : middle + SAMPLE]


def _packed_size(data: bytes, level: int) -> int:
    from isal import isal_zlib

    state = isal_zlib.compressobj(level=level, wbits=-15)
    return len(state.compress(data)) + len(state.flush())


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
        return _Gzip(GZIP_LEVEL if level is None else level)
    return zlib.compressobj(level, zlib.DEFLATED, 31)


def pack(
    write: Callable[[int], object], target: str, kind: str, level: int | None = None
) -> Packed:
    """Digest the tar that ``write`` writes to a descriptor; with a ``target``, also compress it
    into that new file."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):  # without root there may be a limit
        fcntl.fcntl(writing, _F_SETPIPE_SZ, 1 << 20)
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
    """Reads a tar from a pipe in a thread of its own: the compressors and hashlib release the
    interpreter lock."""

    def __init__(self, source: int, target: str, kind: str, level: int | None) -> None:
        self._source, self._target, self._kind, self._level = source, target, kind, level
        self._plain, self._digest = hashlib.sha256(), hashlib.sha256()
        self._size = self._plain_size = 0
        self._sampled = self._saved = 0
        self.error: Exception | None = None

    def packed(self) -> Packed:
        digest = f"sha256:{self._digest.hexdigest()}" if self._target else ""
        diff_id = f"sha256:{self._plain.hexdigest()}"
        gain = self._saved / self._sampled if self._sampled else 1.0
        return Packed(diff_id, digest, self._size, self._plain_size, gain)

    def run(self) -> None:
        try:
            if self._target:
                with Path(self._target).open("xb", buffering=0) as out:
                    self._compress(out.write)
            else:
                for number, piece in enumerate(whole_pieces(_pieces(self._source))):
                    self._read(piece)
                    if number % EACH == 0:
                        self._sample(piece)
        except Exception as err:
            self.error = err
            while os.read(self._source, PIECE):
                pass  # the writer must not wait for ever

    def _compress(self, write: Callable[[memoryview], int | None]) -> None:
        state = compressor(self._kind, self._level)
        with ThreadPoolExecutor(1) as beside:  # digests while this thread compresses
            for piece in whole_pieces(_pieces(self._source)):
                if len(piece) < ALONE:
                    self._read(piece)
                    self._put(write, state.compress(piece))
                    continue
                digested = beside.submit(self._read, piece)
                self._put(write, state.compress(piece))
                digested.result()
        self._put(write, state.flush())

    def _sample(self, piece: bytes) -> None:
        sample = _middle(piece)
        self._sampled += len(sample)
        self._saved += max(0, len(sample) - _packed_size(sample, GZIP_LEVEL))

    def _read(self, piece: bytes) -> None:
        self._plain.update(piece)
        self._plain_size += len(piece)

    def _put(self, write: Callable[[memoryview], int | None], data: bytes) -> None:
        view = memoryview(data)
        self._digest.update(view)
        self._size += len(view)
        while view:
            view = view[write(view) or 0 :]
