"""The last step of every image that is made here: documents stored, image recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from portside.images.compress import make_manifest
from portside.images.image_store import Catalogue, ImageRecord
from portside.model.digest import Digest, chain_id
from portside.model.image import DOCKER_CONFIG, Descriptor, ImageConfig, encode
from portside.model.reference import Reference

if TYPE_CHECKING:
    from portside.store.db import Lease


async def record_image(
    catalogue: Catalogue,
    lease: Lease,
    config: ImageConfig,
    layers: Sequence[Descriptor],
    *,
    names: Sequence[Reference] = (),
    parent: str = "",
    config_bytes: bytes | None = None,
    manifest_bytes: tuple[str, bytes] | None = None,
) -> str:
    """Record an image whose layer blobs ``lease`` owns already; its ID.

    Its layers are unpacked where they are not yet. ``config_bytes`` and ``manifest_bytes``
    are documents that exist already and are kept as they are.
    """
    store = catalogue.store
    data = config_bytes if config_bytes is not None else encode(config)
    identifier = store.blobs.put(data, owner=lease.ref)
    described = Descriptor(media_type=DOCKER_CONFIG, digest=str(identifier), size=len(data))
    media_type, manifest = manifest_bytes or make_manifest(described, list(layers))
    manifest_digest = store.blobs.put(manifest, owner=lease.ref)
    chain: Digest | None = None
    for diff_id, layer in zip(config.diff_ids, layers, strict=True):
        chain = await store.layers.ensure(
            chain, diff_id, Digest(layer.digest), layer.media_type, owner=lease.ref
        )
    record = ImageRecord(
        manifest=str(manifest_digest),
        manifest_type=media_type,
        parent=parent,
        size=store.layers.size_rootfs(chain),
    )
    blobs = {str(identifier), str(manifest_digest), *(layer.digest for layer in layers)}
    catalogue.add(str(identifier), record, blobs, names)
    return str(identifier)


def chains_of(config: ImageConfig) -> list[Digest]:
    """Chain IDs of all layers, base first."""
    diff_ids = config.diff_ids
    return [chain_id(diff_ids[: n + 1]) for n in range(len(diff_ids))]
