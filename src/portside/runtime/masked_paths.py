"""Paths that a container may not write to or see, covered from inside its root: masked paths,
read-only paths (config-linux.md), a read-only root.

Each path is opened beneath the root first and mounted on by that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from portside.kernel import mount
from portside.kernel.openat2 import IN_ROOT, openat2
from portside.model.ociruntime import Spec
from portside.runtime.mounts import filesystem, label_options


def protect(spec: Spec) -> None:
    """From inside: masked paths, read-only paths, a read-only root."""
    assert spec.linux is not None and spec.root is not None
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in spec.linux.readonly_paths:
            _read_only(root, path)
        _mask(root, spec.linux.masked_paths, label_options(spec))
        if spec.root.readonly:
            mount.mount_setattr(root, set=mount.MOUNT_ATTR_RDONLY, about="/")
    finally:
        os.close(root)


def _read_only(root: int, path: str) -> None:
    try:
        target = openat2(root, path, os.O_PATH, resolve=IN_ROOT)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = mount.open_tree(
        target, "", mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE | mount.AT_EMPTY_PATH
    )
    try:
        mount.mount_setattr(tree, set=mount.MOUNT_ATTR_RDONLY, recursive=True, about=path)
        mount.move_mount(tree, target, path)
    finally:
        os.close(tree)
        os.close(target)


def _mask(root: int, paths: tuple[str, ...], labels: tuple[str, ...]) -> None:
    """Cover files with the real /dev/null and directories with an empty, read-only tmpfs."""
    null = -1
    try:
        for path in paths:
            try:
                target = openat2(root, path, os.O_PATH, resolve=IN_ROOT)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(os.fstat(target).st_mode):
                data = ["ro", "nr_inodes=1", *labels]
                cover = filesystem("tmpfs", "tmpfs", data, mount.MOUNT_ATTR_RDONLY)
            else:
                null = null if null >= 0 else _true_null(root)
                cover = mount.open_tree(null, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
            try:
                mount.move_mount(cover, target, path)
            finally:
                os.close(cover)
                os.close(target)
    finally:
        if null >= 0:
            os.close(null)


def _true_null(root: int) -> int:
    """A descriptor of /dev/null that is proven to be it (CVE-2025-31133)."""
    null = openat2(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW, resolve=IN_ROOT)
    found = os.fstat(null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        os.close(null)
        raise OSError(errno.EPERM, "is not the null device", "/dev/null")
    return null
