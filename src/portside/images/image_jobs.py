"""Work on archives in the store's job processes: packing a layer, spooling an archive."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from portside.store.archive_values import Limits
from portside.store.whole_pieces import whole_pieces
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from portside.store.tar_format import Entry
    from portside.store.tar_reader import TarReader

_REPORT = 4 << 20


class Packed(msgspec.Struct, frozen=True):
    """A layer tar that was compressed into a file."""

    diff_id: str
    digest: str
    size: int
    """Bytes of the compressed file."""
    plain_size: int


class PackLayer(Job, kw_only=True):
    """Read a tar from the first descriptor (compressed or not), write gzip to ``target``.

    The same tar gives the same bytes: no time, no name, one level. Everything up to the end
    of the stream counts for the digests, as it does for Docker.
    """

    result: ClassVar[type] = Packed
    heavy: ClassVar[bool] = False  # must run beside the job that writes its input
    target: str
    limits: Limits
    algorithm: str = "sha256"

    def run(self, fds: list[int], progress: Callable[[int], None]) -> Packed:
        from portside.store.decompress import Pipeline

        with open(fds[0], "rb", buffering=0, closefd=True) as source:
            pieces = Pipeline(source, "auto", self.algorithm, self.limits.stream)
            with Path(self.target).open("xb") as out:
                digest, size, plain_size = _compress(pieces, out.write, progress)
        return Packed(f"{self.algorithm}:{pieces.hexdigest()}", digest, size, plain_size)


def _compress(
    pieces: Iterator[bytes], write: Callable[[bytes], object], progress: Callable[[int], None]
) -> tuple[str, int, int]:
    from isal import isal_zlib

    state = isal_zlib.compressobj(level=1, wbits=31)
    hasher = hashlib.sha256()
    size = plain = reported = 0
    for piece in whole_pieces(pieces):
        plain += len(piece)
        packed = state.compress(piece)
        if packed:
            hasher.update(packed)
            write(packed)
            size += len(packed)
        if plain - reported >= _REPORT:
            reported = plain
            progress(plain)
    packed = state.flush()
    hasher.update(packed)
    write(packed)
    return f"sha256:{hasher.hexdigest()}", size + len(packed), plain


class Member(msgspec.Struct, frozen=True):
    """One file of a spooled archive."""

    name: str
    """Without ``./``; never climbing."""
    file: str = ""
    """The member's file name in the spool directory; empty for a link."""
    size: int = 0
    digest: str = ""
    compression: str = ""
    link: str = ""
    """Name of the member this is a link to."""


class SpoolArchive(Job, kw_only=True):
    """Read an archive (compressed or not) from the first descriptor into a directory.

    Members become files ``0``, ``1``, …, whatever their names: nothing in the archive decides
    a path. Returns them in order.
    """

    result: ClassVar[object] = list[Member]
    heavy: ClassVar[bool] = False
    directory: str
    limits: Limits

    def run(self, fds: list[int], progress: Callable[[int], None]) -> list[Member]:
        from portside.store.decompress import Pipeline
        from portside.store.tar_reader import TarReader

        with open(fds[0], "rb", buffering=0, closefd=True) as source:
            pieces = Pipeline(source, "auto", "sha256", self.limits.stream)
            reader = TarReader(pieces, self.limits)
            members = []
            for number, entry in enumerate(reader):
                member = self._take(entry, reader, number)
                if member is not None:
                    members.append(member)
                progress(number)
            return members

    def _take(self, entry: Entry, reader: TarReader, number: int) -> Member | None:
        from portside.model.errors import InvalidParameter
        from portside.store import tar_format as tar

        name = member_name(entry.name)
        if entry.type == tar.REGTYPE and entry.extents is None:
            return self._file(name, reader, str(number))
        if entry.type == tar.REGTYPE:
            raise InvalidParameter(f"invalid archive: {name!r} is a sparse file")
        if entry.type == tar.SYMTYPE:
            target = posixpath.join(posixpath.dirname(name), os.fsdecode(entry.linkname))
            return Member(name, link=member_name(os.fsencode(target)))
        if entry.type == tar.LNKTYPE:
            return Member(name, link=member_name(entry.linkname))
        return None

    def _file(self, name: str, reader: TarReader, file: str) -> Member:
        from portside.store.decompress import detect

        algorithm = "sha512" if name.startswith("blobs/sha512/") else "sha256"
        hasher, size, head = hashlib.new(algorithm), 0, b""
        with Path(self.directory, file).open("xb", buffering=0) as out:
            for view in reader.data():
                if len(head) < 8:
                    head += bytes(view[:8])
                hasher.update(view)
                size += len(view)
                left = view
                while left:
                    left = left[out.write(left) or 0 :]
        return Member(name, file, size, f"{algorithm}:{hasher.hexdigest()}", detect(head))


def member_name(name: bytes) -> str:
    """A member's name in one form; InvalidParameter when it leads out of the archive."""
    from portside.model.errors import InvalidParameter

    text = posixpath.normpath(os.fsdecode(name).lstrip("/") or ".")
    if text == ".." or text.startswith("../"):
        raise InvalidParameter(f"unsafe archive: {os.fsdecode(name)!r} leads outside of it")
    return text
