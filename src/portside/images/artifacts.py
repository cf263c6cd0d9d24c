"""Content other than images in a registry (image-spec, "Guidelines for Artifact Usage")."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

from portside.model.errors import InvalidParameter
from portside.model.image import Manifest, decode
from portside.registry.client.repository import FetchedManifest, Repository
from portside.registry.client.upload import upload

MAX_LAYERS = 256
MAX_CONTENT = 32 << 20
"""Bytes of all layers of an artifact that is fetched."""


async def push_artifact(
    repository: Repository, tag: str, blobs: Sequence[bytes], manifest: bytes, media_type: str
) -> str:
    """Upload blobs, then the manifest that names them; its digest. Raises RegistryError."""
    for blob in blobs:
        await _upload(repository, blob)
    return str(await repository.put_manifest(tag, media_type, manifest))


async def pull_artifact(
    repository: Repository, target: str, *, with_blobs: bool
) -> tuple[FetchedManifest, list[bytes]]:
    """A manifest and, when requested, the content of its layers.

    Raises InvalidParameter for a manifest list and for an artifact with more than
    ``MAX_LAYERS`` layers or ``MAX_CONTENT`` bytes, BadContent, RegistryError."""
    fetched = await repository.get_manifest(target)
    blobs: list[bytes] = []
    if not with_blobs:
        return fetched, blobs
    name = f"{repository.path}:{target}"
    if fetched.is_index:
        raise InvalidParameter(f"{name} is a manifest list, not an artifact")
    layers = decode(fetched.data, Manifest, f"manifest {fetched.digest}").layers
    sizes = [layer.size for layer in layers]
    if len(sizes) > MAX_LAYERS or min(sizes, default=0) < 0 or sum(sizes) > MAX_CONTENT:
        raise InvalidParameter(
            f"the artifact {name} is too large: at most {MAX_LAYERS} layers with "
            f"{MAX_CONTENT >> 20} MiB are read"
        )
    for layer in layers:
        blobs.append(await repository.get_blob(layer.digest, layer.size))
    return fetched, blobs


async def _upload(repository: Repository, blob: bytes) -> None:
    async def source(offset: int) -> AsyncIterator[bytes]:
        yield blob[offset:]

    await upload(repository, f"sha256:{hashlib.sha256(blob).hexdigest()}", len(blob), source)
