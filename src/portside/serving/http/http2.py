"""HTTP/2 on a connection that begins with its preface (RFC 9113, section 3.3: prior knowledge).

The same handlers answer: each stream becomes a request. What needs the connection for itself
(attach, exec) stays with HTTP/1.1. A connection whose first request is gRPC is given away whole:
its transport, with all bytes the client has sent so far, to whoever speaks it. The library is
imported when the first such connection comes.

State of a connection::

    preface ──► first request ──► streams …        (ours)
                      └─────────► given away       (gRPC)

Bounds: streams at a time, bytes of a head, bytes that wait on either side of a stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from portside.model.errors import Cancelled, NotImplementedHere
from portside.serving.http.messages import Body, Hijacked, Request, Response, Stream
from portside.serving.http.parser import Head, ProtocolError, make_head

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response | Stream | None]]
TakeGrpc = Callable[[asyncio.Transport, bytes], None]
"""Gets a transport to speak on, and what the client has sent, its preface included. The server's
first SETTINGS have been sent; sending further ones is allowed."""

MOST_STREAMS = 128
_MAX_HEAD = 64 << 10
_HIGH_WATER = 256 << 10
"""Bytes of an answer that wait for the client before the handler waits."""


class Http2Session:
    """One client's HTTP/2 connection, fed by the protocol that owns the transport."""

    def __init__(
        self,
        handler: Handler,
        transport: asyncio.Transport,
        *,
        common_headers: Callable[[], str],
        take_grpc: TakeGrpc | None,
        given_away: Callable[[], None],
        peer: str = "",
    ) -> None:
        self.peer = peer
        self.handler, self._transport = handler, transport
        self.common_headers = common_headers
        self._take_grpc, self._given_away = take_grpc, given_away
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.streams: dict[int, _StreamConnection] = {}
        self._early: bytearray | None = bytearray()
        """Bytes before the client's first request; None after that."""
        self._closing = False
        self._begin()

    def _begin(self) -> None:
        """Send our settings: clients wait for them before their first request."""
        self.h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = MOST_STREAMS
        self.h2.local_settings[SettingCodes.MAX_HEADER_LIST_SIZE] = _MAX_HEAD
        self.h2.initiate_connection()
        self._transport.write(self.h2.data_to_send())

    @property
    def has_asked(self) -> bool:
        """The first request was received."""
        return self._early is None

    # -- from the transport ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._early is not None:
            self._early += data
        try:
            events = self.h2.receive_data(data)
        except H2Error as err:
            log.debug("a client broke HTTP/2: %s", err)
            self._fail()
            return
        if self._early is not None:
            first = next((e for e in events if isinstance(e, RequestReceived)), None)
            if first is None:
                if len(self._early) > _MAX_HEAD:
                    self._fail()
                return
            early, self._early = bytes(self._early), None
            if self._is_grpc(first) and self._take_grpc is not None:
                self._given_away()
                self._take_grpc(self._transport, early)
                return
        for event in events:
            self._on(event)
        self.flush()
        if self._closing and not self.streams:
            self._transport.close()

    def _fail(self) -> None:
        self._transport.write(self.h2.data_to_send())
        self._transport.close()

    @staticmethod
    def _is_grpc(event: RequestReceived) -> bool:
        fields = {str(name): str(value) for name, value in event.headers or ()}
        return fields.get("content-type", "").startswith("application/grpc")

    def connection_lost(self) -> None:
        for stream in list(self.streams.values()):
            stream.gone()
        self.streams.clear()

    def resume_writing(self) -> None:
        for stream in list(self.streams.values()):
            stream.pump()

    def _on(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._open(event)
        elif isinstance(event, DataReceived):
            stream = self.streams.get(event.stream_id or 0)
            size = event.flow_controlled_length or 0
            if stream is None:
                self.acknowledge(event.stream_id or 0, size)
            else:
                stream.received(event.data or b"", size)
        elif isinstance(event, StreamEnded):
            if (stream := self.streams.get(event.stream_id or 0)) is not None:
                stream.request.body.finish()
        elif isinstance(event, StreamReset):
            if (stream := self.streams.get(event.stream_id or 0)) is not None:
                stream.gone()
        elif isinstance(event, WindowUpdated):
            for stream in list(self.streams.values()):
                if event.stream_id in (0, stream.id):
                    stream.pump()
        elif isinstance(event, ConnectionTerminated):
            self._closing = True

    def _open(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        if len(self.streams) >= MOST_STREAMS or self._closing:
            # Streams that were reset count until their handlers end (CVE-2023-44487).
            self.h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            return
        fields: dict[str, str] = {}
        for name, value in event.headers or ():
            key, text = str(name), str(value)
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
        try:
            head = make_head(fields.pop(":method", ""), fields.pop(":path", ""), _plain(fields))
        except ProtocolError as err:
            self.h2.send_headers(number, [(":status", str(err.status))], end_stream=True)
            return
        stream = _StreamConnection(self, number, head)
        if event.stream_ended is not None:
            head.length = 0
            stream.request.body.finish()
        self.streams[number] = stream
        stream.begin()

    # -- to the transport --------------------------------------------------------------------

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self._transport.write(data)

    def acknowledge(self, number: int, size: int) -> None:
        """Acknowledge bytes of a body: the client may send as many more."""
        if size:
            try:
                self.h2.acknowledge_received_data(size, number)
            except H2Error:
                pass  # the stream is closed meanwhile

    def done(self, stream: _StreamConnection) -> None:
        self.streams.pop(stream.id, None)
        if self._closing and not self.streams:
            self._transport.close()

    # -- for the server ----------------------------------------------------------------------

    @property
    def task(self) -> asyncio.Task[None] | None:
        return next((s.task for s in self.streams.values() if s.task is not None), None)

    def close_when_idle(self) -> None:
        self._closing = True
        self.h2.close_connection()
        self.flush()
        if not self.streams:
            self._transport.close()

    def cancel(self) -> None:
        for stream in list(self.streams.values()):
            if stream.cancellable and stream.task is not None:
                stream.task.cancel()


class _StreamConnection:
    """The interface of a connection for a request, its body and its answer, for one stream."""

    def __init__(self, session: Http2Session, number: int, head: Head) -> None:
        self._session, self.id, self.peer = session, number, session.peer
        self.request = Request(head, Body(self), self)
        self.task: asyncio.Task[None] | None = None
        self.cancellable = False
        self._out = bytearray()
        self._ends = False
        self._started = False
        self._lost = False
        self._held = 0
        """Received bytes that are not acknowledged yet."""
        self._resumed: asyncio.Future[None] | None = None

    def begin(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._answer())

    # -- the client's side -------------------------------------------------------------------

    def received(self, data: bytes, size: int) -> None:
        self._held += size
        if data:
            self.request.body.feed(data)
        if not self.request.body.is_full:
            self.wants_body()

    def wants_body(self) -> None:
        held, self._held = self._held, 0
        self._session.acknowledge(self.id, held)
        self._session.flush()

    def gone(self) -> None:
        """The client has reset the stream or closed the connection."""
        self._lost = True
        if not self.request.body.complete:
            self.request.body.fail(Cancelled("the client went away"))
        self._wake()
        if self.cancellable and self.task is not None:
            self.task.cancel()

    # -- the answer --------------------------------------------------------------------------

    async def _answer(self) -> None:
        session = self._session
        try:
            answer = await session.handler(self.request)
            if isinstance(answer, Response):
                self._send(answer)
            else:
                self._ends = True
                self.pump()
            await self._sent()
            if not self.request.body.complete and not self._lost:
                # Answered before the whole body arrived: the client need not send the rest.
                session.h2.reset_stream(self.id, ErrorCodes.NO_ERROR)
                session.flush()
        except (Cancelled, asyncio.CancelledError, H2Error):
            self._reset()
        except Exception:
            log.exception("a handler failed: %s %s", self.request.method, self.request.head.path)
            self._reset()
        finally:
            self.task = None
            self.wants_body()
            session.done(self)

    def _send(self, answer: Response) -> None:
        headers = dict(answer.headers)
        body = answer.body if self.request.method != "HEAD" else b""
        if answer.status not in (204, 304):
            headers["content-length"] = str(len(answer.body))
        self._head(answer.status, headers)
        self._out += body if answer.status not in (204, 304) else b""
        self._ends = True
        self.pump()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        if self._lost:
            raise Cancelled("the client went away")
        self._started = True
        fields = [(":status", str(status))]
        for line in self._session.common_headers().splitlines():
            name, _, value = line.partition(": ")
            fields.append((name.lower(), value))
        fields += [(name.lower(), value) for name, value in headers.items()]
        self._session.h2.send_headers(self.id, fields)
        self._session.flush()

    def start_stream(self, status: int, content_type: str, headers: Mapping[str, str]) -> Stream:
        """Send a streamed answer's head."""
        assert not self._started, "one answer per request"
        kind = {"content-type": content_type} if content_type else {}
        self._head(status, {**kind, **headers})
        return Stream(self, False, self.request.method == "HEAD")

    def write(self, data: bytes) -> None:
        self._out += data
        self.pump()

    def pump(self) -> None:
        """Send as much as the client's windows allow."""
        h2 = self._session.h2
        if self._lost or not self._started:
            return
        while self._out:
            room = min(h2.local_flow_control_window(self.id), h2.max_outbound_frame_size)
            if room <= 0:
                break
            piece = bytes(self._out[:room])
            del self._out[:room]
            h2.send_data(self.id, piece)
        if self._ends and not self._out:
            h2.end_stream(self.id)
            self._ends = False
        self._session.flush()
        if len(self._out) < _HIGH_WATER:
            self._wake()

    async def _sent(self) -> None:
        """Wait until all of the answer has been sent."""
        while self._out and not self._lost:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed

    def _wake(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    async def drain(self) -> None:
        while len(self._out) >= _HIGH_WATER and not self._lost:
            self._resumed = asyncio.get_running_loop().create_future()
            await self._resumed
        if self._lost:
            raise Cancelled("the client went away")

    def _reset(self) -> None:
        """End the stream so that the client sees that its answer is not complete."""
        if not self._lost:
            try:
                self._session.h2.reset_stream(self.id, ErrorCodes.INTERNAL_ERROR)
                self._session.flush()
            except H2Error:
                pass

    def make_cancellable(self) -> None:
        """The handler is cancelled when the client disconnects."""
        self.cancellable = True

    # -- what only a whole connection can do ---------------------------------------------------

    def hijack(self, answer: bytes) -> Hijacked:
        raise NotImplementedHere(
            "this endpoint takes over its connection, which a stream of HTTP/2 cannot do: "
            "use HTTP/1.1"
        )

    def release(self, answer: bytes) -> tuple[asyncio.Transport, bytes]:
        raise NotImplementedHere("a stream of HTTP/2 cannot be upgraded: use HTTP/1.1")

    @property
    def has_started(self) -> bool:
        return self._started

    @property
    def is_write_paused(self) -> bool:
        return len(self._out) >= _HIGH_WATER

    @property
    def is_closing(self) -> bool:
        return self._lost


def _plain(fields: Mapping[str, str]) -> dict[str, str]:
    """Headers without the pseudo-headers; the authority is the host."""
    headers = {name: value for name, value in fields.items() if not name.startswith(":")}
    headers.setdefault("host", fields.get(":authority", ""))
    return headers
