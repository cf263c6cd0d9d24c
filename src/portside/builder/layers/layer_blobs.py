"""The blobs of a tree's layers, in the form that an export wants: made when first needed, and
remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.builder.layers.layer_jobs import (
    ConvertBlob,
    PackBlob,
    PackDifference,
)
from portside.builder.layers.layer_values import Converted
from portside.builder.solver.tree import Tree
from portside.model.digest import Digest
from portside.model.errors import NotFound, SystemFailure
from portside.model.ids import new_id
from portside.model.image import (
    COMPRESSIONS,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
)
from portside.model.rootfs import Rootfs

if TYPE_CHECKING:
    from portside.store.db import Ref
    from portside.store.layers import LayerInfo
    from portside.store.store import Store

KIND = "layerblob"
TOC_ANNOTATION = "containerd.io/snapshot/stargz/toc.digest"
_TYPES = {"gzip": OCI_LAYER_GZIP, "estargz": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD,
          "uncompressed": OCI_LAYER}  # fmt: skip
_DOCKER = {OCI_LAYER_GZIP: DOCKER_LAYER_GZIP, OCI_LAYER: DOCKER_LAYER}


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How layers are packed: gzip, zstd, estargz or uncompressed."""

    kind: str = "gzip"
    level: int | None = None
    force: bool = False
    """Recompress layers that exist in another compression."""
    is_asked: bool = False
    """Whether the request names it: else a layer whose blob is a plain tar keeps it."""


@dataclass(frozen=True, kw_only=True)
class LayerForm:
    """An export's requirements on layers: compression and times."""

    compression: Compression = field(default_factory=Compression)
    oci_types: bool = True
    latest: int | None = None
    """Nanoseconds since the epoch: no file of the build's own layers is younger."""


@dataclass(frozen=True)
class LayerBlob:
    diff_id: str
    descriptor: Descriptor


class LayerBlobs:
    """See the module's docstring. ``owner`` (a lease) keeps what is made."""

    def __init__(self, store: Store, owner: Ref) -> None:
        self._store, self._owner = store, owner
        self._known = store.db.collection(KIND, Converted)

    async def of_chain(self, chain: str, form: LayerForm, base_layers: int = 0) -> list[LayerBlob]:
        """The blobs of all layers of a stack, base first."""
        import asyncio

        stack = list(reversed(self._store.layers.stack(Digest(chain)))) if chain else []
        return list(
            await asyncio.gather(
                *(
                    self._one(layer, form, is_base=number < base_layers)
                    for number, layer in enumerate(stack)
                )
            )
        )

    async def native(self, layer: LayerInfo) -> Descriptor:
        """The layer's own blob, which is made if it is not here."""
        if layer.blob and self._store.blobs.claim(Digest(layer.blob), self._owner):
            return self._descriptor(layer.blob, self._media_type(layer))
        made = await self._packed(layer, Compression(), None)
        if made.diff_id != layer.diff_id:
            raise SystemFailure(
                f"layer {layer.chain} cannot be packed as it was (its diff ID is "
                f"{layer.diff_id}, now {made.diff_id}): build again with --no-cache"
            )
        self._store.layers.set_blob(layer.chain, Digest(made.digest), OCI_LAYER_GZIP)
        return self._descriptor(made.digest, OCI_LAYER_GZIP)

    async def _one(self, layer: LayerInfo, form: LayerForm, *, is_base: bool) -> LayerBlob:
        wanted = form.compression
        latest = None if is_base else form.latest
        keeps = is_base and not wanted.force
        if latest is None and (keeps or (wanted.kind == "gzip" and wanted.level is None)):
            kind = COMPRESSIONS.get(self._media_type(layer), "gzip") if layer.blob else "gzip"
            plain = not kind and not wanted.is_asked and not wanted.force
            if keeps or kind == "gzip" or plain:
                found = await self.native(layer)
                return LayerBlob(str(layer.diff_id), _typed(found, form))
        made = await self._converted(layer, wanted, latest)
        annotations = {TOC_ANNOTATION: made.toc} if made.toc else {}
        found = msgspec.structs.replace(
            self._descriptor(made.digest, _TYPES[wanted.kind]), annotations=annotations
        )
        return LayerBlob(made.diff_id, _typed(found, form))

    async def _converted(
        self, layer: LayerInfo, wanted: Compression, latest: int | None
    ) -> Converted:
        level = "" if wanted.level is None else wanted.level
        key = f"{layer.diff_id} {wanted.kind} {level} {'' if latest is None else latest}"
        known = self._known.find(key)
        if known is not None:
            if self._store.blobs.claim(Digest(known.digest), self._owner):
                return known
            self._known.delete(key)
        made = await self._packed(layer, wanted, latest)
        self._known.put(key, made)
        return made

    async def _packed(self, layer: LayerInfo, wanted: Compression, latest: int | None) -> Converted:
        """Made of the layer's blob if there is one, else of its files."""
        store = self._store
        target = str(store.blobs.ingest_dir / f"tmp-{new_id()}")
        job: ConvertBlob | PackBlob
        is_overlay = store.layers.driver == "overlay"
        # our own writer gives the same bytes for less
        again = is_overlay and (latest is not None or self._is_backed(layer))
        if not again and layer.blob and store.blobs.claim(Digest(layer.blob), self._owner):
            job = ConvertBlob(
                source=str(store.blobs.path(Digest(layer.blob))), target=target, kind=wanted.kind,
                level=wanted.level, latest=latest,
            )  # fmt: skip
        elif is_overlay:
            job = PackBlob(
                rootfs=store.layers.written_rootfs(layer.chain), target=target, kind=wanted.kind,
                level=wanted.level, latest=latest,
            )  # fmt: skip
        else:
            raise NotFound(f"the blob of layer {layer.diff_id} is not here: pull its image again")
        try:
            made: Converted = await store.workers.run(job)
            store.blobs.adopt(Path(target), Digest(made.digest), made.size, self._owner)
        finally:
            Path(target).unlink(missing_ok=True)
        return made

    def _is_backed(self, layer: LayerInfo) -> bool:
        """Whether the layer's blob is its plain tar, made when it is read."""
        blobs = self._store.blobs
        return (
            bool(layer.blob)
            and blobs.has(layer.blob)
            and bool(blobs.info(Digest(layer.blob)).layer)
        )

    def _media_type(self, layer: LayerInfo) -> str:
        row = self._store.db.row("SELECT media_type FROM layers WHERE chain=?", layer.chain)
        return str(row[0]) if row and row[0] else OCI_LAYER_GZIP

    def _descriptor(self, digest: str, media_type: str) -> Descriptor:
        size = self._store.blobs.size(Digest(digest))
        return Descriptor(media_type=media_type, digest=digest, size=size)


async def difference(
    store: Store, owner: Ref, lower: Digest | None, upper: Digest | None, parent: Digest | None
) -> Tree:
    """The difference between the trees ``upper`` and ``lower`` as a layer on ``parent``."""
    empty = Rootfs("bind", upper=str(store.layers.links_dir / "empty"))
    target = store.blobs.ingest_dir / f"tmp-{new_id()}"
    job = PackDifference(
        lower=store.layers.rootfs(lower) if lower else empty,
        upper=store.layers.rootfs(upper) if upper else empty,
        target=str(target),
    )
    try:
        made: Converted = await store.workers.run(job)
        store.blobs.adopt(target, Digest(made.digest), made.size, owner)
    finally:
        target.unlink(missing_ok=True)
    chain = await store.layers.ensure(
        parent, Digest(made.diff_id), Digest(made.digest), OCI_LAYER_GZIP, owner=owner
    )
    return Tree.of_chain(str(chain))


def _typed(found: Descriptor, form: LayerForm) -> Descriptor:
    """With Docker's media type or OCI's, as the manifest has it."""
    kind = found.media_type
    if form.oci_types:
        oci = {docker: oci for oci, docker in _DOCKER.items()}
        kind = oci.get(kind, kind)
    else:
        kind = _DOCKER.get(kind, kind)
    return msgspec.structs.replace(found, media_type=kind)


def forget_lost(store: Store) -> None:
    """Drop what is remembered of blobs that are not here any more."""
    known = store.db.collection(KIND, Converted)
    for key, made in known.items():
        if not store.blobs.has(made.digest):
            known.delete(key)
