"""What receivers of logs read from a socket."""

from __future__ import annotations

import socket
from typing import Any

import msgspec


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    text = b""
    with connection:
        while data := connection.recv(1 << 16):
            text += data
    return text


def fluentd_records(data: bytes, tag: str) -> list[list[Any]]:
    """The messages of a connection: arrays of four, the first a tag of up to 31 bytes."""
    begin = bytes((0x94, 0xA0 + len(tag))) + tag.encode()
    return [msgspec.msgpack.decode(begin + rest) for rest in data.split(begin)[1:]]
