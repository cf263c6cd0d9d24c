"""Images as they are stored and exchanged: Docker schema 2 and OCI image-spec documents.

Documents are kept byte for byte as they came (their digest is their name); these
structs read them and write new ones. Unknown fields are tolerated when reading.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter
from portside.model.golang import json_reading
from portside.model.platform import Platform

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

MANIFESTS = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEXES = frozenset({DOCKER_LIST, OCI_INDEX})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
CONFIGS = frozenset({DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", ""})
COMPRESSIONS = {
    DOCKER_LAYER: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_GZIP: "gzip",
    OCI_LAYER: "",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
}
"""Layer media types and the compression they promise ("" is a plain tar)."""

MAX_MANIFEST = 4 << 20
"""Bytes of the largest manifest accepted (distribution-spec, "Pushing Manifests")."""
MAX_CONFIG = 8 << 20
"""Bytes of the largest image configuration accepted."""
ATTESTATION_TYPE = "vnd.docker.reference.type"
ATTESTATION_FOR = "vnd.docker.reference.digest"
"""Annotations of an index's entry that attests another entry."""

ANNOTATION_REF = "org.opencontainers.image.ref.name"
ANNOTATION_NAME = "io.containerd.image.name"

_T = TypeVar("_T", bound=msgspec.Struct)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """image-spec descriptor: content by type, digest and size in bytes."""

    media_type: str = msgspec.field(name="mediaType", default="")
    digest: str
    size: int = msgspec.field(default=-1)
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    data: str = ""
    """base64 of the content itself, when it is small enough to travel along."""
    platform: Platform | None = None
    artifact_type: str = msgspec.field(name="artifactType", default="")

    def __post_init__(self) -> None:
        # Digests become parts of URLs and paths: a descriptor with a bad one never exists.
        Digest(self.digest)

    @property
    def is_attestation(self) -> bool:
        return ATTESTATION_TYPE in self.annotations

    def plain(self) -> Descriptor:
        """Type, digest and size only."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image manifest (image-spec manifest.md; Docker's schema 2 has the same shape)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = msgspec.field(name="mediaType", default="")
    artifact_type: str = msgspec.field(name="artifactType", default="")
    config: Descriptor
    layers: tuple[Descriptor, ...] = msgspec.field()
    subject: Descriptor | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """False for an artifact that only borrows the manifest's shape."""
        return not self.artifact_type and self.config.media_type in CONFIGS


class Index(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image index or a Docker manifest list."""

    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = msgspec.field(name="mediaType", default="")
    artifact_type: str = msgspec.field(name="artifactType", default="")
    manifests: tuple[Descriptor, ...] = msgspec.field()
    subject: Descriptor | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """Docker's HEALTHCHECK; times in nanoseconds, 0 means inherit the default."""

    test: tuple[str, ...] = msgspec.field(name="Test", default=())
    interval: int = msgspec.field(name="Interval", default=0)
    timeout: int = msgspec.field(name="Timeout", default=0)
    start_period: int = msgspec.field(name="StartPeriod", default=0)
    start_interval: int = msgspec.field(name="StartInterval", default=0)
    retries: int = msgspec.field(name="Retries", default=0)


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The ``config`` of an image: how its containers run by default."""

    user: str = msgspec.field(name="User", default="")
    exposed_ports: dict[str, dict[str, Any]] | None = msgspec.field(
        name="ExposedPorts", default=None
    )
    env: tuple[str, ...] | None = msgspec.field(name="Env", default=None)
    entrypoint: tuple[str, ...] | None = msgspec.field(name="Entrypoint", default=None)
    cmd: tuple[str, ...] | None = msgspec.field(name="Cmd", default=None)
    healthcheck: Healthcheck | None = msgspec.field(name="Healthcheck", default=None)
    args_escaped: bool = msgspec.field(name="ArgsEscaped", default=False)
    volumes: dict[str, dict[str, Any]] | None = msgspec.field(name="Volumes", default=None)
    working_dir: str = msgspec.field(name="WorkingDir", default="")
    on_build: tuple[str, ...] | None = msgspec.field(name="OnBuild", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    stop_signal: str = msgspec.field(name="StopSignal", default="")
    stop_timeout: int | None = msgspec.field(name="StopTimeout", default=None)
    shell: tuple[str, ...] | None = msgspec.field(name="Shell", default=None)


class RootFS(msgspec.Struct, frozen=True):
    """``rootfs`` of an image configuration: digests of the uncompressed layers, base first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an image's history; ``created`` is RFC 3339."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image configuration (image-spec config.md with Docker's additions).

    Fields stand in alphabetical order of their names, as Docker writes them.
    """

    architecture: str = ""
    author: str = ""
    comment: str = ""
    config: RunConfig | None = None
    container: str = ""
    created: str | None = None
    docker_version: str = ""
    history: tuple[History, ...] | None = ()
    inline_cache: str = msgspec.field(name="moby.buildkit.cache.v0", default="")
    """BuildKit's inline build cache, base64."""
    os: str = ""
    os_features: tuple[str, ...] | None = msgspec.field(name="os.features", default=())
    os_version: str = msgspec.field(name="os.version", default="")
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    variant: str = ""

    @property
    def platform(self) -> Platform:
        return Platform(
            architecture=self.architecture,
            os=self.os or "linux",
            os_version=self.os_version,
            os_features=self.os_features or (),
            variant=self.variant,
        )

    @property
    def run(self) -> RunConfig:
        return self.config or RunConfig()

    @property
    def diff_ids(self) -> list[Digest]:
        return [Digest(text) for text in self.rootfs.diff_ids or ()]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the local store, as the other services see it."""

    id: str
    """Digest of its index or manifest: ``sha256:…``."""
    config: ImageConfig
    """Of the platform that was asked for."""
    parent: str = ""
    """ID of the image this one was committed or built from, while it is known."""
    repo_tags: tuple[str, ...] = ()
    """Familiar references such as ``busybox:latest``."""
    repo_digests: tuple[str, ...] = ()
    size: int = 0
    """Bytes of its content and of its layers unpacked."""
    manifest: Descriptor | None = None
    """The manifest of the platform that was asked for."""
    is_unpacked: bool = True

    @property
    def run(self) -> RunConfig:
        return self.config.run

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def chain(self) -> Digest | None:
        """The chain ID of the topmost layer; None for an image without layers."""
        return chain_id(self.config.diff_ids) if self.config.diff_ids else None


def decode(data: bytes, kind: type[_T], what: str) -> _T:
    """A document from its bytes; InvalidParameter names ``what`` when it is malformed."""
    try:
        return json_reading.decode(data, kind)
    except InvalidParameter as err:
        raise InvalidParameter(f"{what} is malformed: {err}") from err


def encode(document: msgspec.Struct) -> bytes:
    """A document's bytes; their digest is its name, so they must never be made again."""
    return msgspec.json.encode(document, enc_hook=str)


def is_index(media_type: str, data: bytes) -> bool:
    """Whether a manifest's bytes are an index (or Docker's manifest list).

    A document that is both is refused (CVE-2021-41190: its meaning would depend on
    the reader).
    """
    found = decode(data, _Shape, "manifest")
    if found.manifests is not None and (found.layers is not None or found.config is not None):
        raise InvalidParameter("invalid manifest: it is both an image manifest and an index")
    if found.media_type and media_type and found.media_type != media_type:
        raise InvalidParameter(
            f"manifest's mediaType {found.media_type!r} does not match {media_type!r}"
        )
    return found.manifests is not None


class _Shape(msgspec.Struct, frozen=True):
    media_type: str = msgspec.field(name="mediaType", default="")
    manifests: Any = None
    layers: Any = None
    config: Any = None
