"""The ``syslog`` log driver: each line to a syslog daemon (RFC 3164, RFC 5424)."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

from portside.model.errors import InvalidParameter
from portside.runtime.logs import LineWriter
from portside.runtime.messages import LogConfig

_FACILITIES = {
    name: number
    for number, name in enumerate(
        ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
         "authpriv", "ftp", "ntp", "security", "console", "solaris-cron", "local0", "local1",
         "local2", "local3", "local4", "local5", "local6", "local7")
    )
}  # fmt: skip
_SEVERITY = {"stdout": 6, "stderr": 3}


class Syslog(LineWriter):
    """Sends to ``syslog-address`` (unix, udp, tcp) or /dev/log; lost lines are not kept."""

    def __init__(self, config: LogConfig) -> None:
        super().__init__()
        facility = config.options.get("syslog-facility", "daemon")
        self._facility = int(facility) if facility.isdigit() else _FACILITIES.get(facility, -1)
        if self._facility < 0:
            raise InvalidParameter(f"invalid syslog facility {facility!r}")
        tag = config.options.get("tag", config.names.get("id", "")[:12])
        self._tag = tag.replace("{{.Name}}", config.names.get("name", "")).replace(
            "{{.ID}}", config.names.get("id", "")[:12]
        )
        self._format = config.options.get("syslog-format", "")
        self._address = config.options.get("syslog-address", "unix:///dev/log")
        self._socket: socket.socket | None = None

    def _connect(self) -> socket.socket:
        parts = urlsplit(self._address)
        kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
        if parts.scheme in kinds:
            family, _, _, _, where = socket.getaddrinfo(
                parts.hostname, parts.port or 514, type=kinds[parts.scheme]
            )[0]
            sock = socket.socket(family, kinds[parts.scheme])
            sock.connect(where)
        elif parts.scheme in ("unix", "unixgram"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.connect(parts.path)
        else:
            raise InvalidParameter(f"syslog-address: unsupported {self._address!r}")
        return sock

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        priority = self._facility * 8 + _SEVERITY[stream]
        if self._format.startswith("rfc5424"):
            head = f"<{priority}>1 {stamp} {os.uname().nodename} {self._tag} {os.getpid()} - - "
        else:
            when = time.strftime("%b %e %H:%M:%S")
            head = f"<{priority}>{when} {self._tag}[{os.getpid()}]: "
        return head.encode() + line + b"\n"

    def put(self, records: bytes) -> None:
        for record in records.splitlines(keepends=True):
            try:
                if self._socket is None:
                    self._socket = self._connect()
                self._socket.send(record)
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                self._socket = None
