"""Compressed streams as pieces of plain bytes, with the digest of what came out.

Reading, inflating and hashing run in two threads behind the consumer: the C code of isal,
zstandard and hashlib releases the interpreter lock, so one core inflates while another
writes files.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

from portside.model.errors import InvalidParameter, PortsideError, SystemFailure

PIECE = 1 << 19
"""Bytes of one piece of plain data."""
DEPTH = 8
"""Pieces that may wait between two threads."""

GZIP, ZSTD, XZ, BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"


def detect(head: bytes) -> str:
    """The compression a stream's first bytes show: gzip, zstd, xz, bzip2 or "" for none."""
    found = {GZIP: "gzip", ZSTD: "zstd", XZ: "xz", BZIP2: "bzip2"}
    if head.startswith(b"\x50\x2a\x4d\x18"):  # a skippable frame first (zstd:chunked)
        return "zstd"
    return next((name for magic, name in found.items() if head.startswith(magic)), "")


def plain(source: BinaryIO, compression: str = "auto") -> Iterator[bytes]:
    """The plain bytes of ``source``, piece by piece, in this thread.

    InvalidParameter when the stream is damaged or truncated. ``auto`` looks at the first
    bytes; so does every named compression when it does not fit, since registries hold
    layers whose media type lies (Docker looks at the bytes, too).
    """
    head = source.read(8)
    name = detect(head)
    if compression not in ("auto", "", name) and not name:
        name = ""  # promised compressed, and is not
    stream = _Prefixed(head, source)
    try:
        if name == "gzip":
            yield from _gzip(stream)
        elif name == "zstd":
            yield from _zstd(stream)
        elif name in ("xz", "bzip2"):
            yield from _rare(stream, name)
        else:
            while piece := stream.read(PIECE):
                yield piece
    except PortsideError:
        raise
    except OSError as err:
        if err.errno is None:  # gzip's BadGzipFile
            raise InvalidParameter(f"damaged {name} stream: {err}") from err
        raise SystemFailure(f"cannot read the layer: {err}") from err
    except Exception as err:
        raise InvalidParameter(f"damaged {name or 'plain'} stream: {err}") from err


class _Prefixed:
    """A file with some bytes put back in front."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head + self._file.read(max(0, size - len(head)))
        return self._file.read(size)


def _gzip(stream: _Prefixed) -> Iterator[bytes]:
    """RFC 1952, any number of members; zero padding after them is ignored."""
    from isal import isal_zlib

    state = isal_zlib.decompressobj(wbits=31)
    fed = False
    while data := stream.read(1 << 18):
        while data:
            if state.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                state, fed = isal_zlib.decompressobj(wbits=31), False
            fed = True
            out = state.decompress(data, PIECE)
            data = state.unused_data if state.eof else state.unconsumed_tail
            if out:
                yield out
    while fed and not state.eof:
        out = state.decompress(b"", PIECE)
        if not out:
            raise InvalidParameter("truncated gzip stream")
        yield out


def _zstd(stream: _Prefixed) -> Iterator[bytes]:
    import zstandard

    # 128 MiB of window is what `zstd --ultra` and the CLI's default decoder allow
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        stream,  # type: ignore[arg-type]
        read_across_frames=True,
        closefd=False,
    )
    while piece := reader.read(PIECE):
        yield piece
    if stream.read(1):
        raise InvalidParameter("truncated zstd stream")


def _rare(stream: _Prefixed, name: str) -> Iterator[bytes]:
    """xz and bzip2: `docker load` and `import` take them."""
    import bz2
    import lzma

    new: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor]
    new = lzma.LZMADecompressor if name == "xz" else bz2.BZ2Decompressor
    state = new()
    while data := stream.read(1 << 18):
        while data:
            if state.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                state = new()
            out = state.decompress(data, PIECE)
            data = state.unused_data if state.eof else b""
            if out:
                yield out
            while not state.eof and not state.needs_input:
                if out := state.decompress(b"", PIECE):
                    yield out
            data = data or (state.unused_data if state.eof else b"")
    if not state.eof:
        raise InvalidParameter(f"truncated {name} stream")


class Pipeline:
    """Plain pieces of a compressed file, made ahead by threads, and their digest.

    An iterator; after its end ``hexdigest`` is that of all the plain bytes. ``limit`` bounds
    them. The threads are daemons of a worker process: they end with it.
    """

    def __init__(self, file: BinaryIO, compression: str, algorithm: str, limit: int) -> None:
        self._file, self._limit = file, limit
        self._hash = hashlib.new(algorithm)
        self._hashing: queue.Queue[bytes | BaseException | None] = queue.Queue(DEPTH)
        self._ready: queue.Queue[bytes | BaseException | None] = queue.Queue(DEPTH)
        threading.Thread(target=self._inflate, args=(compression,), daemon=True).start()
        threading.Thread(target=self._digest, daemon=True).start()

    def _inflate(self, compression: str) -> None:
        try:
            total = 0
            for piece in plain(self._file, compression):
                total += len(piece)
                if total > self._limit:
                    raise InvalidParameter(
                        f"the archive is larger than the {self._limit} bytes allowed"
                    )
                self._hashing.put(piece)
            self._hashing.put(None)
        except BaseException as err:
            self._hashing.put(err)

    def _digest(self) -> None:
        while isinstance(piece := self._hashing.get(), bytes):
            self._ready.put(piece)
            self._hash.update(piece)
        self._ready.put(piece)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._ready.get()
        if isinstance(piece, bytes):
            return piece
        self._ready.put(piece)  # asked again: the same answer
        if piece is None:
            raise StopIteration
        raise piece

    def position(self) -> int:
        """Bytes of the compressed file read so far."""
        return os.lseek(self._file.fileno(), 0, os.SEEK_CUR)

    def hexdigest(self) -> str:
        """Digest of all decompressed bytes; valid after the iterator has ended."""
        return self._hash.hexdigest()
