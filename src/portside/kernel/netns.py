"""Network namespaces: network_namespaces(7), setns(2), unshare(2).

These act on the calling thread alone. A socket stays bound to the namespace it was made
in, so one visit is enough to continue working there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from portside.kernel import c_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)


def unshare_net() -> None:
    """Move the calling thread into a new, empty network namespace (loopback down)."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "unshare(CLONE_NEWNET)")


def setns_net(fd: int) -> None:
    """Move the calling thread into the namespace of ``fd`` (an nsfs file or a pidfd)."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns(CLONE_NEWNET)")


def loopback_up() -> None:
    """Bring up ``lo`` in the caller's network namespace (netdevice(7)), where it gets its
    addresses by itself."""
    with c_socket.socket(c_socket.AF_INET, c_socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def open_own() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_of(pid: int) -> int:
    """A descriptor of a process's network namespace; ProcessLookupError or
    FileNotFoundError when it is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def socket_in(fd: int, family: int, kind: int) -> socket.socket:
    """A non-blocking socket that belongs to the network namespace of ``fd``.

    The calling thread is in that namespace for the three system calls this takes.
    """
    import socket  # the whole of it, for event loops

    home = open_own()
    try:
        setns_net(fd)
        try:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        finally:
            setns_net(home)
    finally:
        os.close(home)
