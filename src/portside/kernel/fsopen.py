"""The mount API of Linux 5.2: fsopen(2), fsconfig(2), fsmount(2); a file system by descriptor.

A mount made here belongs to its descriptor and is attached nowhere: it can be walked with
openat2(2) and goes away when the last descriptor is closed.
"""

from __future__ import annotations

import ctypes
import os

from portside.kernel.libc import encoded

# <linux/mount.h>
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08

SYS_fsopen, SYS_fsconfig, SYS_fsmount = 430, 431, 432
"""The same numbers on every architecture (the unified table)."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, what: str, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """A file system context for ``fstype``; OSError ENODEV when the kernel lacks it."""
    return _call(
        SYS_fsopen, f"fsopen({fstype})", ctypes.c_char_p(encoded(fstype)), ctypes.c_uint(flags)
    )


def fsconfig(fd: int, cmd: int, key: str | None, value: str | None, aux: int = 0) -> None:
    """One configuration step; OSError carries the key and the kernel's own message.

    String values are limited to 255 bytes by the kernel.
    """
    try:
        _call(
            SYS_fsconfig,
            f"fsconfig({key})",
            ctypes.c_int(fd),
            ctypes.c_uint(cmd),
            ctypes.c_char_p(None if key is None else encoded(key)),
            ctypes.c_char_p(None if value is None else encoded(value)),
            ctypes.c_int(aux),
        )
    except OSError as err:
        said = messages(fd)
        raise OSError(err.errno, said or os.strerror(err.errno or 0), key or "create") from None


def fsmount(fd: int, attributes: int = 0) -> int:
    """The mount of a created context, as a descriptor that can be walked."""
    return _call(
        SYS_fsmount,
        "fsmount",
        ctypes.c_int(fd),
        ctypes.c_uint(FSMOUNT_CLOEXEC),
        ctypes.c_uint(attributes),
    )


def messages(fd: int) -> str:
    """What the kernel logged about a context (each read gives one line, as "e text")."""
    lines = []
    while True:
        try:
            line = os.read(fd, 1024).decode(errors="replace").strip()
        except OSError:
            break
        if not line:
            break
        lines.append(line[2:] if line[1:2] == " " else line)
    return "; ".join(lines)
