"""``system reset``: nothing of an engine is left on the machine.

Called when the engine has ended, with its containers, networks and control groups. What is left
are its two roots: volumes, images and all else. Nothing beyond a mount point is deleted: what is
mounted below the roots (a volume's file system) is unmounted first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from portside.kernel import mount, mountinfo
from portside.model.errors import SystemFailure
from portside.model.instance import Instance
from portside.store import trees

log = logging.getLogger(__name__)
MNT_DETACH = 2


def erase(instance: Instance, keep: Collection[str] = ()) -> None:
    """Delete both roots; SystemFailure, and nothing is deleted, when something is still mounted
    below them. ``keep``: paths of sockets of the service manager's, which starts an engine again
    by them."""
    roots = [root for root in (instance.data_root, instance.exec_root) if root.is_dir()]
    for root in roots:
        for path in reversed(mountinfo.mounts_below(str(root.resolve()))):
            mount.umount2(path, MNT_DETACH)
        left = mountinfo.mounts_below(str(root.resolve()))
        if left:
            raise SystemFailure(f"nothing was deleted: {left[0]} is still mounted; unmount it")
    for root in roots:
        _empty(root, keep)
        try:
            root.rmdir()
        except OSError as err:  # a mount point, or it has the service manager's socket
            log.info("%s stays: %s", root, err.strerror)


def _empty(root: Path, keep: Collection[str]) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):  # noqa: PTH208 - of a descriptor
            if str(root / name) not in keep:
                trees.remove(fd, os.fsencode(name))
    finally:
        os.close(fd)
