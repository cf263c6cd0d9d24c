"""The engine's end of a connection of ``portside build``; frames in :mod:`model.build_frames`."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec

from portside.model import build_frames as wire
from portside.model.errors import Cancelled, InvalidParameter, PortsideError, TooLarge

HELLO_TIMEOUT = 30.0
"""Seconds until the client's first frame must be here."""
_QUEUE = 16
"""Frames of one channel that wait for their reader; then the client waits."""


class Refused(PortsideError):
    """The client does not have, or cannot do, what it was asked for."""


class Channel:
    """One thing that the client was asked for, and the data that come and go for it."""

    def __init__(self, connection: SessionConnection, number: int) -> None:
        self._connection, self.number = connection, number
        self._frames: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue(_QUEUE)
        self.on_resize: Any = None
        self.size: tuple[int, int] | None = None
        """Rows and columns of the client's terminal, once the client has sent them."""
        self._ended = False

    async def feed(self, kind: bytes, payload: bytes) -> None:
        if kind == wire.RESIZE:
            self.size = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
            if self.on_resize is not None:
                self.on_resize(*self.size)
            return
        await self._frames.put((kind, payload))

    async def pieces(self) -> AsyncIterator[bytes]:
        """What the client sends, until it ends. Refused."""
        while not self._ended:
            kind, payload = await self._frames.get()
            if kind == wire.DATA:
                yield payload
            elif kind == wire.REFUSE:
                self._ended = True
                raise Refused(payload.decode("utf-8", "replace"))
            else:
                self._ended = True

    async def read(self, limit: int) -> bytes:
        """Everything. TooLarge beyond ``limit`` bytes."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > limit:
                raise TooLarge(f"the client's answer is larger than {limit} bytes")
        return bytes(found)

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), wire.PIECE):
            await self._connection.send(wire.DATA, self.number, data[start : start + wire.PIECE])

    async def end(self) -> None:
        await self._connection.send(wire.END, self.number)

    def close(self) -> None:
        self._connection.forget(self)


class SessionConnection:
    """Reads frames and hands them to channels; sends in order."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._channels: dict[int, Channel] = {}
        self._next = 1
        self._lock = asyncio.Lock()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.directories: list[int] = []
        """Descriptors that came with the first frame; closed by :meth:`close`."""

    async def begin(self) -> None:
        """Take the first frame and its descriptors. InvalidParameter, Cancelled."""
        self._sock.setblocking(False)
        async with asyncio.timeout(HELLO_TIMEOUT):
            await self._hello()
        self._reader, self._writer = await asyncio.open_connection(sock=self._sock)

    async def _hello(self) -> None:
        head = b""
        while len(head) < wire.HEAD:
            piece = await self._received(wire.HEAD - len(head))
            if not piece:
                raise Cancelled("the client went away")
            head += piece
        size, kind, _ = wire.parse_head(head)
        if kind != wire.HELLO or size:
            raise InvalidParameter("the first frame must be a greeting")

    async def _received(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        if self._sock.family != socket.AF_UNIX:
            return await loop.sock_recv(self._sock, size)
        while True:
            try:
                return self._with_descriptors(size)
            except BlockingIOError:
                await _readable(loop, self._sock)

    def _with_descriptors(self, size: int) -> bytes:
        """recvmsg(2); the kernel closes the descriptors that there is no room for."""
        room = socket.CMSG_SPACE(wire.MAX_FDS * array.array("i").itemsize)
        data, ancillary, flags, _ = self._sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self.directories += found
        if flags & socket.MSG_CTRUNC or len(self.directories) > wire.MAX_FDS:
            raise InvalidParameter(f"at most {wire.MAX_FDS} open directories are accepted")
        for fd in self.directories:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                raise InvalidParameter("a context's descriptor is not a directory")
        return data

    # -- both ways -----------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the client leaves."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size, kind, number = wire.parse_head(await self._reader.readexactly(wire.HEAD))
                payload = await self._reader.readexactly(size) if size else b""
                channel = self._channels.get(number)
                if channel is not None:
                    await channel.feed(kind, payload)

    async def ask(self, **wanted: Any) -> Channel:
        """Send a request to the client; its answer comes on the returned channel."""
        channel = Channel(self, self._next)
        self._channels[self._next] = channel
        self._next += 1
        await self.send(wire.ASK, channel.number, msgspec.json.encode(wanted))
        return channel

    def forget(self, channel: Channel) -> None:
        self._channels.pop(channel.number, None)

    async def send(self, kind: bytes, channel: int = 0, payload: bytes = b"") -> None:
        """Cancelled when the client is gone."""
        try:
            async with self._lock:
                self._writer.write(wire.frame(kind, channel, payload))
                await self._writer.drain()
        except ConnectionError:
            raise Cancelled("the client went away") from None

    def send_event(self, message: bytes) -> None:
        """Send an event as JSON, without waiting: events are small, and bounded by what steps
        print."""
        if not self._writer.is_closing():
            self._writer.write(wire.frame(wire.EVENT, 0, message))

    async def close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(10):
                    await self._writer.wait_closed()
        else:
            self._sock.close()

    def close_directories(self) -> None:
        for fd in self.directories:
            os.close(fd)
        self.directories.clear()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    waiting = loop.create_future()
    loop.add_reader(sock, _wake, waiting)
    try:
        await waiting
    finally:
        loop.remove_reader(sock)
