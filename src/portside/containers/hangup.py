"""Ending the connection of a client that may still be sending.

A socket that is closed with unread bytes in it tells its peer ECONNRESET (unix(7), tcp(7)),
and a client that meets that error neither reads what it was sent before nor asks for the exit
code. So the end of output is told first, and what still comes is read and dropped.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

LINGER = 10.0
"""Seconds that a client has to end its side."""
_PIECE = 64 << 10
_tasks: set[asyncio.Task[None]] = set()


def hang_up(sock: socket.socket) -> None:
    """Takes the socket over; returns at once."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    task = asyncio.get_running_loop().create_task(drain(sock))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def drain(sock: socket.socket) -> None:
    """Read to the client's end, for a while, and close."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with sock, suppress(OSError, TimeoutError):
        async with asyncio.timeout(LINGER):
            while await loop.sock_recv(sock, _PIECE):
                pass
