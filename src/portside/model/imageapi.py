"""Images in the Engine API, with Docker's wire names (API 1.24 to 1.55)."""

from __future__ import annotations

from typing import Any

import msgspec

from portside.model.image import Descriptor, RunConfig
from portside.model.platform import Platform

NO_TIME = "0001-01-01T00:00:00Z"


class ContentSize(msgspec.Struct, frozen=True):
    content: int = msgspec.field(name="Content", default=0)
    total: int = msgspec.field(name="Total", default=0)


class UnpackedSize(msgspec.Struct, frozen=True):
    unpacked: int = msgspec.field(name="Unpacked", default=0)


class PullIdentity(msgspec.Struct, frozen=True):
    repository: str = msgspec.field(name="Repository")


class BuildIdentity(msgspec.Struct, frozen=True):
    """A build whose result the image is."""

    ref: str = msgspec.field(name="Ref")
    """Of the build's record (``buildx history inspect REF``)."""
    created_at: str = msgspec.field(name="CreatedAt")
    """When the build ran, RFC 3339."""


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an image comes from, as the engine itself has seen it; no name and no label says so
    (API 1.53)."""

    pull: tuple[PullIdentity, ...] = msgspec.field(name="Pull", default=())
    build: tuple[BuildIdentity, ...] = msgspec.field(name="Build", default=())

    @classmethod
    def of(
        cls, repositories: tuple[str, ...], builds: tuple[tuple[str, str], ...] = ()
    ) -> Identity | None:
        """Of an image that these repositories have, and that these builds made, each with its
        reference and time; None when nothing is known."""
        if not repositories and not builds:
            return None
        return cls(
            tuple(map(PullIdentity, sorted(repositories))),
            tuple(BuildIdentity(ref, when) for ref, when in builds),
        )


class AttestationStatement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of ``GET /images/{name}/attestations``: an in-toto statement about an image."""

    descriptor: Descriptor = msgspec.field(name="Descriptor")
    predicate_type: str = msgspec.field(name="PredicateType")
    """URI of what it states, such as ``https://slsa.dev/provenance/v1``."""
    statement: msgspec.Raw | None = msgspec.field(name="Statement", default=None)
    """The statement as it is stored, when it was asked for."""


class ManifestImageData(msgspec.Struct, frozen=True, omit_defaults=True):
    platform: Platform = msgspec.field(name="Platform")
    size: UnpackedSize = msgspec.field(name="Size")
    containers: tuple[str, ...] | None = msgspec.field(name="Containers")
    identity: Identity | None = msgspec.field(name="Identity", default=None)


class AttestationData(msgspec.Struct, frozen=True):
    for_: str = msgspec.field(name="For")


class ManifestSummary(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One manifest of an image (``manifests=1``): ``kind`` is image, attestation or unknown."""

    id: str = msgspec.field(name="ID")
    descriptor: Descriptor = msgspec.field(name="Descriptor")
    available: bool = msgspec.field(name="Available")
    size: ContentSize = msgspec.field(name="Size")
    kind: str = msgspec.field(name="Kind")
    image: ManifestImageData | None = msgspec.field(name="ImageData", default=None)
    attestation: AttestationData | None = msgspec.field(name="AttestationData", default=None)


class ImageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``GET /images/json``; -1 means not computed."""

    id: str = msgspec.field(name="Id")
    parent_id: str = msgspec.field(name="ParentId", default="")
    repo_tags: tuple[str, ...] = msgspec.field(name="RepoTags", default=())
    repo_digests: tuple[str, ...] = msgspec.field(name="RepoDigests", default=())
    created: int = msgspec.field(name="Created", default=0)
    """Seconds since the epoch."""
    size: int = msgspec.field(name="Size", default=0)
    shared_size: int = msgspec.field(name="SharedSize", default=-1)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)
    containers: int = msgspec.field(name="Containers", default=-1)
    descriptor: Descriptor | None = msgspec.field(name="Descriptor", default=None)
    manifests: tuple[ManifestSummary, ...] | None = msgspec.field(name="Manifests", default=None)

    def wire(self, version: tuple[int, int]) -> dict[str, Any]:
        """As an API version shows it (older ones name what is missing ``<none>``)."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        if version < (1, 51):
            value["Containers"] = -1
        if version < (1, 48) or self.descriptor is None:
            del value["Descriptor"]
        if version < (1, 47) or self.manifests is None:
            del value["Manifests"]
        if version < (1, 44):
            value["VirtualSize"] = self.size
        if version < (1, 43) and not self.repo_tags and not self.repo_digests:
            value["RepoTags"] = ["<none>:<none>"]
            value["RepoDigests"] = ["<none>@<none>"]
        return value


class GraphDriver(msgspec.Struct, frozen=True):
    data: dict[str, str] | None = msgspec.field(name="Data")
    name: str = msgspec.field(name="Name")


class InspectRootFS(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str = msgspec.field(name="Type")
    layers: tuple[str, ...] = msgspec.field(name="Layers", default=())


class ImageInspect(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /images/{name}/json``."""

    id: str = msgspec.field(name="Id")
    repo_tags: tuple[str, ...] = msgspec.field(name="RepoTags", default=())
    repo_digests: tuple[str, ...] = msgspec.field(name="RepoDigests", default=())
    parent: str = msgspec.field(name="Parent", default="")
    comment: str = msgspec.field(name="Comment", default="")
    created: str = msgspec.field(name="Created", default="")
    docker_version: str = msgspec.field(name="DockerVersion", default="")
    author: str = msgspec.field(name="Author", default="")
    config: RunConfig = msgspec.field(name="Config", default_factory=RunConfig)
    architecture: str = msgspec.field(name="Architecture", default="")
    variant: str = msgspec.field(name="Variant", default="")
    os: str = msgspec.field(name="Os", default="")
    os_version: str = msgspec.field(name="OsVersion", default="")
    size: int = msgspec.field(name="Size", default=0)
    graph_driver: GraphDriver = msgspec.field(name="GraphDriver")
    root_fs: InspectRootFS = msgspec.field(name="RootFS")
    last_tag_time: str = NO_TIME
    descriptor: Descriptor | None = msgspec.field(name="Descriptor", default=None)
    manifests: tuple[ManifestSummary, ...] | None = msgspec.field(name="Manifests", default=None)
    identity: Identity | None = msgspec.field(name="Identity", default=None)

    def wire(self, version: tuple[int, int]) -> dict[str, Any]:
        """As an API version shows it."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        value["Metadata"] = {"LastTagTime": value.pop("last_tag_time")}
        for name in ("Variant", "OsVersion"):
            if not value[name]:
                del value[name]
        if version < (1, 48) or self.descriptor is None:
            del value["Descriptor"]
        if version < (1, 48) or self.manifests is None:
            del value["Manifests"]
        if version < (1, 50):
            value["Config"] = full_config(self.config)
        elif version < (1, 52):
            value["Config"] = _EMPTY_CONFIG | value["Config"]
        if version >= (1, 52):
            del value["GraphDriver"]
            for name in ("Parent", "Comment", "DockerVersion", "Author"):
                if not value[name]:
                    del value[name]
        if version < (1, 53) or self.identity is None:
            del value["Identity"]
        if version < (1, 44):
            value["VirtualSize"] = self.size
        if not self.created:
            del value["Created"]
            if version < (1, 44):
                value["Created"] = NO_TIME
        return value


_EMPTY_CONFIG: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
"""Fields that an image's configuration has in APIs 1.50 and 1.51 even when they are empty."""


def full_config(config: RunConfig) -> dict[str, Any]:
    """An image's configuration in the shape of a container's, as APIs before 1.50 show it."""
    full: dict[str, Any] = {
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": None,
        "Cmd": None,
        "Image": "",
        "Volumes": None,
        "WorkingDir": "",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
    }
    full.update(msgspec.to_builtins(config))
    return full


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``GET /images/{name}/history``, newest first."""

    id: str = msgspec.field(name="Id", default="<missing>")
    created: int = msgspec.field(name="Created", default=0)
    created_by: str = msgspec.field(name="CreatedBy", default="")
    tags: tuple[str, ...] | None = msgspec.field(name="Tags", default=None)
    size: int = msgspec.field(name="Size", default=0)
    comment: str = msgspec.field(name="Comment", default="")


class DeleteItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of ``DELETE /images/{name}``: a reference or an ID."""

    untagged: str = msgspec.field(name="Untagged", default="")
    deleted: str = msgspec.field(name="Deleted", default="")


class PruneReport(msgspec.Struct, frozen=True):
    images_deleted: tuple[DeleteItem, ...] | None = msgspec.field(
        name="ImagesDeleted", default=None
    )
    space_reclaimed: int = msgspec.field(name="SpaceReclaimed", default=0)


class SearchResult(msgspec.Struct, frozen=True):
    name: str = ""
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class RemoteManifest(msgspec.Struct, frozen=True):
    """``GET /portside/manifests/{name}/json``: what a registry has under a name."""

    descriptor: Descriptor = msgspec.field(name="Descriptor")
    """With its platform when it is one image."""
    data: bytes = msgspec.field(name="Raw", default=b"")
    """Base64 in JSON: the bytes whose digest the descriptor has."""
    config: bytes = msgspec.field(name="Config", default=b"")
    """Of one image: its configuration, likewise."""
    statements: tuple[bytes, ...] = msgspec.field(name="Statements", default=())
    """Of an attestation manifest, if they are asked for: in-toto statements, likewise."""


class ListPart(msgspec.Struct, frozen=True):
    """One manifest of a list that is to be pushed."""

    ref: str = msgspec.field(name="Ref")
    descriptor: Descriptor = msgspec.field(name="Descriptor")
    auth: str = msgspec.field(name="Auth", default="")
    """``X-Registry-Auth`` for the registry of ``ref``, when that is not the list's."""


class DistributionInspect(msgspec.Struct, frozen=True):
    """``GET /distribution/{name}/json``."""

    descriptor: Descriptor = msgspec.field(name="Descriptor")
    platforms: tuple[Platform, ...] = msgspec.field(name="Platforms", default=())
