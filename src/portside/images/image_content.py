"""What of an image is in the store: from its index or manifest to all that it names.

Pull, load, commit, import, build and the migration of older data roots end here: their blobs are
in the store and belong to a lease, and one transaction makes them an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from portside.images.image_store import Catalogue, ImageRecord, Variant
from portside.images.platform_select import check_layers, check_system
from portside.images.pull_layers import unpack_layers
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.image import (
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    decode,
    is_index,
)
from portside.model.progress import Report, quiet
from portside.model.reference import Reference

if TYPE_CHECKING:
    from portside.store.db import Lease
    from portside.store.store import Store

DEEPEST = 3
"""Indexes within indexes that are followed."""
MOST_ENTRIES = 4096
"""Manifests of an image, over all its indexes."""

Wanted = Callable[[Variant], bool]


@dataclass(slots=True)
class Content:
    """The parts of an image that are in the store."""

    media_type: str = ""
    variants: list[Variant] = field(default_factory=list)
    attestations: dict[str, int] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    """Everything that is here and belongs to it."""
    entries: int = 0

    def record(self, parent: str = "") -> ImageRecord:
        """The image's record, before anything is unpacked for it."""
        return ImageRecord(
            media_type=self.media_type,
            variants=tuple(self.variants),
            attestations=self.attestations,
            parent=parent,
        )


def survey(catalogue: Catalogue, target: str, media_type: str = "") -> Content:
    """What the store has of the image with this digest.

    A platform counts when its manifest, its configuration and all its layers are here. Raises
    NotFound when the target itself is not, InvalidParameter for malformed documents.
    """
    found = Content()
    found.media_type = _walk(catalogue, target, media_type, found, 0)
    return found


def _walk(catalogue: Catalogue, digest: str, media_type: str, found: Content, depth: int) -> str:
    data = catalogue.store.blobs.read(Digest(digest), MAX_MANIFEST)
    if not is_index(media_type, data):
        manifest = decode(data, Manifest, f"manifest {digest}")
        if media_type not in MANIFESTS:
            media_type = manifest.media_type if manifest.media_type in MANIFESTS else OCI_MANIFEST
        _image(catalogue, digest, media_type, manifest, found)
        return media_type
    if depth >= DEEPEST:
        raise InvalidParameter(f"index {digest} is nested more than {DEEPEST} deep")
    index = decode(data, Index, f"index {digest}")
    found.blobs.add(digest)
    found.entries += len(index.manifests)
    if found.entries > MOST_ENTRIES:
        raise InvalidParameter(f"image {digest} has more than {MOST_ENTRIES} manifests")
    for entry in index.manifests:
        if not catalogue.store.blobs.has(entry.digest):
            continue
        if entry.is_attestation:
            _attestation(catalogue, entry.digest, found)
        else:
            _walk(catalogue, entry.digest, entry.media_type, found, depth + 1)
    known = (kind for kind in (media_type, index.media_type) if kind in INDEXES)
    return next(known, OCI_INDEX)


def _image(
    catalogue: Catalogue, digest: str, media_type: str, manifest: Manifest, found: Content
) -> None:
    """One platform's manifest, if all that it names is here; artifacts are only kept."""
    parts = {digest, manifest.config.digest, *(part.digest for part in manifest.layers)}
    sizes = [size_of(catalogue.store, part) for part in parts]
    present = {part for part, size in zip(parts, sizes, strict=True) if size is not None}
    found.blobs |= present
    if not manifest.is_image or present != parts:
        return
    config = catalogue.config(manifest.config.digest)
    check_layers(manifest, config)
    if all(variant.manifest != digest for variant in found.variants):
        found.variants.append(
            Variant(
                manifest=digest,
                media_type=media_type,
                config=manifest.config.digest,
                platform=config.platform.normalized(),
                content=sum(size or 0 for size in sizes),
            )
        )


def _attestation(catalogue: Catalogue, digest: str, found: Content) -> None:
    manifest = catalogue.manifest(digest)
    parts = {digest, manifest.config.digest, *(part.digest for part in manifest.layers)}
    sizes = [size_of(catalogue.store, part) for part in parts]
    if any(size is None for size in sizes):
        return
    found.blobs |= parts
    found.attestations[digest] = sum(size or 0 for size in sizes)


def size_of(store: Store, digest: str) -> int | None:
    """Bytes of a blob; None when it is not here."""
    row = store.db.row("SELECT size FROM blobs WHERE digest=?", digest)
    return None if row is None else int(row[0])


async def record_image(
    catalogue: Catalogue,
    lease: Lease,
    target: Descriptor,
    *,
    names: Sequence[Reference] = (),
    parent: str = "",
    unpack: Wanted | None = None,
    report: Report = quiet,
) -> str:
    """Make an image of content that ``lease`` owns; its ID, the digest of ``target``.

    ``target`` is a manifest or an index in the store. Of an index, what it names counts as far
    as it is here, attestations too. The platforms that ``unpack`` chooses (default: the one this
    machine runs) are unpacked where they are not yet; the others when a container first wants
    them. Record, names and ownership are one transaction: afterwards the lease may end.

    Raises NotFound when ``target`` or a layer is missing, InvalidParameter for documents that
    are malformed or of another operating system.
    """
    content = survey(catalogue, target.digest, target.media_type)
    record = content.record(parent)
    chosen = record.variant()
    variants = []
    for variant in record.variants:
        wanted = unpack(variant) if unpack else chosen is not None and variant is chosen
        if wanted:
            check_system(catalogue.config(variant.config))
            variant = await unpack_variant(catalogue, lease, variant, report)
        variants.append(variant)
    record = msgspec.structs.replace(
        record, variants=tuple(variants), annotations=target.annotations
    )
    catalogue.add(target.digest, record, content.blobs, names)
    return target.digest


async def unpack_variant(
    catalogue: Catalogue, lease: Lease, variant: Variant, report: Report = quiet
) -> Variant:
    """Unpack one platform's layers, owned by ``lease``; returns the updated variant."""
    manifest = catalogue.manifest(variant.manifest)
    config = catalogue.config(variant.config)
    size = await unpack_layers(
        catalogue.store, manifest.layers, config.diff_ids, _missing, lease.ref, report
    )
    return msgspec.structs.replace(variant, unpacked=True, size=size)


async def _missing(descriptor: Descriptor, meter: object) -> None:
    """Called for a layer whose blob or tree is not here yet: the blob has to be."""
