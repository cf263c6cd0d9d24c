"""Pseudoterminals in the container's own devpts (pts(4))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from portside.kernel import mount
from portside.kernel.light_stdlib import contextmanager
from portside.kernel.openat2 import IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_PTMX = os.makedev(5, 2)
_DEVPTS = 0x1CD1
"""``f_type`` of devpts (statfs(2))."""


def open_pair() -> tuple[int, int]:
    """Leading side and following side of a new terminal; from inside the root.

    The follower is opened through the leader (TIOCGPTPEER, Linux 4.13), so that no path
    inside the container is followed. Raises SystemFailure where devpts should be and is not.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    with _root() as root:
        leader = openat2(root, "/dev/pts/ptmx", flags, resolve=IN_ROOT | RESOLVE_NO_SYMLINKS)
    if os.fstat(leader).st_rdev != _PTMX or mount.filesystem_of(leader) != _DEVPTS:
        os.close(leader)
        raise SystemFailure("a terminal needs devpts on /dev/pts, and something else is there")
    fcntl.ioctl(leader, _TIOCSPTLCK, struct.pack("i", 0))
    follower = fcntl.ioctl(leader, _TIOCGPTPEER, flags)
    return leader, follower


def _console() -> int:
    """The place of /dev/console beneath the root, made when it is missing; never over a link."""
    with _root() as root:
        try:
            found = openat2(root, "/dev/console", os.O_PATH | os.O_NOFOLLOW, resolve=IN_ROOT)
        except FileNotFoundError:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL
            os.close(openat2(root, "/dev/console", flags, mode=0o666, resolve=IN_ROOT))
            found = openat2(root, "/dev/console", os.O_PATH | os.O_NOFOLLOW, resolve=IN_ROOT)
    if stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/dev/console")
    return found


@contextmanager
def _root() -> Iterator[int]:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield root
    finally:
        os.close(root)


def set_size(fd: int, height: int, width: int) -> None:
    """Characters of the terminal; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def bind_console(follower: int) -> None:
    """Show the terminal as /dev/console as well (runtime-spec, "Default Devices"); by
    descriptor, so that it is the terminal indeed (CVE-2025-52565)."""
    tree = mount.open_tree(follower, "", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH)
    target = _console()
    try:
        mount.move_mount(tree, target, "/dev/console")
    finally:
        os.close(tree)
        os.close(target)


def make_controlling(fd: int) -> None:
    """Make a terminal the controlling one of our session, which has none (TIOCSCTTY)."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)
