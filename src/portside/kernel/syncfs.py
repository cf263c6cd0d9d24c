"""syncfs(2) and sync_file_range(2): write out one file system, or begin with one file."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syncfs.argtypes = (ctypes.c_int,)
_libc.syncfs.restype = ctypes.c_int
_libc.sync_file_range.argtypes = (
    ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint
)  # fmt: skip
_libc.sync_file_range.restype = ctypes.c_int
_SYNC_FILE_RANGE_WRITE = 2
EARLY = 8 << 20
"""Bytes of a large file after which :func:`begin_writing` is worth a call."""


def syncfs(fd: int) -> None:
    """Return when everything written to the file system of ``fd`` before is on the disk."""
    if _libc.syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), fd)


def begin_writing(fd: int, offset: int, size: int) -> None:
    """Have the disk begin with a range of a file, so that a later sync has less to wait for. Waits
    only while the disk's queue is full; file systems that cannot do it write later."""
    _libc.sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)
