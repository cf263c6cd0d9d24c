"""Layers in other forms: packed again, compressed otherwise, squashed; trees as archives. In job
processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

from portside.builder.layers.layer_values import Converted, Named
from portside.model.errors import InvalidParameter
from portside.model.rootfs import Rootfs
from portside.store import tar_format as tar
from portside.store.decompress import plain
from portside.store.layer_pack import Packed, pack
from portside.store.overlay_changes import pack_changes, pack_tree_changes
from portside.store.roots import OPEN_DIR, open_root
from portside.store.tar_format import Entry
from portside.store.tar_pack import TarWriter


def pack_blob(
    rootfs: Rootfs, target: str, kind: str, level: int | None, latest: int | None
) -> Converted:
    def write(out: int) -> None:
        pack_changes(rootfs, "", out, latest)

    if kind == "estargz":
        with tempfile.TemporaryFile(dir=os.path.dirname(target)) as spool:
            write(spool.fileno())
            return _estargz(spool, target, level)
    return _converted(pack(write, target, kind, level))


def convert_blob(
    source_path: str, target: str, kind: str, level: int | None, latest: int | None
) -> Converted:
    with open(source_path, "rb", buffering=0) as source:
        if kind == "estargz" or latest is not None:
            with tempfile.TemporaryFile(dir=os.path.dirname(target)) as spool:
                _inflate(source, spool.fileno())
                if latest is not None:
                    return _clamped(spool, target, kind, level, latest)
                return _estargz(spool, target, level)

        def write(out: int) -> None:
            _inflate(source, out)

        return _converted(pack(write, target, kind, level))


def _converted(packed: Packed) -> Converted:
    return Converted(packed.diff_id, packed.digest, packed.size)


def _inflate(source: BinaryIO, out: int) -> None:
    for piece in plain(source):
        view = memoryview(piece)
        while view:
            view = view[os.write(out, view) :]


def _clamped(spool: BinaryIO, target: str, kind: str, level: int | None, latest: int) -> Converted:
    """Times no later than the latest; with :mod:`tarfile`, since the archive is not ours."""
    import tarfile

    seconds = latest / 10**9

    def write(out: int) -> None:
        spool.seek(0)
        with (
            tarfile.open(fileobj=spool, mode="r:") as source,
            os.fdopen(os.dup(out), "wb") as raw,
            tarfile.open(fileobj=raw, mode="w|", format=tarfile.PAX_FORMAT) as copy,
        ):
            for member in source:
                if member.mtime > seconds:
                    member.mtime = int(seconds)
                    kept = member.pax_headers.items()
                    member.pax_headers = {k: v for k, v in kept if k != "mtime"}
                copy.addfile(member, source.extractfile(member) if member.isreg() else None)

    if kind != "estargz":
        return _converted(pack(write, target, kind, level))
    with tempfile.TemporaryFile(dir=os.path.dirname(target)) as clamped:
        write(clamped.fileno())
        return _estargz(clamped, target, level)


def _estargz(spool: BinaryIO, target: str, level: int | None) -> Converted:
    from portside.builder.layers.estargz import write_estargz

    return write_estargz(spool, target, level)


def pack_difference(lower_rootfs: Rootfs, upper_rootfs: Rootfs, target: str) -> Converted:
    lower, upper = open_root(lower_rootfs), open_root(upper_rootfs)
    try:
        new, old = (os.open(".", OPEN_DIR, dir_fd=fd) for fd in (upper, lower))
        packed = pack(lambda out: pack_tree_changes(new, old, out), target, "gzip")
    finally:
        os.close(lower)
        os.close(upper)
    return _converted(packed)


class _Merged(TarWriter):
    """Several trees at one place: they may share directories, not files."""

    def __init__(self, out: int, latest: int | None) -> None:
        super().__init__(out, latest)
        self._before: set[bytes] = set()
        self._here: set[bytes] = set()

    def new_root(self) -> None:
        super().new_root()
        self._before |= self._here
        self._here.clear()

    def node(
        self, dir_fd: int, name: bytes, path: bytes, found: os.stat_result | None = None
    ) -> int:
        directory = super().node(dir_fd, name, path, found)
        if directory < 0:
            if path in self._before:
                raise InvalidParameter(
                    f"cannot overwrite {os.fsdecode(path)} of another platform when "
                    "platform-split is false"
                )
            self._here.add(path)
        return directory


def pack_trees(trees: Sequence[Named], latest: int | None, out: int) -> int:
    merges = len(trees) > 1 and not any(item.folder for item in trees)
    writer = _Merged(out, latest) if merges else TarWriter(out, latest)
    for item in trees:
        prefix = os.fsencode(item.folder)
        if prefix:
            writer.entry(Entry(prefix + b"/", tar.DIRTYPE, 0o755, mtime=latest or 0))
        for name, data in item.files:
            where = prefix + b"/" + os.fsencode(name) if prefix else os.fsencode(name)
            writer.entry(Entry(where, tar.REGTYPE, 0o644, size=len(data)), data)
        root = open_root(item.rootfs)
        top = os.open(".", OPEN_DIR, dir_fd=root)
        try:
            writer.new_root()  # two platforms may have a layer, and so its files, in common
            writer.tree(top, prefix)
        finally:
            os.close(top)
            os.close(root)
    writer.close()
    return 0
