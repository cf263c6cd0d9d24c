"""Images mounted into containers (``--mount type=image``), whole or one path of them.

A whole image is an overlay of the container's own. Of an image's path a bind mount is made at
``image-<n>`` in the container's directory while it runs, so that any runtime can be told the
path; links in the image are resolved within it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from portside.containers.record import Point, Record
from portside.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    MNT_DETACH,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
    move_mount,
    open_tree,
    umount2,
)
from portside.model import ociruntime as oci
from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter
from portside.model.idmap import IDMappings
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.containers.core import Core

_WHOLE = ".whole"


class BindImagePath(Job, kw_only=True):
    """Bind ``path`` of ``rootfs`` at ``place``, which is made; InvalidParameter without it.

    The whole is attached beside it for a moment: until Linux 6.15 open_tree(2) copies no part of
    a mount that is attached nowhere.
    """

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    rootfs: Rootfs
    path: str
    place: str

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        from portside.runtime.rootfs import open_root as open_mapped_root
        from portside.store.roots import open_beneath, open_root

        whole = self.place + _WHOLE
        Path(whole).mkdir(0o700)
        if self.rootfs.uid_mappings:
            root = open_mapped_root(self.rootfs, private=False)
        elif self.rootfs.driver == "overlay":
            root = open_root(self.rootfs)
        else:
            root = open_tree(AT_FDCWD, self.rootfs.upper, OPEN_TREE_CLONE)
        _attach(root, whole)
        try:
            top = os.open(whole, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = open_beneath(top, self.path, os.O_PATH | os.O_CLOEXEC)
            except OSError as err:
                reason = os.strerror(err.errno or errno.ENOENT).lower()
                raise InvalidParameter(
                    f"cannot access path {self.path} of the image: {reason}"
                ) from err
            place = Path(self.place)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                place.mkdir(mode=0o700)
            else:
                place.touch(0o600, exist_ok=False)
            _attach(open_tree(found, "", OPEN_TREE_CLONE | AT_EMPTY_PATH), self.place)
            os.close(found)
            os.close(top)
        finally:
            umount2(whole, UMOUNT_NOFOLLOW | MNT_DETACH)
            Path(whole).rmdir()


def _attach(tree: int, place: str) -> None:
    target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        move_mount(tree, target, place)
    finally:
        os.close(target)
        os.close(tree)


async def mount(core: Core, record: Record, point: Point, mappings: IDMappings | None) -> oci.Mount:
    """What the runtime is told for an image's mount, read-only. InvalidParameter when the image
    has no such path."""
    chain = Digest(point.chain) if point.chain else None
    if chain is None:  # made by an engine that did not note it
        chain = chain_id(core.images.get(point.source).config.diff_ids)
    rootfs = core.store.layers.rootfs(chain)
    if mappings is not None:
        rootfs = msgspec.structs.replace(
            rootfs, uid_mappings=mappings.uids, gid_mappings=mappings.gids
        )
    uids, gids = rootfs.uid_mappings, rootfs.gid_mappings
    if point.subpath:
        number = sum(1 for _ in core.directory(record.id).glob("image-*"))
        place = core.directory(record.id) / f"image-{number}"
        job = BindImagePath(rootfs=rootfs, path=point.subpath, place=str(place))
        await core.store.workers.run(job)
        return oci.Mount(point.destination, "bind", str(place), ("bind", "rprivate", "ro"))
    if rootfs.driver != "overlay":
        return oci.Mount(point.destination, "bind", rootfs.upper, ("rbind", "ro"), uids, gids)
    lower = (f"lowerdir+={path}" for path in rootfs.lower)  # one by one: no limit in length
    options = ("ro", *lower, *rootfs.options)
    return oci.Mount(point.destination, "overlay", "overlay", options, uids, gids)


def unmount(core: Core, record: Record) -> None:
    """Let go of the paths of images that a container had mounted."""
    if any(point.type == "image" and point.subpath for point in record.mounts):
        unbind_all(core.directory(record.id))


def unbind_all(directory: Path) -> None:
    """Let go of every path that is bound in a container's directory."""
    for pattern in ("image-*", "mount-*"):
        for place in sorted(directory.glob(pattern)):
            unbind(place)


def unbind(place: Path) -> None:
    with suppress(OSError):  # bound nowhere: the engine was killed in between
        umount2(str(place), UMOUNT_NOFOLLOW | MNT_DETACH)
    with suppress(OSError):
        place.rmdir() if place.is_dir() else place.unlink()
