"""Records of builds and their logs as BuildKit's messages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from portside.builder.build_history import STATUS_JSON, BuildRecord, Event
from portside.builder.wire.proto import control_pb2 as pb
from portside.model.golang.timestamps import format_rfc3339, parse_rfc3339
from portside.model.image import Descriptor

STARTED, COMPLETE, DELETED = 0, 1, 2
_TIMES = ("started", "completed", "timestamp")
_HEAD = 4


def event_message(event: Event) -> Any:
    kind = STARTED if event.record.is_active else COMPLETE
    if event.is_deleted:
        kind = DELETED
    return pb.BuildHistoryEvent(type=kind, record=record_message(event.record))


def record_message(record: BuildRecord) -> Any:
    found = pb.BuildHistoryRecord(
        Ref=record.ref, Frontend=record.frontend, FrontendAttrs=record.attrs,
        Exporters=[pb.Exporter(Type=kind, Attrs=attrs) for kind, attrs in record.exporters],
        ExporterResponse=record.response, pinned=record.pinned,
        numTotalSteps=record.steps.total, numCompletedSteps=record.steps.completed,
        numCachedSteps=record.steps.cached, numWarnings=record.steps.warnings,
    )  # fmt: skip
    found.CreatedAt.FromNanoseconds(record.created)
    if record.completed:
        found.CompletedAt.FromNanoseconds(record.completed)
    if record.error_status:
        found.error.ParseFromString(record.error_status)
    elif record.error:
        found.error.code, found.error.message = record.error_code or 2, record.error
    if record.log is not None:
        found.logs.CopyFrom(_descriptor(record.log))
    for key in {**record.results, **record.provenance}:
        info = found.Results[key] if key else found.Result
        if key in record.provenance:
            info.Attestations.append(_descriptor(record.provenance[key]))
        for number, part in enumerate(record.results.get(key, ())):
            info.Results[number].CopyFrom(_descriptor(part))
            info.ResultDeprecated.CopyFrom(_descriptor(part))
    return found


def _descriptor(part: Descriptor) -> Any:
    return pb.Descriptor(
        media_type=part.media_type, digest=part.digest, size=part.size,
        annotations=part.annotations,
    )  # fmt: skip


# -- logs ----------------------------------------------------------------------------------


def packed(messages: Iterable[Any]) -> bytes:
    """Messages one after the other, each after its size."""
    parts = []
    for message in messages:
        data = message.SerializeToString()
        parts += [len(data).to_bytes(_HEAD, "little"), data]
    return b"".join(parts)


def messages_of(log: bytes, kind: str) -> Iterator[Any]:
    """The messages of a log, whichever form it has; a part that is cut off is left out."""
    if kind == STATUS_JSON:
        for line in log.splitlines():
            yield _from_json(msgspec.json.decode(line))
        return
    at = 0
    while at + _HEAD <= len(log):
        size = int.from_bytes(log[at : at + _HEAD], "little")
        yield pb.StatusResponse.FromString(log[at + _HEAD : at + _HEAD + size])
        at += _HEAD + size


def json_of(log: bytes, kind: str) -> Iterator[dict[str, Any]]:
    """The messages of a log as ``--progress=rawjson`` prints them."""
    if kind == STATUS_JSON:
        yield from (msgspec.json.decode(line) for line in log.splitlines())
        return
    for message in messages_of(log, kind):
        yield {field.name: [_to_json(item) for item in items]
               for field, items in message.ListFields()}  # fmt: skip


_JSON = {"ID": "id", "msg": "data", "ranges": "range", "info": "sourceInfo"}


def _to_json(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = _JSON.get(field.name, field.name)
        if field.name in _TIMES:
            found[name] = format_rfc3339(value.ToNanoseconds())
        elif isinstance(value, bytes):
            found[name] = base64.b64encode(value).decode()
        elif isinstance(value, int | str | bool):
            found[name] = value
        elif hasattr(value, "DESCRIPTOR"):
            found[name] = _to_json(value)
        else:
            found[name] = [
                _to_json(item) if hasattr(item, "DESCRIPTOR")
                else base64.b64encode(item).decode() if isinstance(item, bytes) else item
                for item in value
            ]  # fmt: skip
    return found


_KINDS = {"vertexes": pb.Vertex, "statuses": pb.VertexStatus, "logs": pb.VertexLog}


def _from_json(message: dict[str, Any]) -> Any:
    found = pb.StatusResponse()
    for key, kind in _KINDS.items():
        for entry in message.get(key) or ():
            item = kind()
            names = {field.name: field for field in kind.DESCRIPTOR.fields}
            for name, field in names.items():
                value = entry.get(_JSON.get(name, name))
                if value is None:
                    continue
                if name in _TIMES:
                    getattr(item, name).FromNanoseconds(parse_rfc3339(value))
                elif name == "inputs":
                    item.inputs.extend(value)
                elif field.type == field.TYPE_BYTES:
                    setattr(item, name, base64.b64decode(value))
                elif field.message_type is None:
                    setattr(item, name, value)
            getattr(found, key).append(item)
    return found
