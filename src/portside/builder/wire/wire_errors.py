"""Errors as gRPC statuses, with the details that BuildKit's clients show: the lines of the
Dockerfile and the vertex that failed."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from portside.builder.dockerfile.diagnostics import DockerfileError, Span, place_of
from portside.builder.wire.proto import status_pb2
from portside.model.errors import Cancelled, NotImplementedHere, PortsideError

if TYPE_CHECKING:
    from portside.builder.llb import Vertex

_PREFIX = "github.com/moby/buildkit/errdefs."
MAX_TEXT = 16 << 10
"""Bytes of a message that travel in a header."""


@dataclass(frozen=True)
class SourceFile:
    """A file that steps come from."""

    name: str
    data: bytes


class SolveFailed(PortsideError):
    """A build failed at ``vertex``."""

    def __init__(
        self, err: PortsideError, vertex: Vertex | None, source: SourceFile | None,
        solve: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """``solve``: what BuildKit's ``errdefs.Solve`` says of a step that has failed."""
        super().__init__(str(err))
        self.solve = solve
        self.cause, self.vertex, self.source = err, vertex, source


class ClientError(PortsideError):
    """An error that the client itself made, with the details it sent."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def status_of(err: BaseException) -> status_pb2.Status:
    """An error as google.rpc.Status."""
    if isinstance(err, ClientError):
        return err.status
    code = Status.UNKNOWN
    cause = err.cause if isinstance(err, SolveFailed) else err
    if isinstance(cause, NotImplementedHere):
        code = Status.UNIMPLEMENTED
    elif isinstance(cause, Cancelled):
        code = Status.CANCELLED
    text = str(err) if isinstance(err, PortsideError) else f"{type(err).__name__}: {err}"
    return status_pb2.Status(code=code.value, message=text[:MAX_TEXT], details=_details(err))


def as_grpc(err: BaseException) -> GRPCError:
    found = status_of(err)
    return GRPCError(Status(found.code or 2), found.message, list(found.details))


def _details(err: BaseException) -> list[AnyMessage]:
    found = []
    file = None
    place: tuple[int, int] | None = None
    if isinstance(err, SolveFailed):
        file = err.source
        if err.vertex is not None:
            found.append(_detail("Vertex", {"digest": err.vertex.digest}))
            place = err.vertex.meta.location
        if err.solve is not None:
            found.append(_detail("Solve", err.solve))
        err = err.cause
    if isinstance(err, DockerfileError) and err.source:
        file = SourceFile(err.file, err.source.encode("utf-8", "surrogateescape"))
    span = place_of(err)
    place = (span.line, span.end_line) if span is not None else place
    if file is not None and place is not None:
        found.append(_source(file, place))
    return found


def _source(file: SourceFile, place: tuple[int, int]) -> AnyMessage:
    info = {"filename": file.name, "data": base64.b64encode(file.data).decode()}
    lines = {"start": {"line": place[0]}, "end": {"line": place[1]}}
    return _detail("Source", {"info": info, "ranges": [lines]})


def _detail(kind: str, value: dict[str, Any]) -> AnyMessage:
    """Encode error details as clients decode them: a type name and JSON."""
    return AnyMessage(type_url=f"{_PREFIX}{kind}+json", value=json.dumps(value).encode())


def span_of(status: status_pb2.Status) -> Span | None:
    """The lines that a status's details name."""
    for detail in status.details:
        if detail.type_url != f"{_PREFIX}Source+json":
            continue
        try:
            found = json.loads(detail.value)["ranges"][0]
            return Span(int(found["start"]["line"]), int(found["end"]["line"]))
        except (ValueError, LookupError, TypeError):
            return None
    return None
