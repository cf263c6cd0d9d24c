"""A hijacked socket whose client had already sent something.

The monitor reads from the socket itself, so early bytes must come before. Then, and only
then, a socket pair stands between client and monitor, and the engine copies.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from portside.serving.http.messages import Hijacked

_PIECE = 64 << 10
_relays: set[asyncio.Task[None]] = set()


def replay(hijacked: Hijacked) -> socket.socket:
    """The client's socket, with early bytes (if any) to be read first."""
    if not hijacked.early:
        return hijacked.sock
    near, far = socket.socketpair()
    task = asyncio.get_running_loop().create_task(_relay(hijacked, near))
    _relays.add(task)
    task.add_done_callback(_relays.discard)
    return far


async def _relay(hijacked: Hijacked, near: socket.socket) -> None:
    client = hijacked.sock
    client.setblocking(False)
    near.setblocking(False)
    with near, client:
        await asyncio.gather(
            _copy(client, near, hijacked.early), _copy(near, client, b""), return_exceptions=True
        )


async def _copy(source: socket.socket, target: socket.socket, first: bytes) -> None:
    loop = asyncio.get_running_loop()
    data = first
    with suppress(OSError):
        while True:
            if data:
                await loop.sock_sendall(target, data)
            data = await loop.sock_recv(source, _PIECE)
            if not data:
                break
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
