"""A writable layer becomes a blob: packed, compressed and digested in one go. In job processes."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

from portside.builder.solver.build_jobs import Sealed, SealLayer
from portside.builder.solver.content_hash import ContentHash
from portside.kernel.openat2 import openat2
from portside.store.overlay_changes import pack_changes
from portside.store.roots import OPEN_DIR
from portside.store.trees import BELOW, measure

EMPTY_SIZE = 1024
"""Bytes of a tar without an entry, as we write it."""
PIECE = 1 << 19
CONTENT_LIMIT = 512 << 20
"""Bytes of files up to which a layer's content is digested without times. Beyond, reading it
once more costs more than a changed step with the same large output is likely to save."""


def seal(job: SealLayer) -> Sealed:
    _drop_stubs(job)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    packer = _Compressor(reading, job.target)
    thread = threading.Thread(target=packer.run)
    thread.start()
    try:
        pack_changes(job.rootfs, job.base, writing)
    finally:
        os.close(writing)
        thread.join()
        os.close(reading)
    if packer.error is not None:
        raise packer.error
    diff_id = f"sha256:{packer.plain.hexdigest()}"
    upper = job.rootfs.upper
    size = measure(upper)
    content = diff_id
    if job.rootfs.driver == "overlay" and size <= CONTENT_LIMIT:
        content = _content(upper)
    return Sealed(
        diff_id=diff_id,
        digest=f"sha256:{packer.packed.hexdigest()}",
        size=packer.size,
        content=content,
        tree_size=size,
        is_empty=packer.plain_size <= EMPTY_SIZE,
    )


def _content(upper: str) -> str:
    fd = os.open(upper, OPEN_DIR)
    try:
        hasher = ContentHash()
        hasher.tree(fd, b"")
        return hasher.hexdigest()
    finally:
        os.close(fd)


class _Compressor:
    """Reads a tar from a pipe, writes gzip, and digests both; in a thread of its own, since
    isal and hashlib let go of the interpreter lock."""

    def __init__(self, source: int, target: str) -> None:
        self._source, self._target = source, target
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()
        self.size = self.plain_size = 0
        self.error: Exception | None = None

    def run(self) -> None:
        from isal import isal_zlib

        try:
            state = isal_zlib.compressobj(level=1, wbits=31)
            with Path(self._target).open("xb", buffering=0) as out:
                while piece := os.read(self._source, PIECE):
                    self.plain.update(piece)
                    self.plain_size += len(piece)
                    self._put(out.write, state.compress(piece))
                self._put(out.write, state.flush())
        except Exception as err:
            self.error = err
            while os.read(self._source, PIECE):
                pass  # the writer must not wait for ever

    def _put(self, write: object, data: bytes) -> None:
        view = memoryview(data)
        self.packed.update(view)
        self.size += len(view)
        while view:
            view = view[write(view) :]  # type: ignore[operator]


def _drop_stubs(job: SealLayer) -> None:
    """Places that the runtime made to mount on, with their parents: those that nothing below
    has and that are still empty."""
    if job.rootfs.driver != "overlay" or not job.stubs:
        return
    top = os.open(job.rootfs.upper, OPEN_DIR)
    lower = [os.open(path, OPEN_DIR) for path in job.rootfs.lower]
    try:
        for path in (*job.stubs, "/etc/mtab"):
            _drop_upwards(top, lower, path.strip("/"))
    finally:
        for fd in (top, *lower):
            os.close(fd)


def _drop_upwards(top: int, lower: list[int], name: str) -> None:
    """A stub, and then its parents as far as they are in the layer for its sake alone."""
    while name:
        below = next((found for fd in lower if (found := _look(fd, name)) is not None), None)
        if below is not None:
            here = _look(top, name)
            if here is None or not stat.S_ISDIR(here.st_mode) or _differ(here, below):
                return
        if not _drop_stub(top, name):
            return
        name = name.rpartition("/")[0]


def _differ(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a directory was changed, but for its time."""
    return (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid)


def _look(top: int, path: str) -> os.stat_result | None:
    """What a layer has there, be it a whiteout."""
    parent, _, name = path.rpartition("/")
    try:
        fd = openat2(top, parent or ".", OPEN_DIR, resolve=BELOW)
    except OSError:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(fd)


def _drop_stub(top: int, path: str) -> bool:
    """Whether it is gone: an empty directory, an empty file, or the runtime's link for mtab."""
    parent, _, name = path.rpartition("/")
    try:
        fd = openat2(top, parent or ".", OPEN_DIR, resolve=BELOW)
    except OSError:
        return True  # its parent was never made
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_mtab = stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=fd) == "/proc/mounts"
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
        elif is_mtab or (stat.S_ISREG(found.st_mode) and found.st_size == 0):
            os.unlink(name, dir_fd=fd)
        else:
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False  # used
    finally:
        os.close(fd)
    return True
