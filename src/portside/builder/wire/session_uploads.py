"""Streams that a client offers under a URL of its session (``docker build -``)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from portside.builder.wire.client_session import ClientSession, client_failure
from portside.builder.wire.proto import session_pb2

PREFIX = "http://buildkit-session/"


async def pull(session: ClientSession, path: str) -> AsyncIterator[bytes]:
    """The bytes of an upload. NotFound, Unavailable."""
    stream = session.channel.request(
        "/moby.upload.v1.Upload/Pull", Cardinality.STREAM_STREAM,
        session_pb2.BytesMessage, session_pb2.BytesMessage,
        metadata={"urlpath": "/" + path.lstrip("/"), "urlhost": "buildkit-session"},
    )  # fmt: skip
    try:
        async with stream:
            await stream.send_request()
            await stream.end()
            while (message := await stream.recv_message()) is not None:
                yield message.data
    except (GRPCError, StreamTerminatedError, OSError) as err:
        raise client_failure(err) from err
