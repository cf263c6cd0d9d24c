"""The manifests behind a local image: its own, its index's others, its attestations."""

from __future__ import annotations

from portside.images.image_store import Catalogue, ImageRecord
from portside.model.image import ATTESTATION_FOR, Descriptor
from portside.model.imageapi import (
    AttestationData,
    ContentSize,
    ManifestImageData,
    ManifestSummary,
    UnpackedSize,
)
from portside.model.platform import Platform
from portside.store.db import Ref


def manifest_summaries(
    catalogue: Catalogue, identifier: str, record: ImageRecord
) -> tuple[ManifestSummary, ...]:
    """Every manifest of the image's index, or its only one."""
    index = catalogue.index(record)
    if index is None:
        only = _descriptor(catalogue, record.manifest, record.manifest_type)
        return (_summary(catalogue, identifier, record, only),)
    return tuple(_summary(catalogue, identifier, record, entry) for entry in index.manifests)


def _descriptor(catalogue: Catalogue, digest: str, media_type: str) -> Descriptor:
    row = catalogue.store.db.row("SELECT size FROM blobs WHERE digest=?", digest)
    return Descriptor(media_type=media_type, digest=digest, size=int(row[0]) if row else -1)


def _summary(
    catalogue: Catalogue, identifier: str, record: ImageRecord, entry: Descriptor
) -> ManifestSummary:
    attested = entry.annotations.get(ATTESTATION_FOR)
    is_own = entry.digest == record.manifest
    available = is_own or entry.digest in record.attestations
    content = _content(catalogue, entry.digest) if available else 0
    if attested is not None or entry.is_attestation:
        return ManifestSummary(
            id=entry.digest,
            descriptor=entry,
            available=available,
            size=ContentSize(content, content),
            kind="attestation",
            attestation=AttestationData(attested or ""),
        )
    unpacked = record.size if is_own else 0
    return ManifestSummary(
        id=entry.digest,
        descriptor=entry,
        available=available,
        size=ContentSize(content, content + unpacked),
        kind="image",
        image=ManifestImageData(
            platform=_platform(catalogue, identifier, entry, is_own),
            containers=_containers(catalogue, identifier) if is_own else (),
            size=UnpackedSize(unpacked),
        ),
    )


def _platform(catalogue: Catalogue, identifier: str, entry: Descriptor, is_own: bool) -> Platform:
    if is_own:
        return catalogue.config(identifier).platform.normalized()
    return entry.platform or Platform()


def _containers(catalogue: Catalogue, identifier: str) -> tuple[str, ...]:
    users = catalogue.store.db.refs.users(Ref.image(identifier), "container")
    return tuple(user.id for user in users)


def _content(catalogue: Catalogue, digest: str) -> int:
    """Bytes of a manifest and of what it names, as they are stored."""
    from portside.images.pull import owned_by_manifest
    from portside.model.digest import Digest

    data = catalogue.store.blobs.read(Digest(digest))
    total = 0
    for blob in owned_by_manifest(digest, data):
        row = catalogue.store.db.row("SELECT size FROM blobs WHERE digest=?", blob)
        total += int(row[0]) if row else 0
    return total
