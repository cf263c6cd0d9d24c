"""The log driver ``gelf``: Graylog's Extended Log Format 1.1, over UDP or TCP.

Over UDP each message is one datagram, compressed unless the options say no, or several chunks of
it; over TCP each ends in a NUL byte. Options are checked when a container is created
(:func:`check_gelf`), in dockerd's words.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from urllib.parse import urlsplit

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang.numbers import atoi
from portside.runtime.messages import LogConfig
from portside.runtime.remote_logs import Remote, udp

_CHUNK = 1420
"""Bytes of a datagram that fits a network with tunnels (Graylog's documentation of GELF)."""
_HEAD = 12
_MAX_CHUNKS = 128
_BITS = {"gzip": 31, "zlib": 15}
_TCP_ONLY = ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay")
_UDP_ONLY = ("gelf-compression-type", "gelf-compression-level")
_LEVELS = {"stdout": 6, "stderr": 3}
"""As syslog's severities."""


def check_gelf(options: dict[str, str]) -> tuple[str, str, int]:
    """The scheme (``udp`` or ``tcp``), host and port of ``gelf-address``. Raises InvalidParameter
    for any of the driver's options."""
    address = options.get("gelf-address", "")
    if not address:
        raise InvalidParameter("gelf-address is a required parameter")
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "udp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        port = None
    if port is None:
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    for name in _UDP_ONLY:
        if name in options and parts.scheme == "tcp":
            raise InvalidParameter("compression is only supported on UDP")
    for name in _TCP_ONLY:
        if name in options:
            if parts.scheme == "udp":
                raise InvalidParameter(f'"{name}" is only valid for TCP')
            if not options[name].isdecimal():
                raise InvalidParameter(f'"{name}" must be a positive integer')
    if options.get("gelf-compression-type", "gzip") not in ("gzip", "zlib", "none"):
        raise _unknown(options, "gelf-compression-type")
    _level(options)
    return parts.scheme, host, port


def _level(options: dict[str, str]) -> int:
    try:
        level = atoi(options.get("gelf-compression-level", "1"))
    except InvalidParameter:
        level = 99
    if not -1 <= level <= 9:
        raise _unknown(options, "gelf-compression-level")
    return level


def _unknown(options: dict[str, str], name: str) -> InvalidParameter:
    return InvalidParameter(
        f'unknown value "{options[name]}" for log opt "{name}" for gelf log driver'
    )


class Gelf(Remote):
    """Sends to ``gelf-address``."""

    def __init__(self, config: LogConfig) -> None:
        options, names = config.options, config.names
        self._scheme, self._server, self._port = check_gelf(options)
        self._bits = _BITS.get(options.get("gelf-compression-type", "gzip"), 0)
        self._level = _level(options)
        self._fields = {
            "_container_id": names.get("id", ""),
            "_container_name": names.get("name", ""),
            "_image_id": names.get("image_id", ""),
            "_image_name": names.get("image_name", ""),
            "_command": names.get("command", ""),
            "_created": names.get("created", ""),
            "_tag": names.get("id", "")[:12],
            **{f"_{name}": value for name, value in config.attributes.items()},
        }
        self._host = os.uname().nodename
        super().__init__(config)

    def where(self) -> str:
        return f"gelf: cannot connect to GELF endpoint: {self._server}:{self._port}"

    def connect(self, timeout: float) -> socket.socket:
        """Connect within ``timeout`` seconds. Raises OSError."""
        if self._scheme == "tcp":
            return socket.create_connection((self._server, self._port), timeout)
        return udp(self._server, self._port)

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        """A message; an empty line gives none, since a message must have a text."""
        if not line:
            return b""
        message = {
            "version": "1.1",
            "host": self._host,
            "short_message": line.decode(errors="replace"),
            "timestamp": time.time_ns() // 1_000_000 / 1000,
            "level": _LEVELS[stream],
            **self._fields,
        }
        text = msgspec.json.encode(message)
        if self._scheme == "tcp":
            return text + b"\0"
        if not self._bits:
            return text
        packer = zlib.compressobj(self._level, wbits=self._bits)
        return packer.compress(text) + packer.flush()

    def put(self, records: list[bytes]) -> None:
        """Send these; a message of more than 128 chunks is lost, as Graylog takes no more."""
        if self._scheme == "udp":
            super().put([part for record in records for part in chunks(record)])
        else:
            super().put([record for record in records if record])


def chunks(record: bytes) -> list[bytes]:
    """The datagrams of a message: itself, or parts with a common ID and their numbers."""
    if len(record) <= _CHUNK:
        return [record] if record else []
    room = _CHUNK - _HEAD
    count = -(-len(record) // room)
    if count > _MAX_CHUNKS:
        return []
    head = b"\x1e\x0f" + os.urandom(8)
    return [
        head + bytes((number, count)) + record[number * room : (number + 1) * room]
        for number in range(count)
    ]
