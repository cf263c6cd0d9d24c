"""The manifests behind a local image: every platform of its index, and its attestations."""

from __future__ import annotations

from portside.images.image_store import Catalogue, ImageRecord, Variant
from portside.model.image import ATTESTATION_FOR, Descriptor
from portside.model.imageapi import (
    AttestationData,
    ContentSize,
    Identity,
    ManifestImageData,
    ManifestSummary,
    UnpackedSize,
)
from portside.model.platform import Platform
from portside.store.db import Ref


def manifest_summaries(
    catalogue: Catalogue, identifier: str, record: ImageRecord, *, identity: bool = False
) -> tuple[ManifestSummary, ...]:
    """Every manifest of the image's index, or its only one; what is not here has no size. With
    ``identity`` also where its images come from."""
    origin = Identity.of(record.sources, record.builds) if identity else None
    index = catalogue.index(identifier, record)
    if index is not None:
        return tuple(_summary(catalogue, record, entry, origin) for entry in index.manifests)
    # not an index, or a damaged one: then what was chosen from it is still here
    own = [] if record.is_index else [catalogue.target(identifier, record)]
    found = {entry.digest: entry for entry in own}
    for variant in record.variants:
        found.setdefault(
            variant.manifest, catalogue.descriptor(variant.manifest, variant.media_type)
        )
    return tuple(_summary(catalogue, record, entry, origin) for entry in found.values())


def _summary(
    catalogue: Catalogue, record: ImageRecord, entry: Descriptor, origin: Identity | None
) -> ManifestSummary:
    attested = entry.annotations.get(ATTESTATION_FOR)
    if attested is not None or entry.is_attestation:
        content = record.attestations.get(entry.digest)
        return ManifestSummary(
            id=entry.digest,
            descriptor=entry,
            available=content is not None,
            size=ContentSize(content or 0, content or 0),
            kind="attestation",
            attestation=AttestationData(attested or ""),
        )
    variant = next((v for v in record.variants if v.manifest == entry.digest), None)
    content, unpacked = (variant.content, variant.size) if variant else (0, 0)
    return ManifestSummary(
        id=entry.digest,
        descriptor=entry,
        available=variant is not None,
        size=ContentSize(content, content + unpacked),
        kind="image",
        image=ManifestImageData(
            platform=entry.platform or (variant.platform if variant else Platform()),
            size=UnpackedSize(unpacked),
            containers=(containers_of(catalogue, variant) or None) if variant else None,
            identity=origin if variant else None,
        ),
    )


def containers_of(catalogue: Catalogue, variant: Variant) -> tuple[str, ...]:
    """IDs of the containers that were made from one platform of an image."""
    users = catalogue.store.db.refs.users(Ref.blob(variant.manifest), "container")
    return tuple(user.id for user in users)
