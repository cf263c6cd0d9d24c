"""The log driver ``fluentd``: Fluentd's forward protocol in message mode, over TCP or a socket in
the file system.

What was not sent when the connection ends waits for the next one; past the driver's bound the
container's output is not read, or is dropped, by its ``mode``. Options are checked when a
container is created (:func:`check_fluentd`), in dockerd's words.
"""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

import msgspec

from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.golang.booleans import parse_bool
from portside.model.golang.durations import parse_duration
from portside.model.golang.numbers import parse_uint
from portside.model.golang.sizes import ram_bytes
from portside.runtime.messages import LogConfig
from portside.runtime.remote_logs import Remote, unix_socket

_PORT = 24224
_EVENT_TIME = 0
"""Type of the extension that holds seconds and nanoseconds (forward protocol, EventTime)."""
_RECONNECT = (100_000_000, 10_000_000_000)
"""Nanoseconds that ``fluentd-async-reconnect-interval`` may have."""


def check_fluentd(options: dict[str, str]) -> tuple[str, str, int]:
    """The scheme (``tcp`` or ``unix``), the host or path, and the port. Raises InvalidParameter
    for any of the driver's options, NotImplementedHere."""
    for name in ("fluentd-async", "fluentd-sub-second-precision", "fluentd-request-ack"):
        parse_bool(options.get(name, "false"))
    if "fluentd-buffer-limit" in options:
        ram_bytes(options["fluentd-buffer-limit"])
    if "fluentd-max-retries" in options:
        parse_uint(options["fluentd-max-retries"])
    for name in ("fluentd-retry-wait", "fluentd-write-timeout", "fluentd-read-timeout"):
        if parse_duration(options.get(name, "0")) < 0:
            raise InvalidParameter(
                f"invalid value for {name}: value must be a duration that is non-negative"
            )
    interval = options.get("fluentd-async-reconnect-interval", "")
    if interval and not _RECONNECT[0] <= parse_duration(interval) <= _RECONNECT[1]:
        raise InvalidParameter(
            f'invalid value for fluentd-async-reconnect-interval: value ("{interval}") must be '
            "between 100ms and 10s"
        )
    place = _address(options.get("fluentd-address", ""))
    if parse_bool(options.get("fluentd-request-ack", "false")):
        raise NotImplementedHere("fluentd-request-ack is not supported: leave it out")
    return place


def _address(text: str) -> tuple[str, str, int]:
    if not text:
        return "tcp", "127.0.0.1", _PORT

    def invalid(why: str) -> InvalidParameter:
        return InvalidParameter(f"invalid fluentd-address ({text}): {why}")

    full = text if "://" in text else f"tcp://{text}"
    parts = urlsplit(full)
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise invalid("path is empty")
        return "unix", parts.path, 0
    if parts.scheme == "tls":
        raise NotImplementedHere("fluentd-address: tls:// is not supported: use tcp:// or unix://")
    if parts.scheme != "tcp":
        raise invalid(f"unsupported scheme: '{parts.scheme}'")
    if parts.path:
        raise invalid("should not contain a path element")
    try:
        return "tcp", parts.hostname or "127.0.0.1", parts.port or _PORT
    except ValueError:
        port = parts.netloc.rpartition(":")[2]
        raise invalid(f'parse "{full}": invalid port ":{port}" after host') from None


class Fluentd(Remote):
    """Sends to ``fluentd-address``."""

    keeps = True

    def __init__(self, config: LogConfig) -> None:
        options, names = config.options, config.names
        self._scheme, self._server, self._port = check_fluentd(options)
        self.waits_for_start = not parse_bool(options.get("fluentd-async", "false"))
        if "fluentd-retry-wait" in options:
            self.again = parse_duration(options["fluentd-retry-wait"]) / 1e9
        self._most_attempts = parse_uint(options.get("fluentd-max-retries", str(2**32 - 1)))
        self._attempts = 0
        self._most_records = ram_bytes(options.get("fluentd-buffer-limit", "1m"))
        self._period = parse_duration(options.get("fluentd-async-reconnect-interval", "0")) / 1e9
        self._connected = 0.0
        self._exact = parse_bool(options.get("fluentd-sub-second-precision", "false"))
        attributes = dict(config.attributes)
        self._tag = attributes.pop("tag", "") or names.get("id", "")[:12]
        self._fields: dict[str, str] = {
            "container_id": names.get("id", ""),
            "container_name": f"/{names.get('name', '')}",
            **attributes,
        }
        self._parts: dict[str, tuple[str, int]] = {}
        """Of each stream: the ID and the number of parts of a line that did not end yet."""
        self._ends = False
        super().__init__(config)

    def where(self) -> str:
        return f"dial {self._scheme} {self._server}{f':{self._port}' if self._port else ''}"

    def connect(self, timeout: float) -> socket.socket:
        """Connect within ``timeout`` seconds. Raises OSError."""
        self._attempts += 1
        if self._scheme == "unix":
            made = unix_socket(self._server, (socket.SOCK_STREAM,))
        else:
            made = socket.create_connection((self._server, self._port), timeout)
        self._attempts, self._connected = 0, time.monotonic()
        return made

    def put(self, records: list[bytes]) -> None:
        """Send these, over a connection that is not too old; past the buffer's limit, and after
        the last attempt to connect, they are lost."""
        if self._attempts > self._most_attempts:
            return
        if not self.waits_for_start:
            records = records[: max(0, self._most_records - len(self.waiting))]
        if self._period and time.monotonic() - self._connected > self._period:
            self.renew()
        super().put(records)

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        moment: int | msgspec.msgpack.Ext = seconds
        if self._exact:
            data = seconds.to_bytes(4, "big") + nanoseconds.to_bytes(4, "big")
            moment = msgspec.msgpack.Ext(_EVENT_TIME, data)
        try:
            log: str | bytes = line.decode()
        except UnicodeDecodeError:
            log = line  # as a binary string, byte for byte
        fields = {**self._fields, "source": stream, "log": log}
        fields |= self._part(stream, whole or self._ends)
        return msgspec.msgpack.encode([self._tag, moment, fields, {}])

    def _part(self, stream: str, whole: bool) -> dict[str, str]:
        """The fields that say which part of a long line this is."""
        known = self._parts.pop(stream, None)
        if whole and known is None:
            return {}
        identifier, number = known or (os.urandom(32).hex(), 0)
        if not whole:
            self._parts[stream] = identifier, number + 1
        return {
            "partial_message": "true",
            "partial_id": identifier,
            "partial_ordinal": str(number + 1),
            "partial_last": "true" if whole else "false",
        }

    def finish(self) -> None:
        """No more output comes: what is left is the end of a line."""
        self._ends = True
        super().finish()
