"""The local images: records, names and what each of them owns.

An image is known by the digest of what its name means at a registry: its index, or its
manifest (Docker's containerd image store does the same). Its record lists the platforms whose
content is here. Names (``docker.io/library/busybox:latest``; ``docker.io/library/busybox@sha256:…``
for what was pulled by digest) stand beside it in the database, each belonging to one image. In the
reference graph an image owns its index, manifests, configurations, layer blobs and the topmost
layer of each unpacked platform; content without an owner is what garbage collection takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, NotFound, PortsideError
from portside.model.golang.timestamps import now_rfc3339
from portside.model.image import (
    INDEXES,
    MAX_CONFIG,
    MAX_MANIFEST,
    Descriptor,
    Image,
    ImageConfig,
    Index,
    Manifest,
    decode,
)
from portside.model.platform import Platform, best
from portside.model.reference import Reference
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.store.store import Store

_CACHED = 512


class Variant(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The image of one platform, whose content is here."""

    manifest: str
    media_type: str
    config: str
    """Digest of its configuration."""
    platform: Platform
    content: int = 0
    """Bytes of manifest, configuration and layers as they are stored."""
    unpacked: bool = False
    size: int = 0
    """Bytes of its layers unpacked; 0 while they are not."""


MAX_BUILDS = 50
"""Builds that an image's record names, as many as the history keeps."""


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the database keeps of an image beside its documents."""

    media_type: str
    """Media type of the index or manifest whose digest is the image's ID."""
    variants: tuple[Variant, ...] = ()
    """The platforms that are here, in the order of the index."""
    attestations: dict[str, int] = {}
    """Digests of the attestation manifests that are here, with their content in bytes."""
    sources: tuple[str, ...] = ()
    """Repositories of registries that have it: where it was pulled from or pushed to."""
    builds: tuple[tuple[str, str], ...] = ()
    """Reference and time (RFC 3339) of the newest builds that it is the result of."""
    annotations: dict[str, str] = {}
    """Of the descriptor that named the image where it came from, such as an archive's index."""
    parent: str = ""
    stored_at: str = ""
    last_tagged: str = ""
    """RFC 3339; empty: never."""

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    @property
    def size(self) -> int:
        """Bytes of everything that is here, stored and unpacked."""
        variants = sum(variant.content + variant.size for variant in self.variants)
        return variants + sum(self.attestations.values())

    def variant(self, platform: Platform | None = None) -> Variant | None:
        """The platform that fits best; without ``platform`` the host's, else the first."""
        offers = [(variant.platform, variant) for variant in self.variants]
        found = best(platform or Platform.host(), offers)
        if found:
            return found[0]
        return self.variants[0] if self.variants and platform is None else None

    def with_digest(self, digest: str) -> Variant | None:
        """The platform whose manifest or configuration has this digest."""
        return next((v for v in self.variants if digest in (v.manifest, v.config)), None)


class Catalogue:
    """Look-up and transactions; no network, no events."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records = store.db.collection("image", ImageRecord)
        self._configs: dict[str, ImageConfig] = {}

    # looking
    def resolve(self, name_or_id: str) -> str:
        """The ID behind a reference, an ID or a unique prefix of one; NotFound."""
        return self.locate(name_or_id)[0]

    def locate(self, name_or_id: str) -> tuple[str, str]:
        """As :meth:`resolve`; with it the digest of the configuration or of one platform's
        manifest that the image was asked for by, else an empty string."""
        text = name_or_id.strip()
        bare = text.removeprefix("sha256:")
        if len(bare) == 64 and _is_hex(bare):
            if f"sha256:{bare}" in self.records:
                return f"sha256:{bare}", ""
            found = self._by_content(bare)
            if found is None:
                raise NotFound(f"No such image: sha256:{bare}")
            return found
        reference = Reference.parse(text)
        identifier = self.by_reference(reference) or self._by_prefix(bare)
        if identifier is not None:
            return identifier, ""
        found = self._by_content(bare) if _is_hex(bare) else None
        if found is None:
            raise NotFound(f"No such image: {reference.tagged().familiar}")
        return found

    def _by_content(self, prefix: str) -> tuple[str, str] | None:
        """The one image with a configuration or manifest of this (prefix of a) digest."""
        rows = self.store.db.query(
            "SELECT owner_id, target_id FROM refs WHERE target_kind='blob' "
            "AND target_id>=? AND target_id<? AND owner_kind='image' ORDER BY owner_id",
            f"sha256:{prefix}",
            f"sha256:{prefix}g",
        )
        found = [
            (owner, digest)
            for owner, digest in rows
            if (record := self.records.find(owner)) and record.with_digest(digest)
        ]
        return found[0] if len({digest for _, digest in found}) == 1 else None

    def by_reference(self, reference: Reference) -> str | None:
        """The ID behind a reference (no tag: ``latest``); a digest decides over a tag."""
        if reference.digest is None:
            return self.records.resolve(str(reference.tagged()))
        found = self.records.resolve(str(reference.with_digest(reference.digest)))
        if found is None and reference.digest in self.records and self._is_named(reference):
            return str(reference.digest)
        return found

    def _is_named(self, reference: Reference) -> bool:
        return any(r.name == reference.name for r in self.references(str(reference.digest)))

    def _by_prefix(self, prefix: str) -> str | None:
        if not prefix or not _is_hex(prefix):
            return None
        found = self.records.ids(f"sha256:{prefix}")
        return found[0] if len(found) == 1 else None

    def is_id(self, name: str) -> bool:
        """Whether a user's ``name`` that led to an image was (a prefix of) a digest."""
        bare = name.strip().removeprefix("sha256:")
        if not _is_hex(bare):
            return False
        return len(bare) == 64 or self.by_reference(Reference.parse(name)) is None

    def get(self, identifier: str, variant: Variant | None = None) -> Image:
        """An image by full ID, of one platform (default: :meth:`ImageRecord.variant`). NotFound."""
        record = self.record(identifier)
        chosen = variant or record.variant()
        if chosen is None:
            raise provides_nothing(identifier)
        tags, digests = self.shown_names(identifier)
        return Image(
            id=identifier,
            config=self.config(chosen.config),
            parent=record.parent,
            repo_tags=tags,
            repo_digests=digests,
            size=record.size,
            manifest=self.manifest_descriptor(chosen),
            is_unpacked=chosen.unpacked,
        )

    def record(self, identifier: str) -> ImageRecord:
        found = self.records.find(identifier)
        if found is None:
            raise NotFound(f"No such image: {identifier}")
        return found

    def config(self, digest: str) -> ImageConfig:
        """A configuration by its digest; NotFound when its blob is lost."""
        found = self._configs.get(digest)
        if found is None:
            data = self.store.blobs.read(Digest(digest), MAX_CONFIG)
            found = decode(data, ImageConfig, f"image configuration {digest}")
            if len(self._configs) >= _CACHED:
                self._configs.clear()
            self._configs[digest] = found
        return found

    def main_config(self, record: ImageRecord) -> ImageConfig | None:
        """The configuration of the image's main platform; None when there is none, or when it
        is damaged: one lost blob must not make a list or a removal fail."""
        variant = record.variant()
        if variant is None:
            return None
        try:
            return self.config(variant.config)
        except PortsideError:
            return None

    def manifest(self, digest: str) -> Manifest:
        data = self.store.blobs.read(Digest(digest), MAX_MANIFEST)
        return decode(data, Manifest, f"manifest {digest}")

    def index(self, identifier: str, record: ImageRecord) -> Index | None:
        """The image's index; None when it has none, or when that is damaged."""
        if not record.is_index or not self.store.blobs.has(identifier):
            return None
        try:
            data = self.store.blobs.read(Digest(identifier), MAX_MANIFEST)
            return decode(data, Index, f"index {identifier}")
        except PortsideError:
            return None

    def descriptor(self, digest: str, media_type: str) -> Descriptor:
        row = self.store.db.row("SELECT size FROM blobs WHERE digest=?", digest)
        return Descriptor(media_type=media_type, digest=digest, size=int(row[0]) if row else -1)

    def target(self, identifier: str, record: ImageRecord) -> Descriptor:
        """The image's index or manifest, with the annotations it came with."""
        found = self.descriptor(identifier, record.media_type)
        return msgspec.structs.replace(found, annotations=record.annotations)

    def entry(self, identifier: str, record: ImageRecord, variant: Variant) -> Descriptor:
        """One platform's manifest as the image's index names it; of an image without an index,
        the image itself."""
        if not record.is_index:
            return self.target(identifier, record)
        index = self.index(identifier, record)
        for found in index.manifests if index is not None else ():
            if found.digest == variant.manifest:
                return found
        return self.manifest_descriptor(variant)

    def manifest_descriptor(self, variant: Variant) -> Descriptor:
        """One platform's manifest, with its platform."""
        found = self.descriptor(variant.manifest, variant.media_type)
        return msgspec.structs.replace(found, platform=variant.platform)

    def references(self, identifier: str) -> list[Reference]:
        """Every name of an image: tags and digests, sorted."""
        return [parse_stored(name) for name in self.records.names(identifier)]

    def all_references(self) -> dict[str, list[Reference]]:
        """Every image's names, in one query."""
        found: dict[str, list[Reference]] = {}
        for name, identifier in self.records.all_names().items():
            found.setdefault(identifier, []).append(parse_stored(name))
        return found

    def shown_names(self, identifier: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(RepoTags, RepoDigests)."""
        return shown(self.references(identifier), identifier)

    def chain(self, variant: Variant) -> Digest | None:
        """The chain ID of a platform's topmost layer; None for an image without layers."""
        diff_ids = self.config(variant.config).diff_ids
        return chain_id(diff_ids) if diff_ids else None

    def children(self, identifier: str) -> list[str]:
        """IDs of the images whose parent this is."""
        return [key for key, record in self.records.items() if record.parent == identifier]

    # changing
    def add(
        self,
        identifier: str,
        record: ImageRecord,
        blobs: Iterable[str],
        names: Sequence[Reference] = (),
    ) -> bool:
        """Record an image (or more names and content for a known one), all at once.

        ``blobs`` are what it owns: index, manifests, configurations, layers. True if it is new.
        """
        owner = Ref.image(identifier)
        with self.store.db.transaction():
            old = self.records.find(identifier)
            self.records.put(identifier, _merged(old, record))
            self.store.db.refs.add(owner, *(Ref.blob(digest) for digest in blobs))
            for variant in record.variants:
                chain = self.chain(variant) if variant.unpacked else None
                if chain is not None:
                    self.store.db.refs.add(owner, Ref.layer(chain))
            for name in names:
                self.records.assign(str(name), identifier)
            if any(name.tag for name in names):
                self.touch(identifier)
        return old is None

    def assign(self, name: Reference, identifier: str) -> str | None:
        """Give a name to an image; the ID that had it before, if another."""
        with self.store.db.transaction():
            former = self.records.assign(str(name), identifier)
            if name.tag:
                self.touch(identifier)
        return former

    def touch(self, identifier: str) -> None:
        """Remember that the image was tagged now."""
        record = self.record(identifier)
        self.records.put(identifier, msgspec.structs.replace(record, last_tagged=now_rfc3339()))

    def at_registry(self, identifier: str, name: Reference) -> None:
        """Remember that a repository has the image."""
        with self.store.db.transaction():
            record = self.record(identifier)
            sources = tuple(dict.fromkeys((*record.sources, name.name)))
            self.records.put(identifier, msgspec.structs.replace(record, sources=sources))

    def built(self, identifier: str, ref: str, when: str) -> None:
        """Remember that a build made the image, if it is kept here."""
        with self.store.db.transaction():
            record = self.records.find(identifier)
            if record is not None:
                builds = (*record.builds, (ref, when))[-MAX_BUILDS:]
                self.records.put(identifier, msgspec.structs.replace(record, builds=builds))

    def untag(self, name: Reference) -> bool:
        return self.records.release(str(name))

    def delete(self, identifier: str) -> None:
        """Forget an image, its names and what it owns."""
        self.records.delete(identifier)

    @contextmanager
    def changes(self) -> Iterator[None]:
        """Several changes as one transaction; do not await inside."""
        with self.store.db.transaction():
            yield


def parse_stored(name: str) -> Reference:
    """A reference as :meth:`Catalogue.assign` wrote it (cheaper than Reference.parse)."""
    rest, at, digest = name.partition("@")
    domain, _, rest = rest.partition("/")
    path, _, tag = rest.partition(":")
    return Reference(domain, path, tag, Digest(digest) if at else None)


def shown(
    references: Iterable[Reference], identifier: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(RepoTags, RepoDigests) in their familiar form: each repository has the image by its ID."""
    known = sorted(references, key=str)
    tags = tuple(r.familiar for r in known if r.digest is None)
    repositories = dict.fromkeys(r.familiar_name for r in known)
    return tags, tuple(f"{name}@{identifier}" for name in repositories)


def check_platform(image: Image, name: str, wanted: Platform | None) -> None:
    """Check the wanted platform; NotFound when the image does not run on it."""
    if wanted is not None and not wanted.matches(image.platform):
        raise lacks_platform(name, wanted)


def lacks_platform(name: str, wanted: Platform) -> NotFound:
    return NotFound(
        f"image with reference {name} was found but does not provide the specified platform "
        f"({wanted})"
    )


def provides_nothing(name: str) -> NotFound:
    return NotFound(f"image with reference {name} was found but does not provide any platform")


def _merged(old: ImageRecord | None, new: ImageRecord) -> ImageRecord:
    """What is known from before, completed."""
    if old is None:
        return msgspec.structs.replace(new, stored_at=new.stored_at or now_rfc3339())
    variants = {variant.manifest: variant for variant in old.variants}
    for variant in new.variants:
        known = variants.get(variant.manifest)
        if known is None or not known.unpacked:
            variants[variant.manifest] = variant
    return msgspec.structs.replace(
        new,
        variants=tuple(variants.values()),
        attestations={**old.attestations, **new.attestations},
        sources=tuple(dict.fromkeys((*old.sources, *new.sources))),
        builds=tuple(dict.fromkeys((*old.builds, *new.builds)))[-MAX_BUILDS:],
        annotations=new.annotations or old.annotations,
        parent=new.parent or old.parent,
        stored_at=old.stored_at,
        last_tagged=old.last_tagged,
    )


def _is_hex(text: str) -> bool:
    return bool(text) and all(c in "0123456789abcdef" for c in text)


def require_name(text: str) -> Reference:
    """A reference to be given to an image: never an ID, never with a digest."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.tagged()
