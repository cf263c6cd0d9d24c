"""A streaming tar reader for hostile input: entries in order, their data on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from portside.model.errors import TooLarge
from portside.store import tar_format as tar
from portside.store.archive_values import Limits
from portside.store.tar_format import BLOCK, Entry, Extent, Malformed

_META = (tar.PAX_NEXT, tar.PAX_GLOBAL, tar.GNU_LONGNAME, tar.GNU_LONGLINK)
_PLAIN_SIZES = (tar.REGTYPE, tar.GNU_SPARSE)
_MAX_EXTENTS = 1 << 20


class Source:
    """Exact reads from pieces of bytes that arrive in any sizes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def _next(self) -> bool:
        self._piece, self._at = next(self._pieces, b""), 0
        return bool(self._piece)

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, or fewer at the end of the stream."""
        end = self._at + size
        if end <= len(self._piece):
            data = self._piece[self._at : end]
            self._at = end
            return data
        parts = []
        while size:
            if self._at == len(self._piece) and not self._next():
                break
            part = self._piece[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def views(self, size: int) -> Iterator[memoryview]:
        """``size`` bytes in as few pieces as they come; Malformed at an early end."""
        while size:
            if self._at == len(self._piece) and not self._next():
                raise Malformed("truncated archive: a file's content ends too early")
            view = memoryview(self._piece)[self._at : self._at + size]
            self._at += len(view)
            size -= len(view)
            yield view

    def skip(self, size: int) -> None:
        end = self._at + size
        if end <= len(self._piece):
            self._at = end
            return
        for _ in self.views(size):
            pass

    def drain(self) -> None:
        """Read to the end of the stream, so that its digest is complete."""
        while self._next():
            pass


class TarReader:
    """Iterate over the entries; :meth:`write_data` (or nothing) consumes an entry's data.

    Raises Malformed for what is not a tar, TooLarge beyond ``limits``. Global PAX headers are
    passed over, as Docker does.
    """

    def __init__(self, pieces: Iterator[bytes], limits: Limits | None = None) -> None:
        self.source = Source(pieces)
        self.limits = limits or Limits()
        self._left = 0
        """Bytes of the current entry's data not yet consumed."""
        self._pad = 0
        self._entries = 0
        self._logical = 0

    def __iter__(self) -> Iterator[Entry]:
        while True:
            if self._left or self._pad:
                self.source.skip(self._left + self._pad)
                self._left = self._pad = 0
            entry = self._read()
            if entry is None:
                return
            yield entry

    def write_data(
        self, entry: Entry, fd: int, seen: Callable[[memoryview], None] | None = None
    ) -> None:
        """Write the current entry's data to a new file; holes of sparse files stay holes. ``seen``
        gets the data of a file without holes."""
        if entry.extents is None:
            write = os.write
            for view in self.data():
                if seen is not None:
                    seen(view)
                while view:
                    view = view[write(fd, view) :]
            return
        for offset, length in entry.extents:
            os.lseek(fd, offset, os.SEEK_SET)
            for view in self.source.views(length):
                while view:
                    view = view[os.write(fd, view) :]
            self._left -= length
        os.ftruncate(fd, entry.size)

    def data(self) -> Iterator[memoryview]:
        """The current entry's stored data."""
        left, self._left = self._left, 0
        return self.source.views(left)

    # -- inside --------------------------------------------------------------------------

    def _read(self) -> Entry | None:
        pax: list[tuple[bytes, bytes]] = []
        longname = longlink = None
        extra = 0
        while True:
            block = self.source.take(BLOCK)
            if not block:
                if extra:
                    raise Malformed("truncated archive: it ends after an extended header")
                return None  # some writers leave out the end marks
            if len(block) < BLOCK:
                raise Malformed("truncated archive: it ends within a header")
            if not block[0] and not block.strip(b"\0"):
                return None
            entry = tar.parse_header(block)
            if entry.type not in _META:
                break
            extra += 1
            if extra > 16:
                raise Malformed("malformed archive: too many extended headers in a row")
            data = self._extended(entry)
            if entry.type == tar.PAX_NEXT:
                pax += tar.parse_pax(data)
            elif entry.type == tar.GNU_LONGNAME:
                longname = data.split(b"\0", 1)[0]
            elif entry.type == tar.GNU_LONGLINK:
                longlink = data.split(b"\0", 1)[0]
        if longname is not None:
            entry.name = longname
        if longlink is not None:
            entry.linkname = longlink
        return self._finish(entry, block, pax)

    def _extended(self, entry: Entry) -> bytes:
        if entry.size > self.limits.header:
            raise TooLarge(
                f"an extended header of {entry.size} bytes is larger than "
                f"the {self.limits.header} allowed"
            )
        data = self.source.take(entry.size + tar.padding(entry.size))[: entry.size]
        if len(data) < entry.size:
            raise Malformed("truncated archive: it ends within an extended header")
        return data

    def _finish(self, entry: Entry, block: bytes, pax: list[tuple[bytes, bytes]]) -> Entry:
        sparse = _apply_pax(entry, pax) if pax else None
        if entry.type not in _PLAIN_SIZES:
            # only files have data; a hard link's or directory's size field is a remark
            # (POSIX), except that unknown types are skipped with their data
            entry.stored = entry.size if entry.type not in b"123456" else 0
        self._left = entry.data_size
        self._pad = tar.padding(self._left)
        if entry.type == tar.GNU_SPARSE:
            self._old_sparse(entry, block)
        elif sparse is not None and entry.type == tar.REGTYPE:
            self._pax_sparse(entry, sparse)
        self._bound(entry)
        return entry

    def _bound(self, entry: Entry) -> None:
        limits = self.limits
        self._entries += 1
        self._logical += entry.size
        if self._entries > limits.entries:
            raise TooLarge(f"the archive has more than the {limits.entries} entries allowed")
        if len(entry.name) > limits.name or len(entry.linkname) > limits.name:
            raise TooLarge(f"a name is longer than the {limits.name} bytes allowed")
        if self._left > limits.total or self._logical > limits.logical:
            raise TooLarge(f"the archive's files are larger than the {limits.total} bytes allowed")
        if b"\0" in entry.name or b"\0" in entry.linkname:
            raise Malformed("malformed archive: a name holds a zero byte")

    # -- sparse files (GNU tar's manual, "Storing Sparse Files") -----------------------------

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """The map is in the header and in blocks after it; the real size in the header."""
        entry.stored = entry.size
        entry.size = tar.parse_number(block[483:495])
        pairs = block[386:482]
        more = block[482]
        extents: list[Extent] = []
        while True:
            for at in range(0, len(pairs) - 23, 24):
                if pairs[at]:
                    extents.append(
                        (
                            tar.parse_number(pairs[at : at + 12]),
                            tar.parse_number(pairs[at + 12 : at + 24]),
                        )
                    )
            if not more:
                break
            if len(extents) > _MAX_EXTENTS:
                raise TooLarge("a sparse file has too many pieces")
            pairs = self.source.take(BLOCK)
            if len(pairs) < BLOCK:
                raise Malformed("truncated archive: it ends within a sparse map")
            more, pairs = pairs[504], pairs[:504]
        entry.type = tar.REGTYPE
        self._set_extents(entry, extents)

    def _pax_sparse(self, entry: Entry, sparse: _Sparse) -> None:
        entry.stored = self._left
        entry.size = sparse.size
        if sparse.in_data:
            sparse.numbers = self._map_in_data()
            entry.stored = self._left
        if len(sparse.numbers) % 2:
            raise Malformed("malformed archive: a sparse map has an odd number of values")
        self._set_extents(entry, list(zip(sparse.numbers[::2], sparse.numbers[1::2], strict=True)))

    def _map_in_data(self) -> list[int]:
        """Format 1.0: decimal lines, their count first, padded to a block."""
        data = b""
        wanted = 1
        while data.count(b"\n") < wanted:
            if self._left < BLOCK or len(data) > self.limits.header:
                raise Malformed("malformed archive: a sparse map does not end")
            data += self.source.take(BLOCK)
            self._left -= BLOCK
            if wanted == 1 and b"\n" in data:
                count = tar.parse_decimal(b"GNU.sparse.numblocks", data.split(b"\n", 1)[0])
                if count > _MAX_EXTENTS:
                    raise TooLarge("a sparse file has too many pieces")
                wanted = 1 + 2 * count
        lines = data.split(b"\n")[1:wanted]
        return [tar.parse_decimal(b"GNU.sparse.map", line) for line in lines]

    def _set_extents(self, entry: Entry, extents: list[Extent]) -> None:
        """Check and set extents: sorted, disjoint, within the file, their sum the stored size."""
        end = 0
        for offset, length in extents:
            if offset < end or length < 0:
                raise Malformed(f"malformed archive: the sparse map of {entry.name!r} overlaps")
            end = offset + length
        if end > entry.size or sum(length for _, length in extents) != self._left:
            raise Malformed(f"malformed archive: the sparse map of {entry.name!r} is wrong")
        entry.extents = extents


class _Sparse:
    """The values of GNU.sparse.* records; ``size`` is the file's real size."""

    def __init__(self) -> None:
        self.size = -1
        self.numbers: list[int] = []
        self.in_data = False


def _apply_pax(entry: Entry, pax: list[tuple[bytes, bytes]]) -> _Sparse | None:
    """Apply extended records to an entry; what they say about holes, if anything."""
    sparse: _Sparse | None = None
    major = b""
    for key, value in pax:
        if key.startswith(b"GNU.sparse."):
            sparse = sparse or _Sparse()
            if key == b"GNU.sparse.major":
                major = value
            _sparse_record(entry, sparse, key[11:], value)
        else:
            _record(entry, key, value)
    if sparse is None:
        return None
    if major not in (b"", b"0", b"1"):
        raise Malformed(f"malformed archive: sparse format {major!r} is not known")
    sparse.in_data = major == b"1"
    if sparse.size < 0:
        raise Malformed(f"malformed archive: sparse file {entry.name!r} has no size")
    return sparse


def _record(entry: Entry, key: bytes, value: bytes) -> None:
    if key == b"mtime":
        entry.mtime = tar.parse_time(value)
    elif key == b"path":
        entry.name = value
    elif key == b"linkpath":
        entry.linkname = value
    elif key == b"size":
        entry.size = tar.parse_decimal(key, value)
    elif key == b"uid":
        entry.uid = tar.parse_decimal(key, value)
    elif key == b"gid":
        entry.gid = tar.parse_decimal(key, value)
    elif key == b"atime":
        entry.atime = tar.parse_time(value)
    elif key.startswith(tar.XATTR):
        entry.xattrs[key[len(tar.XATTR) :]] = value
    elif key.startswith(tar.XATTR_LIBARCHIVE):
        _libarchive(entry, key[len(tar.XATTR_LIBARCHIVE) :], value)
    elif key == b"SCHILY.devmajor":
        entry.major = tar.parse_decimal(key, value)
    elif key == b"SCHILY.devminor":
        entry.minor = tar.parse_decimal(key, value)


def _libarchive(entry: Entry, key: bytes, value: bytes) -> None:
    """libarchive writes the name URL-encoded and the value in unpadded base64."""
    from base64 import b64decode
    from urllib.parse import unquote_to_bytes

    try:
        entry.xattrs.setdefault(unquote_to_bytes(key), b64decode(value + b"=" * (-len(value) % 4)))
    except ValueError as err:
        raise Malformed(f"malformed archive: {key!r} is not base64") from err


def _sparse_record(entry: Entry, sparse: _Sparse, key: bytes, value: bytes) -> None:
    if key in (b"size", b"realsize"):
        sparse.size = tar.parse_decimal(key, value)
    elif key in (b"offset", b"numbytes"):
        sparse.numbers.append(tar.parse_decimal(key, value))
    elif key == b"map":
        sparse.numbers = [tar.parse_decimal(key, part) for part in value.split(b",") if part]
    elif key == b"name":
        entry.name = value
