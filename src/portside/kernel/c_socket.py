"""The C half of the standard library's ``socket``, and passing descriptors with it.

A container's start waits for every import of ``portside-runtime``; ``socket`` takes enum and
selectors along, 5 ms beside the 12 ms of a bare interpreter. For Unix sockets the C half has all
but two functions. They use struct, since array takes collections along.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import (
        AF_INET,
        AF_UNIX,
        CMSG_SPACE,
        MSG_CMSG_CLOEXEC,
        SCM_RIGHTS,
        SOCK_CLOEXEC,
        SOCK_DGRAM,
        SOCK_SEQPACKET,
        SOL_SOCKET,
        socket,
        socketpair,
    )
else:
    from _socket import (
        AF_INET,
        AF_UNIX,
        CMSG_SPACE,
        MSG_CMSG_CLOEXEC,
        SCM_RIGHTS,
        SOCK_CLOEXEC,
        SOCK_DGRAM,
        SOCK_SEQPACKET,
        SOL_SOCKET,
        socketpair,
    )
    from _socket import socket as _socket

    class socket(_socket):
        """One that ``with`` closes."""

        __slots__ = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()


_INT = struct.calcsize("i")

__all__ = [
    "AF_INET",
    "AF_UNIX",
    "CMSG_SPACE",
    "MSG_CMSG_CLOEXEC",
    "SCM_RIGHTS",
    "SOCK_CLOEXEC",
    "SOCK_DGRAM",
    "SOCK_SEQPACKET",
    "SOL_SOCKET",
    "recv_fds",
    "send_fds",
    "socket",
    "socketpair",
]


def send_fds(sock: socket, buffers: list[bytes], fds: list[int]) -> int:
    """As socket.send_fds: bytes, with descriptors beside them (unix(7), SCM_RIGHTS)."""
    return sock.sendmsg(buffers, [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))])


def recv_fds(sock: socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """At most ``size`` bytes and ``count`` descriptors, which are not inherited over execve(2)."""
    fds: list[int] = []
    space = CMSG_SPACE(_INT * count)
    data, ancillary, _, _ = sock.recvmsg(size, space, MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            fds += struct.unpack_from(f"{len(payload) // _INT}i", payload)
    return data, fds
