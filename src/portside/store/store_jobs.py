"""The store's jobs: what the engine asks of a worker process, as values.

Only ``run`` imports the code that does the work; it happens in the worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from portside.model.digest import Digest
from portside.model.ociruntime import IDMapping
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Change, Limits
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


class UnpackLayer(Job, kw_only=True):
    """Unpack a blob into the new directory ``target``; the bytes of its files.

    ``base`` (vfs only) is a tree to copy first. With ``overlay`` whiteouts become overlay's
    marks, else they delete.
    """

    result: ClassVar[type] = int
    blob: str
    compression: str
    diff_id: str
    target: str
    base: str
    overlay: bool
    limits: Limits

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.tar_unpack import unpack_layer

        return unpack_layer(
            self.blob, self.compression, Digest(self.diff_id), self.target, self.limits, progress,
            base=self.base, overlay=self.overlay,
        )  # fmt: skip


class CompareTrees(Job, kw_only=True):
    """What differs first between two trees; empty when nothing does."""

    result: ClassVar[type] = str
    one: str
    other: str

    def run(self, fds: list[int], progress: Progress) -> str:
        from portside.store.compare import first_difference

        return first_difference(self.one, self.other)


class CopyTree(Job, kw_only=True):
    """Copy a tree exactly into the new directory ``target``, sharing extents if possible."""

    result: ClassVar[type] = int
    source: str
    target: str

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.trees import copy_tree

        os.umask(0)
        return copy_tree(self.source, self.target)


class CopyWithOwners(Job, kw_only=True):
    """Copy a layer or a writable one into the new directory ``target``, its owners moved by the
    mappings, and write it to the disk. Waits for jobs that have the source's overlay mounted."""

    result: ClassVar[type] = int
    source: str
    target: str
    uids: tuple[IDMapping, ...]
    gids: tuple[IDMapping, ...]

    def run(self, fds: list[int], progress: Progress) -> int:
        import fcntl

        from portside.kernel.syncfs import syncfs
        from portside.store.moved_owners import MovedOwners
        from portside.store.trees import copy_tree

        os.umask(0)
        source = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(source, fcntl.LOCK_EX)
        size = copy_tree(self.source, self.target, MovedOwners(self.uids, self.gids))
        syncfs(source)
        return size


class RemoveTrees(Job, kw_only=True):
    """Delete everything in the directory ``path``."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    path: str

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.trees import empty_directory

        os.nice(10)
        return empty_directory(self.path)


class Measure(Job, kw_only=True):
    """Bytes of the files beneath ``path``, a file with several links counted once, and a
    symbolic link at ``without`` not at all."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    path: str
    without: str = ""

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.trees import measure

        return measure(self.path, self.without)


class FindChanges(Job, kw_only=True):
    """What was changed in ``rootfs``; ``base`` is vfs's original tree."""

    result: ClassVar[object] = list[Change]
    rootfs: Rootfs
    base: str

    def run(self, fds: list[int], progress: Progress) -> list[Change]:
        from portside.store.overlay_changes import find_changes

        return find_changes(self.rootfs, self.base)


class PackChanges(Job, kw_only=True):
    """Write the changes of ``rootfs`` as a layer tar to the first descriptor."""

    result: ClassVar[type] = int
    rootfs: Rootfs
    base: str

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.overlay_changes import pack_changes

        return pack_changes(self.rootfs, self.base, fds[0])


class PackRoot(Job, kw_only=True):
    """Write the whole of ``rootfs``, mounted privately, or the root of the process ``pid``, as a
    tar to the first descriptor, without the files that the engine itself put there. As slow as
    its client, so it takes no processor from others."""

    result: ClassVar[type] = int
    heavy: ClassVar[bool] = False
    rootfs: Rootfs
    pid: int

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.overlay_changes import own_files
        from portside.store.tar_pack import pack_root

        return pack_root(self.rootfs, self.pid, fds[0], own_files(self.rootfs))
