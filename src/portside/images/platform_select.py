"""From a reference to the one image manifest that fits: through indexes, by platform."""

from __future__ import annotations

from dataclasses import dataclass, field

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import (
    ATTESTATION_FOR,
    CONFIGS,
    MAX_CONFIG,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
)
from portside.model.platform import Platform, best, describe
from portside.registry.client.errors import BadContent
from portside.registry.client.repository import FetchedManifest, Repository

_DEEPEST = 3
"""Indexes within indexes that are followed."""


@dataclass(slots=True)
class Chosen:
    """A reference's target, with the platform's manifest."""

    target: FetchedManifest
    """What the reference names: an index or the manifest itself."""
    fetched: FetchedManifest
    """The image's own manifest."""
    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes
    attestations: list[Descriptor] = field(default_factory=list)
    """Entries of the index that attest this image."""
    indexes: list[FetchedManifest] = field(default_factory=list)
    """The indexes on the way to it."""

    @property
    def id(self) -> Digest:
        return Digest(self.manifest.config.digest)


async def choose(repository: Repository, top: FetchedManifest, platform: Platform | None) -> Chosen:
    """Fetch manifest and configuration of the image for ``platform`` (default: the host's).

    Raises NotFound when no entry of an index fits, InvalidParameter for documents that are
    malformed or no image.
    """
    wanted = platform or Platform.host()
    indexes = list[FetchedManifest]()
    fetched, attestations = await _descend(repository, top, wanted, indexes)
    manifest = decode(fetched.data, Manifest, f"manifest {fetched.digest}")
    _check_image(manifest)
    config_bytes = await _config(repository, manifest)
    config = decode(config_bytes, ImageConfig, f"configuration {manifest.config.digest}")
    check_system(config)
    check_layers(manifest, config)
    return Chosen(top, fetched, manifest, config, config_bytes, attestations, indexes)


async def _descend(
    repository: Repository,
    top: FetchedManifest,
    wanted: Platform,
    indexes: list[FetchedManifest],
) -> tuple[FetchedManifest, list[Descriptor]]:
    fetched, attestations = top, list[Descriptor]()
    for _ in range(_DEEPEST):
        if not fetched.is_index:
            return fetched, attestations
        index = decode(fetched.data, Index, f"index {fetched.digest}")
        indexes.append(fetched)
        entry = pick(index, wanted)
        attestations = [
            d for d in index.manifests if d.annotations.get(ATTESTATION_FOR) == entry.digest
        ]
        fetched = await repository.get_manifest(entry.digest)
    raise InvalidParameter(f"index {top.digest} is nested more than {_DEEPEST} deep")


def pick(index: Index, wanted: Platform) -> Descriptor:
    """The entry of an index that runs best on ``wanted``; NotFound.

    Entries without a platform are taken last, if they are not attestations.
    """
    images = [d for d in index.manifests if not d.is_attestation]
    known = [(d.platform, d) for d in images if d.platform and not d.platform.is_unknown]
    fitting = best(wanted, known) or [d for d in images if d.platform is None]
    if fitting:
        return fitting[0]
    offered = describe([platform for platform, _ in known]) or "none"
    raise NotFound(
        f"no matching manifest for {wanted} in the manifest list entries (it offers: {offered})"
    )


def _check_image(manifest: Manifest) -> None:
    kind = manifest.artifact_type or manifest.config.media_type
    if not manifest.is_image or manifest.config.media_type not in CONFIGS:
        raise InvalidParameter(
            f'Encountered remote "{kind}"(unknown) when fetching: it is an artifact, '
            "not a container image"
        )


async def _config(repository: Repository, manifest: Manifest) -> bytes:
    if manifest.config.size > MAX_CONFIG:
        raise BadContent(
            f"the image configuration has {manifest.config.size} bytes, more than {MAX_CONFIG}"
        )
    return await repository.get_blob(manifest.config.digest, MAX_CONFIG)


def check_system(config: ImageConfig) -> None:
    """InvalidParameter for an image of another operating system: nothing of it runs here."""
    if config.platform.normalized().os != "linux":
        raise InvalidParameter(
            f'image operating system "{config.os}" cannot be used on this platform'
        )


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """InvalidParameter unless configuration and manifest name equally many layers."""
    if config.rootfs.type not in ("layers", ""):
        raise InvalidParameter(f"unsupported root file system type {config.rootfs.type!r}")
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidParameter(
            f"invalid image: its configuration names {len(config.diff_ids)} layers and its "
            f"manifest {len(manifest.layers)}"
        )
