"""Making answers: JSON bodies, empty ones, streams of JSON messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from portside.model.errors import Cancelled, InvalidText, PortsideError
from portside.model.golang.numbers import parse_float
from portside.model.progress import Progress, Report
from portside.serving.http.messages import Request, Response, Stream

JSON = "application/json"
NDJSON = "application/x-ndjson"
JSON_LINES = "application/jsonl"
JSON_SEQUENCE = "application/json-seq"
TAR = "application/x-tar"
_encoder = msgspec.json.Encoder(enc_hook=str)


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as a JSON document; Docker ends it with a line feed."""
    return Response(status, _encoder.encode(value) + b"\n", JSON, headers)


def preferred(accept: str, offers: Sequence[str]) -> str:
    """The offer that a header ``Accept`` prefers (RFC 9110, section 12.5.1); the first of those
    it likes equally, and "" when it names none of them."""
    best, chosen = 0.0, ""
    for offer in offers:
        quality = max(
            (
                weight
                for kind, weight in map(_media_range, accept.lower().split(","))
                if kind == offer
            ),
            default=0.0,
        )
        if quality > best:
            best, chosen = quality, offer
    return chosen


def _media_range(text: str) -> tuple[str, float]:
    """``text/plain;q=0.5`` as type and weight."""
    kind, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, parse_float(value.strip())
            except InvalidText:
                return kind, 0.0
    return kind, 1.0


def empty(status: int = 204) -> Response:
    return Response(status)


def line(value: Any) -> bytes:
    """One message of a stream."""
    return _encoder.encode(value) + b"\r\n"


async def progress(
    request: Request,
    work: Callable[[Report], Awaitable[Any]],
    *,
    render: Callable[[Any], list[dict[str, Any]]] = lambda _: [],
    content_type: str = JSON,
    failures_in_stream: bool = False,
) -> Stream | Response:
    """Run ``work`` and stream its progress as Docker's JSON messages.

    The head is sent with the first message: work that fails before is answered with a
    status, unless ``failures_in_stream``; later failures with an ``errorDetail`` message.
    ``render`` makes the last messages of the result.
    """
    reporter = _Reporter(request, content_type)
    try:
        result = await work(reporter)
    except (Cancelled, asyncio.CancelledError):
        raise
    except PortsideError as err:
        if reporter.stream is None and not failures_in_stream:
            raise
        return await reporter.finish(
            [{"errorDetail": {"message": str(err)}, "error": str(err)}], always=True
        )
    return await reporter.finish(render(result), always=True)


class _Reporter:
    """Writes messages; drops intermediate ones of an item while the client is slow."""

    def __init__(self, request: Request, content_type: str) -> None:
        self._request, self._content_type = request, content_type
        self.stream: Stream | None = None

    def __call__(self, message: Progress) -> None:
        stream = self._started()
        if stream.is_slow and message.is_item and message.current < message.total:
            return
        stream.write_nowait(line(message.message()))

    def _started(self) -> Stream:
        if self.stream is None:
            self.stream = self._request.start(200, self._content_type)
        return self.stream

    async def finish(self, messages: list[dict[str, Any]], always: bool = False) -> Stream:
        stream = self._started()
        for message in messages:
            await stream.write(line(message))
        return stream


async def pour(
    request: Request, chunks: AsyncIterator[bytes], content_type: str = TAR
) -> Stream | Response:
    """Stream bytes; a failure before the first piece is answered with its status."""
    try:
        first = await anext(chunks)
    except StopAsyncIteration:
        return Response(200, b"", content_type)
    stream = request.start(200, content_type)
    await stream.write(first)
    async for chunk in chunks:
        await stream.write(chunk)
    return stream
