"""Content other than images in a registry (image-spec, "Guidelines for Artifact Usage")."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

from portside.registry.client.repository import Repository
from portside.registry.client.upload import upload


async def push_artifact(
    repository: Repository, tag: str, blobs: Sequence[bytes], manifest: bytes, media_type: str
) -> str:
    """Upload blobs, then the manifest that names them; its digest. Raises RegistryError."""
    for blob in blobs:
        await _upload(repository, blob)
    return str(await repository.put_manifest(tag, media_type, manifest))


async def _upload(repository: Repository, blob: bytes) -> None:
    async def source(offset: int) -> AsyncIterator[bytes]:
        yield blob[offset:]

    await upload(repository, f"sha256:{hashlib.sha256(blob).hexdigest()}", len(blob), source)
