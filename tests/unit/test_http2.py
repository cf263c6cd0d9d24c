"""HTTP/2 with prior knowledge on the engine's sockets, spoken by the library's client half."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from portside.serving.http.http2 import MOST_STREAMS, TakeGrpc
from portside.serving.http.messages import Request, Response, Stream
from portside.serving.http.server import Server

Answer = Response | Stream | None
Handler = Callable[[Request], Awaitable[Answer]]


class Client:
    """One connection; ``stream`` collects what comes for a stream until it ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: dict[int, list[Event]] = {}
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> int:
        number = self.h2.get_next_available_stream_id()
        method = headers.pop("method", "GET" if body is None else "POST")
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "d")]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(number, fields, end_stream=body is None)
        if body:
            self.h2.send_data(number, body)
        if body is not None:
            self.h2.end_stream(number)
        self.flush()
        return number

    async def more(self) -> bool:
        data = await asyncio.wait_for(self.reader.read(65536), 30)
        for event in self.h2.receive_data(data) if data else ():
            if isinstance(event, DataReceived):
                assert event.stream_id is not None and event.flow_controlled_length is not None
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if (number := getattr(event, "stream_id", None)) is not None:
                self.events.setdefault(number, []).append(event)
        self.flush()
        return bool(data)

    async def answer(self, number: int) -> tuple[dict[str, str], bytes]:
        while not any(isinstance(e, StreamEnded) for e in self.events.get(number, ())):
            assert await self.more(), "the connection was closed"
        found = self.events[number]
        head = next(e for e in found if isinstance(e, ResponseReceived))
        data = b"".join(e.data or b"" for e in found if isinstance(e, DataReceived))
        return {str(name): str(value) for name, value in head.headers or ()}, data


@asynccontextmanager
async def serving(
    path: Path,
    handler: Handler,
    take_grpc: TakeGrpc | None = None,
) -> AsyncIterator[Client]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    server = Server(handler, take_grpc=take_grpc, common_headers=lambda: "Api-Version: 1.55\r\n")
    await server.listen(sock)
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await server.close()


async def echo(request: Request) -> Answer:
    body = await request.body.read(8 << 20)
    text = f"{request.method} {request.head.path} {request.query} {len(body)}"
    return Response(200, text.encode(), "text/plain", {"X-Y": request.header("x-test")})


async def test_requests_one_after_the_other_and_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", echo) as client:
        first = client.ask("/a%20b?x=1", x_test="yes")
        head, data = await client.answer(first)
        assert (head[":status"], head["x-y"], head["api-version"]) == ("200", "yes", "1.55")
        assert data == b"GET /a b {'x': ['1']} 0"
        numbers = [client.ask(f"/{n}", b"x" * n) for n in range(20)]
        for n, number in enumerate(numbers):
            assert (await client.answer(number))[1] == f"POST /{n} {{}} {n}".encode()


async def test_large_bodies_both_ways(tmp_path: Path) -> None:
    size = 3 << 20

    async def big(request: Request) -> Answer:
        got = 0
        async for piece in request.body.chunks():
            got += len(piece)
        stream = request.start(200, "application/octet-stream")
        for _ in range(size // 65536):
            await stream.write(b"z" * 65536)
        await stream.write(str(got).encode())
        return stream

    async with serving(tmp_path / "s", big) as client:
        number = client.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "d")]
        client.h2.send_headers(number, fields)
        left = size
        while left:
            room = min(client.h2.local_flow_control_window(number), 16384, left)
            if not room:
                client.flush()
                await client.more()
                continue
            client.h2.send_data(number, b"y" * room)
            left -= room
        client.h2.end_stream(number)
        client.flush()
        _, data = await client.answer(number)
        assert (len(data), data[size:]) == (size + len(str(size)), str(size).encode())


async def test_a_reset_cancels_what_may_be_cancelled(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def forever(request: Request) -> Answer:
        request.make_cancellable()
        stream = request.start(200, "application/json")
        await stream.write(b"{}")
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return stream

    async with serving(tmp_path / "s", forever) as client:
        number = client.ask("/events")
        while not any(isinstance(e, DataReceived) for e in client.events.get(number, ())):
            assert await client.more()
        client.h2.reset_stream(number)
        client.flush()
        await asyncio.wait_for(ended.wait(), 30)


async def test_streams_that_were_reset_count(tmp_path: Path) -> None:
    """A client that resets what it asks (CVE-2023-44487) gets no more handlers than others."""
    go, running = asyncio.Event(), 0

    async def slow(request: Request) -> Answer:
        nonlocal running
        running += 1
        await go.wait()
        return Response(204)

    async with serving(tmp_path / "s", slow) as client:
        for _ in range(MOST_STREAMS):
            client.h2.reset_stream(client.ask("/"))
        number = client.ask("/")

        def resets() -> list[StreamReset]:
            return [e for e in client.events.get(number, ()) if isinstance(e, StreamReset)]

        while not resets():
            assert await client.more()
        assert (running, resets()[0].error_code) == (MOST_STREAMS, ErrorCodes.REFUSED_STREAM)
        go.set()
        await asyncio.sleep(0)
        assert (await client.answer(client.ask("/")))[0][":status"] == "204"


async def test_what_needs_the_connection_is_refused(tmp_path: Path) -> None:
    from portside.api import errors
    from portside.model.errors import PortsideError

    async def attach(request: Request) -> Answer:
        try:
            request.hijack(b"")
        except PortsideError as err:
            return errors.respond(err)
        return None

    async with serving(tmp_path / "s", attach) as client:
        head, data = await client.answer(client.ask("/attach", b""))
        assert head[":status"] == "501"
        assert b"use HTTP/1.1" in data


async def test_grpc_is_given_away_with_what_was_sent(tmp_path: Path) -> None:
    given: asyncio.Future[tuple[asyncio.Transport, bytes]] = asyncio.Future()

    def take(transport: asyncio.Transport, early: bytes) -> None:
        given.set_result((transport, early))

    async with serving(tmp_path / "s", echo, take) as client:
        client.ask("/moby.buildkit.v1.Control/ListWorkers", b"\0" * 5,
                   content_type="application/grpc", te="trailers")  # fmt: skip
        transport, early = await asyncio.wait_for(given, 30)
        assert early.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        # Another implementation carries on where this one stopped.
        server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        server.initiate_connection()
        events = server.receive_data(early)
        assert any(isinstance(event, DataReceived) for event in events)
        server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        server.end_stream(1)
        transport.write(server.data_to_send())
        assert (await client.answer(1))[0]["content-type"] == "application/grpc"
        transport.close()


@pytest.mark.parametrize(
    "data",
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\5\4" + b"\0" * 10,
     b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
     b"PRI * HTTP/1.1\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_http2_is_closed(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path / "s", echo):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(data)
        await asyncio.wait_for(reader.read(), 30)  # up to its end
        writer.close()


async def test_a_preface_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", echo) as client:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        other = Client.__new__(Client)
        other.reader, other.writer, other.events = reader, writer, {}
        other.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        other.h2.initiate_connection()
        for byte in other.h2.data_to_send():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await other.answer(other.ask("/x")))[1] == b"GET /x {} 0"
        assert (await client.answer(client.ask("/y")))[1] == b"GET /y {} 0"
        writer.close()


async def test_an_upgraded_connection_is_released(tmp_path: Path) -> None:
    """``POST /grpc``: the transport changes hands after the answer, early bytes included."""
    taken: asyncio.Future[tuple[asyncio.Transport, bytes]] = asyncio.Future()

    async def upgrade(request: Request) -> Answer:
        taken.set_result(request.release(b"HTTP/1.1 101 UPGRADED\r\n\r\n"))
        return None

    async with serving(tmp_path / "s", upgrade):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
                     b"Content-Length: 0\r\n\r\nearly")  # fmt: skip
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 101 UPGRADED\r\n\r\n"
        transport, early = await asyncio.wait_for(taken, 30)
        assert early == b"early"
        got: asyncio.Future[bytes] = asyncio.Future()

        class Next(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                got.set_result(data)

        transport.set_protocol(Next())
        writer.write(b"later")
        assert await asyncio.wait_for(got, 30) == b"later"
        transport.close()
        assert await reader.read() == b""
        writer.close()
