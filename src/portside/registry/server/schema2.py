"""Manifests for clients that accept Docker's schema 2 alone, as Docker before 17.06 does.

Such a client says so in ``Accept`` and cannot read an index or an OCI manifest. What a tag
means is then given as the image for linux/amd64, and an OCI image as the same image in
Docker's media types. A digest names bytes: what was asked for by digest is never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec

from portside.model.digest import Digest
from portside.registry.server import manifests
from portside.registry.server.content import Repository
from portside.registry.server.errors import RegistryError

_ALIKE = {
    "application/vnd.oci.image.config.v1+json": "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip": (
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    ),
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ),
}
"""OCI's media types and the Docker types of the same format."""


def accepted(headers: Iterable[str]) -> frozenset[str]:
    """The media types of all Accept headers, without parameters."""
    entries = (entry for header in headers for entry in header.split(","))
    return frozenset(entry.partition(";")[0].strip().lower() for entry in entries) - {""}


def takes_schema2_alone(types: frozenset[str]) -> bool:
    """Whether a client that accepts these knows schema 2 and none of what followed it."""
    newer = {manifests.DOCKER_LIST, manifests.OCI_INDEX, manifests.OCI_MANIFEST}
    anything = {"*/*", "application/*"}
    return manifests.DOCKER_MANIFEST in types and not types & (newer | anything)


async def as_schema2(repository: Repository, parsed: manifests.Parsed) -> manifests.Parsed:
    """The manifest in schema 2; raises MANIFEST_UNKNOWN when it cannot be put so."""
    if parsed.is_index:
        parsed = await _for_amd64(repository, parsed)
    if parsed.media_type == manifests.DOCKER_MANIFEST:
        return parsed
    document: dict[str, Any] = msgspec.json.decode(parsed.data)
    layers = document.get("layers") or []
    for described in (document.get("config") or {}, *layers):
        alike = _ALIKE.get(described.get("mediaType", ""))
        if alike is None:
            raise _not_acceptable(f"{described.get('mediaType')} is not in schema 2")
        described["mediaType"] = alike
        described.pop("annotations", None)
    image = {
        "schemaVersion": 2,
        "mediaType": manifests.DOCKER_MANIFEST,
        "config": document["config"],
        "layers": layers,
    }
    return manifests.parse(msgspec.json.encode(image), manifests.DOCKER_MANIFEST)


async def _for_amd64(repository: Repository, index: manifests.Parsed) -> manifests.Parsed:
    for child in index.children:
        platform = child.platform or {}
        if (platform.get("os"), platform.get("architecture")) == ("linux", "amd64"):
            with suppress(RegistryError):
                return await repository.manifest(Digest(child.digest))
    raise _not_acceptable("the tag is an index without an image for linux/amd64")


def _not_acceptable(reason: str) -> RegistryError:
    return RegistryError("MANIFEST_UNKNOWN", f"the Accept header allows schema 2 only: {reason}")
