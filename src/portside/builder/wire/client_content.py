"""A content store at the client (a folder with the blobs of an OCI layout), over its session:
containerd's ``Content`` service, for local caches, layouts and outputs with ``tar=false``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import H2Error

from portside.builder.wire.client_session import MAX_PIECE, ClientSession, client_failure
from portside.builder.wire.proto import content_pb2 as pb
from portside.model.errors import NotFound, PortsideError

STORE = "buildkit-attachable-store-id"
LOCAL = "local:"
"""Before the path, the name of a local cache's store."""
LAYOUT = "oci:"
"""Before the name of an OCI layout that is a context."""
OUTPUT = "export"
"""The store of an output with ``tar=false``."""
_SERVICE = "/containerd.services.content.v1.Content"
_FAILURES = (GRPCError, StreamTerminatedError, OSError, TimeoutError, H2Error)


class ClientContent:
    """A :class:`ContentStore`; ``name`` is what the client calls it."""

    def __init__(self, session: ClientSession, name: str) -> None:
        self._session, self._name = session, name

    def _stream(self, method: str, kind: Cardinality, request: Any, reply: Any) -> Any:
        return self._session.channel.request(
            f"{_SERVICE}/{method}", kind, request, reply, metadata={STORE: self._name}
        )

    async def size(self, digest: str) -> int | None:
        stream = self._stream("Info", Cardinality.UNARY_UNARY, pb.InfoRequest, pb.InfoResponse)
        try:
            async with stream:
                await stream.send_message(pb.InfoRequest(digest=digest), end=True)
                found = await stream.recv_message()
        except _FAILURES as err:
            if isinstance(err, GRPCError) and err.status is Status.NOT_FOUND:
                return None
            raise client_failure(err) from err
        return None if found is None else int(found.info.size)

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        stream = self._stream(
            "Read", Cardinality.UNARY_STREAM, pb.ReadContentRequest, pb.ReadContentResponse
        )
        try:
            async with stream:
                await stream.send_message(pb.ReadContentRequest(digest=digest), end=True)
                while (message := await stream.recv_message()) is not None:
                    yield message.data
        except _FAILURES as err:
            failed = client_failure(err)
            if isinstance(failed, NotFound):
                failed = NotFound(f"the client's store has no {digest}")
            raise failed from err

    async def write(self, digest: str, size: int, data: AsyncIterator[bytes]) -> None:
        if await self.size(digest) is not None:
            return
        stream = self._stream(
            "Write", Cardinality.STREAM_STREAM, pb.WriteContentRequest, pb.WriteContentResponse
        )
        ref = f"portside-{digest}"
        try:
            async with stream:
                await self._exchange(stream, pb.WriteContentRequest(
                    action=pb.STAT, ref=ref, total=size, expected=digest
                ))  # fmt: skip
                at = 0
                async for piece in data:
                    for start in range(0, len(piece), MAX_PIECE):
                        part = piece[start : start + MAX_PIECE]
                        await self._exchange(stream, pb.WriteContentRequest(
                            action=pb.WRITE, ref=ref, offset=at, total=size, data=part
                        ))  # fmt: skip
                        at += len(part)
                await self._exchange(stream, pb.WriteContentRequest(
                    action=pb.COMMIT, ref=ref, offset=at, total=size, expected=digest
                ), end=True)  # fmt: skip
        except _FAILURES as err:
            if isinstance(err, GRPCError) and err.status is Status.ALREADY_EXISTS:
                return
            raise client_failure(err) from err

    async def _exchange(self, stream: Any, request: Any, *, end: bool = False) -> Any:
        await stream.send_message(request, end=end)
        found = await stream.recv_message()
        if found is None:
            raise PortsideError("the client ended the transfer of a blob")
        return found
