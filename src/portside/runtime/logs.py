"""Writing a container's output to its log, in the monitor.

``json-file`` is Docker's format: one JSON document a line with ``log``, ``stream`` and
``time``; a line of over 16 KiB is cut into parts, of which only the last ends in a newline.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.runtime.messages import LogConfig

PART = 16 << 10
"""Bytes of a line that are kept together."""
DEFAULT_MAX_SIZE = 20 << 20
DEFAULT_MAX_FILE = 5

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str, option: str = "max-size") -> int:
    """Bytes of a size such as ``10m``; -1 is no limit. Raises InvalidParameter."""
    lowered = text.strip().lower().removesuffix("b").removesuffix("i")
    number, unit = (lowered, "") if lowered[-1:].isdigit() else (lowered[:-1], lowered[-1:])
    if lowered == "-1":
        return -1
    if not number.isdigit() or unit not in _UNITS:
        raise InvalidParameter(f"invalid value for log option {option}: {text!r}")
    return int(number) * _UNITS[unit]


class Stamp:
    """RFC 3339 times with nanoseconds, the date's text made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        second, nanos = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fraction = f"{nanos:09d}".rstrip("0")
        return f"{self._text}.{fraction}Z" if fraction else f"{self._text}Z"


class LogWriter:
    """Takes raw output and keeps it; the base class keeps nothing (driver ``none``)."""

    def write(self, stream: str, data: bytes) -> None:
        """Take output of ``stdout`` or ``stderr`` as it was read."""

    def finish(self) -> None:
        """No more output comes: write what is left of cut lines."""


class LineWriter(LogWriter):
    """Cuts output into lines and parts, each handed on with its time."""

    def __init__(self) -> None:
        self._left: dict[str, bytes] = {}
        self._stamp = Stamp()

    def write(self, stream: str, data: bytes) -> None:
        stamp = self._stamp.now()
        data = self._left.pop(stream, b"") + data
        lines = data.split(b"\n")
        rest = lines.pop()
        out = []
        for line in lines:
            for start in range(0, max(len(line), 1), PART):
                last = start + PART >= len(line)
                out.append(self.record(stream, line[start : start + PART], stamp, last))
        while len(rest) >= PART:
            out.append(self.record(stream, rest[:PART], stamp, False))
            rest = rest[PART:]
        if rest:
            self._left[stream] = rest
        if out:
            self.put(b"".join(out))

    def finish(self) -> None:
        stamp = self._stamp.now()
        for stream, rest in sorted(self._left.items()):
            self.put(self.record(stream, rest, stamp, False))
        self._left.clear()

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        """One line (``whole``: its newline came too) in the driver's form."""
        raise NotImplementedError

    def put(self, records: bytes) -> None:
        raise NotImplementedError


class _Line(msgspec.Struct):
    log: str
    stream: str
    time: str


class _LineWithAttributes(msgspec.Struct):
    log: str
    stream: str
    attrs: dict[str, str]
    time: str


class JsonFile(LineWriter):
    """Docker's json-file, rotated: FILE, FILE.1 (newer) … FILE.N."""

    def __init__(self, config: LogConfig) -> None:
        super().__init__()
        self._path = Path(config.path)
        self._attributes = config.attributes
        options = config.options
        self._max_size = size(options.get("max-size", str(DEFAULT_MAX_SIZE)))
        self._max_file = int(options.get("max-file", DEFAULT_MAX_FILE))
        self._compress = options.get("compress", "false") == "true"
        self._encoder = msgspec.json.Encoder()
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        text = line.decode(errors="replace") + ("\n" if whole else "")
        document: msgspec.Struct
        if self._attributes:
            document = _LineWithAttributes(text, stream, self._attributes, stamp)
        else:
            document = _Line(text, stream, stamp)
        return self._encoder.encode(document) + b"\n"

    def put(self, records: bytes) -> None:
        if 0 < self._max_size <= self._size and self._size:
            self._rotate()
        try:
            view = memoryview(records)
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            pass  # a full disk must not stop the container; what does not fit is lost

    def _rotate(self) -> None:
        """Shift the older files up by one and begin a new one; the oldest goes."""
        os.close(self._fd)
        suffix = ".gz" if self._compress else ""
        older = [self._path.with_name(f"{self._path.name}.{n}{suffix}") for n in
                 range(1, self._max_file)]  # fmt: skip
        if not older:
            self._path.unlink(missing_ok=True)
        for source, target in zip(reversed(older[:-1]), reversed(older[1:]), strict=True):
            if source.exists():
                source.replace(target)
        if older:
            if self._compress:
                self._compress_to(older[0])
            else:
                self._path.replace(older[0])
        self._open()

    def _compress_to(self, target: Path) -> None:
        import zlib

        packer = zlib.compressobj(6, wbits=31)
        with self._path.open("rb") as source, target.open("wb") as out:
            while chunk := source.read(1 << 18):
                out.write(packer.compress(chunk))
            out.write(packer.flush())
        self._path.unlink()


def open_log(config: LogConfig) -> LogWriter:
    """The writer a configuration asks for; raises NotImplementedHere naming the driver."""
    if config.driver in ("json-file", "local"):
        return JsonFile(config)
    if config.driver == "none":
        return LogWriter()
    if config.driver == "syslog":
        from portside.runtime.syslog import Syslog

        return Syslog(config)
    raise NotImplementedHere(
        f"logging driver {config.driver!r} is not built: use json-file, local, syslog or none"
    )
