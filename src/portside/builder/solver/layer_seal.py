"""A writable layer becomes a blob: packed, compressed and digested in one go. In job processes."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

from portside.builder.solver.build_jobs import MissingPaths, Sealed, SealLayer
from portside.builder.solver.content_hash import ContentHash
from portside.kernel.openat2 import openat2
from portside.store.overlay_changes import pack_changes
from portside.store.roots import OPEN_DIR, open_beneath, open_root
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
    """Places that mounts were put on and that are still as the runtime made them."""
    if job.rootfs.driver != "overlay" or not job.stubs:
        return
    top = os.open(job.rootfs.upper, OPEN_DIR)
    try:
        for path in sorted(job.stubs, key=len, reverse=True):
            parent, _, name = path.strip("/").rpartition("/")
            try:
                dir_fd = openat2(top, parent or ".", OPEN_DIR, resolve=BELOW)
            except OSError:
                continue
            try:
                _drop_stub(dir_fd, name)
            finally:
                os.close(dir_fd)
    finally:
        os.close(top)


def _drop_stub(dir_fd: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=dir_fd)
        elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=dir_fd)
    except OSError:
        pass  # used, or never made


def missing_paths(job: MissingPaths) -> list[str]:
    root = open_root(job.rootfs)
    found: list[str] = []
    for path in job.paths:
        parts = path.strip("/").split("/")
        for count in range(len(parts), 0, -1):
            part = "/" + "/".join(parts[:count])
            try:
                os.close(open_beneath(root, part, os.O_PATH | os.O_CLOEXEC))
                break
            except OSError:
                if part not in found:
                    found.append(part)
    os.close(root)
    return found
