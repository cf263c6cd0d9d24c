"""eStargz: a gzip layer whose files can be fetched one by one. In job processes.

The format is stargz-snapshotter's ``docs/estargz.md``: every file's content, and whatever headers
come before it, begin a gzip member of their own; a table of contents, the file
``stargz.index.json``, is the last entry; a footer of 51 bytes says where it begins.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from portside.builder.layers.layer_values import Converted
from portside.store.layer_pack import compressor

TOC_NAME = "stargz.index.json"
NO_PREFETCH = ".no.prefetch.landmark"
CHUNK = 4 << 20
"""Bytes of a file that make one chunk."""
PIECE = 1 << 20
_KINDS = {
    tarfile.REGTYPE: "reg", tarfile.AREGTYPE: "reg", tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink", tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo",
}  # fmt: skip


class _Output:
    def __init__(self, file: BinaryIO, level: int | None) -> None:
        self._file, self._level = file, level
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()
        self.size = 0
        self._state: Any = None

    def begin(self) -> int:
        """Begin a gzip member here; its offset."""
        self.end()
        self._state = compressor("gzip", self._level)
        return self.size

    def write(self, data: bytes) -> None:
        if self._state is None:
            self.begin()
        self.plain.update(data)
        self.raw(self._state.compress(data))

    def end(self) -> None:
        if self._state is not None:
            self.raw(self._state.flush())
            self._state = None

    def raw(self, data: bytes) -> None:
        self.packed.update(data)
        self.size += len(data)
        self._file.write(data)


def write_estargz(source: BinaryIO, target: str, level: int | None) -> Converted:
    """An eStargz blob of a plain tar."""
    source.seek(0)
    entries: list[dict[str, Any]] = []
    with Path(target).open("xb") as file:
        out = _Output(file, level)
        _landmark(out, entries)
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                if member.name not in (TOC_NAME, NO_PREFETCH):
                    _member(out, archive, member, source, entries)
        at = out.begin()
        toc = msgspec.json.encode({"version": 1, "entries": entries})
        _header(out, TOC_NAME, len(toc))
        out.write(toc + bytes(-len(toc) % 512) + bytes(1024))
        out.end()
        out.raw(_footer(at))
    return Converted(
        f"sha256:{out.plain.hexdigest()}",
        f"sha256:{out.packed.hexdigest()}",
        out.size,
        f"sha256:{hashlib.sha256(toc).hexdigest()}",
    )


def _header(out: _Output, name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    out.write(info.tobuf(tarfile.USTAR_FORMAT))


def _landmark(out: _Output, entries: list[dict[str, Any]]) -> None:
    """Says that nothing is to be fetched ahead."""
    out.begin()
    _header(out, NO_PREFETCH, 1)
    offset = out.begin()
    out.write(b"\x0f" + bytes(511))
    digest = "sha256:" + hashlib.sha256(b"\x0f").hexdigest()
    entries.append({"name": NO_PREFETCH, "type": "reg", "size": 1, "mode": 0o444,
                    "offset": offset, "digest": digest, "chunkDigest": digest})  # fmt: skip


def _member(
    out: _Output, archive: tarfile.TarFile, member: tarfile.TarInfo, source: BinaryIO,
    entries: list[dict[str, Any]],
) -> None:  # fmt: skip
    kind = _KINDS.get(member.type)
    source.seek(member.offset)
    # what precedes the data: the header with its extensions
    head = source.read(member.offset_data - member.offset)
    out.write(head)
    if kind is None or member.issparse():
        _copy(out, source, member)
        if kind is None:
            return
    entry = _described(member, kind)
    entries.append(entry)
    if kind != "reg" or not member.size or member.issparse():
        return
    _chunks(out, source, member, entry, entries)


def _copy(out: _Output, source: BinaryIO, member: tarfile.TarInfo) -> None:
    # a sparse member's stored data ends where the next header begins
    left = getattr(member, "_block", lambda n: n + (-n % 512))(member.size)
    while left > 0 and (piece := source.read(min(PIECE, left))):
        out.write(piece)
        left -= len(piece)


def _chunks(
    out: _Output, source: BinaryIO, member: tarfile.TarInfo, entry: dict[str, Any],
    entries: list[dict[str, Any]],
) -> None:  # fmt: skip
    whole = hashlib.sha256()
    done = 0
    while done < member.size:
        size = min(CHUNK, member.size - done)
        data = source.read(size)
        offset = out.begin()
        out.write(data)
        whole.update(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        part = entry if done == 0 else {"name": entry["name"], "type": "chunk"}
        part |= {"offset": offset, "chunkDigest": digest}
        if done:
            part["chunkOffset"] = done
            entries.append(part)
        if member.size > CHUNK:
            part["chunkSize"] = size
        done += size
    entry["digest"] = f"sha256:{whole.hexdigest()}"
    out.write(bytes(-member.size % 512))


def _described(member: tarfile.TarInfo, kind: str) -> dict[str, Any]:
    moment = datetime.fromtimestamp(int(member.mtime), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = member.name + ("/" if kind == "dir" else "")
    found: dict[str, Any] = {"name": name, "type": kind, "modtime": moment,
                             "mode": stat.S_IMODE(member.mode)}  # fmt: skip
    if kind == "reg":
        found["size"] = member.size
    if kind in ("symlink", "hardlink"):
        found["linkName"] = member.linkname
    for key, value in (("uid", member.uid), ("gid", member.gid), ("userName", member.uname),
                       ("groupName", member.gname)):  # fmt: skip
        if value:
            found[key] = value
    if kind in ("char", "block"):
        found |= {"devMajor": member.devmajor, "devMinor": member.devminor}
    return found


def _footer(offset: int) -> bytes:
    """An empty gzip member whose extra field says where the table of contents begins."""
    extra = b"%016x" % offset + b"STARGZ"
    field = b"SG" + struct.pack("<H", len(extra)) + extra
    head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(field)) + field
    body = b"\x01\x00\x00\xff\xff"  # one stored block without content, the last
    return head + body + bytes(8)
