"""The ``syslog`` log driver: each line to a syslog daemon (RFC 3164, RFC 5424)."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

from portside.model.errors import InvalidParameter
from portside.runtime.messages import LogConfig
from portside.runtime.remote_logs import Remote

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


class Syslog(Remote):
    """Sends to ``syslog-address`` (unix, unixgram, udp, tcp), or to the host's own socket."""

    def __init__(self, config: LogConfig) -> None:
        options = config.options
        facility = options.get("syslog-facility", "daemon")
        self._facility = int(facility) if facility.isdigit() else _FACILITIES.get(facility, -1)
        if not 0 <= self._facility <= 23:
            raise InvalidParameter(f"invalid syslog facility {facility!r}")
        self._tag = config.attributes.get("tag") or config.names.get("id", "")[:12]
        self._format = options.get("syslog-format", "")
        if self._format not in _FORMATS:
            raise InvalidParameter(f"invalid syslog format {self._format!r}")
        self._address = options.get("syslog-address", "")
        scheme = urlsplit(self._address).scheme if self._address else "unixgram"
        if scheme not in ("unix", "unixgram", "udp", "tcp"):
            raise InvalidParameter(
                f"syslog-address {self._address!r}: unix, unixgram, udp and tcp are built"
            )
        self._pid, self._host = os.getpid(), os.uname().nodename
        super().__init__(config)

    def where(self) -> str:
        return self._address or "the host's syslog socket"

    def connect(self, timeout: float) -> socket.socket:
        if not self._address:
            path = next((path for path in _LOCAL if os.path.exists(path)), _LOCAL[0])
            return _unix(path, (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        parts = urlsplit(self._address)
        if parts.scheme == "unix":
            return _unix(parts.path, (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        if parts.scheme == "unixgram":
            return _unix(parts.path, (socket.SOCK_DGRAM,))
        where = (parts.hostname or "", parts.port or 514)
        if parts.scheme == "tcp":
            return socket.create_connection(where, timeout)
        family, kind, _, _, address = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind)
        sock.connect(address)
        return sock

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


def _unix(path: str, kinds: tuple[socket.SocketKind, ...]) -> socket.socket:
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
