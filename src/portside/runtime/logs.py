"""Writing a container's output to its log, in the monitor.

``json-file`` is Docker's format: one JSON document a line with ``log``, ``stream`` and
``time``; a line of over 16 KiB is cut into parts, of which only the last ends in a newline.
``local`` keeps the same documents, with ``raw`` (base64) in place of ``log`` where a line is no
UTF-8, and compresses what it rotates.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.golang.booleans import parse_bool
from portside.model.golang.sizes import human_bytes
from portside.runtime.messages import LogConfig

if TYPE_CHECKING:
    from portside.runtime.poller import Poller

PART = 16 << 10
"""Bytes of a line that are kept together."""
DEFAULT_MAX_SIZE = 20 << 20
DEFAULT_MAX_FILE = 5
_SLICE = 256 << 10
"""Bytes compressed at a time."""


def log_size(text: str) -> int:
    """Bytes of ``max-size``, such as ``10m`` in powers of 1000; -1 means unlimited.

    Raises InvalidParameter.
    """
    if text == "-1":
        return -1
    size = human_bytes(text)
    if size <= 0:
        raise InvalidParameter("max-size must be a positive number")
    return size


class Stamp:
    """RFC 3339 times with nanoseconds, the date's text made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""
        self._last = 0

    def now(self) -> str:
        return self._text_of(time.time_ns())

    def after(self) -> str:
        """The time one nanosecond after the last one returned."""
        return self._text_of(self._last + 1)

    def _text_of(self, now: int) -> str:
        self._last = now
        second, nanos = divmod(now, 1_000_000_000)
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

    drained: Callable[[], None] | None = None
    """To be called when :attr:`full` is over."""

    @property
    def full(self) -> bool:
        """Whether output should not be read for now."""
        return False

    def bind(self, poller: Poller) -> None:
        """The poller that a driver with a socket waits on until it may send."""


class LineWriter(LogWriter):
    """Cuts output into lines and parts, each handed on with its time."""

    def __init__(self) -> None:
        self._left: dict[str, bytes] = {}
        self._stamp = Stamp()

    def write(self, stream: str, data: bytes) -> None:
        """Record the whole lines of ``data`` in parts of at most ``PART`` bytes; what follows the
        last one is kept until its line ends."""
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
            self.put(out)

    def finish(self) -> None:
        stamp = self._stamp.now()
        for stream, rest in sorted(self._left.items()):
            self.put([self.record(stream, rest, stamp, False)])
        self._left.clear()

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        """One line (``whole``: its newline came too) in the driver's form."""
        raise NotImplementedError

    def put(self, records: list[bytes]) -> None:
        """Keep these; what cannot be kept is lost, the container continues."""
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


class _RawLine(msgspec.Struct):
    raw: bytes
    """In base64."""
    stream: str
    attrs: dict[str, str]
    time: str


class JsonFile(LineWriter):
    """Docker's json-file, rotated: FILE, FILE.1 (newer) … FILE.N, with ``.gz`` once compressed."""

    def __init__(self, config: LogConfig, compress: bool = False) -> None:
        super().__init__()
        self._path = config.path
        self._attributes = config.attributes
        options = config.options
        given = options.get("max-size")
        self._max_size = log_size(given) if given else DEFAULT_MAX_SIZE
        self._max_file = int(options.get("max-file", DEFAULT_MAX_FILE))
        given = options.get("compress")
        self._compress = parse_bool(given) if given is not None else compress
        self._encode = msgspec.json.Encoder().encode
        self._compressing = 0
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        text = line.decode(errors="replace") + ("\n" if whole else "")
        if self._attributes:
            document = _LineWithAttributes(text, stream, self._attributes, stamp)
            return self._encode(document) + b"\n"
        return self._encode(_Line(text, stream, stamp)) + b"\n"

    def put(self, records: list[bytes]) -> None:
        """``max-size`` holds for each file: the next record after it is reached goes into a new
        one, as dockerd has it."""
        if self._max_size <= 0:
            self._append(records)
            return
        batch: list[bytes] = []
        ahead = self._size
        for record in records:
            if ahead >= self._max_size:
                self._append(batch)
                batch, ahead = [], 0
                with suppress(OSError):  # a full disk: the old file takes what still fits
                    self._rotate()
                record = self._restamped(record)
            batch.append(record)
            ahead += len(record)
        self._append(batch)

    def _restamped(self, record: bytes) -> bytes:
        """With a time that no other record has. Readers know a file by its first record, and the
        lines that came at once have one time and may be alike."""
        head, name, _ = record.rpartition(b'"time":')  # the last member of each form
        return b'%s%s"%s"}\n' % (head, name, self._stamp.after().encode())

    def _append(self, records: list[bytes]) -> None:
        before = self._size
        view = memoryview(b"".join(records))
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:  # a full disk must not stop the container; what does not fit is lost
            with suppress(OSError):
                os.ftruncate(self._fd, before)  # no half line
            self._size = before

    def finish(self) -> None:
        super().finish()
        self._await_compression()

    def _rotate(self) -> None:
        """Shift the older files up by one and begin a new one; the oldest goes."""
        self._await_compression()
        try:
            if self._max_file > 1:
                for number in range(self._max_file - 2, 0, -1):
                    for suffix in ("", ".gz"):
                        _move(
                            f"{self._path}.{number}{suffix}", f"{self._path}.{number + 1}{suffix}"
                        )
                _move(self._path, f"{self._path}.1")
                if self._compress:
                    self._compressing = _compress_aside(f"{self._path}.1")
            else:
                os.unlink(self._path)
        finally:
            os.close(self._fd)
            self._open()

    def _await_compression(self) -> None:
        """The file before must be done: it would be renamed below the compressing process."""
        if self._compressing:
            with suppress(ChildProcessError):
                os.waitpid(self._compressing, 0)
            self._compressing = 0


class Local(JsonFile):
    """The ``local`` driver: exact to the byte, and what was rotated is compressed."""

    def __init__(self, config: LogConfig) -> None:
        super().__init__(config, compress=True)

    def record(self, stream: str, line: bytes, stamp: str, whole: bool) -> bytes:
        try:
            line.decode()
        except UnicodeDecodeError:  # JSON has no way to say it
            data = line + b"\n" * whole
            return self._encode(_RawLine(data, stream, self._attributes, stamp)) + b"\n"
        return super().record(stream, line, stamp, whole)


def _move(source: str, target: str) -> None:
    """Rename, and forget what the target was in its other form."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return
    other = target.removesuffix(".gz") if target.endswith(".gz") else f"{target}.gz"
    try:
        os.unlink(other)
    except FileNotFoundError:
        pass


def _compress_aside(path: str) -> int:
    """Replace a file by its gzip form in a process of its own; its PID.

    So the container's output does not wait for it, and its memory is not the monitor's.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.nice(5)
            _compress(path)
        finally:
            os._exit(0)
    return pid


def _compress(path: str) -> None:
    """Replace a file by its gzip form, whole or not at all."""
    packer = zlib.compressobj(6, wbits=31)
    temporary = f"{path}.gz.new"
    with open(path, "rb") as source, open(temporary, "wb") as out:
        while chunk := source.read(_SLICE):
            out.write(packer.compress(chunk))
        out.write(packer.flush())
    os.chmod(temporary, 0o640)
    os.rename(temporary, f"{path}.gz")
    os.unlink(path)


_DRIVERS: dict[str, Callable[[LogConfig], LogWriter]] = {
    "json-file": JsonFile,
    "local": Local,
    "none": lambda config: LogWriter(),
}
"""Drivers that send elsewhere are registered by who imports them (monitor)."""


def open_log(config: LogConfig) -> LogWriter:
    """The writer a configuration asks for; raises NotImplementedHere naming the driver."""
    try:
        return _DRIVERS[config.driver](config)
    except KeyError:
        raise NotImplementedHere(
            f"logging driver {config.driver!r} is not supported: use one of "
            f"{', '.join(sorted(_DRIVERS))}"
        ) from None


def register(name: str, make: Callable[[LogConfig], LogWriter]) -> None:
    """Add a driver; the launcher does so before it forks."""
    _DRIVERS[name] = make
