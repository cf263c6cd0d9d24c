"""The C library, loaded once, and the check that every wrapper of a system call shares."""

from __future__ import annotations

import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# fmt: off
_OTHERS = {
    "x86_64": {"pivot_root": 155, "keyctl": 250, "seccomp": 317, "personality": 135,
               "rt_sigaction": 13, "clone": 56, "sched_setattr": 314, "ioprio_set": 251,
               "execveat": 322, "getcwd": 79},
    "aarch64": {"pivot_root": 41, "keyctl": 219, "seccomp": 277, "personality": 92,
                "rt_sigaction": 134, "clone": 220, "sched_setattr": 274, "ioprio_set": 30,
                "execveat": 281, "getcwd": 17},
    "riscv64": {"pivot_root": 41, "keyctl": 219, "seccomp": 277, "personality": 92,
                "rt_sigaction": 134, "clone": 220, "sched_setattr": 274, "ioprio_set": 30,
                "execveat": 281, "getcwd": 17},
}
# fmt: on
_UNIFIED = {
    "open_tree": 428,
    "move_mount": 429,
    "clone3": 435,
    "close_range": 436,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}
"""Numbers since Linux 5.0 are the same on every architecture."""


_MACHINE = os.uname().machine
"""Of the kernel; read once, since personality(2) changes what uname(2) says."""


def number(name: str) -> int:
    """The number of a system call here; OSError ENOSYS on an unknown architecture."""
    if name in _UNIFIED:
        return _UNIFIED[name]
    try:
        return _OTHERS[_MACHINE][name]
    except KeyError:
        raise OSError(38, f"no number known for {name}({_MACHINE})") from None


def encoded(text: str | bytes) -> bytes:
    """A path or name as the kernel takes it. OSError EINVAL for one with a null byte in it: the
    kernel would act on its beginning, which is not what was checked."""
    data = os.fsencode(text)
    if b"\0" in data:
        raise OSError(errno.EINVAL, "a null byte in it", os.fsdecode(data))
    return data


def check(result: int, *names: str | bytes | None) -> int:
    """The result of a call, or OSError with errno and the path it was about."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), next((n for n in names if n), None))
    return result


def syscall(name: str, *arguments: object, about: str = "") -> int:
    """``syscall(2)`` by name; integers are passed as longs. OSError names ``about``."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number(name)), *converted)
    return check(int(result), about or name)
