"""mount(2), umount2(2), pivot_root(2), and the mount API that works on descriptors.

See mount_namespaces(7) for propagation. The descriptor calls need Linux 5.2
(``mount_setattr`` 5.12); contexts made with fsopen(2) are in ``fsopen``.
"""

from __future__ import annotations

import ctypes
import os

from portside.kernel.libc import check, encoded, libc, syscall

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC = 0x1000, 0x2000, 0x4000
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

AT_FDCWD = -100
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 0x01, 0x02
MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x04, 0x08
MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x10, 0x20
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x100000, 0x200000

libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


PROC_SUPER_MAGIC = 0x9FA0
"""``f_type`` of proc (statfs(2))."""
libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


class mount_attr(ctypes.Structure):
    """``struct mount_attr`` of <linux/mount.h>."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Attach a file system, or change an attachment; OSError names the target."""
    names = (encoded(text) if text else None for text in (source, target, fstype))
    first, second, third = names
    check(libc.mount(first, second, third, flags, encoded(data) or None), target)


def filesystem_of(fd: int) -> int:
    """The kind of file system that a descriptor is on: ``f_type`` of fstatfs(2)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs, whose first field it is
    check(libc.fstatfs(fd, ctypes.addressof(buffer)), "fstatfs")
    return int(ctypes.c_long.from_buffer(buffer).value)


def umount2(target: str, flags: int = 0) -> None:
    """Detach a mount; OSError names it."""
    check(libc.umount2(encoded(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of this mount namespace. EINVAL when the caller's root is
    not a mount point (a chroot)."""
    syscall("pivot_root", encoded(new_root), encoded(put_old), about=new_root)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A descriptor of the mount at ``path``, or with OPEN_TREE_CLONE of a detached copy."""
    flags |= OPEN_TREE_CLOEXEC
    return syscall("open_tree", dir_fd, encoded(path), flags, about=path)


def move_mount(mount_fd: int, target_fd: int, about: str = "") -> None:
    """Attach the mount of ``mount_fd`` on the place that ``target_fd`` is open at."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    syscall("move_mount", mount_fd, b"", target_fd, b"", flags, about=about)


def mount_setattr(
    fd: int,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    about: str = "",
) -> None:
    """Change attributes of the mount a descriptor stands for, and with ``recursive`` of all
    mounts beneath it."""
    attributes = mount_attr(set, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attributes)
    syscall("mount_setattr", fd, b"", flags, ctypes.byref(attributes), size, about=about)
