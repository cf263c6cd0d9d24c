"""A copy of our own executable that nobody can write to, for processes that containers see.

A process that is about to become a container's can be made to execute itself
(``/proc/self/exe`` as the command, as a script's interpreter, or through a link in the
image): the container then holds a descriptor of the host's interpreter and may write to it
(CVE-2019-5736). Processes executed through :func:`sealed` have an executable that stands on
a read-only mount which is attached nowhere, so that no remount reaches it.
"""

from __future__ import annotations

import fcntl
import os
import sys

from portside.kernel import mount

F_ADD_SEALS = 1033
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE (fcntl(2))."""


def sealed(path: str = sys.executable) -> int:
    """A descriptor of ``path`` to execute as ``/proc/self/fd/N``; close it afterwards.

    Pages are shared with the file's own: it costs no memory. Where mounts cannot be cloned
    (no CAP_SYS_ADMIN) it is a sealed copy in memory instead.
    """
    real = os.path.realpath(path)
    try:
        fd = mount.open_tree(mount.AT_FDCWD, real, mount.OPEN_TREE_CLONE)
        mount.mount_setattr(fd, set=mount.MOUNT_ATTR_RDONLY, about=real)
    except OSError:
        return _copy(real)
    return fd


def _copy(path: str) -> int:
    fd = os.memfd_create("portside", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = os.fstat(source).st_size
        while left > 0 and (done := os.sendfile(fd, source, None, left)):
            left -= done
    finally:
        os.close(source)
    fcntl.fcntl(fd, F_ADD_SEALS, _ALL_SEALS)
    return fd
