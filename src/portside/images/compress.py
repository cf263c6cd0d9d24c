"""Packs a new layer in a job process: tar in, gzip blob out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING

from portside.images.image_jobs import Packed, PackLayer
from portside.images.stream_feed import run_fed
from portside.model.digest import Digest
from portside.model.ids import new_id
from portside.store.archive_values import Limits
from portside.store.db import Ref
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from portside.store.store import Store


class Packer:
    """Turns tar streams into gzip blobs of the store, owned by ``owner``."""

    def __init__(self, store: Store, owner: Ref) -> None:
        self._store, self._owner = store, owner

    async def from_stream(self, stream: AsyncIterable[bytes]) -> Packed:
        """A tar, compressed in any way or not at all, from anywhere."""
        path = self._temporary()
        try:
            job = PackLayer(target=path, limits=self._limits())
            return self._adopt(path, await run_fed(self._store.workers, job, stream))
        finally:
            _unlink(path)

    async def from_job(self, source: Job) -> Packed:
        """What another job writes to its first descriptor; the bytes bypass the engine."""
        path = self._temporary()
        job = PackLayer(target=path, limits=self._limits())
        reading, writing = socket.socketpair()
        workers = self._store.workers
        tasks = [
            asyncio.create_task(workers.run(source, (writing.detach(),), steal=True)),
            asyncio.create_task(workers.run(job, (reading.detach(),), steal=True)),
        ]
        try:
            # The writer's failure is the cause, the reader's only its consequence.
            await tasks[0]
            return self._adopt(path, await tasks[1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _unlink(path)

    def _temporary(self) -> str:
        return str(self._store.blobs.ingest_dir / f"tmp-{new_id()}")

    def _limits(self) -> Limits:
        return self._store.layers.limits

    def _adopt(self, path: str, packed: Packed) -> Packed:
        self._store.blobs.adopt(Path(path), Digest(packed.digest), packed.size, self._owner)
        return packed


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)
