"""Progress of a frontend that is an image, for the client of ``portside build``: messages of
``Control/Status`` as the JSON that :mod:`status_json` writes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from portside.builder.build_history import Steps
from portside.builder.wire.progress_log import ProgressLog
from portside.model.golang.timestamps import format_rfc3339


class SessionProgress(ProgressLog):
    """Nobody listens later: messages are sent on instead of kept."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._emit = emit

    def put(self, message: Any) -> None:
        self._emit(as_json(message))

    def steps(self) -> Steps:
        return Steps(*self.counts, self.warnings)


def as_json(message: Any) -> dict[str, Any]:
    """A ``StatusResponse`` as BuildKit's SolveStatus."""
    found: dict[str, Any] = {}
    for key, messages, convert in (
        ("vertexes", message.vertexes, _vertex), ("statuses", message.statuses, _status),
        ("logs", message.logs, _log), ("warnings", message.warnings, _warning),
    ):  # fmt: skip
        if messages:
            found[key] = [convert(each) for each in messages]
    return found


def _times(message: Any, *names: str) -> dict[str, str]:
    found = {}
    for name in names:
        if message.HasField(name):
            stamp = getattr(message, name)
            found[name] = format_rfc3339(stamp.seconds * 10**9 + stamp.nanos)
    return found


def _vertex(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"digest": message.digest, "name": message.name}
    if message.inputs:
        found["inputs"] = list(message.inputs)
    found |= _times(message, "started", "completed")
    if message.cached:
        found["cached"] = True
    if message.error:
        found["error"] = message.error
    return found


def _status(message: Any) -> dict[str, Any]:
    return {
        "id": message.ID, "vertex": message.vertex, "current": message.current,
        "total": message.total, **_times(message, "timestamp", "started", "completed"),
    }  # fmt: skip


def _log(message: Any) -> dict[str, Any]:
    return {
        "vertex": message.vertex, "stream": message.stream,
        "data": base64.b64encode(message.msg).decode(), **_times(message, "timestamp"),
    }  # fmt: skip


def _warning(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "vertex": message.vertex, "level": message.level,
        "short": base64.b64encode(message.short).decode(),
        "detail": [base64.b64encode(each).decode() for each in message.detail],
        "url": message.url,
        "range": [
            {"start": _position(each.start), "end": _position(each.end)} for each in message.ranges
        ],
    }  # fmt: skip
    if message.HasField("info"):
        data = base64.b64encode(message.info.data).decode()
        found["sourceInfo"] = {"filename": message.info.filename, "data": data}
    return found


def _position(message: Any) -> dict[str, int]:
    return {"line": message.line, "character": message.character}
