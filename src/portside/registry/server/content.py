"""Repositories as the spec knows them, on a storage driver; no HTTP here.

The tree (that of ``registry:2``; ``referrers`` is ours)::

    docker/registry/v2/
    ├── blobs/ALGORITHM/AB/ABCD…/data                     every byte, once
    └── repositories/NAME/
        ├── _layers/ALGORITHM/ABCD…/link                  blobs this repository may hand out
        ├── _manifests/revisions/ALGORITHM/ABCD…/link     manifests, likewise
        │                    └── referrers/ALGORITHM/EF…/link   manifests whose subject it is
        ├── _manifests/tags/TAG/current/link              what the tag means now
        │                 └── index/ALGORITHM/ABCD…/link  what it ever meant
        └── _uploads/UUID/…                               see ``uploads``

Order of writes: bytes before links, links before tags, so that whatever a crash cuts off
leaves at worst unreferenced bytes, which collection removes. One guard per registry keeps
a manifest's check-and-link apart from the removal of blobs.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

import msgspec

from portside.model.digest import Digest
from portside.registry.server import manifests
from portside.registry.server.errors import RegistryError
from portside.registry.server.guard import Guard
from portside.registry.server.names import lexical
from portside.registry.server.storage import Storage

_BASE = "docker/registry/v2"
_REPOSITORIES = f"{_BASE}/repositories"


class Tag(msgspec.Struct, frozen=True):
    name: str
    digest: Digest
    pushed: float
    """Seconds since the epoch when the tag was last set."""


class Blob(msgspec.Struct, frozen=True):
    digest: Digest
    size: int


def blob_key(digest: Digest) -> str:
    """The storage key of a blob's bytes."""
    return f"{_BASE}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def _in(digest: Digest) -> str:
    return f"{digest.algorithm}/{digest.hex}"


class Repository:
    """One repository's links; blobs are shared with all others."""

    def __init__(self, content: Content, name: str) -> None:
        self.name = name
        self._content = content
        self._storage = content.storage
        self._root = f"{_REPOSITORIES}/{name}"

    def _layer(self, digest: Digest) -> str:
        return f"{self._root}/_layers/{_in(digest)}/link"

    def _revision(self, digest: Digest) -> str:
        return f"{self._root}/_manifests/revisions/{_in(digest)}"

    def _tag(self, tag: str) -> str:
        return f"{self._root}/_manifests/tags/{tag}"

    def _referrers(self, subject: Digest) -> str:
        return f"{self._revision(subject)}/referrers"

    async def _has(self, key: str) -> bool:
        try:
            await self._storage.stat(key)
        except FileNotFoundError:
            return False
        return True

    async def exists(self) -> bool:
        return bool(await self._storage.names(self._root))

    # blobs

    async def blob(self, digest: Digest) -> Blob:
        """The blob if this repository may hand it out; raises BLOB_UNKNOWN."""
        try:
            if not await self._has(self._layer(digest)):
                await self._storage.stat(f"{self._revision(digest)}/link")
            return Blob(digest, (await self._storage.stat(blob_key(digest))).size)
        except FileNotFoundError as err:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest}) from err

    async def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has the blob, bytes and all, as one pushed to it."""
        return await self._has(self._layer(digest)) and await self._has(blob_key(digest))

    async def link_blob(self, digest: Digest) -> None:
        """Make a stored blob part of this repository; a cross-repository mount does the same."""
        await self._content.touch(digest)
        # lost by a power cut, it is asked for again; a manifest that names it makes it last
        await self._storage.write(self._layer(digest), digest.encode())

    async def unlink_blob(self, digest: Digest) -> None:
        try:
            await self._storage.delete(self._layer(digest))
        except FileNotFoundError as err:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest}) from err

    async def blobs(self) -> AsyncIterator[Digest]:
        async for digest in _digests(self._storage, f"{self._root}/_layers"):
            yield digest

    async def size(self) -> int:
        """Bytes of the distinct blobs this repository links."""
        return sum((await self.blob_sizes()).values())

    async def blob_sizes(self) -> dict[Digest, int]:
        """Bytes of each blob that this repository links."""
        found = {}
        async for digest in self.blobs():
            with suppress(FileNotFoundError):
                found[digest] = (await self._storage.stat(blob_key(digest))).size
        return found

    # manifests and tags

    async def resolve(self, reference: str | Digest) -> Digest:
        """The digest of a tag or digest reference; raises MANIFEST_UNKNOWN."""
        try:
            if isinstance(reference, Digest):
                await self._storage.stat(f"{self._revision(reference)}/link")
                return reference
            link = await self._storage.read(f"{self._tag(reference)}/current/link")
            return Digest(link.decode().strip())
        except FileNotFoundError as err:
            kind = "revision" if isinstance(reference, Digest) else "tag"
            raise RegistryError(
                "MANIFEST_UNKNOWN", f"unknown {kind}={reference}", message="manifest unknown"
            ) from err

    async def manifest(self, reference: str | Digest) -> manifests.Parsed:
        """The manifest a reference means; raises MANIFEST_UNKNOWN."""
        digest = await self.resolve(reference)
        try:
            data = await self._storage.read(blob_key(digest))
        except FileNotFoundError as err:
            raise RegistryError("MANIFEST_UNKNOWN", {"digest": digest}) from err
        return manifests.parse(data, algorithm=digest.algorithm)

    async def put_manifest(
        self, parsed: manifests.Parsed, tags: Iterable[str], *, complete: bool = True
    ) -> None:
        """Keep a manifest whose parts are all here; the caller holds the guard.

        A mirror, which fetches parts when they are asked for, passes ``complete=False``.
        Raises MANIFEST_BLOB_UNKNOWN naming every missing part.
        """
        if complete:
            await self._require_parts(parsed)
        parts = [Digest(described.digest) for described in parsed.blobs]
        for part in (*parts, *(Digest(child.digest) for child in parsed.children)):
            await self._content.touch(part)
        links = [f"{self._revision(parsed.digest)}/link"]
        if parsed.subject is not None:
            links.append(f"{self._referrers(parsed.subject)}/{_in(parsed.digest)}/link")
        if not await self._content.has_blob(parsed.digest):
            await self._storage.write(blob_key(parsed.digest), parsed.data)
        await self._content.touch(parsed.digest)
        for link in links:
            await self._storage.write(link, parsed.digest.encode())
        named = [key for d in parts for key in (blob_key(d), self._layer(d))]
        await self._set_tags(tags, parsed.digest, [blob_key(parsed.digest), *links, *named])

    async def set_tag(self, tag: str, digest: Digest) -> None:
        """Let a tag mean a manifest that is here."""
        await self._set_tags((tag,), digest, [])

    async def _set_tags(self, tags: Iterable[str], digest: Digest, before: list[str]) -> None:
        """Let tags mean a manifest, once it and what it needs survive a power cut."""
        meanings = {}
        for tag in tags:
            history = f"{self._tag(tag)}/index/{_in(digest)}/link"
            await self._storage.write(history, digest.encode())  # nothing depends on it
            meanings[f"{self._tag(tag)}/current/link"] = digest.encode()
        await self._storage.commit(before, meanings)

    async def _require_parts(self, parsed: manifests.Parsed) -> None:
        needed = [Digest(d.digest) for d in parsed.blobs if not d.is_elsewhere]
        missing = [str(digest) for digest in needed if not await self.has_blob(digest)]
        for child in parsed.children:
            if not await self._has(f"{self._revision(Digest(child.digest))}/link"):
                missing.append(child.digest)
        if missing:
            details = tuple({"digest": digest} for digest in missing)
            raise RegistryError("MANIFEST_BLOB_UNKNOWN", details=details)

    async def delete_manifest(self, digest: Digest) -> list[str]:
        """Forget a manifest and the tags that mean it; the tags' names are returned."""
        parsed = await self.manifest(digest)
        gone = [tag.name for tag in await self.tags() if tag.digest == digest]
        for tag in gone:
            await self._storage.delete(self._tag(tag))
        if parsed.subject is not None:
            with suppress(FileNotFoundError):
                await self._storage.delete(
                    f"{self._referrers(parsed.subject)}/{_in(parsed.digest)}/link"
                )
        # the list of what refers to it stays: the spec lets referrers outlive their subject
        await self._storage.delete(f"{self._revision(digest)}/link")
        return gone

    async def delete_tag(self, tag: str) -> None:
        try:
            await self._storage.stat(f"{self._tag(tag)}/current/link")
            await self._storage.delete(self._tag(tag))
        except FileNotFoundError as err:
            raise RegistryError("MANIFEST_UNKNOWN", f"unknown tag={tag}") from err

    async def tag_names(self) -> list[str]:
        """Sorted names; raises NAME_UNKNOWN."""
        names = await self._storage.names(f"{self._root}/_manifests/tags")
        if not names and not await self.exists():
            raise RegistryError("NAME_UNKNOWN", {"name": self.name})
        return sorted(names, key=lexical)

    async def tags(self) -> list[Tag]:
        found = []
        for name in await self._storage.names(f"{self._root}/_manifests/tags"):
            key = f"{self._tag(name)}/current/link"
            with suppress(FileNotFoundError):
                digest = Digest((await self._storage.read(key)).decode().strip())
                found.append(Tag(name, digest, (await self._storage.stat(key)).modified))
        return found

    async def revisions(self) -> AsyncIterator[Digest]:
        """Digests of the manifests this repository keeps."""
        async for digest in _digests(self._storage, f"{self._root}/_manifests/revisions"):
            if await self._has(f"{self._revision(digest)}/link"):
                yield digest

    async def referrers(self, subject: Digest) -> list[manifests.Parsed]:
        """Manifests whose subject is the digest; empty when there are none."""
        digests = {digest async for digest in _digests(self._storage, self._referrers(subject))}
        digests |= await self._tagged_referrers(subject)
        found = []
        for digest in sorted(digests):
            with suppress(RegistryError):
                parsed = await self.manifest(digest)
                if parsed.subject == subject:
                    found.append(parsed)
        return found

    async def _tagged_referrers(self, subject: Digest) -> set[Digest]:
        """Referrers that a client listed under a tag, for registries without the referrers API
        (distribution-spec, "Referrers Tag Schema" and "Enabling the Referrers API")."""
        try:
            index = await self.manifest(f"{subject.algorithm}-{subject.hex[:64]}")
        except RegistryError:
            return set()
        return {Digest(child.digest) for child in index.children}


class Content:
    """All repositories of a registry."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.guard = Guard()
        """Held together while content is checked and linked, alone while some is removed."""

        self._touched: dict[Digest, float] = {}

    def repository(self, name: str) -> Repository:
        return Repository(self, name)

    async def touch(self, digest: Digest) -> None:
        """Mark a blob as used now: collection does not remove young blobs."""
        self._touched[digest] = time.time()
        with suppress(FileNotFoundError):
            await self.storage.touch(blob_key(digest))

    async def age(self, digest: Digest) -> float:
        """Seconds since a blob was stored or last relied on; infinite when it is not here.

        One whose directory is there and whose bytes are not is on its way (another process
        may be writing it) or was cut off by a crash: the directory's own age counts.
        """
        key = blob_key(digest)
        for name in (key, key.removesuffix("/data")):
            try:
                modified = (await self.storage.stat(name)).modified
                break
            except FileNotFoundError:
                continue
        else:
            return math.inf
        return time.time() - max(modified, self._touched.get(digest, 0.0))

    def forget(self, older_than: float) -> None:
        """Drop what memory holds of touches older than so many seconds."""
        limit = time.time() - older_than
        self._touched = {d: at for d, at in self._touched.items() if at > limit}

    async def has_blob(self, digest: Digest) -> bool:
        try:
            await self.storage.stat(blob_key(digest))
        except FileNotFoundError:
            return False
        return True

    async def repositories(self) -> list[str]:
        """Sorted names of all repositories that hold something."""
        found: list[str] = []

        async def walk(prefix: str) -> None:
            names = await self.storage.names(f"{_REPOSITORIES}/{prefix}".rstrip("/"))
            if any(name in ("_manifests", "_layers") for name in names):
                found.append(prefix.rstrip("/"))
            for name in names:
                if not name.startswith("_"):
                    await walk(f"{prefix}{name}/")

        await walk("")
        return sorted(found, key=lexical)

    async def all_blobs(self) -> AsyncIterator[Digest]:
        """Every blob stored, linked or not."""
        base = f"{_BASE}/blobs"
        for algorithm in await self.storage.names(base):
            for shard in await self.storage.names(f"{base}/{algorithm}"):
                for encoded in await self.storage.names(f"{base}/{algorithm}/{shard}"):
                    yield Digest(f"{algorithm}:{encoded}")

    async def remove_blob(self, digest: Digest) -> None:
        await self.storage.delete(blob_key(digest).removesuffix("/data"))


async def _digests(storage: Storage, prefix: str) -> AsyncIterator[Digest]:
    for algorithm in await storage.names(prefix):
        for encoded in await storage.names(f"{prefix}/{algorithm}"):
            yield Digest(f"{algorithm}:{encoded}")
