"""What was built since the engine's start, for ``buildx history`` and the clients' own records."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from portside.builder.wire.progress_log import ProgressLog
from portside.builder.wire.proto import control_pb2 as pb
from portside.model.errors import NotFound

KEPT = 50
STARTED, COMPLETE, DELETED = 0, 1, 2
SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)


@dataclass(eq=False)
class Entry:
    """One build; ``is_active`` until it has ended."""

    message: Any
    is_active: bool = True


class BuildHistory:
    """The newest builds, in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._listeners: set[asyncio.Queue[Any]] = set()

    def begin(self, request: Any) -> Entry:
        attrs = {key: value for key, value in request.FrontendAttrs.items()
                 if not SECRET.search(key)}  # fmt: skip
        message = pb.BuildHistoryRecord(
            Ref=request.Ref, Frontend=request.Frontend, FrontendAttrs=attrs,
            Exporters=request.Exporters,
        )  # fmt: skip
        message.CreatedAt.FromNanoseconds(time.time_ns())
        entry = self._entries[request.Ref] = Entry(message)
        for gone in [e for e in self._entries.values() if not (e.is_active or e.message.pinned)][
            : max(0, len(self._entries) - KEPT)
        ]:
            self._forget(gone)
        self._tell(STARTED, entry)
        return entry

    def end(
        self, entry: Entry, response: dict[str, str], error: Any, progress: ProgressLog
    ) -> None:
        message = entry.message
        message.CompletedAt.FromNanoseconds(time.time_ns())
        message.ExporterResponse.update(response)
        if error is not None:
            message.error.CopyFrom(error)
        total, completed, cached = progress.counts
        message.numTotalSteps, message.numCompletedSteps = total, completed
        message.numCachedSteps, message.numWarnings = cached, progress.warnings
        entry.is_active = False
        self._tell(COMPLETE, entry)

    def update(self, request: Any) -> None:
        """Pin, or delete. NotFound."""
        entry = self._entries.get(request.Ref)
        if entry is None:
            raise NotFound(f"no build {request.Ref[:80]} in the history")
        if request.Delete:
            self._forget(entry)
            self._tell(DELETED, entry)
        elif not request.Finalize:
            entry.message.pinned = request.Pinned

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry.message.Ref, None)

    async def events(self, request: Any) -> AsyncIterator[Any]:
        """What is known, then what happens, unless the client wants to leave early."""
        queue: asyncio.Queue[Any] = asyncio.Queue(1000)
        self._listeners.add(queue)
        try:
            for entry in list(self._entries.values()):
                if request.Ref and entry.message.Ref != request.Ref:
                    continue
                if entry.is_active:
                    yield pb.BuildHistoryEvent(type=STARTED, record=entry.message)
                elif not request.ActiveOnly:
                    yield pb.BuildHistoryEvent(type=COMPLETE, record=entry.message)
            if request.EarlyExit:
                return
            while True:
                event = await queue.get()
                if not request.Ref or event.record.Ref == request.Ref:
                    yield event
        finally:
            self._listeners.discard(queue)

    def _tell(self, kind: int, entry: Entry) -> None:
        event = pb.BuildHistoryEvent(type=kind, record=entry.message)
        for queue in self._listeners:
            if not queue.full():
                queue.put_nowait(event)
