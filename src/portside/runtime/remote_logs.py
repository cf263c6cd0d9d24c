"""Log drivers that send elsewhere, and what happens when nobody takes it fast enough.

::

    output ─► lines ─► waiting records ─► socket (never waited for)
                        │ mode=blocking:     past a bound the container's output is not read
                        └ mode=non-blocking: past max-buffer-size new records are dropped

A copy is kept in a file of our own (``cache-disabled`` turns that off), so that ``logs`` can
show it.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from contextlib import suppress
from urllib.parse import urlsplit

from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.golang.booleans import parse_bool
from portside.model.golang.sizes import ram_bytes
from portside.runtime.logs import JsonFile, LineWriter, Local, LogWriter
from portside.runtime.messages import LogConfig
from portside.runtime.poller import Poller
from portside.runtime.streams import WRITE

BUFFER = 1 << 20
"""Bytes that wait by default, in either mode."""
_CONNECT = 10.0
"""Seconds that a start waits for the other side."""
_LAST = 5.0
"""Seconds the end waits for what is still to be sent."""


class Remote(LineWriter):
    """Sends records over a socket that :meth:`connect` makes."""

    keeps = False
    """Whether records wait for the next connection when one ends."""
    waits_for_start = True
    """Whether the other side must be there when the container starts."""
    again = 1.0
    """Seconds between attempts to connect anew; what comes meanwhile waits or is lost."""

    def __init__(self, config: LogConfig) -> None:
        super().__init__()
        self._drops = config.options.get("mode") == "non-blocking"
        given = config.options.get("max-buffer-size")
        self._limit = ram_bytes(given) if given and self._drops else BUFFER
        self.waiting: deque[bytes] = deque()
        self._sent = 0
        """Bytes of the first record that the other side took."""
        self._bytes = 0
        self._failed = 0.0
        self._poller: Poller | None = None
        self._socket: socket.socket | None = None
        try:
            self._open(_CONNECT)
        except OSError as err:
            if not self.waits_for_start:
                self._failed = time.monotonic()
                return
            raise SystemFailure(
                f"failed to initialize logging driver: {self.where()}: {err.strerror or err}"
            ) from err

    def connect(self, timeout: float) -> socket.socket:
        """A connected socket; raises OSError."""
        raise NotImplementedError

    def where(self) -> str:
        """The other side, for errors."""
        raise NotImplementedError

    def bind(self, poller: Poller) -> None:
        self._poller = poller
        if self.keeps and self._socket is None:
            poller.after(self.again, self, self._retry)

    @property
    def full(self) -> bool:
        return not self._drops and self._bytes > self._limit

    def put(self, records: list[bytes]) -> None:
        for record in records:
            if self._drops and self.waiting and self._bytes + len(record) > self._limit:
                continue
            self.waiting.append(record)
            self._bytes += len(record)
        self._flush()

    def _open(self, timeout: float) -> None:
        self._socket = self.connect(timeout)
        self._socket.setblocking(False)

    def _flush(self) -> None:
        """Send what the other side takes now; the rest when it can take more."""
        if self._socket is None and not self._reopened():
            return
        assert self._socket is not None
        try:
            while self.waiting:
                record = self.waiting[0]
                sent = _send(self._socket, memoryview(record)[self._sent :])
                self._bytes -= sent
                self._sent += sent
                if self._sent >= len(record):
                    self.waiting.popleft()
                    self._sent = 0
        except BlockingIOError:
            pass
        except OSError:
            self._lost()
            return
        self._watch()

    def _reopened(self) -> bool:
        """Connect anew, not too often; what waits meanwhile is lost as it would be by syslog(3),
        unless the driver keeps it."""
        if time.monotonic() - self._failed < self.again:
            self._forget()
            return False
        try:
            self._open(0.2)
        except OSError:
            self._lost()
            return False
        return True

    def renew(self) -> None:
        """Leave a connection on which nothing waits, for a new one."""
        if not self.waiting and self._socket is not None:
            self._close()
            self._failed = 0.0

    def _close(self) -> None:
        if self._socket is not None:
            if self._poller is not None:
                self._poller.drop(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _lost(self) -> None:
        self._failed = time.monotonic()
        self._close()
        self._bytes += self._sent  # the next connection gets the whole record
        self._sent = 0
        self._forget()
        if self.keeps and self._poller is not None:
            self._poller.after(self.again, self, self._retry)

    def _retry(self) -> None:
        self._failed = 0.0
        self._writable()

    def _forget(self) -> None:
        if not self.keeps:
            self.waiting.clear()
            self._bytes = self._sent = 0

    def _watch(self) -> None:
        if self._poller is None or self._socket is None:
            return
        if self.waiting:
            self._poller.set(self._socket.fileno(), WRITE, lambda _: self._writable())
        else:
            self._poller.drop(self._socket.fileno())

    def _writable(self) -> None:
        self._flush()
        if self.drained is not None and not self.full:
            self.drained()

    def finish(self) -> None:
        super().finish()
        deadline = time.monotonic() + _LAST
        with suppress(OSError):
            if self.waiting and self._socket is None and self.keeps:
                self._open(_LAST)
            while self.waiting and self._socket is not None and time.monotonic() < deadline:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
                self._flush_blocking()
        self.keeps = False
        self._lost()
        if self._poller is not None:
            self._poller.forget(self)

    def _flush_blocking(self) -> None:
        assert self._socket is not None
        while self.waiting:
            self._socket.sendall(memoryview(self.waiting[0])[self._sent :])
            self._bytes -= len(self.waiting.popleft()) - self._sent
            self._sent = 0


def _send(sock: socket.socket, data: memoryview) -> int:
    """The number of bytes that were sent. Over UDP the refusal of an earlier datagram is reported
    by the next one, which was not sent."""
    try:
        return sock.send(data)
    except ConnectionRefusedError:
        if sock.type != socket.SOCK_DGRAM or sock.family == socket.AF_UNIX:
            raise
        return sock.send(data)


class Both(LogWriter):
    """A remote driver and the file that ``logs`` reads."""

    def __init__(self, remote: Remote, file: JsonFile) -> None:
        self._remote, self._file = remote, file

    def bind(self, poller: Poller) -> None:
        self._remote.drained = self.drained
        self._remote.bind(poller)

    @property
    def full(self) -> bool:
        return self._remote.full

    def write(self, stream: str, data: bytes) -> None:
        self._file.write(stream, data)
        self._remote.drained = self.drained
        self._remote.write(stream, data)

    def finish(self) -> None:
        self._file.finish()
        self._remote.finish()


def with_cache(config: LogConfig, remote: Remote) -> LogWriter:
    """The driver with its copy in a file, unless the options say no."""
    options = config.options
    if parse_bool(options.get("cache-disabled", "false")) or not config.path:
        return remote
    kept = {
        name: options[f"cache-{name}"]
        for name in ("max-size", "max-file", "compress")
        if f"cache-{name}" in options
    }
    file = LogConfig("local", config.path, kept, config.attributes, config.names)
    return Both(remote, Local(file))


JOURNAL = "/run/systemd/journal/socket"


class Journald(Remote):
    """systemd's journal by its own protocol (systemd.journal-fields(7))."""

    def __init__(self, config: LogConfig) -> None:
        names = config.names
        tag = config.attributes.get("tag") or names.get("id", "")[:12]
        fields = {
            "CONTAINER_ID": names.get("id", "")[:12],
            "CONTAINER_ID_FULL": names.get("id", ""),
            "CONTAINER_NAME": names.get("name", ""),
            "CONTAINER_TAG": tag,
            "SYSLOG_IDENTIFIER": tag,
            "IMAGE_NAME": names.get("image_name", ""),
        }
        for name, value in config.attributes.items():
            clean = "".join(c if c.isalnum() and c.isascii() else "_" for c in name.upper())
            if clean != "TAG":
                fields[clean.lstrip("_0123456789") or "FIELD"] = value
        self._fields = b"".join(_field(name, value.encode()) for name, value in fields.items())
        super().__init__(config)

    def where(self) -> str:
        if not os.path.exists(JOURNAL):
            return "journald is not enabled on this host"
        return JOURNAL

    def connect(self, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(JOURNAL)
        except OSError:
            sock.close()
            raise
        return sock

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        priority = b"6" if stream == "stdout" else b"3"
        partial = b"" if whole else _field("CONTAINER_PARTIAL_MESSAGE", b"true")
        return _field("MESSAGE", line) + _field("PRIORITY", priority) + partial + self._fields


def _field(name: str, value: bytes) -> bytes:
    """One field; a value with line ends goes with its length before it."""
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


_FACILITIES = {
    name: number
    for number, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
         "authpriv", "ftp", "ntp", "security", "console", "solaris-cron", "local0", "local1",
         "local2", "local3", "local4", "local5", "local6", "local7")
    )
}  # fmt: skip
_SEVERITY = {"stdout": 6, "stderr": 3}
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")


def check_syslog(options: dict[str, str]) -> int:
    """The number of the facility. Raises InvalidParameter for it, the format or the address."""
    facility = options.get("syslog-facility", "daemon")
    number = int(facility) if facility.isdecimal() else _FACILITIES.get(facility, -1)
    if not 0 <= number <= 23:
        raise InvalidParameter(f"invalid syslog facility {facility!r}")
    if options.get("syslog-format", "") not in _FORMATS:
        raise InvalidParameter(f"invalid syslog format {options['syslog-format']!r}")
    address = options.get("syslog-address", "")
    if address and urlsplit(address).scheme not in ("unix", "unixgram", "udp", "tcp"):
        raise InvalidParameter(
            f"syslog-address {address!r}: the scheme must be unix, unixgram, udp or tcp"
        )
    return number


class Syslog(Remote):
    """Sends to ``syslog-address`` (unix, unixgram, udp, tcp), or to the host's own socket."""

    def __init__(self, config: LogConfig) -> None:
        options = config.options
        self._facility = check_syslog(options)
        self._tag = config.attributes.get("tag") or config.names.get("id", "")[:12]
        self._format = options.get("syslog-format", "")
        self._address = options.get("syslog-address", "")
        self._pid, self._host = os.getpid(), os.uname().nodename
        super().__init__(config)

    def where(self) -> str:
        return self._address or "the host's syslog socket"

    def connect(self, timeout: float) -> socket.socket:
        """Connect within ``timeout`` seconds, to port 514 by default. Raises OSError."""
        if not self._address:
            path = next((path for path in _LOCAL if os.path.exists(path)), _LOCAL[0])
            return unix_socket(path, (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        parts = urlsplit(self._address)
        if parts.scheme == "unix":
            return unix_socket(parts.path, (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        if parts.scheme == "unixgram":
            return unix_socket(parts.path, (socket.SOCK_DGRAM,))
        where = (parts.hostname or "", parts.port or 514)
        if parts.scheme == "tcp":
            return socket.create_connection(where, timeout)
        return udp(*where)

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        priority = self._facility * 8 + _SEVERITY[stream]
        tag, pid = self._tag, self._pid
        if self._format.startswith("rfc5424"):
            if self._format == "rfc5424":
                stamp = f"{stamp.partition('.')[0].removesuffix('Z')}Z"
            elif "." in stamp:
                stamp = f"{stamp.removesuffix('Z')[:26]}Z"
            head = f"<{priority}>1 {stamp} {self._host} {tag} {pid} {tag} - "
        else:
            local = self._address.startswith("unix") or not self._address
            host = "" if local and not self._format else f"{self._host} "
            head = f"<{priority}>{time.strftime('%b %e %H:%M:%S')} {host}{tag}[{pid}]: "
        return head.encode() + line + b"\n"


def udp(host: str, port: int) -> socket.socket:
    """A socket that sends to a host. Raises OSError."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind)
    sock.connect(address)
    return sock


def unix_socket(path: str, kinds: tuple[socket.SocketKind, ...]) -> socket.socket:
    """A connection to a socket in the file system, of the first kind that it takes."""
    for last, kind in zip((*[False] * (len(kinds) - 1), True), kinds, strict=True):
        sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
            if last:
                raise
    raise OSError(2, "no socket", path)
