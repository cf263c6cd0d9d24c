"""Files of a result for frontends (``ReadFile``, ``ReadDir``, ``StatFile``), read by jobs."""

from __future__ import annotations

import fnmatch
import os
import stat
from typing import TYPE_CHECKING, ClassVar

from portside.builder.wire.transfer_jobs import Progress
from portside.builder.wire.tree_send import entry_of
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.rootfs import Rootfs
from portside.store.roots import OPEN_DIR, missing, open_beneath, open_root
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from portside.builder.solver.tree import Tree
    from portside.builder.wire.build_job import BuildJob

MAX_READ = 16 << 20
"""Bytes of one answer."""
MAX_ENTRIES = 100_000


class _AtPath(Job, kw_only=True):
    heavy: ClassVar[bool] = False
    source: Rootfs
    path: str

    def opened(self, flags: int) -> int:
        """``path`` beneath the root, links followed inside. NotFound."""
        try:
            return open_beneath(open_root(self.source), "/" + self.path.lstrip("/"), flags)
        except OSError as err:
            if missing(err):
                raise NotFound(f"open {self.path}: no such file or directory") from None
            raise


class ReadPart(_AtPath, kw_only=True):
    """Bytes of a regular file; all of it without ``length``."""

    result: ClassVar[type] = bytes
    offset: int = 0
    length: int = 0

    def run(self, fds: list[int], progress: Progress) -> bytes:
        fd = self.opened(os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidParameter(f"{self.path} is not a regular file")
        if self.offset < 0 or self.length < 0:
            raise InvalidParameter("a range of a file cannot be negative")
        size = self.length or MAX_READ + 1
        found = b""
        while len(found) < size:
            piece = os.pread(fd, min(size - len(found), 1 << 20), self.offset + len(found))
            if not piece:
                break
            found += piece
        if len(found) > MAX_READ:
            raise InvalidParameter(f"{self.path}: more than {MAX_READ} bytes: read it in parts")
        return found


class ListDirectory(_AtPath, kw_only=True):
    """Entries of a directory, each as fsutil's Stat in bytes."""

    result: ClassVar[type] = list[bytes]
    pattern: str = ""

    def run(self, fds: list[int], progress: Progress) -> list[bytes]:
        fd = self.opened(OPEN_DIR)
        found = []
        for text in sorted(os.listdir(fd)):
            if self.pattern and not fnmatch.fnmatchcase(text, self.pattern):
                continue
            name = os.fsencode(text)
            about = os.stat(name, dir_fd=fd, follow_symlinks=False)
            found.append(entry_of(fd, name, name, about).SerializeToString())
            if len(found) > MAX_ENTRIES:
                raise InvalidParameter(f"{self.path} has more than {MAX_ENTRIES} entries")
        return found


class StatPath(_AtPath, kw_only=True):
    """One entry as fsutil's Stat in bytes; a link itself, not what it leads to."""

    result: ClassVar[type] = bytes

    def run(self, fds: list[int], progress: Progress) -> bytes:
        path = os.path.normpath("/" + self.path.lstrip("/"))
        parent, name = os.path.split(path)
        place = StatPath(source=self.source, path=parent)
        fd = place.opened(OPEN_DIR)
        last = os.fsencode(name or ".")
        try:
            found = os.stat(last, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            raise NotFound(f"stat {self.path}: no such file or directory") from None
        data: bytes = entry_of(fd, last, last, found).SerializeToString()
        return data


async def in_tree(job: BuildJob, reference: str) -> Rootfs:
    """A result's root, made if it was not."""
    return root_of(job, await job.tree(job.reference(reference)))


def root_of(job: BuildJob, tree: Tree) -> Rootfs:
    layers = job.service.store.layers
    if tree.directory:
        return Rootfs("bind", upper=tree.directory)
    if tree.chain:
        return layers.rootfs(Digest(tree.chain))
    return Rootfs("bind", upper=str(layers.links_dir / "empty"))
