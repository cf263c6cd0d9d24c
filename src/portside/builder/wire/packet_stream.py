"""The packets of fsutil's DiffCopy on a socket, in job processes.

The engine passes the bytes of the gRPC stream through as they come: each message has a head of
five bytes (no compression, length) before its ``Packet``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from portside.builder.wire.proto.fstypes_pb2 import Packet
from portside.store.tar_format import Malformed

MAX_PACKET = 16 << 20
"""Bytes of one message."""
PIECE = 1 << 20

# Go's os.FileMode, as Stat.mode has it
GO_DIR, GO_SYMLINK, GO_DEVICE, GO_PIPE, GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
GO_SETUID, GO_SETGID, GO_CHAR, GO_STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20


class PacketStream:
    """Both directions of one DiffCopy."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)
        self.received = 0
        """Bytes of messages so far."""

    def packets(self) -> Iterator[Packet]:
        """Until the peer ends its side. Malformed."""
        buffer = bytearray()
        decode = Packet.FromString
        while True:
            at, have = 0, len(buffer)
            with memoryview(buffer) as view:
                while have - at >= 5:
                    size = int.from_bytes(view[at + 1 : at + 5], "big")
                    if view[at] or size > MAX_PACKET:
                        raise Malformed("the client sent a message that is compressed or too large")
                    if have - at < 5 + size:
                        break
                    self.received += size
                    packet = decode(view[at + 5 : at + 5 + size].tobytes())
                    at += 5 + size
                    yield packet
            del buffer[:at]
            piece = self._socket.recv(PIECE)
            if not piece:
                if buffer:
                    raise Malformed("the client's stream ended inside a message")
                return
            buffer += piece

    def send(self, packet: Packet) -> None:
        data = packet.SerializeToString()
        self._socket.sendall(b"\0" + len(data).to_bytes(4, "big") + data)

    def end(self) -> None:
        """End the stream: nothing more is sent."""
        self._socket.shutdown(socket.SHUT_WR)


def permissions(mode: int) -> int:
    """Permission bits of a Go file mode, as chmod(2) takes them."""
    found = mode & 0o777
    for flag, bit in ((GO_SETUID, 0o4000), (GO_SETGID, 0o2000), (GO_STICKY, 0o1000)):
        if mode & flag:
            found |= bit
    return found
