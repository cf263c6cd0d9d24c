"""``docker save``: images as one tar that is a docker archive and an OCI layout at once.

Blobs are written as they are stored (compressed ones stay compressed), so saving costs
little more than reading::

    blobs/sha256/<hex>     configurations, layers, manifests, indexes
    index.json             the images by name (OCI image-layout.md)
    manifest.json          of each the main platform, for engines that know no indexes
    oci-layout
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from portside.images.image_attestations import attested
from portside.images.image_content import survey
from portside.images.image_store import Catalogue, ImageRecord, Variant, lacks_platform
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import (
    ANNOTATION_NAME,
    ANNOTATION_REF,
    OCI_INDEX,
    Descriptor,
    Index,
    encode,
)
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.store import tar_format as tar

if TYPE_CHECKING:
    from portside.store.store import Store


@dataclass(slots=True)
class _Image:
    """One image and the names it is saved under."""

    id: str
    target: Descriptor
    """The image's index or manifest, or the manifest of the one platform asked for."""
    main: Variant
    """What ``manifest.json`` describes."""
    blobs: set[str]
    tags: list[Reference]


class Saver:
    """One save; names are resolved when it is made."""

    def __init__(
        self, catalogue: Catalogue, names: Sequence[str], platforms: Sequence[Platform] = ()
    ) -> None:
        if not names:
            raise InvalidParameter("no image was named: nothing to save")
        self._catalogue = catalogue
        self._store = catalogue.store
        self._images: dict[str, _Image] = {}
        self._platforms = platforms
        for name in names:
            self._choose(name)

    @property
    def ids(self) -> list[str]:
        return list(self._images)

    def _choose(self, name: str) -> None:
        named = self._all_tags(name)
        for identifier, tags in named.items():
            self._add(identifier, tags, name)
        if named:
            return
        identifier = self._catalogue.resolve(name)
        given = None if self._catalogue.is_id(name) else Reference.parse(name)
        tags = [given] if given is not None and given.digest is None else []
        self._add(identifier, tags, name)

    def _all_tags(self, name: str) -> dict[str, list[Reference]]:
        """A bare name means all its tags, as Docker takes it; empty for anything else."""
        try:
            given = Reference.parse(name)
        except InvalidParameter:
            return {}  # a full ID
        if not given.is_name_only:
            return {}
        found = {
            identifier: [r for r in references if r.tag and r.name == given.name]
            for identifier, references in self._catalogue.all_references().items()
        }
        return {identifier: tags for identifier, tags in found.items() if tags}

    def _add(self, identifier: str, tags: list[Reference], name: str) -> None:
        image = self._images.get(identifier)
        if image is None:
            image = self._images[identifier] = self._image(identifier, name)
        image.tags += [tag for tag in sorted(tags, key=str) if tag not in image.tags]

    def _image(self, identifier: str, name: str) -> _Image:
        record = self._catalogue.record(identifier)
        chosen = self._variants(record, name)
        main = record.variant() if not chosen else chosen[0]
        if main is None:
            raise NotFound(
                f"image with reference {name} was found but does not provide any platform"
            )
        if len(chosen) == 1:
            target = self._catalogue.manifest_descriptor(main)
            return _Image(identifier, target, main, self._owned(main.manifest), [])
        target = self._catalogue.descriptor(identifier, record.media_type)
        blobs = survey(self._catalogue, identifier, record.media_type).blobs
        if chosen:
            blobs -= self._others(identifier, record, {variant.manifest for variant in chosen})
        return _Image(identifier, target, main, blobs, [])

    def _variants(self, record: ImageRecord, name: str) -> list[Variant]:
        """The image's manifests of the platforms asked for; empty when none was."""
        found = []
        for platform in self._platforms:
            variant = record.variant(platform)
            if variant is None:
                raise NotFound(f"no suitable export target found: {lacks_platform(name, platform)}")
            if variant not in found:
                found.append(variant)
        return found

    def _others(self, identifier: str, record: ImageRecord, chosen: set[str]) -> set[str]:
        """Blobs that only the manifests name that were not chosen, and the attestations about
        these manifests."""
        kept, others = set(chosen), {v.manifest for v in record.variants} - chosen
        for digest, about in attested(self._catalogue, identifier, record).items():
            (kept if about in chosen else others).add(digest)
        needed = {blob for digest in kept for blob in self._owned(digest)}
        return {blob for digest in others for blob in self._owned(digest)} - needed

    def stream(self) -> AsyncIterator[bytes]:
        """The archive."""
        return layout_stream(self._store, self._blobs(), self._documents())

    def _blobs(self) -> list[str]:
        found = {digest for image in self._images.values() for digest in image.blobs}
        return sorted(digest for digest in found if self._store.blobs.has(digest))

    def _owned(self, digest: str) -> set[str]:
        """A manifest and everything it names."""
        manifest = self._catalogue.manifest(digest)
        return {digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}

    def _documents(self) -> Iterator[tuple[str, bytes]]:
        yield "index.json", encode(self._index())
        yield "manifest.json", msgspec.json.encode([self._item(i) for i in self._images.values()])
        yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'

    def _index(self) -> Index:
        entries = []
        for image in self._images.values():
            descriptor = image.target
            for reference in image.tags:
                names = {ANNOTATION_NAME: str(reference), ANNOTATION_REF: reference.tag}
                entries.append(msgspec.structs.replace(descriptor, annotations=names))
            if not image.tags:
                entries.append(descriptor)
        return Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(entries))

    def _item(self, image: _Image) -> dict[str, Any]:
        """One image in ``manifest.json``."""
        manifest = self._catalogue.manifest(image.main.manifest)
        return {
            "Config": _path(image.main.config),
            "RepoTags": [reference.familiar for reference in image.tags] or None,
            "Layers": [_path(layer.digest) for layer in manifest.layers],
        }


async def layout_stream(
    store: Store, blobs: Sequence[str], documents: Iterable[tuple[str, bytes]]
) -> AsyncIterator[bytes]:
    """Blobs and documents as a tar in the shape of an OCI layout. A lease keeps the content
    while it is read."""
    with store.lease("save") as lease:
        for digest in blobs:
            store.blobs.claim(Digest(digest), lease.ref)
        yield _directory("blobs/")
        for algorithm in sorted({Digest(digest).algorithm for digest in blobs}):
            yield _directory(f"blobs/{algorithm}/")
        for text in blobs:
            digest = Digest(text)
            size = store.blobs.size(digest)
            yield _file(f"blobs/{digest.algorithm}/{digest.hex}", size)
            async for piece in store.layers.read_blob(digest):
                yield piece
            if tar.padding(size):
                yield bytes(tar.padding(size))
        for name, data in documents:
            yield _file(name, len(data)) + data + bytes(tar.padding(len(data)))
        yield bytes(2 * tar.BLOCK)


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _directory(name: str) -> bytes:
    return tar.build(tar.Entry(name.encode(), tar.DIRTYPE, 0o755))


def _file(name: str, size: int) -> bytes:
    return tar.build(tar.Entry(name.encode(), tar.REGTYPE, 0o644, size=size))
