"""containerd's ``Content`` as far as clients read it: blobs of the store by digest."""

from __future__ import annotations

import asyncio
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from portside.builder.wire.grpc_transport import Service
from portside.builder.wire.proto import content_pb2 as pb
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound, PortsideError
from portside.store.store import Store

_PIECE = 1 << 20


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
        with self._opened(digest) as file:
            at = request.offset
            file.seek(at)
            while at < end:
                data = await asyncio.to_thread(file.read, min(_PIECE, end - at))
                if not data:
                    break
                await stream.send_message(pb.ReadContentResponse(offset=at, data=data))
                at += len(data)

    def _opened(self, digest: Digest) -> Any:
        try:
            return self._store.blobs.path(digest).open("rb")
        except OSError:
            raise NotFound(f"content {digest}: not found") from None
