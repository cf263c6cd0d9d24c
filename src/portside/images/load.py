"""``docker load``: docker archives and OCI layouts, in any usual compression.

The archive is spooled into a directory beneath ``ingest/`` (emptied at a start), every file
hashed on the way; what its documents name is then moved into the blob store. Content that
is not what its digest says is refused.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from portside.images.image_content import DEEPEST, MOST_ENTRIES, record_image
from portside.images.image_jobs import Member, SpoolArchive
from portside.images.image_store import Catalogue
from portside.images.manifest_builder import build_manifest
from portside.images.platform_select import check_layers, check_system
from portside.images.stream_feed import run_fed
from portside.images.v1_archive import read_old_images
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
    DOCKER_MANIFEST,
    MAX_CONFIG,
    MAX_MANIFEST,
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
    layers: tuple[str, ...] | None = msgspec.field(name="Layers", default=None)
    repo_tags: tuple[str, ...] | None = msgspec.field(name="RepoTags", default=None)


@dataclass(slots=True)
class _Found:
    """An image in the archive: what one entry of it names."""

    target: Descriptor
    names: list[Reference] = field(default_factory=list)
    blobs: set[str] = field(default_factory=set)
    """Everything of it that the archive has."""
    documents: list[bytes] = field(default_factory=list)
    """Documents that the archive does not have: they were made."""
    configs: dict[str, Platform] = field(default_factory=dict)
    """The image's platforms, by the digest of the configuration."""
    wanted: set[str] = field(default_factory=set)
    """Manifests that are to be unpacked; empty: the one that this machine runs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that was loaded."""

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
        """A file by name, through links; InvalidParameter when it is missing."""
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

    async def load(
        self, archive: AsyncIterable[bytes], platforms: Sequence[Platform] = ()
    ) -> list[Loaded]:
        """Load all images of an archive (of ``platforms`` only, if any are given)."""
        directory = self._store.blobs.ingest_dir / f"tmp-{new_id()}"
        directory.mkdir(mode=0o700)
        try:
            job = SpoolArchive(directory=str(directory), limits=self._store.layers.limits)
            members = await run_fed(self._store.workers, job, archive)
            images = _images(Archive(directory, members), platforms)
            with self._store.lease("load") as lease:
                loaded = [
                    item
                    for image in images
                    for item in await self._take(Archive(directory, members), image, lease)
                ]
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        await self._store.settle()
        return loaded

    async def _take(self, archive: Archive, image: _Found, lease: Lease) -> list[Loaded]:
        """Bring one image in; several references give several results."""
        for digest in sorted(image.blobs):
            self._adopt(archive, digest, lease)
        for data in image.documents:
            self._store.blobs.put(data, owner=lease.ref)
        await record_image(
            self._catalogue,
            lease,
            image.target,
            names=image.names,
            unpack=(lambda variant: variant.manifest in image.wanted) if image.wanted else None,
            report=self._layer_report(),
        )
        return self._announce(image)

    def _adopt(self, archive: Archive, digest: str, lease: Lease) -> None:
        wanted = Digest(digest)
        if self._store.blobs.claim(wanted, lease.ref):
            return
        member = archive.required(digest)
        self._store.blobs.adopt(archive.path(member), wanted, member.size, lease.ref)

    def _layer_report(self) -> Report:
        words = {"Extracting": "Loading layer"}

        def report(progress: Progress) -> None:
            if progress.status in words:
                self._report(msgspec.structs.replace(progress, status=words[progress.status]))

        return report

    def _announce(self, image: _Found) -> list[Loaded]:
        identifier = image.target.digest
        self._publish("image", "load", identifier, {"name": identifier})
        if not image.names:
            self._report(Progress(stream=f"Loaded image ID: {identifier}\n"))
            return [Loaded(identifier, identifier)]
        for name in image.names:
            self._report(Progress(stream=f"Loaded image: {name.familiar}\n"))
        return [Loaded(identifier, name.familiar) for name in image.names]


def _images(archive: Archive, platforms: Sequence[Platform]) -> list[_Found]:
    """The images of any form; the OCI layout is believed first, names are united.

    With ``platforms``, of each image only what is for them; NotFound when nothing is.
    """
    images = list(_layout(archive, platforms)) if "index.json" in archive else []
    if "manifest.json" in archive:
        _add_items(archive, images)
    elif "index.json" in archive:
        pass
    elif "repositories" in archive:
        for old in read_old_images(archive):
            images.append(_made(archive, old.config, "the archive", old.layers))
            images[-1].names = old.names
    else:
        raise InvalidParameter("invalid archive: does not contain a manifest.json or an index.json")
    if not platforms:
        return images
    chosen = [
        image for image in images if any(_wanted(platforms, p) for p in image.configs.values())
    ]
    if not chosen:
        offered = describe([p for image in images for p in image.configs.values()])
        asked = ", ".join(map(str, platforms))
        raise NotFound(f"requested platform ({asked}) not found in the archive: it has {offered}")
    return chosen


def _wanted(platforms: Sequence[Platform], found: Platform) -> bool:
    return any(platform.matches(found) for platform in platforms)


def _add_items(archive: Archive, images: list[_Found]) -> None:
    """The images of ``manifest.json``, as far as the layout does not have them."""
    known = {config: image for image in images for config in image.configs}
    data = archive.read("manifest.json", MAX_MANIFEST)
    try:
        items = msgspec.json.decode(data, type=list[_Item])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidParameter(f"invalid archive: manifest.json is malformed: {err}") from err
    for item in items:
        config = archive.member(item.config).digest
        found = known.get(config)
        if found is None:
            found = known[config] = _from_item(archive, item)
            images.append(found)
        names = [_tag(text) for text in item.repo_tags or ()]
        found.names += [name for name in names if name not in found.names]


def _tag(text: str) -> Reference:
    """A name of ``RepoTags``: with a tag, and never with a digest, which only a registry gives."""
    name = Reference.parse(text)
    if not name.tag or name.digest is not None:
        raise InvalidParameter(f'invalid tag "{text}"')
    return name


def _from_item(archive: Archive, item: _Item) -> _Found:
    """An image of a docker archive, which has no manifest: one is made."""
    return _made(archive, archive.read(item.config, MAX_CONFIG), item.config, item.layers or ())


def _made(archive: Archive, config_bytes: bytes, source: str, names: Sequence[str]) -> _Found:
    """An image of a configuration, which comes from ``source``, and layers by name."""
    config = decode(config_bytes, ImageConfig, f"image configuration of {source}")
    layers = []
    for name in names:
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
    data = build_manifest(described, layers, DOCKER_MANIFEST)
    check_layers(decode(data, Manifest, "manifest"), config)
    check_system(config)
    target = Descriptor(media_type=DOCKER_MANIFEST, digest=str(Digest.of(data)), size=len(data))
    return _Found(
        target,
        blobs={layer.digest for layer in layers},
        documents=[config_bytes, data],
        configs={described.digest: config.platform},
    )


def _layout(archive: Archive, platforms: Sequence[Platform]) -> list[_Found]:
    """The images of an OCI layout; entries whose content is not in it are passed over."""
    top = decode(archive.read("index.json", MAX_MANIFEST), Index, "index.json")
    found: dict[str, _Found] = {}
    for entry in top.manifests:
        kept = found.get(entry.digest)
        if kept is None:
            kept = _Found(msgspec.structs.replace(entry.plain(), annotations=entry.annotations))
            archive.required(entry.digest)
            _descend(archive, entry, kept, platforms, 0)
            if not kept.configs and not kept.blobs:
                continue  # an attestation or an artifact on its own
            found[entry.digest] = kept
        name = _name(entry)
        if name is not None and name not in kept.names:
            kept.names.append(name)
    return [image for image in found.values() if image.configs]


def _descend(
    archive: Archive, entry: Descriptor, found: _Found, platforms: Sequence[Platform], depth: int
) -> None:
    """Collect what the archive has below an entry, of ``platforms`` only if any are given."""
    if archive.blob(entry.digest) is None:
        return  # another platform's, left out when the archive was saved
    if depth > DEEPEST:
        raise InvalidParameter(f"index {entry.digest} is nested too deep")
    if entry.is_attestation:
        return
    data = archive.document(entry.digest, MAX_MANIFEST)
    if not is_index(entry.media_type, data):
        _descend_manifest(archive, entry, data, found, platforms)
        return
    found.blobs.add(entry.digest)
    index = decode(data, Index, f"index {entry.digest}")
    if len(index.manifests) > MOST_ENTRIES:
        raise InvalidParameter(f"index {entry.digest} has more than {MOST_ENTRIES} manifests")
    for child in index.manifests:
        _descend(archive, child, found, platforms, depth + 1)
    for child in index.manifests:
        if child.annotations.get(ATTESTATION_FOR) in found.blobs and archive.blob(child.digest):
            found.blobs |= _parts(archive, child.digest)


def _descend_manifest(
    archive: Archive, entry: Descriptor, data: bytes, found: _Found, platforms: Sequence[Platform]
) -> None:
    manifest = decode(data, Manifest, f"manifest {entry.digest}")
    if not manifest.is_image:
        return
    config_bytes = archive.document(manifest.config.digest, MAX_CONFIG)
    config = decode(config_bytes, ImageConfig, f"image configuration {manifest.config.digest}")
    check_layers(manifest, config)
    if platforms and not _wanted(platforms, config.platform):
        found.configs.setdefault(manifest.config.digest, config.platform)
        return
    found.configs[manifest.config.digest] = config.platform
    if platforms:
        found.wanted.add(entry.digest)
    found.blobs |= {entry.digest, manifest.config.digest}
    for layer in manifest.layers:
        archive.required(layer.digest)
        found.blobs.add(layer.digest)


def _parts(archive: Archive, digest: str) -> set[str]:
    """An attestation's manifest and what it names, as far as it is in the archive."""
    manifest = decode(archive.document(digest, MAX_MANIFEST), Manifest, f"manifest {digest}")
    parts = {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    return {digest, *(part for part in parts if archive.blob(part) is not None)}


def _name(entry: Descriptor) -> Reference | None:
    """The name of an entry of ``index.json``, if its annotations hold a whole name."""
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
