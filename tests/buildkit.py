"""A builder in the test's own process, over a private store: for graphs without steps that run."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from portside.builder import llb
from portside.builder.dockerfile.frontend_values import FrontendOptions
from portside.builder.results import BuildResult, CacheRequest, ExportRequest
from portside.builder.service import CONTEXT, BuildRequest, BuildService, Session
from portside.builder.solver.operations import BuildInputs
from portside.builder.solver.tree import Tree
from portside.images.service import ImageService
from portside.model.digest import Digest
from portside.model.platform import Platform
from portside.store.store import Store


class MemorySink:
    """Keeps what an exporter sends."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.store = MemoryContent()
        self.closed = False

    async def file(self, metadata: Mapping[str, str]) -> MemorySink:
        return self

    async def write(self, data: bytes) -> None:
        self.data += data

    async def close(self) -> None:
        self.closed = True

    async def tree(self, tar: AsyncIterator[bytes]) -> None:
        async for piece in tar:
            self.data += piece

    def content(self) -> MemoryContent:
        return self.store

    def members(self) -> dict[str, bytes]:
        """Regular files of the tar that came."""
        found = {}
        with tarfile.open(fileobj=io.BytesIO(bytes(self.data))) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name] = file.read()
        return found


class MemoryContent:
    """A client's content store."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def size(self, digest: str) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    async def read(self, digest: str) -> AsyncIterator[bytes]:
        yield self.blobs[digest]

    async def write(self, digest: str, size: int, data: AsyncIterator[bytes]) -> None:
        self.blobs[digest] = b"".join([piece async for piece in data])
        assert len(self.blobs[digest]) == size


@dataclass
class Builder:
    service: BuildService
    images: ImageService
    root: Path

    @asynccontextmanager
    async def session(
        self, text: str, context: Path | None = None, **options: Any
    ) -> AsyncIterator[Session]:
        inputs = BuildInputs(**options.pop("inputs", {}))
        if context is not None:
            inputs.local[CONTEXT] = Tree(directory=str(context))
        request = BuildRequest(
            dockerfile=text.encode(),
            frontend=FrontendOptions(context=llb.local(CONTEXT), **options),
            inputs=inputs,
        )
        async with self.service.session(request) as session:
            yield session

    async def build(
        self, text: str, context: Path | None, *requests: ExportRequest, epoch: int | None = None,
        platforms: Iterable[str] = (), cache_to: Iterable[CacheRequest] = (), **options: Any,
    ) -> list[dict[str, str]]:  # fmt: skip
        """Build a Dockerfile for one or more platforms and export it."""
        wanted = [Platform.parse(name) for name in platforms]
        results = []
        async with AsyncExitStack() as stack:
            for platform in wanted or [Platform.host()]:
                fields = {**options, "platform": platform}
                session = await stack.enter_async_context(self.session(text, context, **fields))
                results.append(await self.service.result(session))
            result = BuildResult(platforms=tuple(results), is_multi=len(wanted) > 1)
            return await self.service.deliver(
                result, requests, session.lease, epoch=epoch, cache_to=list(cache_to)
            )

    def blob(self, digest: str) -> bytes:
        return self.service.store.blobs.read(Digest(digest), 1 << 30)

    def document(self, digest: str) -> Any:
        return json.loads(self.blob(digest))


@asynccontextmanager
async def builder(root: Path, settings: Mapping[str, Any] | None = None) -> AsyncIterator[Builder]:
    """``settings``: ``builder`` of daemon.json."""
    images = ImageService(Store.open(root))
    await images.start()
    core = SimpleNamespace(
        store=images.store, instance=SimpleNamespace(exec_root=root), networks=None
    )
    service = BuildService(cast("Any", core), images, settings)
    try:
        yield Builder(service, images, root)
    finally:
        await service.close()
        await images.close()
        await images.store.close()
