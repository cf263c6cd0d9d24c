"""Images of a client's OCI layout (``oci-layout://NAME@DIGEST``): brought into the store by
digest, each part checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from portside.builder import llb
from portside.builder.results import ContentStore
from portside.builder.solver.tree import Tree
from portside.images.platform_select import check_layers
from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import (
    MAX_CONFIG,
    MAX_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    is_index,
)
from portside.model.platform import Platform, best

if TYPE_CHECKING:
    from portside.store.db import Ref
    from portside.store.store import Store

Stores = Callable[[str], ContentStore | None]
DEEPEST = 3
"""Indexes within indexes that are followed."""


class LayoutSource:
    """Reads images from the content stores that a client offers."""

    def __init__(self, store: Store, stores: Stores) -> None:
        self._store, self._stores = store, stores

    async def config(
        self, op: llb.SourceOp, platform: Platform | None, owner: Ref
    ) -> tuple[str, ImageConfig]:
        """The digest of the manifest for a platform, and its configuration: what a FROM needs."""
        digest, manifest = await self._manifest(op, platform, owner)
        content = self._content(op)
        data = await self._small(content, manifest.config.digest, MAX_CONFIG, owner)
        return digest, decode(data, ImageConfig, f"image configuration {manifest.config.digest}")

    async def fetch(self, op: llb.SourceOp, platform: Platform | None, owner: Ref) -> Tree:
        """The image's root, with its layers in the store and owned."""
        content = self._content(op)
        _, manifest = await self._manifest(op, platform, owner)
        _, config = await self.config(op, platform, owner)
        check_layers(manifest, config)
        diff_ids = config.diff_ids
        if not diff_ids:
            return Tree()
        chains = [chain_id(list(diff_ids[: n + 1])) for n in range(len(diff_ids))]

        async def bring(number: int) -> None:
            layer = manifest.layers[number]
            await self._blob(content, layer, owner)
            await self._store.layers.ensure(
                chains[number - 1] if number else None, diff_ids[number], Digest(layer.digest),
                layer.media_type, owner=owner,
            )  # fmt: skip

        async with asyncio.TaskGroup() as group:
            for number in range(len(diff_ids)):
                group.create_task(bring(number))
        return Tree.of_chain(str(chains[-1]))

    def _content(self, op: llb.SourceOp) -> ContentStore:
        name = op.attrs.get("oci.store") or op.name.partition("@")[0]
        found = self._stores(name)
        if found is None:
            raise NotFound(f"the client offers no OCI layout named {name!r}")
        return found

    async def _manifest(
        self, op: llb.SourceOp, platform: Platform | None, owner: Ref
    ) -> tuple[str, Manifest]:
        _, at, digest = op.name.rpartition("@")
        if not at:
            raise InvalidParameter(f"{op.identifier}: an OCI layout's image is named by its digest")
        content = self._content(op)
        for _ in range(DEEPEST):
            data = await self._small(content, digest, MAX_MANIFEST, owner)
            if not is_index("", data):
                return digest, decode(data, Manifest, f"manifest {digest}")
            index = decode(data, Index, f"index {digest}")
            offers = [(item.platform or Platform.host(), item) for item in index.manifests
                      if not item.is_attestation]  # fmt: skip
            chosen = best(platform or Platform.host(), offers)
            if not chosen:
                wanted = platform or Platform.host()
                raise NotFound(f"{op.identifier} has no image for {wanted}")
            digest = chosen[0].digest
        raise InvalidParameter(f"{op.identifier}: an index is nested more than {DEEPEST} deep")

    async def _small(self, content: ContentStore, digest: str, limit: int, owner: Ref) -> bytes:
        blobs = self._store.blobs
        if blobs.claim(Digest(digest), owner):
            return blobs.read(Digest(digest), limit)
        found = bytearray()
        async for piece in content.read(digest):
            found += piece
            if len(found) > limit:
                raise InvalidParameter(f"{digest} is larger than {limit} bytes")
        blobs.put(bytes(found), owner=owner, expected=Digest(digest))
        return bytes(found)

    async def _blob(self, content: ContentStore, layer: Descriptor, owner: Ref) -> None:
        await bring_blob(self._store, content, layer, owner)


async def bring_blob(store: Store, content: ContentStore, part: Descriptor, owner: Ref) -> None:
    """A client's blob into the store; DigestMismatch when it is another one."""
    size = part.size if part.size >= 0 else None
    async with store.blobs.ingest(Digest(part.digest), size, owner=owner) as ingest:
        if ingest.complete:
            return
        if ingest.offset:
            await ingest.discard()
        async for piece in content.read(part.digest):
            await ingest.write(piece)
        await ingest.commit()
