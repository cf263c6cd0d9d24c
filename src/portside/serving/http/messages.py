"""The values of handlers: requests with their bodies, responses and streams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

from portside.model.errors import InvalidParameter, TooLarge
from portside.serving.http.parser import find_bad_escape

if TYPE_CHECKING:
    from portside.serving.http.parser import Head

MAX_JSON = 8 << 20
"""Bytes of the largest body that is read as a whole."""
_HIGH_WATER = 512 << 10
"""Bytes of a body kept in memory before reading from the client stops."""

REASONS = {
    100: "Continue", 101: "UPGRADED", 200: "OK", 201: "Created", 204: "No Content",
    206: "Partial Content", 301: "Moved Permanently", 304: "Not Modified",
    307: "Temporary Redirect", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 409: "Conflict", 413: "Request Entity Too Large",
    417: "Expectation Failed", 421: "Misdirected Request", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip


class Link(Protocol):
    """The interface of a connection, or of a stream in HTTP/2, for requests, bodies and answers."""

    @property
    def peer(self) -> str: ...
    @property
    def has_started(self) -> bool: ...
    @property
    def is_write_paused(self) -> bool: ...
    @property
    def is_closing(self) -> bool: ...
    def wants_body(self) -> None: ...
    def make_cancellable(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def start_stream(
        self, status: int, content_type: str, headers: Mapping[str, str]
    ) -> Stream: ...
    def hijack(self, answer: bytes) -> Hijacked: ...
    def release(self, answer: bytes) -> tuple[asyncio.Transport, bytes]: ...


class Body:
    """A request's body, read by the handler as it arrives."""

    __slots__ = ("_chunks", "_connection", "_discards", "_error", "_size", "_waiter", "complete")

    def __init__(self, connection: Link) -> None:
        self._connection = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._discards = False
        self.complete = False
        """All of it has arrived (not: has been read)."""

    # -- the connection's side
    def feed(self, data: bytes) -> None:
        if self._discards:
            return
        self._chunks.append(data)
        self._size += len(data)
        self._wake()

    def finish(self) -> None:
        self.complete = True
        self._wake()

    def discard(self) -> None:
        """The reader has ended."""
        self._discards = True
        self._chunks.clear()
        self._size = 0

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    @property
    def is_full(self) -> bool:
        return self._size > _HIGH_WATER

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the handler's side
    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece; raises Cancelled when the client went away."""
        while (chunk := await self._next()) is not None:
            yield chunk

    async def _next(self) -> bytes | None:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.complete:
                return None
            self._connection.wants_body()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._size = 0
        self._connection.wants_body()
        return data

    async def read(self, limit: int = MAX_JSON) -> bytes:
        """The whole body; raises TooLarge beyond ``limit`` bytes."""
        found: list[bytes] = []
        size = 0
        while (chunk := await self._next()) is not None:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"request body too large: at most {limit} bytes are accepted here")
            found.append(chunk)
        return b"".join(found)


class Response:
    """A whole answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.body = status, body
        self.headers: dict[str, str] = dict(headers) if headers else {}
        if content_type:
            self.headers["Content-Type"] = content_type


class Hijacked:
    """A connection taken out of HTTP: its socket, and what the client had already sent.

    The socket is blocking, owned by whoever holds this value, and spoken to by nobody else.
    """

    __slots__ = ("early", "sock")

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self.sock, self.early = sock, early


class Stream:
    """An answer sent piece by piece (chunked, or until the end for HTTP/1.0)."""

    __slots__ = ("_chunked", "_connection", "_empty")

    def __init__(self, connection: Link, chunked: bool, empty: bool) -> None:
        self._connection, self._chunked, self._empty = connection, chunked, empty

    async def write(self, data: bytes) -> None:
        """Send ``data`` and wait while the client is slow; Cancelled when it disconnects."""
        self.write_nowait(data)
        await self._connection.drain()

    def write_nowait(self, data: bytes) -> None:
        """Send without waiting: for small messages on streams that cannot flood."""
        if not data or self._empty:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._connection.write(data)

    def end(self) -> None:
        """The stream is complete."""
        if self._chunked and not self._empty:
            self._connection.write(b"0\r\n\r\n")

    @property
    def is_slow(self) -> bool:
        """The client does not read as fast as we write."""
        return self._connection.is_write_paused


class Request:
    """One request, as handlers receive it."""

    __slots__ = ("_connection", "_query", "body", "head", "version")

    def __init__(self, head: Head, body: Body, connection: Link) -> None:
        self.head, self.body = head, body
        self._connection = connection
        self._query: dict[str, list[str]] | None = None
        self.version: tuple[int, int] = (0, 0)
        """The API version that applies, set by the application."""

    @property
    def method(self) -> str:
        return self.head.method

    def header(self, name: str, default: str = "") -> str:
        return self.head.headers.get(name, default)

    @property
    def query(self) -> dict[str, list[str]]:
        """The query, decoded; raises InvalidParameter when it is malformed."""
        if self._query is None:
            found: dict[str, list[str]] = {}
            if self.head.query:
                if bad := find_bad_escape(self.head.query):
                    raise InvalidParameter(f'invalid URL escape "{bad}"')
                if ";" in self.head.query:
                    raise InvalidParameter("invalid semicolon separator in query")
                try:
                    pairs = parse_qsl(self.head.query, keep_blank_values=True, max_num_fields=1024)
                except ValueError as err:
                    raise InvalidParameter(f"invalid URL query: {err}") from None
                for key, value in pairs:
                    found.setdefault(key, []).append(value)
            self._query = found
        return self._query

    def start(
        self, status: int = 200, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> Stream:
        """Begin a streamed answer: the head is sent now."""
        return self._connection.start_stream(status, content_type, headers or {})

    def hijack(self, answer: bytes) -> Hijacked:
        """Send ``answer`` (a whole head) and take the connection out of HTTP.

        The request's body must have been read. The handler then returns None.
        """
        return self._connection.hijack(answer)

    def release(self, answer: bytes) -> tuple[asyncio.Transport, bytes]:
        """Send ``answer`` (a whole head) and hand the connection over on this event loop: its
        transport, to which a new protocol is set, and what the client has sent already.

        The request's body must have been read. The handler then returns None.
        """
        return self._connection.release(answer)

    def make_cancellable(self) -> None:
        """The handler is to be cancelled when the client disconnects."""
        self._connection.make_cancellable()

    @property
    def peer(self) -> str:
        """The client: a process of this machine, or an address; empty when unknown."""
        return self._connection.peer

    @property
    def has_started(self) -> bool:
        """The head of the answer has been sent."""
        return self._connection.has_started

    @property
    def peer_gone(self) -> bool:
        return self._connection.is_closing
