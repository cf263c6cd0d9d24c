"""Layers that are made here: tar in, gzip blob out, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.images.image_jobs import Packed, PackLayer
from portside.images.image_store import Catalogue, ImageRecord
from portside.images.stream_feed import run_fed
from portside.model.digest import Digest
from portside.model.ids import new_id
from portside.model.image import (
    COMPRESSIONS,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Descriptor,
    encode,
)
from portside.store.db import Ref
from portside.store.store_jobs import Limits
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

    async def from_blob(self, digest: Digest) -> Packed:
        """A blob of the store."""
        path = self._temporary()
        job = PackLayer(target=path, limits=self._limits())
        try:
            with self._store.blobs.open(digest) as file:
                packed = await self._store.workers.run(job, (os.dup(file.fileno()),), steal=True)
            return self._adopt(path, packed)
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


async def pushable(catalogue: Catalogue, identifier: str) -> ImageRecord:
    """The image's record, with a manifest whose layers are compressed.

    Layers that were loaded as plain tars are kept that way until they are pushed for the
    first time: then they are compressed, and the image gets another manifest (its ID stays).
    """
    record = catalogue.record(identifier)
    manifest = catalogue.manifest(record)
    plain = [layer for layer in manifest.layers if COMPRESSIONS.get(layer.media_type) == ""]
    if record.index or not plain:
        return record
    with catalogue.store.lease(f"push {identifier}") as lease:
        packer = Packer(catalogue.store, lease.ref)
        layers = [
            await _compressed(packer, layer) if layer in plain else layer
            for layer in manifest.layers
        ]
        if record.manifest_type == DOCKER_MANIFEST:
            _, data = make_manifest(manifest.config, layers)
        else:
            data = encode(msgspec.structs.replace(manifest, layers=tuple(layers)))
        digest = catalogue.store.blobs.put(data, owner=lease.ref)
        changed = msgspec.structs.replace(record, manifest=str(digest))
        blobs = {str(digest), *(layer.digest for layer in layers)}
        with catalogue.changes():
            catalogue.records.put(identifier, changed)
            catalogue.store.db.refs.add(Ref.image(identifier), *(Ref.blob(blob) for blob in blobs))
    return changed


async def _compressed(packer: Packer, layer: Descriptor) -> Descriptor:
    packed = await packer.from_blob(Digest(layer.digest))
    oci = layer.media_type == OCI_LAYER
    return Descriptor(
        media_type=OCI_LAYER_GZIP if oci else DOCKER_LAYER_GZIP,
        digest=packed.digest,
        size=packed.size,
    )


def make_manifest(config: Descriptor, layers: list[Descriptor]) -> tuple[str, bytes]:
    """(media type, bytes) of a Docker schema 2 manifest for an image made here.

    Keys and blanks are as Docker writes them, so that an image that travels through several
    engines keeps its manifest's digest.
    """
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _in_docker_order(config),
        "layers": [_in_docker_order(layer) for layer in layers],
    }
    return DOCKER_MANIFEST, msgspec.json.format(msgspec.json.encode(document), indent=3)


def _in_docker_order(part: Descriptor) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": part.media_type,
        "size": part.size,
        "digest": str(part.digest),
    }
    return found | ({"urls": part.urls} if part.urls else {})
