"""The progress of a build, as BuildKit's clients show it: plain lines, live lines on a terminal,
JSON, or nothing. Everything goes to standard error; standard output is for results."""

from __future__ import annotations

import binascii
import sys
import time

from portside.model import jsontext
from portside.model.counted import counted
from portside.model.golang.sizes import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODES = ("auto", "none", "plain", "quiet", "rawjson", "tty")
LAST_LINES = 20
"""Output lines of a failed step that are shown again at the end."""


class Vertex:
    """The state of one step."""

    def __init__(self, number: int, digest: str) -> None:
        self.number, self.digest, self.name = number, digest, ""
        self.started = self.completed = 0.0
        self.cached, self.error = False, ""
        self.lines: list[str] = []
        """The last lines of its output, with the time before them."""
        self.rest = b""
        self.statuses: dict[str, dict[str, Any]] = {}
        self.shown = False
        self.done = False

    @property
    def seconds(self) -> float:
        end = self.completed or time.time()
        return max(0.0, end - self.started) if self.started else 0.0


class Record:
    """All steps of a build, from its messages."""

    def __init__(self) -> None:
        self.vertices: dict[str, Vertex] = {}
        self.warnings: list[dict[str, Any]] = []
        self.began = time.time()

    def take(self, message: dict[str, Any]) -> list[tuple[Vertex, list[str]]]:
        """The steps that a message is about, with new output lines."""
        touched: dict[str, list[str]] = {}
        for entry in message.get("vertexes") or ():
            self._vertex(entry)
            touched.setdefault(entry["digest"], [])
        for entry in message.get("statuses") or ():
            vertex = self._of(entry["vertex"])
            vertex.statuses[entry["id"]] = entry
            touched.setdefault(entry["vertex"], [])
        for entry in message.get("logs") or ():
            touched.setdefault(entry["vertex"], []).extend(self._log(entry))
        self.warnings += message.get("warnings") or ()
        return [(self.vertices[digest], lines) for digest, lines in touched.items()]

    def _of(self, digest: str) -> Vertex:
        if digest not in self.vertices:
            self.vertices[digest] = Vertex(len(self.vertices) + 1, digest)
        return self.vertices[digest]

    def _vertex(self, entry: dict[str, Any]) -> None:
        vertex = self._of(entry["digest"])
        vertex.name = entry.get("name", "")
        vertex.started = _seconds(entry.get("started")) or vertex.started
        vertex.completed = _seconds(entry.get("completed"))
        vertex.cached = bool(entry.get("cached"))
        vertex.error = entry.get("error", "")

    def _log(self, entry: dict[str, Any]) -> list[str]:
        vertex = self._of(entry["vertex"])
        data = vertex.rest + binascii.a2b_base64(entry["data"])
        *whole, vertex.rest = data.split(b"\n")
        since = max(0.0, _seconds(entry.get("timestamp")) - (vertex.started or 0.0))
        lines = [f"{since:.3f} {_clean(line)}" for line in whole]
        vertex.lines = (vertex.lines + lines)[-LAST_LINES:]
        return lines

    def failed(self) -> Vertex | None:
        found = [v for v in self.vertices.values() if v.error and "cancel" not in v.error.lower()]
        return found[0] if found else None


def _clean(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def _seconds(stamp: str | None) -> float:
    if not stamp:
        return 0.0
    from portside.model.golang.timestamps import parse_rfc3339

    return parse_rfc3339(stamp) / 10**9


class Silent:
    """``none`` and ``quiet``."""

    timeout: float | None = None

    def __init__(self) -> None:
        self.record = Record()
        self._held: list[str] | None = None
        """Output that waits while another program uses the terminal."""

    def show(self, message: dict[str, Any]) -> None:
        self.record.take(message)

    def tick(self) -> None:
        """Time has passed."""

    def close(self, failed: bool) -> None:
        """The end of the progress."""

    def suspend(self) -> None:
        """Leave the terminal to something else."""
        self._held = []

    def resume(self) -> None:
        held, self._held = self._held or [], None
        self.write("".join(held))

    def write(self, text: str) -> None:
        if self._held is not None:
            self._held.append(text)
            return
        sys.stderr.write(text)
        sys.stderr.flush()


class RawJson(Silent):
    """A message a line."""

    def show(self, message: dict[str, Any]) -> None:
        super().show(message)
        self.write(jsontext.dumps(message) + "\n")


class Plain(Silent):
    """Lines with the number of their step."""

    def __init__(self) -> None:
        super().__init__()
        self._current: Vertex | None = None
        self._shown_statuses: set[tuple[int, str]] = set()
        self.write('#0 building with "default" instance using portside\n')

    def show(self, message: dict[str, Any]) -> None:
        for vertex, lines in self.record.take(message):
            if vertex.done or not vertex.started:
                continue
            self._statuses(vertex)
            if lines:
                self._turn(vertex)
                self.write("".join(f"#{vertex.number} {line}\n" for line in lines))
            if vertex.completed:
                self._ended(vertex)
            elif not vertex.shown and self._current is None:
                self._turn(vertex)

    def _turn(self, vertex: Vertex) -> None:
        """The step whose lines follow."""
        if self._current is vertex:
            return
        self.write(f"\n#{vertex.number} {vertex.name if not vertex.shown else '...'}\n"
                   if not vertex.shown or self._current is not None else "\n")  # fmt: skip
        if vertex.shown:
            self.write(f"#{vertex.number} {vertex.name}\n")
        vertex.shown, self._current = True, vertex

    def _statuses(self, vertex: Vertex) -> None:
        for name, status in vertex.statuses.items():
            if not status.get("completed") or (vertex.number, name) in self._shown_statuses:
                continue
            self._shown_statuses.add((vertex.number, name))
            self._turn(vertex)
            self.write(f"#{vertex.number} {_status_text(name, status)} done\n")

    def _ended(self, vertex: Vertex) -> None:
        self._turn(vertex)
        if vertex.rest:
            line = f"{vertex.seconds:.3f} {_clean(vertex.rest)}"
            vertex.lines, vertex.rest = [*vertex.lines, line][-LAST_LINES:], b""
            self.write(f"#{vertex.number} {line}\n")
        self.write(f"#{vertex.number} {_outcome(vertex)}\n")
        vertex.done, self._current = True, None


def _status_text(name: str, status: dict[str, Any]) -> str:
    current, total = int(status.get("current") or 0), int(status.get("total") or 0)
    if total <= 1:
        return name
    amount = _size(current) if current >= total else f"{_size(current)} / {_size(total)}"
    return f"{name} {amount}"


def _size(count: int) -> str:
    return human_size(count, 3)


def _outcome(vertex: Vertex) -> str:
    if vertex.error:
        return "CANCELED" if vertex.error == "cancelled" else f"ERROR: {vertex.error}"
    return "CACHED" if vertex.cached else f"DONE {vertex.seconds:.1f}s"


def failure(record: Record, result: dict[str, Any]) -> str:
    """The failed step's last lines and the lines of the Dockerfile."""
    text = ""
    vertex = record.failed()
    if vertex is not None:
        lines = "".join(f"{line}\n" for line in vertex.lines)
        text = f"------\n > {vertex.name}:\n{lines}------\n"
    text += warnings(record)
    return text + str(result.get("snippet", ""))


def warnings(record: Record) -> str:
    """The build checks' findings."""
    if not record.warnings:
        return ""
    many = counted(len(record.warnings), "warnings")
    bright, plain = ("\x1b[33m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    lines = [binascii.a2b_base64(w["short"]).decode("utf-8", "replace") for w in record.warnings]
    return f"\n {bright}{many} found (use --check to see where):\n{plain}" + "".join(
        f" - {line}\n" for line in lines
    )
