"""openat2(2): open a path under rules about how it may be resolved (Linux 5.6)."""

from __future__ import annotations

import ctypes
import os

from portside.kernel.libc import encoded

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
"""For every path inside an image or a container: links stay beneath the root, and those of
/proc, which lead anywhere, are refused."""
INSIDE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
"""For a path that must not leave a directory: a link that does is refused, not led back."""

SYS_openat2 = 437
"""The same number on every architecture (the unified table)."""


class open_how(ctypes.Structure):
    """``struct open_how`` of <linux/openat2.h>."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(open_how),
    ctypes.c_size_t,
)


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """A new descriptor, always close-on-exec; OSError with the path.

    EAGAIN means that a rename or mount raced with a ``..`` under RESOLVE_BENEATH or
    RESOLVE_IN_ROOT: it is retried here, since the kernel asks for no more than that.
    """
    name = encoded(path)
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        fd = _syscall(SYS_openat2, dir_fd, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        error = ctypes.get_errno()
        if error not in (11, 4):  # EAGAIN, EINTR
            break
    raise OSError(error, os.strerror(error), os.fsdecode(name))
