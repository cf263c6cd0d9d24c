"""What the registry needs to know of a manifest: its kind, and which content it names."""

from __future__ import annotations

from typing import Any

import msgspec

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.registry.server.errors import RegistryError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})

MAX_SIZE = 4 << 20
"""Bytes of the largest manifest taken (distribution-spec, "Pushing Manifests")."""

_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable",
    "application/vnd.docker.image.rootfs.foreign",
)
_BLANK = frozenset({"", "application/octet-stream"})
"""Content types that say nothing: the manifest's own field then must."""


class Described(msgspec.Struct, frozen=True):
    """A descriptor inside a manifest, as far as the registry cares."""

    digest: str
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")
    urls: tuple[str, ...] = ()
    platform: dict[str, Any] | None = None

    @property
    def is_elsewhere(self) -> bool:
        """A layer that may not be distributed: it need not be here, clients know its URLs."""
        return bool(self.urls) and self.media_type.startswith(_FOREIGN)


class _Document(msgspec.Struct, frozen=True):
    schema_version: int = msgspec.field(name="schemaVersion", default=0)
    media_type: str = msgspec.field(name="mediaType", default="")
    artifact_type: str = msgspec.field(name="artifactType", default="")
    config: Described | None = None
    layers: tuple[Described, ...] | None = None
    blobs: tuple[Described, ...] = ()
    manifests: tuple[Described, ...] | None = None
    subject: Described | None = None
    annotations: dict[str, str] | None = None


class Parsed(msgspec.Struct, frozen=True):
    """A manifest's bytes, understood."""

    data: bytes
    digest: Digest
    media_type: str
    blobs: tuple[Described, ...]
    """Config and layers; all must be in the repository that are not elsewhere."""
    children: tuple[Described, ...]
    """Manifests an index names."""
    subject: Digest | None
    artifact_type: str
    annotations: dict[str, str]
    config: Described | None = None

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES

    def descriptor(self) -> dict[str, Any]:
        """Its own descriptor in a list of referrers (distribution-spec, "Listing Referrers")."""
        entry: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": len(self.data),
        }
        if self.artifact_type:
            entry["artifactType"] = self.artifact_type
        if self.annotations:
            entry["annotations"] = self.annotations
        return entry


def parse(data: bytes, content_type: str = "", algorithm: str = "sha256") -> Parsed:
    """Understand a manifest; raises MANIFEST_INVALID which says why."""
    if len(data) > MAX_SIZE:
        raise RegistryError(
            "MANIFEST_INVALID", message=f"manifest of over {MAX_SIZE} bytes", status=413
        )
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.MsgspecError as err:
        raise RegistryError("MANIFEST_INVALID", str(err)) from err
    media_type = _media_type(document, content_type.partition(";")[0].strip())
    digest = Digest.of(data, algorithm)
    local = [*(document.layers or ()), *document.blobs]
    if document.config is not None:
        local.insert(0, document.config)
    try:
        for described in (*local, *(document.manifests or ())):
            Digest(described.digest)
        subject = Digest(document.subject.digest) if document.subject else None
    except InvalidParameter as err:
        raise RegistryError("MANIFEST_INVALID", str(err)) from err
    artifact = document.artifact_type
    if not artifact and document.config is not None and media_type == OCI_MANIFEST:
        artifact = document.config.media_type
    return Parsed(
        data,
        digest,
        media_type,
        tuple(local),
        document.manifests or (),
        subject,
        artifact,
        document.annotations or {},
        document.config,
    )


def _media_type(document: _Document, content_type: str) -> str:
    """What a manifest is, by its own word and the sender's; raises MANIFEST_INVALID."""
    known, own = IMAGES | INDEXES, document.media_type
    if content_type not in known | _BLANK:
        raise _invalid(f"unsupported manifest media type: {content_type}")
    if own and content_type in known and own != content_type:
        raise _invalid(f"Content-Type {content_type} differs from mediaType {own}")
    if not own and content_type in (DOCKER_MANIFEST, DOCKER_LIST):
        raise _invalid(f"a manifest of type {content_type} needs the field mediaType")
    media_type = own or (content_type if content_type in known else "")
    if not media_type:
        media_type = OCI_INDEX if document.manifests is not None else OCI_MANIFEST
    if media_type not in known:
        raise _invalid(f"unsupported manifest media type: {media_type}")
    _require_shape(document, media_type)
    return media_type


def _require_shape(document: _Document, media_type: str) -> None:
    """A document must not be read as an image by one and as an index by another."""
    if document.schema_version != 2 and media_type != OCI_ARTIFACT:
        raise _invalid(f"unsupported schemaVersion {document.schema_version}: this takes 2")
    if media_type in INDEXES:
        if document.manifests is None:
            raise _invalid("an index needs the field manifests")
        if document.config is not None or document.layers is not None:
            raise _invalid("an index has neither config nor layers")
    elif document.manifests is not None:
        raise _invalid("an image manifest has no field manifests")
    elif media_type != OCI_ARTIFACT and document.config is None:
        raise _invalid("an image manifest needs the field config")


def _invalid(reason: str) -> RegistryError:
    return RegistryError("MANIFEST_INVALID", reason)
