"""Images that are made here of a configuration and layers: their documents, then their record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from portside.images.image_content import record_image
from portside.images.image_store import Catalogue
from portside.model.image import OCI_CONFIG, OCI_MANIFEST, Descriptor, ImageConfig, encode
from portside.model.reference import Reference

if TYPE_CHECKING:
    from portside.store.db import Lease


async def make_image(
    catalogue: Catalogue,
    lease: Lease,
    config: ImageConfig,
    layers: Sequence[Descriptor],
    *,
    names: Sequence[Reference] = (),
    parent: str = "",
) -> str:
    """Record an image whose layer blobs ``lease`` owns already; its ID."""
    blobs = catalogue.store.blobs
    data = encode(config)
    described = Descriptor(
        media_type=OCI_CONFIG, digest=str(blobs.put(data, owner=lease.ref)), size=len(data)
    )
    manifest = build_manifest(described, layers)
    digest = str(blobs.put(manifest, owner=lease.ref))
    target = Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(manifest))
    return await record_image(
        catalogue, lease, target, names=names, parent=parent, unpack=lambda _: True
    )


def build_manifest(
    config: Descriptor, layers: Sequence[Descriptor], media_type: str = OCI_MANIFEST
) -> bytes:
    """A manifest's bytes, keys in Docker's order: the same parts give the same digest there
    and here."""
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": _part(config),
            "layers": [_part(layer) for layer in layers],
        }
    )


def _part(part: Descriptor) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": part.media_type,
        "digest": str(part.digest),
        "size": part.size,
    }
    return found | ({"urls": part.urls} if part.urls else {})
