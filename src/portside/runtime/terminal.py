"""Pseudoterminals in the container's own devpts (pts(4))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from portside.kernel import mount as kernel
from portside.model.errors import SystemFailure

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX = os.makedev(5, 2)


def open_pair() -> tuple[int, int]:
    """Leading side and following side of a new terminal; from inside the root.

    The follower is opened through the leader (TIOCGPTPEER, Linux 4.13), so that no path
    inside the container is followed. Raises SystemFailure where devpts should be and is not.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    leader = os.open("/dev/pts/ptmx", flags)
    if os.fstat(leader).st_rdev != _PTMX:
        os.close(leader)
        raise SystemFailure("a terminal needs devpts on /dev/pts, and something else is there")
    fcntl.ioctl(leader, _TIOCSPTLCK, struct.pack("i", 0))
    follower = fcntl.ioctl(leader, _TIOCGPTPEER, flags)
    return leader, follower


def set_size(fd: int, height: int, width: int) -> None:
    """Characters of the terminal; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def bind_console(follower: int) -> None:
    """Show the terminal as /dev/console as well (runtime-spec, "Default Devices"); by
    descriptor, so that it is the terminal indeed (CVE-2025-52565)."""
    console = os.open("/dev/console", os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    os.close(console)
    tree = kernel.open_tree(follower, "", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH)
    target = os.open("/dev/console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        kernel.move_mount(tree, target, "/dev/console")
    finally:
        os.close(tree)
        os.close(target)
