"""gRPC on sockets that are open already, as server and as client.

The API answers an upgrade (or HTTP/2's preface) and passes the socket on. On ``/grpc`` we are
the HTTP/2 server, on ``/session`` the client.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server

from portside.builder.wire.data_frames import DataFrames
from portside.builder.wire.proto import status_pb2
from portside.builder.wire.wire_errors import as_grpc

for _name in ("hpack", "h2", "grpclib"):
    logging.getLogger(_name).setLevel(logging.INFO)  # they log every byte

STREAM_WINDOW = 4 << 20
"""Bytes that a peer may send on one stream before they are read."""

SESSION_WINDOW = 16 << 20
"""The same for a client's session, over which its files come: a busy machine runs client, engine
and job in turns, and what fits into the window is what each can do in its turn."""

MAX_MESSAGE = 16 << 20
"""Bytes of one message, as BuildKit bounds them."""

Method: TypeAlias = Callable[[Any], Awaitable[None]]
"""Takes grpclib's server stream."""

SERVER_STREAM = Cardinality.UNARY_STREAM
BOTH_STREAMS = Cardinality.STREAM_STREAM


class Service:
    """One gRPC service: its methods by name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._methods: dict[str, Handler] = {}

    def unary(
        self, name: str, work: Callable[[Any, Any], Awaitable[Any]], request: Any, reply: Any
    ) -> None:
        """``work`` takes the request and the call's metadata, and returns the reply."""

        async def method(stream: Any) -> None:
            message = await stream.recv_message()
            if message is None:
                return
            await stream.send_message(await work(message, stream.metadata))

        self._add(name, method, Cardinality.UNARY_UNARY, request, reply)

    def stream(
        self, name: str, method: Method, request: Any, reply: Any, *, both: bool = False
    ) -> None:
        """``method`` takes the stream itself; ``both``: the client streams, too."""
        self._add(name, method, BOTH_STREAMS if both else SERVER_STREAM, request, reply)

    def _add(
        self, name: str, method: Method, cardinality: Cardinality, request: Any, reply: Any
    ) -> None:
        async def guarded(stream: Any) -> None:
            _bound(stream)
            try:
                await method(stream)
            except (GRPCError, asyncio.CancelledError):
                raise
            except Exception as err:
                raise as_grpc(err) from err

        self._methods[f"/{self._name}/{name}"] = Handler(guarded, cardinality, request, reply)

    def __mapping__(self) -> dict[str, Handler]:
        return self._methods


def _bound(stream: Any) -> None:
    """Refuse a message that is too large before it is read into memory."""
    buffer = stream._stream.buffer
    read = buffer.read

    async def read_bounded(size: int) -> bytes:
        if size > MAX_MESSAGE:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes: at most {MAX_MESSAGE}"
            )
        data: bytes = await read(size)
        return data

    buffer.read = read_bounded


class _StatusCodec(StatusDetailsCodecBase):
    """``grpc-status-details-bin``: a google.rpc.Status."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        found = status_pb2.Status(code=status.value, message=message or "", details=details or ())
        data: bytes = found.SerializeToString()
        return data

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        try:
            return list(status_pb2.Status.FromString(data).details)
        except Exception:
            return []


def _configuration(window: int) -> Configuration:
    return Configuration(http2_connection_window_size=2 * window, http2_stream_window_size=window)


class GrpcServer(Server):
    """Serves connections that it is given."""

    def __init__(self, services: Sequence[Service]) -> None:
        super().__init__(
            services, config=_configuration(STREAM_WINDOW), status_details_codec=_StatusCodec()
        )  # fmt: skip
        self._open: set[H2Protocol] = set()

    def serve(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        """Take a connection over. ``early``: what the client has sent already."""
        protocol = self._protocol_factory()
        self._open = {each for each in self._open if not each.connection.is_closing()}
        self._open.add(protocol)
        _connect(protocol, transport, early)

    def close(self) -> None:
        """Cancel all calls and close the connections."""
        for protocol in self._open:
            protocol.processor.close()
        self._open.clear()


class TransportChannel(Channel):
    """The client's end of one connection; it does not connect again."""

    def __init__(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        super().__init__(
            "localhost",
            0,
            config=_configuration(SESSION_WINDOW),
            status_details_codec=_StatusCodec(),
        )
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        protocol = self._protocol_factory()
        ended = protocol.connection_lost

        def connection_lost(exc: BaseException | None) -> None:
            ended(exc)
            if not self.lost.done():
                self.lost.set_result(None)

        protocol.connection_lost = connection_lost  # type: ignore[method-assign]
        self._protocol = protocol
        self.frames = DataFrames(protocol, SESSION_WINDOW)
        _connect(protocol, transport, early)

    async def _create_connection(self) -> H2Protocol:
        raise ConnectionResetError("the client's session has ended")


def _connect(protocol: H2Protocol, transport: asyncio.Transport, early: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if early:
        protocol.data_received(early)
    transport.resume_reading()


async def paired_transport() -> tuple[asyncio.Transport, socket.socket]:
    """A transport, and the socket that is its peer."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    return transport, theirs
