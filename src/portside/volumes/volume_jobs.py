"""Jobs of volumes for the store's workers: copying, packing, mounting."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.worker_pool import Job

Progress = Callable[[int], None]


class CopyUp(Job, kw_only=True):
    """Copy what ``path`` holds in ``rootfs`` into the empty directory ``target``, or the one at
    ``subpath`` in it; whether there were such directories. Owner and mode of the directory itself
    are copied, too."""

    result: ClassVar[type] = bool
    rootfs: Rootfs
    path: str
    target: str
    subpath: str = ""

    def run(self, fds: list[int], progress: Progress) -> bool:
        from portside.kernel.openat2 import INSIDE, openat2
        from portside.store.roots import OPEN_DIR, missing, open_beneath, open_root
        from portside.store.trees import copy_into

        root = open_root(self.rootfs)
        try:
            source = open_beneath(root, self.path, OPEN_DIR)
        except OSError as err:
            if missing(err):
                return False
            raise
        target = os.open(self.target, OPEN_DIR)
        if self.subpath:
            try:
                target = openat2(target, self.subpath, OPEN_DIR, resolve=INSIDE)
            except OSError:  # the start reports the error
                return False
        if os.listdir(target):
            return False
        os.umask(0)
        copy_into(source, target)
        return True


class PackVolume(Job, kw_only=True):
    """Write the directory ``path`` as a tar to the first descriptor."""

    result: ClassVar[type] = int
    path: str

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.roots import OPEN_DIR
        from portside.store.tar_pack import TarWriter

        top = os.open(self.path, OPEN_DIR)
        writer = TarWriter(fds[0])
        writer.directory(top, b".")
        writer.tree(top, b".")
        writer.close()
        return 0


class UnpackVolume(Job, kw_only=True):
    """Unpack the tar read from the first descriptor into the directory ``path``; its bytes."""

    result: ClassVar[type] = int
    path: str
    limits: Limits

    def run(self, fds: list[int], progress: Progress) -> int:
        from portside.store.decompress import plain
        from portside.store.roots import OPEN_DIR
        from portside.store.tar_reader import TarReader
        from portside.store.tar_unpack import Unpacker

        os.umask(0)
        with open(fds[0], "rb", buffering=0) as file:
            unpacker = Unpacker(os.open(self.path, OPEN_DIR), limits=self.limits)
            return unpacker.unpack(TarReader(plain(file), self.limits))


class MountVolume(Job, kw_only=True):
    """mount(2) at ``target`` in the engine's mount namespace; a dead server blocks only the
    worker."""

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    device: str
    target: str
    type: str
    flags: int
    data: str

    def run(self, fds: list[int], progress: Progress) -> None:
        from portside.kernel.mount import mount
        from portside.model.errors import SystemFailure

        try:
            mount(self.device, self.target, self.type, self.flags, self.data)
        except OSError as err:
            raise SystemFailure(os.strerror(err.errno or 0)) from err
