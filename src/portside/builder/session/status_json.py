"""Build events as the JSON of BuildKit's SolveStatus, which ``--progress=rawjson`` prints."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from portside.builder import llb
from portside.builder.build_history import MAX_LOG, Steps
from portside.builder.solver.build_events import Completed, Event, Log, Started
from portside.builder.solver.tree import digest_of
from portside.model.golang.timestamps import format_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portside.builder.dockerfile.lint import Warned

Emit = Callable[[dict[str, Any]], None]


def moment(seconds: float) -> str:
    return format_rfc3339(int(seconds * 10**9))


class SessionLog:
    """Passes messages on as JSON, and keeps them for the build's record."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._lines: list[bytes] = []
        self._size = 0

    def __call__(self, message: dict[str, Any]) -> None:
        data = msgspec.json.encode(message)
        self._send(data)
        self._lines.append(data)
        self._size += len(data) + 1
        while self._size > MAX_LOG and len(self._lines) > 1:
            self._size -= len(self._lines.pop(0)) + 1

    @property
    def data(self) -> bytes:
        return b"\n".join(self._lines)


class StatusWriter:
    """Turns events into messages; each message has a vertex's whole state."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._vertices: dict[str, dict[str, Any]] = {}
        self._warnings = 0
        self.failed: llb.Vertex | None = None
        """The vertex whose error ended the build."""

    def steps(self) -> Steps:
        found = self._vertices.values()
        return Steps(
            len(found), sum("completed" in v for v in found), sum("cached" in v for v in found),
            self._warnings,
        )  # fmt: skip

    def on_event(self, event: Event) -> None:
        """A :data:`build_events.Report`."""
        vertex = self._of(event.vertex)
        stamp = moment(event.at)
        if isinstance(event, Started):
            vertex.setdefault("started", stamp)
        elif isinstance(event, Completed):
            self._complete(vertex, event, stamp)
            if event.error and not event.cancelled and self.failed is None:
                self.failed = event.vertex
        elif isinstance(event, Log):
            data = base64.b64encode(event.data).decode()
            self._emit({"logs": [{"vertex": vertex["digest"], "stream": event.stream,
                                  "data": data, "timestamp": stamp}]})  # fmt: skip
            return
        else:
            self._status(vertex["digest"], event.name, event.current, event.total, stamp)
            return
        self._emit({"vertexes": [vertex]})

    def _complete(self, vertex: dict[str, Any], event: Completed, stamp: str) -> None:
        vertex.setdefault("started", stamp)
        vertex["completed"] = stamp
        if event.cached:
            vertex["cached"] = True
        if event.error:
            vertex["error"] = event.error

    def _status(self, digest: str, name: str, current: int, total: int, stamp: str) -> None:
        status: dict[str, Any] = {
            "id": name, "vertex": digest, "current": current, "total": total, "timestamp": stamp,
            "started": stamp,
        }  # fmt: skip
        if total and current >= total:
            status["completed"] = stamp
        self._emit({"statuses": [status]})

    def _of(self, vertex: llb.Vertex) -> dict[str, Any]:
        digest = vertex.digest
        if digest not in self._vertices:
            found: dict[str, Any] = {"digest": digest, "name": vertex.label}
            if vertex.inputs:
                found["inputs"] = [item.vertex.digest for item in vertex.inputs]
            if vertex.meta.location:
                found["location"] = list(vertex.meta.location)
            self._vertices[digest] = found
        return self._vertices[digest]

    @contextmanager
    def internal(self, name: str) -> Iterator[InternalStep]:
        """A step that is not a vertex of the graph, such as ``[internal] load build context``."""
        digest = digest_of("internal", name, str(len(self._vertices)))
        vertex: dict[str, Any] = {"digest": digest, "name": name, "started": moment(time.time())}
        self._vertices[digest] = vertex
        self._emit({"vertexes": [vertex]})
        try:
            yield InternalStep(self, digest)
        except BaseException as err:
            vertex["error"] = str(err) or "cancelled"
            raise
        finally:
            vertex["completed"] = moment(time.time())
            self._emit({"vertexes": [vertex]})

    def warn(self, warned: Warned, file: str, source: bytes) -> None:
        """A build check's finding."""
        self._warnings += 1
        position = {"line": warned.span.line, "character": 0}
        end = {"line": warned.span.end_line, "character": 0}
        self._emit({"warnings": [{
            "vertex": f"sha256:{hashlib.sha256(source).hexdigest()}", "level": 1,
            "short": _encoded(warned.text), "detail": [_encoded(warned.rule.description)],
            "url": warned.rule.url,
            "sourceInfo": {"filename": file, "data": base64.b64encode(source).decode()},
            "range": [{"start": position, "end": end}],
        }]})  # fmt: skip


class InternalStep:
    """Reports how far an internal step is."""

    def __init__(self, writer: StatusWriter, digest: str) -> None:
        self._writer, self._digest = writer, digest

    def did(self, name: str) -> None:
        """A part of it is done."""
        self._writer._status(self._digest, name, 1, 1, moment(time.time()))

    def at(self, name: str, current: int, total: int = 0) -> None:
        """``current`` of ``total`` bytes; 0 when nobody knows."""
        self._writer._status(self._digest, name, current, total, moment(time.time()))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
