"""Pseudoterminals in the container's own devpts (pts(4))."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from portside.kernel import mount as kernel

_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441


def open_pair() -> tuple[int, int, str]:
    """Leading side, following side and the latter's path; from inside the root.

    The follower is opened through the leader (TIOCGPTPEER, Linux 4.13), so that no path
    inside the container is followed.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    leader = os.open("/dev/pts/ptmx", flags)
    fcntl.ioctl(leader, _TIOCSPTLCK, struct.pack("i", 0))
    follower = fcntl.ioctl(leader, _TIOCGPTPEER, flags)
    number = struct.unpack("i", fcntl.ioctl(leader, _TIOCGPTN, b"\0" * 4))[0]
    return leader, follower, f"/dev/pts/{number}"


def set_size(fd: int, height: int, width: int) -> None:
    """Characters of the terminal; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def bind_console(path: str) -> None:
    """Show the terminal as /dev/console as well (runtime-spec, "Default Devices")."""
    console = os.open("/dev/console", os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    os.close(console)
    tree = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
    target = os.open("/dev/console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        kernel.move_mount(tree, target, "/dev/console")
    finally:
        os.close(tree)
        os.close(target)
