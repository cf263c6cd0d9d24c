"""Hijacking a TLS connection: its plain bytes travel over a socket pair.

A monitor can be handed a plain socket, never a TLS session, which lives in the engine's
memory. So the engine keeps the session and copies; half-closes pass both ways.
"""

from __future__ import annotations

import asyncio
import socket

_PIECE = 64 << 10
_LINGER = 10.0
"""Seconds that a client has to end its side once it has received the end of output."""


class _Pump(asyncio.Protocol):
    """Takes over a transport and copies between it and one end of a socket pair."""

    def __init__(self, transport: asyncio.Transport, near: socket.socket, ended: bool) -> None:
        self._transport, self._near = transport, near
        self._loop = asyncio.get_running_loop()
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._over = False
        """The container's side has ended: what the client still sends is dropped."""
        self._ended = asyncio.Event()
        """The client has sent its last."""
        self._writable.set()
        if ended:
            self._incoming.put_nowait(b"")
            self._ended.set()
        self._tasks = [
            self._loop.create_task(self._to_container()),
            self._loop.create_task(self._to_client()),
        ]

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._incoming.put_nowait(data)
        if self._incoming.qsize() > 8:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._end_input()
        self._ended.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_input()
        self._writable.set()
        self._ended.set()
        if not self._over:
            self._tasks[1].cancel()

    def _end_input(self) -> None:
        self._incoming.put_nowait(b"")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _to_container(self) -> None:
        try:
            while data := await self._incoming.get():
                await self._loop.sock_sendall(self._near, data)
                if self._incoming.qsize() < 4 and not self._transport.is_closing():
                    self._transport.resume_reading()
            self._near.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other direction reports it to the client

    async def _to_client(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._near, _PIECE):
                self._transport.write(data)
                await self._writable.wait()
        except OSError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        """The end of output first; a connection closed with bytes unread would be reset, and
        the client would lose that end."""
        self._over = True
        self._tasks[0].cancel()
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        self._near.close()
        self._transport.write_eof()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(_LINGER):
                await self._ended.wait()
        except TimeoutError:
            pass
        self._transport.close()


def hijack_tls(
    transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, ended: bool
) -> socket.socket:
    """The far end of a socket pair that speaks for ``transport``."""
    near, far = socket.socketpair()
    near.setblocking(False)
    pump = _Pump(transport, near, ended)
    transport.set_protocol(pump)
    loop.call_soon(transport.resume_reading)
    return far
