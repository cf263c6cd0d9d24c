"""``docker load``: docker archives and OCI layouts, in any usual compression.

The archive is spooled into a directory beneath ``ingest/`` (emptied at a start), every file
hashed on the way; what its documents name is then moved into the blob store. Content that
is not what its digest says is refused.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portside.images.compress import make_manifest
from portside.images.image_jobs import Member, SpoolArchive
from portside.images.image_store import Catalogue, ImageRecord
from portside.images.platform_select import check_layers, check_system
from portside.images.pull_layers import unpack_layers
from portside.images.stream_feed import run_fed
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.events import Publisher
from portside.model.ids import new_id
from portside.model.image import (
    ANNOTATION_NAME,
    ANNOTATION_REF,
    ATTESTATION_FOR,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    INDEXES,
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    is_index,
)
from portside.model.platform import Platform, describe
from portside.model.progress import Progress, Report
from portside.model.reference import Reference
from portside.store.db import Lease

_LAYER_TYPES = {"gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER_ZSTD, "": DOCKER_LAYER}
_MOST_LINKS = 16


class _Item(msgspec.Struct, frozen=True):
    """One image of ``manifest.json``."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers", default=())
    repo_tags: tuple[str, ...] | None = msgspec.field(name="RepoTags", default=None)


@dataclass(slots=True)
class _Found:
    """An image in the archive."""

    config: ImageConfig
    config_bytes: bytes
    manifest: Manifest
    manifest_type: str
    manifest_bytes: bytes
    names: list[Reference]
    index: Descriptor | None = None
    attestations: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.manifest.config.digest


@dataclass(frozen=True, slots=True)
class Loaded:
    id: str
    name: str
    """A familiar reference, or the ID of an image without one."""


class Archive:
    """A spooled archive: its members by name and by digest."""

    def __init__(self, directory: Path, members: list[Member]) -> None:
        self._directory = directory
        self._by_name = {member.name: member for member in members}  # the last one counts
        self._by_digest = {member.digest: member for member in members if member.file}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def member(self, name: str) -> Member:
        """By name, through links; InvalidParameter when it is missing."""
        current = name.removeprefix("./")
        for _ in range(_MOST_LINKS):
            found = self._by_name.get(current)
            if found is None:
                raise InvalidParameter(f"invalid archive: {name} is missing")
            if not found.link:
                return found
            current = found.link
        raise InvalidParameter(f"invalid archive: {name} is a circle of links")

    def read(self, name: str, limit: int) -> bytes:
        member = self.member(name)
        if member.size > limit:
            raise InvalidParameter(f"invalid archive: {name} is larger than {limit} bytes")
        return self.path(member).read_bytes()

    def path(self, member: Member) -> Path:
        return self._directory / member.file

    def blob(self, digest: str) -> Member | None:
        """A file of the archive by its true digest, whatever its name."""
        return self._by_digest.get(digest)

    def required(self, digest: str) -> Member:
        """InvalidParameter when missing, or when the file of that name is something else."""
        found = self.blob(digest)
        if found is None:
            name = "blobs/" + digest.replace(":", "/")
            reason = "is damaged: its digest differs" if name in self else "is missing"
            raise InvalidParameter(f"invalid archive: {name} {reason}")
        return found

    def document(self, digest: str, limit: int) -> bytes:
        member = self.required(digest)
        if member.size > limit:
            raise InvalidParameter(f"invalid archive: {digest} is larger than {limit} bytes")
        return self.path(member).read_bytes()


class Loader:
    """One load; made for each by the service."""

    def __init__(self, catalogue: Catalogue, publish: Publisher, report: Report) -> None:
        self._catalogue = catalogue
        self._store = catalogue.store
        self._publish = publish
        self._report = report

    async def load(self, archive: AsyncIterable[bytes], platform: Platform | None) -> list[Loaded]:
        """Load all images of an archive (of ``platform`` only, if given)."""
        directory = self._store.blobs.ingest_dir / f"tmp-{new_id()}"
        directory.mkdir(mode=0o700)
        try:
            job = SpoolArchive(directory=str(directory), limits=self._store.layers.limits)
            members = await run_fed(self._store.workers, job, archive)
            spooled = Archive(directory, members)
            images = _select(_images(spooled), platform)
            for image in images:
                check_system(image.config)
            with self._store.lease("load") as lease:
                loaded = [
                    item for image in images for item in await self._take(spooled, image, lease)
                ]
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        await self._store.settle()
        return loaded

    async def _take(self, archive: Archive, image: _Found, lease: Lease) -> list[Loaded]:
        """Bring one image in; several references give several results."""
        for layer in image.manifest.layers:
            self._adopt(archive, layer.digest, lease)
        extra = {digest for a in image.attestations for digest in _parts(archive, a)}
        for digest in extra:
            self._adopt(archive, digest, lease)
        documents = [image.config_bytes, image.manifest_bytes]
        if image.index is not None:
            documents.append(archive.document(image.index.digest, MAX_MANIFEST))
        owned = {str(self._store.blobs.put(data, owner=lease.ref)) for data in documents}
        size = await unpack_layers(
            self._store,
            image.manifest.layers,
            image.config.diff_ids,
            _nothing,
            lease.ref,
            self._layer_report(),
        )
        record = ImageRecord(
            manifest=str(Digest.of(image.manifest_bytes)),
            manifest_type=image.manifest_type,
            index=image.index.digest if image.index else "",
            index_type=image.index.media_type if image.index else "",
            attestations=image.attestations,
            size=size,
        )
        owned |= extra | {layer.digest for layer in image.manifest.layers}
        self._say_renamed(image)
        self._catalogue.add(image.id, record, owned, image.names)
        return self._tell(image)

    def _adopt(self, archive: Archive, digest: str, lease: Lease) -> None:
        wanted = Digest(digest)
        if self._store.blobs.claim(wanted, lease.ref):
            return
        member = archive.required(digest)
        self._store.blobs.adopt(archive.path(member), wanted, member.size, lease.ref)

    def _layer_report(self) -> Report:
        words = {"Extracting": "Loading layer"}

        def tell(progress: Progress) -> None:
            if progress.status in words:
                self._report(msgspec.structs.replace(progress, status=words[progress.status]))

        return tell

    def _say_renamed(self, image: _Found) -> None:
        for name in image.names:
            former = self._catalogue.by_reference(name)
            if former is not None and former != image.id:
                self._report(
                    Progress(
                        stream=f"The image {name.familiar} already exists, renaming the old "
                        f"one with ID {former} to empty string\n"
                    )
                )

    def _tell(self, image: _Found) -> list[Loaded]:
        self._publish("image", "load", image.id, {"name": image.id})
        if not image.names:
            self._report(Progress(stream=f"Loaded image ID: {image.id}\n"))
            return [Loaded(image.id, image.id)]
        for name in image.names:
            self._report(Progress(stream=f"Loaded image: {name.familiar}\n"))
        return [Loaded(image.id, name.familiar) for name in image.names]


async def _nothing(descriptor: Descriptor, meter: object) -> None:
    """Layers of an archive are in the store before they are unpacked."""


def _images(archive: Archive) -> list[_Found]:
    """The images of either form; the OCI layout is believed first, names are united."""
    images = list(_layout(archive)) if "index.json" in archive else []
    if "manifest.json" not in archive:
        if not images:
            raise InvalidParameter(
                "invalid archive: does not contain a manifest.json or an index.json"
            )
        return images
    known = {image.id: image for image in images}
    data = archive.read("manifest.json", MAX_MANIFEST)
    try:
        items = msgspec.json.decode(data, type=list[_Item])
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise InvalidParameter(f"invalid archive: manifest.json is malformed: {err}") from err
    for item in items:
        found = known.get(archive.member(item.config).digest) or _from_item(archive, item)
        if found.id not in known:
            known[found.id] = found
            images.append(found)
        names = [_tag(text) for text in item.repo_tags or ()]
        found.names += [name for name in names if name not in found.names]
    return images


def _tag(text: str) -> Reference:
    """A name of ``RepoTags``: with a tag, and never with a digest, which only a registry gives."""
    name = Reference.parse(text)
    if not name.tag or name.digest is not None:
        raise InvalidParameter(f'invalid tag "{text}"')
    return name


def _from_item(archive: Archive, item: _Item) -> _Found:
    """An image of a docker archive, which has no manifest: one is made."""
    config_bytes = archive.read(item.config, MAX_CONFIG)
    config = decode(config_bytes, ImageConfig, f"image configuration {item.config}")
    layers = []
    for name in item.layers:
        member = archive.member(name)
        media_type = _LAYER_TYPES.get(member.compression)
        if media_type is None:
            raise InvalidParameter(
                f"invalid archive: layer {name} is compressed with {member.compression}: "
                "only gzip and zstd are known for layers"
            )
        layers.append(Descriptor(media_type=media_type, digest=member.digest, size=member.size))
    described = Descriptor(
        media_type=DOCKER_CONFIG, digest=str(Digest.of(config_bytes)), size=len(config_bytes)
    )
    media_type, data = make_manifest(described, layers)
    manifest = decode(data, Manifest, "manifest")
    check_layers(manifest, config)
    return _Found(config, config_bytes, manifest, media_type, data, [])


def _layout(archive: Archive) -> list[_Found]:
    """The images of an OCI layout; entries whose content is not in it are passed over."""
    top = decode(archive.read("index.json", MAX_MANIFEST), Index, "index.json")
    found: dict[str, _Found] = {}
    for entry in top.manifests:
        for image in _descend(archive, entry, None, 0):
            kept = found.setdefault(image.id, image)
            name = _name(entry)
            if name is not None and name not in kept.names:
                kept.names.append(name)
    return list(found.values())


def _descend(
    archive: Archive, entry: Descriptor, index: Descriptor | None, depth: int
) -> list[_Found]:
    if archive.blob(entry.digest) is None:
        if index is None:
            archive.required(entry.digest)  # raises: the layout itself names it
        return []  # another platform's, left out by whoever saved
    if depth > 3:
        raise InvalidParameter(f"index {entry.digest} is nested too deep")
    data = archive.document(entry.digest, MAX_MANIFEST)
    if entry.is_attestation:
        return []
    if is_index(entry.media_type, data):
        inner = decode(data, Index, f"index {entry.digest}")
        media_type = entry.media_type if entry.media_type in INDEXES else OCI_INDEX
        described = msgspec.structs.replace(entry, media_type=media_type)
        images = []
        for child in inner.manifests:
            for image in _descend(archive, child, described, depth + 1):
                image.attestations = _attestations(archive, inner, child.digest)
                images.append(image)
        return images
    manifest = decode(data, Manifest, f"manifest {entry.digest}")
    if not manifest.is_image:
        return []
    return [_from_manifest(archive, entry, manifest, data, index)]


def _from_manifest(
    archive: Archive,
    entry: Descriptor,
    manifest: Manifest,
    data: bytes,
    index: Descriptor | None,
) -> _Found:
    config_bytes = archive.document(manifest.config.digest, MAX_CONFIG)
    config = decode(config_bytes, ImageConfig, f"image configuration {manifest.config.digest}")
    check_layers(manifest, config)
    media_type = manifest.media_type or entry.media_type or OCI_MANIFEST
    return _Found(config, config_bytes, manifest, media_type, data, [], index)


def _attestations(archive: Archive, index: Index, digest: str) -> tuple[str, ...]:
    found = []
    for entry in index.manifests:
        if entry.annotations.get(ATTESTATION_FOR) == digest and archive.blob(entry.digest):
            found.append(entry.digest)
    return tuple(found)


def _parts(archive: Archive, digest: str) -> set[str]:
    """An attestation's manifest and what it names, as far as it is in the archive."""
    manifest = decode(archive.document(digest, MAX_MANIFEST), Manifest, f"manifest {digest}")
    parts = {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    return {digest, *(part for part in parts if archive.blob(part) is not None)}


def _name(entry: Descriptor) -> Reference | None:
    """What an entry of ``index.json`` is to be called, if its annotations tell a whole name."""
    full = entry.annotations.get(ANNOTATION_NAME)
    short = entry.annotations.get(ANNOTATION_REF, "")
    if full is None and (":" in short or "/" in short):
        full = short  # what skopeo writes for oci-archive:FILE:NAME:TAG
    if full is None:
        return None
    try:
        name = Reference.parse(full).tagged()
    except InvalidParameter:
        return None
    return None if name.digest is not None else name


def _select(images: list[_Found], platform: Platform | None) -> list[_Found]:
    """All images, or of each name only those of a platform; NotFound when none is left.

    Without a wish, of several platforms under one name the host's own is taken.
    """
    if platform is not None:
        chosen = [image for image in images if platform.matches(image.config.platform)]
        if not chosen:
            offered = describe([image.config.platform for image in images])
            raise NotFound(
                f"requested platform ({platform}) not found in the archive: it has {offered}"
            )
        return chosen
    host = Platform.host()
    by_index: dict[str, list[_Found]] = {}
    for image in images:
        by_index.setdefault(image.index.digest if image.index else image.id, []).append(image)
    chosen = []
    for group in by_index.values():
        fitting = [image for image in group if host.matches(image.config.platform)]
        chosen += fitting[:1] if fitting and len(group) > 1 else group
    return chosen
