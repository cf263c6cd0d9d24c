"""``/proc/thread-self/attr``: the labels that security modules give to a thread (proc(5)).

Inside a container /proc may be covered, and whoever writes a label to the wrong file believes to
be confined and is not (CVE-2019-16884, CVE-2019-19921). So the file is opened only beneath the root
of a proc file system, and across no further mount.
"""

from __future__ import annotations

import errno
import os

from portside.kernel import fsopen
from portside.kernel.mount import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    PROC_SUPER_MAGIC,
    filesystem_of,
)
from portside.kernel.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

_ROOT_INODE = 1
"""PROC_ROOT_INO of <linux/proc_fs.h>."""
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS


def open_attribute(*names: str) -> int:
    """A descriptor to write the first of these attributes of the calling thread that there is.

    Only the thread that opened it, or shares its memory, can write to it. Needs Linux 4.10 for
    ``thread-self/attr``. OSError.
    """
    last: OSError | None = None
    for opened in (_mounted, _fresh):
        try:
            proc = opened()
        except OSError as err:
            last = last or err
            continue
        try:
            return _first(proc, names)
        except OSError as err:
            last = err
        finally:
            os.close(proc)
    assert last is not None
    raise last


def _first(proc: int, names: tuple[str, ...]) -> int:
    for name in names[:-1]:
        try:
            return openat2(proc, f"thread-self/attr/{name}", os.O_WRONLY, resolve=_RESOLVE)
        except FileNotFoundError:
            continue
    return openat2(proc, f"thread-self/attr/{names[-1]}", os.O_WRONLY, resolve=_RESOLVE)


def _mounted() -> int:
    """/proc, if it is what it should be."""
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if filesystem_of(proc) != PROC_SUPER_MAGIC or os.fstat(proc).st_ino != _ROOT_INODE:
        os.close(proc)
        raise OSError(errno.EXDEV, "is not the root of a proc file system", "/proc")
    return proc


def _fresh() -> int:
    """One of our own, mounted nowhere: for who has the right to make it."""
    context = fsopen.fsopen("proc")
    try:
        fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
        return fsopen.fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)
