"""Is our root the mount namespace's root? In a plain chroot it is not.

Entering a mount namespace (setns(2)) puts the caller at that namespace's root, so an
engine in a plain chroot would let ``exec`` and ``cp`` land in the host's files. The test
asks the kernel: a child enters its own mount namespace again, which moves it to the
namespace's true root, and compares.
"""

from __future__ import annotations

import os
from pathlib import Path

from portside.model.errors import SystemFailure

_CLONE_NEWNS = 0x00020000


def is_plain_chroot() -> bool:
    """Whether ``/`` is not the root of this process's mount namespace."""
    from portside.kernel.process import setns

    here = _root()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            setns(fd, _CLONE_NEWNS)
            status = int(here != _root())
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 1):
        raise SystemFailure(
            "cannot determine whether this is a chroot: /proc is not mounted here, or setns(2) is "
            "not allowed. Mount /proc and start the engine as root"
        )
    return code == 1


def _root() -> tuple[int, int, str]:
    """Which directory ``/`` is, and on which mount (a bind mount has the same inode)."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        mount = next((line for line in lines if line.startswith("mnt_id:")), "")
        return found.st_dev, found.st_ino, mount
    except OSError:
        return 0, 0, "unknown"
    finally:
        os.close(fd)


def refuse_plain_chroot() -> None:
    """Raise SystemFailure with advice when started in a plain chroot."""
    if is_plain_chroot():
        raise SystemFailure(
            "the engine was started in a plain chroot: commands it executes in containers would "
            "land in the host's files. Start it with a mount namespace of its own, for example: "
            "unshare --mount --root=DIR portside daemon …  or use pivot_root instead of chroot"
        )
