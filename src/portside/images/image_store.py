"""The local images: records, names and what each of them owns.

An image is known by the digest of its configuration. Its record names the manifest it came
with; names (``docker.io/library/busybox:latest``, ``docker.io/library/busybox@sha256:…``)
stand beside it in the database, each belonging to one image. In the reference graph an
image owns its configuration, manifests, layer blobs and its topmost layer; content without
an owner is what garbage collection takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, NotFound
from portside.model.golang.timestamps import now_rfc3339
from portside.model.image import (
    MAX_CONFIG,
    MAX_MANIFEST,
    Image,
    ImageConfig,
    Index,
    Manifest,
    decode,
)
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.store.store import Store

_CACHED = 512


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the database keeps of an image beside its documents."""

    manifest: str
    """Digest of the manifest that names its configuration and layers."""
    manifest_type: str
    index: str = ""
    """Digest of the index it was chosen from; kept with its attestations."""
    index_type: str = ""
    attestations: tuple[str, ...] = ()
    """Digests of the attestation manifests kept with it."""
    parent: str = ""
    size: int = 0
    """Bytes of its layers unpacked."""
    stored_at: str = ""
    last_tagged: str = ""
    """RFC 3339; empty: never."""


class Catalogue:
    """Look-up and transactions; no network, no events."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.records = store.db.collection("image", ImageRecord)
        self._configs: dict[str, ImageConfig] = {}

    # looking
    def resolve(self, name_or_id: str) -> str:
        """The ID behind a reference, an ID or a unique prefix of one; NotFound."""
        text = name_or_id.strip()
        bare = text.removeprefix("sha256:")
        if len(bare) == 64 and _is_hex(bare):
            if f"sha256:{bare}" in self.records:
                return f"sha256:{bare}"
            raise NotFound(f"No such image: sha256:{bare}")
        reference = Reference.parse(text)
        found = self.by_reference(reference) or self._by_prefix(bare)
        if found is None:
            raise NotFound(f"No such image: {reference.tagged().familiar}")
        return found

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

    def is_id(self, name: str, identifier: str) -> bool:
        """Whether a user's ``name`` that led to ``identifier`` was (a prefix of) the ID."""
        bare = name.strip().removeprefix("sha256:")
        if not _is_hex(bare) or not identifier.removeprefix("sha256:").startswith(bare):
            return False
        return len(bare) == 64 or self.by_reference(Reference.parse(name)) is None

    def get(self, identifier: str) -> Image:
        """By full ID; NotFound."""
        record = self.record(identifier)
        tags, digests = self.shown_names(identifier)
        return Image(
            id=identifier,
            config=self.config(identifier),
            parent=record.parent,
            repo_tags=tags,
            repo_digests=digests,
            size=record.size,
        )

    def record(self, identifier: str) -> ImageRecord:
        found = self.records.find(identifier)
        if found is None:
            raise NotFound(f"No such image: {identifier}")
        return found

    def config(self, identifier: str) -> ImageConfig:
        found = self._configs.get(identifier)
        if found is None:
            data = self.store.blobs.read(Digest(identifier), MAX_CONFIG)
            found = decode(data, ImageConfig, f"configuration of image {identifier}")
            if len(self._configs) >= _CACHED:
                self._configs.clear()
            self._configs[identifier] = found
        return found

    def manifest(self, record: ImageRecord) -> Manifest:
        data = self.store.blobs.read(Digest(record.manifest), MAX_MANIFEST)
        return decode(data, Manifest, f"manifest {record.manifest}")

    def index(self, record: ImageRecord) -> Index | None:
        """The index the image was chosen from, if it is still here."""
        if not record.index or not self.store.blobs.has(record.index):
            return None
        data = self.store.blobs.read(Digest(record.index), MAX_MANIFEST)
        return decode(data, Index, f"index {record.index}")

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
        return shown(self.references(identifier))

    def chain(self, identifier: str) -> Digest | None:
        """The chain ID of the topmost layer; None for an image without layers."""
        diff_ids = self.config(identifier).diff_ids
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

        ``blobs`` are what it owns: configuration, manifests, layers. True if it is new.
        """
        owner = Ref.image(identifier)
        with self.store.db.transaction():
            old = self.records.find(identifier)
            self.records.put(identifier, _merged(old, record))
            self.store.db.refs.add(owner, *(Ref.blob(digest) for digest in blobs))
            chain = self.chain(identifier)
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

    def untag(self, name: Reference) -> bool:
        return self.records.release(str(name))

    def delete(self, identifier: str) -> None:
        """Forget an image, its names and what it owns."""
        self.records.delete(identifier)
        self._configs.pop(identifier, None)

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


def shown(references: Iterable[Reference]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(RepoTags, RepoDigests), sorted, in their familiar form."""
    known = sorted(references, key=str)
    tags = tuple(r.familiar for r in known if r.digest is None)
    return tags, tuple(r.familiar for r in known if r.digest is not None)


def check_platform(image: Image, name: str, wanted: Platform | None) -> None:
    """NotFound when the image does not run on the wanted platform."""
    if wanted is not None and not wanted.matches(image.platform):
        raise NotFound(
            f"image with reference {name} was found but its platform ({image.platform}) "
            f"does not match the specified platform ({wanted})"
        )


def _merged(old: ImageRecord | None, new: ImageRecord) -> ImageRecord:
    """What is known from before, completed: a known image keeps its parent and first manifest
    unless the new one came from a registry with an index of its own."""
    if old is None:
        return msgspec.structs.replace(new, stored_at=new.stored_at or now_rfc3339())
    keep_manifest = bool(old.index) and not new.index
    base = old if keep_manifest else new
    return msgspec.structs.replace(
        base,
        parent=new.parent or old.parent,
        stored_at=old.stored_at,
        last_tagged=old.last_tagged,
        size=new.size or old.size,
    )


def _is_hex(text: str) -> bool:
    return bool(text) and all(c in "0123456789abcdef" for c in text)


def require_name(text: str) -> Reference:
    """A reference to be given to an image: never an ID, never with a digest."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    return reference.tagged()
