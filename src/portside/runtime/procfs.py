"""What may be mounted over a container's /proc: almost nothing.

Labels, limits and masks are read and written through it, by us before execve(2) and by every
``exec`` later, so an image or a volume must not be able to put another tree there
(CVE-2019-16884, CVE-2019-19921, CVE-2023-27561).
"""

from __future__ import annotations

import os

from portside.kernel.mount import PROC_SUPER_MAGIC, filesystem_of
from portside.model.errors import InvalidParameter

_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo net/dev "
    "sys/kernel/ns_last_pid sys/crypto/fips_enabled".split()
)
"""Files that are covered to show a container its own figures (lxcfs)."""


def check_place(root: int, target: int, tree: int, kind: str, destination: str) -> None:
    """Whether the mount ``tree`` may go to the place ``target`` beneath ``root``.

    Raises InvalidParameter. ``kind``: the type of a new file system, empty for a bind mount.
    """
    place = _beneath(root, target, tree if kind == "proc" else -1)
    if kind in ("proc", "sysfs") and place != os.path.normpath("/" + destination.lstrip("/")):
        raise InvalidParameter(
            f'error mounting "{kind}" to rootfs at "{destination}": filesystem "{kind}" must be '
            "mounted on ordinary directory"
        )
    if place != "/proc" and not place.startswith("/proc/"):
        return
    if place in _ALLOWED or filesystem_of(tree) == PROC_SUPER_MAGIC:
        return
    what = "not of type proc" if place == "/proc" else "inside /proc"
    raise InvalidParameter(
        f'error mounting to rootfs at "{destination}": "{place}" cannot be mounted because it '
        f"is {what}"
    )


def _beneath(root: int, target: int, proc: int) -> str:
    """Where a place is; ``proc``: a proc file system to be asked, for want of one on /proc."""
    view = os.open("/proc", os.O_PATH | os.O_CLOEXEC) if proc < 0 else proc
    try:
        above, place = (os.readlink(f"self/fd/{fd}", dir_fd=view) for fd in (root, target))
    finally:
        if view != proc:
            os.close(view)
    return place.removeprefix(above.rstrip("/")) or "/"
