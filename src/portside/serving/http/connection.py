"""One client's connection: it reads requests and answers them in order.

States of a connection::

    head ──► body+handler ──► head …          (keep-alive)
                    │   └───► closing         (error, Connection: close, client gone)
                    └───────► hijacked        (the socket is someone else's)

A handler that is marked cancellable is cancelled when its client goes away; all others
run to their end, so that a start or a removal is never left half done.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from portside.model.errors import Cancelled, SystemFailure
from portside.serving.http.messages import REASONS, Body, Hijacked, Request, Response, Stream
from portside.serving.http.parser import (
    MAX_HEAD,
    BodyParser,
    Head,
    ProtocolError,
    end_of_head,
    parse_head,
)
from portside.serving.http.tls import TlsTransport

if TYPE_CHECKING:
    from portside.serving.http.http2 import Http2Session, TakeGrpc

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response | Stream | None]]
"""Answers a request: a Response, the Stream it has written, or None after a hijack."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of an HTTP/2 connection (RFC 9113, section 3.4)."""
HEAD_TIMEOUT = 60.0
"""Seconds in which a client must complete a request head."""
_DRAINED = 64 << 20
"""Bytes of an unwanted body that are read to its end before the connection is cut."""
_READ_AHEAD = 256 << 10
"""Bytes of later requests kept while one is being answered."""


class Listener(Protocol):
    """The interface of the server that a connection uses."""

    loop: asyncio.AbstractEventLoop
    is_closing: bool
    common_headers: Callable[[], str]
    error_body: Callable[[str], bytes]
    take_grpc: TakeGrpc | None

    def opened(self, connection: Connection) -> None:
        """The connection was accepted, or has become idle."""

    def can_yield(self) -> None:
        """One of the connections may be closed for a new one from now on."""

    def gone(self, connection: Connection) -> None:
        """The connection is closed, or was given away."""


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 with one client."""

    def __init__(self, handler: Handler, server: Listener, peer: str = "") -> None:
        self._handler, self._server = handler, server
        self.peer = peer
        self._loop = server.loop
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._parser: BodyParser | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._reading = True
        self._eof = False
        self._started = False
        self._hijacked = False
        self._is_first = True
        """No request was received yet: the client may begin with HTTP/2's preface."""
        self._http2: Http2Session | None = None
        self._broken = False
        """The peer's bytes cannot be parsed: the connection ends after the answer."""
        self._draining = 0
        """Bytes of an unwanted body that are still read."""
        self.cancellable = False
        """The running handler is cancelled when the client disconnects."""

    # -- asyncio's callbacks ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.can_yield()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.gone(self)
        self._transport = None
        self._set_timer(False)
        if self._http2 is not None:
            self._http2.connection_lost()
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._peer_gone()

    def eof_received(self) -> bool:
        """The client sends no more data. Pending answers are still sent (a half-closed socket)."""
        self._eof = True
        if self._request is None:
            return False
        if self._draining:
            self._close()
        self._peer_gone()
        return True

    def _peer_gone(self) -> None:
        if self._request is not None and not self._request.body.complete:
            self._request.body.fail(Cancelled("the client went away"))
        if self.cancellable and self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._http2 is not None:
            self._http2.data_received(data)
            self._set_timer(not self._http2.has_asked and self._transport is not None)
            return
        self._buffer += data
        try:
            if self._request is not None:
                self._feed_body(self._request)
            else:
                self._next_request()
        except ProtocolError as err:
            self._refuse(err)

    def pause_writing(self) -> None:
        self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)
        if self._http2 is not None:
            self._http2.resume_writing()

    # -- requests --------------------------------------------------------------------------

    def _next_request(self) -> None:
        """Start answering when a whole head has arrived."""
        if self._is_first and self._begins_http2():
            return
        end, after = end_of_head(self._buffer)
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ProtocolError(431, "request header too large")
            self._set_timer(bool(self._buffer))
            return
        self._set_timer(False)
        if end > MAX_HEAD:
            raise ProtocolError(431, "request header too large")
        self._is_first = False
        # Empty lines before a request are skipped (RFC 9112, section 2.2).
        head = parse_head(bytes(self._buffer[:end]).strip(b"\r\n"))
        del self._buffer[:after]
        request = self._request = Request(head, Body(self), self)
        self._parser = BodyParser(head.length)
        self._started = False
        self._feed_body(request)
        self._task = self._loop.create_task(self._answer(request))

    def _begins_http2(self) -> bool:
        """Whether the client speaks HTTP/2, or may yet turn out to."""
        begin = self._buffer[: len(_PREFACE)]
        if not begin or not _PREFACE.startswith(begin):
            return False
        self._set_timer(True)
        if len(begin) < len(_PREFACE) or self._transport is None:
            return True
        from portside.serving.http.http2 import Http2Session  # seldom needed, and slow to import

        self._is_first = False
        data = bytes(self._buffer)
        self._buffer.clear()
        server = self._server
        self._http2 = Http2Session(
            self._handler,
            self._transport,
            common_headers=server.common_headers,
            take_grpc=server.take_grpc,
            given_away=self._given_away,
            peer=self.peer,
        )
        self._http2.data_received(data)
        return True

    def _given_away(self) -> None:
        self._hijacked = True
        self._server.gone(self)
        self._transport = None

    def _feed_body(self, request: Request) -> None:
        body, parser = request.body, self._parser
        if parser is None:
            return
        if not body.complete:
            try:
                data = parser.feed(self._buffer)
            except ProtocolError as err:
                body.fail(err)
                raise
            if data:
                body.feed(data)
            if parser.done:
                body.finish()
            if self._draining:
                self._drain_on(request, len(data))
                return
        self._read(not body.is_full if not body.complete else len(self._buffer) < _READ_AHEAD)

    def _drain_on(self, request: Request, size: int) -> None:
        """Drop a piece of a body that no handler reads."""
        self._draining = max(0, self._draining - size)
        if request.body.complete:
            self._draining = 0
            self._set_timer(False)
            self._done_with(request)
        elif not self._draining:
            self._close()

    def wants_body(self) -> None:
        """The handler waits for the body: ask the client to continue."""
        request = self._request
        if request is None or request.body.complete:
            return
        if request.head.expects_continue:
            request.head.expects_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._read(True)

    def _read(self, wanted: bool) -> None:
        if wanted == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._handler(request)
        except (Cancelled, asyncio.CancelledError):
            self._abort()
            return
        except ProtocolError as err:
            self._refuse(err)
            return
        except Exception:
            log.exception("a handler failed: %s %s", request.method, request.head.path)
            self._abort()
            return
        finally:
            self.cancellable = False
            self._task = None
        if self._hijacked:
            return
        if isinstance(answer, Stream):
            answer.end()
        elif answer is not None:
            self._send(request.head, answer)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        """The answer is sent: continue with the next request, or close."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._broken:
            self._close()
        elif request.body.complete:
            self._done_with(request)
        elif request.head.expects_continue or self._eof:
            self._close()  # the client has not sent its body and need not
        else:
            # Answered before the whole request arrived: read the rest, so that a client that
            # is still sending gets to read its answer.
            self._draining = _DRAINED
            request.body.discard()
            self._set_timer(True)
            self._read(True)

    def _done_with(self, request: Request) -> None:
        self._request = self._parser = None
        more = not self._eof or end_of_head(self._buffer)[0] >= 0
        if not (request.head.keep_alive and more) or self._server.is_closing:
            self._close()
            return
        self._server.opened(self)
        self._read(True)
        if self._buffer:
            try:
                self._next_request()
            except ProtocolError as err:
                self._refuse(err)

    # -- answers ---------------------------------------------------------------------------

    def _send(self, head: Head, answer: Response) -> None:
        body = answer.body
        # A client that waits for "100 Continue" never sends its body: nothing can follow.
        closes = not head.keep_alive or (head.expects_continue and not self._request_complete())
        lines = [self._status_line(answer.status)]
        lines += [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
        if answer.status not in (204, 304) and answer.status >= 200:
            lines.append(f"Content-Length: {len(body)}\r\n")
        if closes:
            head.keep_alive = False
            lines.append("Connection: close\r\n")
        elif not head.minor:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        data = "".join(lines).encode("latin-1", "replace")
        if head.method != "HEAD" and answer.status not in (204, 304):
            data += body
        self.write(data)

    def _request_complete(self) -> bool:
        return self._request is None or self._request.body.complete

    def _status_line(self, status: int) -> str:
        reason = REASONS.get(status, "Unknown")
        return f"HTTP/1.1 {status} {reason}\r\n{self._server.common_headers()}"

    def start_stream(self, status: int, content_type: str, headers: Mapping[str, str]) -> Stream:
        """Send a streamed answer's head."""
        request = self._request
        assert request is not None and not self._started, "one answer per request"
        self._started = True
        head = request.head
        lines = [self._status_line(status)]
        if content_type:
            lines.append(f"Content-Type: {content_type}\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
        chunked = head.minor == 1
        if chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        else:
            head.keep_alive = False
        if not head.keep_alive:
            lines.append("Connection: close\r\n")
        lines.append("\r\n")
        self.write("".join(lines).encode("latin-1", "replace"))
        return Stream(self, chunked, head.method == "HEAD")

    @property
    def has_started(self) -> bool:
        """The head of the current answer has been sent."""
        return self._started

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    @property
    def is_write_paused(self) -> bool:
        return self._resumed is not None

    @property
    def is_closing(self) -> bool:
        return self._eof or self._transport is None or self._transport.is_closing()

    async def drain(self) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Cancelled("the client went away")
        if self._resumed is not None:
            await asyncio.shield(self._resumed)
            if self._transport is None:
                raise Cancelled("the client went away")

    def hijack(self, answer: bytes) -> Hijacked:
        """Hand the socket over; see :meth:`Request.hijack`.

        The transport's descriptor is duplicated and the transport dropped, which closes its
        own copy only: the connection lives on in the duplicate.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Cancelled("the client went away")
        if not self._request_complete():
            raise SystemFailure("a connection cannot be hijacked before its request was read")
        self._read(False)
        self._hijacked = self._started = True
        self.cancellable = False
        early = bytes(self._buffer)
        self._buffer.clear()
        if isinstance(transport, TlsTransport):
            from portside.serving.http.pump import hijack_tls

            transport.write(answer)
            self._server.gone(self)
            return Hijacked(hijack_tls(transport, self._loop, self._eof), early)
        if transport.get_write_buffer_size():
            raise SystemFailure("a connection cannot be hijacked before its answers were sent")
        sock = cast(socket.socket, transport.get_extra_info("socket")).dup()
        sock.setblocking(True)
        try:
            sock.sendall(answer)
        except OSError:
            sock.close()
            self._abort()
            raise Cancelled("the client went away") from None
        self._server.gone(self)
        transport.abort()
        return Hijacked(sock, early)

    def release(self, answer: bytes) -> tuple[asyncio.Transport, bytes]:
        """Give the transport away; see :meth:`Request.release`."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Cancelled("the client went away")
        if not self._request_complete():
            raise SystemFailure("a connection cannot be given away before its request was read")
        self._started = True
        self.cancellable = False
        early = bytes(self._buffer)
        self._buffer.clear()
        self._read(True)
        transport.write(answer)
        self._given_away()
        return transport, early

    # -- ends ------------------------------------------------------------------------------

    def _refuse(self, err: ProtocolError) -> None:
        """Answer what cannot be parsed, and close (nothing says where the next begins)."""
        self._buffer.clear()
        if self._task is not None:
            # The handler learns it from the body it reads, and its answer ends the connection.
            self._broken = True
            return
        if not self._started:
            text = self._server.error_body(str(err))
            answer = Response(err.status, text, "application/json")
            self._send(Head("GET", "", "", "", 1, {}, keep_alive=False), answer)
        self._close()

    def _set_timer(self, wanted: bool) -> None:
        if not wanted:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self._loop.call_later(HEAD_TIMEOUT, self._abort)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        """Cut the connection, so that the client sees that its answer is not complete."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_idle(self) -> bool:
        """No request is in progress: the client keeps the connection for later."""
        if self._http2 is not None:
            return not self._http2.streams
        return self._request is None and self._transport is not None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that answers the current request."""
        return self._task if self._http2 is None else self._http2.task

    def abort(self) -> None:
        """Cut it off, whatever is under way."""
        self._abort()

    def close_when_idle(self) -> None:
        """The server stops: no further requests, the one under way is finished."""
        if self._http2 is not None:
            self._http2.close_when_idle()
        elif self._request is None:
            self._close()
        else:
            self._request.head.keep_alive = False

    def make_cancellable(self) -> None:
        """The handler under way only listens: it ends with its client, or for another one."""
        self.cancellable = True
        self._server.can_yield()

    def cancel(self) -> None:
        """The server stops now: end streams that would never end by themselves."""
        if self._http2 is not None:
            self._http2.cancel()
        if self._task is not None and self.cancellable:
            self._task.cancel()
