"""A build's events as the messages of ``Control/Status``, kept for its listeners.

Events come from the solver, and from what the build does around it: internal steps, such as the
transfer of a context, are vertices without a place in the graph.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from portside.builder import llb
from portside.builder.build_history import MAX_LOG
from portside.builder.dockerfile.lint import Warned
from portside.builder.llb import Output, Vertex
from portside.builder.solver.build_events import Completed, Event, Log, Started, Status
from portside.builder.wire.proto import control_pb2 as pb
from portside.builder.wire.proto import ops_pb2
from portside.builder.wire.wire_errors import SourceFile
from portside.model.errors import PortsideError
from portside.model.ids import new_id
from portside.model.progress import Progress

PACE = 0.1
"""Seconds between two messages of the same transfer."""


def internal_vertex(name: str) -> Vertex:
    """A step that is not part of a graph."""
    op = llb.SourceOp(identifier=f"{llb.LOCAL}{new_id()}")
    return Vertex(op, meta=llb.VertexMeta(name=name))


class InternalStep:
    """An internal step under way."""

    def __init__(self, log: ProgressLog, vertex: Vertex) -> None:
        self._log, self.vertex = log, vertex
        self._began: dict[str, float] = {}
        self._reported: dict[str, float] = {}

    def at(self, name: str, current: int, total: int = 0, *, done: bool = False) -> None:
        """Report progress of a part of the step."""
        now = time.time()
        began = self._began.setdefault(name, now)
        if not done and now - self._reported.get(name, 0) < PACE:
            return
        self._reported[name] = now
        message = _status(self.vertex, name, current, total, now)
        message.started.CopyFrom(_time(began))
        if done:
            message.completed.CopyFrom(_time(now))
        self._log.put(pb.StatusResponse(statuses=[message]))

    def did(self, name: str) -> None:
        self.at(name, 0, done=True)

    def pulling(self, progress: Progress) -> None:
        if progress.id and progress.total:
            name = f"{progress.status.lower()} {progress.id}"
            is_done = progress.current >= progress.total
            self.at(name, progress.current, progress.total, done=is_done)


class ProgressLog:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._dropped = 0
        self._size = 0
        self._ended = False
        self._news = asyncio.Event()
        self._announced: set[str] = set()
        self._cached: set[str] = set()
        self._completed: set[str] = set()
        self._started: dict[str, float] = {}
        self.failed: Vertex | None = None
        """The vertex whose error ended the build."""
        self.warnings = 0

    # -- listening -----------------------------------------------------------------------

    async def messages(self) -> AsyncIterator[Any]:
        """All messages, past and future, until the build has ended."""
        at = 0
        while True:
            news = self._news
            at = max(at, self._dropped)
            while at - self._dropped < len(self._messages):
                yield self._messages[at - self._dropped]
                at = max(at + 1, self._dropped)
            if self._ended:
                return
            await news.wait()

    def put(self, message: Any) -> None:
        self._messages.append(message)
        self._size += sum(len(log.msg) for log in message.logs)
        while self._size > MAX_LOG:
            gone = self._messages.pop(0)
            self._dropped += 1
            self._size -= sum(len(log.msg) for log in gone.logs)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @property
    def counts(self) -> tuple[int, int, int]:
        """Vertices in all, completed, and found in the cache."""
        return len(self._announced), len(self._completed), len(self._cached)

    def last_messages(self) -> list[Any]:
        return list(self._messages)

    # -- events --------------------------------------------------------------------------

    def announce(self, outputs: Iterable[Output]) -> None:
        """Vertices that are going to be solved."""
        found = []
        for vertex in llb.walk(outputs):
            if vertex.digest not in self._announced:
                self._announced.add(vertex.digest)
                found.append(_vertex(vertex))
        if found:
            self.put(pb.StatusResponse(vertexes=found))

    def on_event(self, event: Event) -> None:
        """A Report of the solver's."""
        vertex = event.vertex
        self._announced.add(vertex.digest)
        if isinstance(event, Started):
            self._started[vertex.digest] = event.at
            message = _vertex(vertex)
            message.started.CopyFrom(_time(event.at))
            self.put(pb.StatusResponse(vertexes=[message]))
        elif isinstance(event, Completed):
            self._complete(event)
        elif isinstance(event, Log):
            log = pb.VertexLog(
                vertex=vertex.digest, timestamp=_time(event.at), stream=event.stream,
                msg=event.data,
            )  # fmt: skip
            self.put(pb.StatusResponse(logs=[log]))
        elif isinstance(event, Status):
            status = _status(vertex, event.name, event.current, event.total, event.at)
            status.started.CopyFrom(_time(self._started.get(vertex.digest, event.at)))
            if event.total and event.current >= event.total:
                status.completed.CopyFrom(_time(event.at))
            self.put(pb.StatusResponse(statuses=[status]))

    def _complete(self, event: Completed) -> None:
        vertex = event.vertex
        message = _vertex(vertex)
        message.started.CopyFrom(_time(self._started.get(vertex.digest, event.at)))
        message.completed.CopyFrom(_time(event.at))
        message.cached, message.error = event.cached, event.error
        if event.cached:
            self._cached.add(vertex.digest)
        if event.error and not event.cancelled and self.failed is None:
            self.failed = vertex
        if event.cancelled:
            message.error = "context canceled"
        self._completed.add(vertex.digest)
        self.put(pb.StatusResponse(vertexes=[message]))

    @contextmanager
    def step(self, name: str) -> Iterator[InternalStep]:
        """An internal step while the block runs."""
        vertex = internal_vertex(name)
        self.on_event(Started(vertex))
        try:
            yield InternalStep(self, vertex)
        except asyncio.CancelledError:
            self.on_event(Completed(vertex, error="context canceled", cancelled=True))
            raise
        except PortsideError as err:
            failed = self.failed
            self.on_event(Completed(vertex, error=str(err)))
            self.failed = failed  # the step itself is not to blame
            raise
        self.on_event(Completed(vertex))

    def warn(self, vertex: Vertex, warned: Warned, file: SourceFile) -> None:
        """A build check's finding."""
        self.warnings += 1
        where = ops_pb2.Range(
            start=ops_pb2.Position(line=warned.span.line),
            end=ops_pb2.Position(line=warned.span.end_line),
        )
        message = pb.VertexWarning(
            vertex=vertex.digest, level=1, url=warned.rule.url,
            short=f"{warned.rule.name}: {warned.message} (line {warned.span.line})".encode(),
            detail=[warned.rule.description.encode()], ranges=[where],
            info=ops_pb2.SourceInfo(filename=file.name, data=file.data, language="Dockerfile"),
        )  # fmt: skip
        self.put(pb.StatusResponse(warnings=[message]))


def _vertex(vertex: Vertex) -> Any:
    return pb.Vertex(
        digest=vertex.digest,
        inputs=[item.vertex.digest for item in vertex.inputs],
        name=vertex.label,
    )


def _status(vertex: Vertex, name: str, current: int, total: int, at: float) -> Any:
    return pb.VertexStatus(
        ID=name, vertex=vertex.digest, name=name, current=current, total=total,
        timestamp=_time(at),
    )  # fmt: skip


def _time(seconds: float) -> Timestamp:
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 10**9))
