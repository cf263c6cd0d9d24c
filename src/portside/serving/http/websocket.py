"""Websockets (RFC 6455) for ``attach/ws``: messages one way, a plain socket the other.

The container's monitor speaks plain bytes on one end of a socket pair; this relay wraps
them in binary messages for the client and unwraps what the client types.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
from contextlib import suppress

from portside.model.errors import InvalidParameter

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PIECE = 32 << 10
MAX_FRAME = 1 << 20
"""Bytes of the largest frame accepted from a client."""

_NORMAL = struct.pack(">H", 1000)
"""Status of a normal closure (section 7.4.1)."""
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_relays: set[asyncio.Task[None]] = set()


def accept(headers: dict[str, str]) -> bytes:
    """The head that accepts an upgrade request; raises InvalidParameter."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        raise InvalidParameter("not a websocket handshake: Upgrade and Sec-WebSocket-Key needed")
    if headers.get("sec-websocket-version", "13") != "13":
        raise InvalidParameter("websocket version 13 is needed")
    token = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {token}\r\n\r\n"
    ).encode()


def frame(opcode: int, data: bytes) -> bytes:
    """One whole, unmasked message of a server."""
    head = bytes([0x80 | opcode])
    if len(data) < 126:
        head += bytes([len(data)])
    elif len(data) < 1 << 16:
        head += b"\x7e" + struct.pack(">H", len(data))
    else:
        head += b"\x7f" + struct.pack(">Q", len(data))
    return head + data


class FrameReader:
    """Cuts a client's bytes into frames; raises ValueError for what the RFC forbids."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(opcode, payload) of every frame that is complete."""
        self._buffer += data
        found = []
        while (item := self._next()) is not None:
            found.append(item)
        return found

    def _next(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0x70 or not buffer[1] & 0x80:
            raise ValueError("a client's frame must be masked and without extensions")
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            start = 4
        elif size == 127:
            start = 10
        if len(buffer) < start + 4:
            return None
        if start == 4:
            size = struct.unpack_from(">H", buffer, 2)[0]
        elif start == 10:
            size = struct.unpack_from(">Q", buffer, 2)[0]
        if size > MAX_FRAME:
            raise ValueError("frame too large")
        if len(buffer) < start + 4 + size:
            return None
        mask = bytes(buffer[start : start + 4])
        payload = bytes(buffer[start + 4 : start + 4 + size])
        opcode = buffer[0] & 0x0F
        del buffer[: start + 4 + size]
        return opcode, unmask(payload, mask)


def unmask(data: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask."""
    if not data:
        return data
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    number = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(len(data), "big")


def relay(client: socket.socket, early: bytes, *, text: bool = False) -> socket.socket:
    """The plain end of a relay to a websocket client; it gets text messages with ``text``."""
    near, far = socket.socketpair()
    task = asyncio.get_running_loop().create_task(
        _relay(client, near, early, _TEXT if text else _BINARY)
    )
    _relays.add(task)
    task.add_done_callback(_relays.discard)
    return far


async def _relay(client: socket.socket, near: socket.socket, early: bytes, kind: int) -> None:
    client.setblocking(False)
    near.setblocking(False)
    writer = _Writer(client)
    with client, near:
        work = [
            asyncio.ensure_future(_shown(near, writer, kind)),
            asyncio.ensure_future(_typed(client, near, writer, early)),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)


class _Writer:
    """Sends whole messages, also with several senders."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._lock = asyncio.Lock()

    async def send(self, opcode: int, data: bytes) -> None:
        async with self._lock:
            await asyncio.get_running_loop().sock_sendall(self._client, frame(opcode, data))


async def _shown(near: socket.socket, writer: _Writer, kind: int) -> None:
    """The container's output as messages, then a Close frame."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(near, _PIECE):
            await writer.send(kind, data)
        await writer.send(_CLOSE, _NORMAL)


async def _typed(client: socket.socket, near: socket.socket, writer: _Writer, early: bytes) -> None:
    """The client's messages as plain bytes, until it closes (RFC 6455, section 5.5.1)."""
    loop, reader, data = asyncio.get_running_loop(), FrameReader(), early
    with suppress(OSError, ValueError):
        while True:
            for opcode, payload in reader.feed(data):
                if opcode == _CLOSE:
                    await writer.send(_CLOSE, payload[:2] or _NORMAL)
                    return
                if opcode == _PING:
                    await writer.send(_PONG, payload)
                elif opcode in (_CONTINUATION, _TEXT, _BINARY) and payload:
                    await loop.sock_sendall(near, payload)
            data = await loop.sock_recv(client, _PIECE)
            if not data:
                return
