"""containerd's ``Content`` as far as clients read it: blobs of the store by digest."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from portside.builder.wire.grpc_transport import Service
from portside.builder.wire.proto import content_pb2 as pb
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, PortsideError
from portside.store.store import Store


class ContentService:
    def __init__(self, store: Store) -> None:
        self._store = store

    def service(self) -> Service:
        found = Service("containerd.services.content.v1.Content")
        found.unary("Info", self.info, pb.InfoRequest, pb.InfoResponse)
        found.stream("Read", self.read, pb.ReadContentRequest, pb.ReadContentResponse)
        return found

    def _digest(self, text: str) -> Digest:
        try:
            digest = Digest(text)
            self._store.blobs.size(digest)
        except (PortsideError, OSError) as err:
            if isinstance(err, InvalidParameter):
                raise
            raise GRPCError(Status.NOT_FOUND, f"content {text}: not found") from None
        return digest

    async def info(self, request: Any, _: Any) -> Any:
        digest = self._digest(request.digest)
        info = pb.Info(digest=request.digest, size=self._store.blobs.size(digest))
        return pb.InfoResponse(info=info)

    async def read(self, stream: Any) -> None:
        request = await stream.recv_message()
        digest = self._digest(request.digest)
        size = self._store.blobs.size(digest)
        if not 0 <= request.offset <= size:
            raise InvalidParameter(f"offset {request.offset} is outside of the content")
        end = min(size, request.offset + request.size) if request.size else size
        await stream.send_initial_metadata()
        at = request.offset
        if at == end:
            return
        async with aclosing(self._store.layers.read_blob(digest, at)) as pieces:
            async for piece in pieces:
                data = piece[: end - at]
                await stream.send_message(pb.ReadContentResponse(offset=at, data=data))
                at += len(data)
                if at == end < size:
                    break  # a whole blob is read to its end, where a made one is verified
