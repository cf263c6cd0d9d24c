"""One repository of one registry: manifests, blobs, tags, referrers (distribution-spec)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from portside.model.digest import Digest
from portside.model.errors import NotImplementedHere
from portside.model.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1,
    Descriptor,
    Index,
    decode,
    is_index,
)
from portside.registry.client.auth import read_bounded
from portside.registry.client.connection import Connection
from portside.registry.client.errors import BadContent, RegistryError
from portside.registry.client.transport import paced_chunks

if TYPE_CHECKING:
    import aiohttp

ACCEPT = ", ".join((DOCKER_LIST, OCI_INDEX, DOCKER_MANIFEST, OCI_MANIFEST))
MAX_LISTING = 16 << 20
CHUNK = 1 << 20
"""Bytes handed on at once."""
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class FetchedManifest(msgspec.Struct, frozen=True):
    """A manifest's bytes as they came, with their checked digest."""

    media_type: str
    digest: Digest
    data: bytes

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=str(self.digest), size=len(self.data))

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def pull_scope(path: str) -> str:
    return f"repository:{path}:pull"


def push_scope(path: str) -> str:
    return f"repository:{path}:pull,push"


class Repository:
    """Requests on one repository; raises RegistryError, Unreachable, NoCredentials."""

    def __init__(self, connection: Connection, path: str) -> None:
        self.connection = connection
        self.path = path

    # manifests
    async def head_manifest(self, target: str) -> Descriptor | None:
        """Type, digest and size behind a tag; None when the registry does not send them."""
        async with self.connection.request(
            "HEAD", f"{self.path}/manifests/{target}", headers={"Accept": ACCEPT}
        ) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            media_type = response.content_type
            size = response.content_length
        if not digest or size is None:
            return None
        return Descriptor(media_type=media_type, digest=str(Digest(digest)), size=size)

    async def get_manifest(self, target: str, accept: str = ACCEPT) -> FetchedManifest:
        """A manifest by tag or digest; BadContent when its bytes do not have that digest."""
        async with self.connection.request(
            "GET", f"{self.path}/manifests/{target}", headers={"Accept": accept}
        ) as response:
            data = await read_bounded(response, MAX_MANIFEST)
            media_type = response.content_type
            confirmed = response.headers.get("Docker-Content-Digest", "")
        return _checked(target, media_type, data, confirmed)

    async def put_manifest(self, target: str, media_type: str, data: bytes) -> Digest:
        """Push a manifest under a tag or its digest; the digest the registry confirms."""
        async with self.connection.request(
            "PUT",
            f"{self.path}/manifests/{target}",
            headers={"Content-Type": media_type},
            body=lambda: data,
            expect=(200, 201, 202),
        ) as response:
            confirmed = response.headers.get("Docker-Content-Digest", "")
        own = Digest.of(data)
        if confirmed and confirmed.startswith("sha256:") and confirmed != own:
            raise BadContent(f"the registry stored manifest {confirmed} instead of {own}")
        return own

    async def delete_manifest(self, target: str) -> None:
        async with self.connection.request(
            "DELETE", f"{self.path}/manifests/{target}", expect=(200, 202)
        ):
            pass

    # blobs
    async def has_blob(self, digest: str) -> int | None:
        """The blob's size in bytes (-1 if unknown), or None when it is not there."""
        async with self.connection.request(
            "HEAD", f"{self.path}/blobs/{digest}", expect=(200, 404)
        ) as response:
            if response.status == 404:
                return None
            return response.content_length if response.content_length is not None else -1

    @asynccontextmanager
    async def open_blob(
        self,
        digest: str,
        offset: int = 0,
        on_wait: Callable[[float], None] | None = None,
        url: str = "",
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """The blob's bytes from ``offset``, or from 0 when the server ignores ranges.

        Yields where the bytes begin, and the bytes. ``url`` is used instead of the
        registry's own address (foreign layers). Nothing is verified here.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        expect: tuple[int, ...] = (200,)
        if offset:
            headers["Range"] = f"bytes={offset}-"
            expect = (200, 206, 416)
        path = url or f"{self.path}/blobs/{digest}"
        async with self.connection.request(
            "GET", path, headers=headers, expect=expect, on_wait=on_wait
        ) as response:
            start = _first_byte(response, offset)
            if start is not None:
                yield start, paced_chunks(response)
                return
        async with self.open_blob(digest, 0, on_wait, url) as whole:
            yield whole

    async def get_blob(self, digest: str, limit: int) -> bytes:
        """A small blob, verified; at most ``limit`` bytes."""
        async with self.connection.request("GET", f"{self.path}/blobs/{digest}") as response:
            data = await read_bounded(response, limit)
        wanted = Digest(digest)
        if Digest.of(data, wanted.algorithm) != wanted:
            raise BadContent(f"filesystem layer verification failed for digest {digest}")
        return data

    async def delete_blob(self, digest: str) -> None:
        async with self.connection.request(
            "DELETE", f"{self.path}/blobs/{digest}", expect=(200, 202)
        ):
            pass

    # listings
    async def tags(self) -> list[str]:
        """All tags, following the pages."""
        return [
            tag
            async for page in listing(self.connection, f"{self.path}/tags/list")
            for tag in decode(page, _Tags, "list of tags").tags or ()
        ]

    async def referrers(self, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """Manifests whose ``subject`` is ``digest``: signatures, SBOMs, attestations.

        Registries without the API keep the list under the tag ``sha256-<hex>``
        (distribution-spec, "Unavailable Referrers API").
        """
        query = {"artifactType": artifact_type} if artifact_type else None
        try:
            async with self.connection.request(
                "GET", f"{self.path}/referrers/{digest}", query=query
            ) as response:
                data = await read_bounded(response, MAX_MANIFEST)
        except RegistryError as err:
            if err.status not in (400, 404, 405):
                raise
            data = await self._referrers_tag(digest)
        found = decode(data, Index, "list of referrers").manifests if data else ()
        return [d for d in found if not artifact_type or d.artifact_type == artifact_type]

    async def _referrers_tag(self, digest: str) -> bytes:
        try:
            return (await self.get_manifest(digest.replace(":", "-"))).data
        except RegistryError as err:
            if err.is_missing:
                return b""
            raise


async def listing(connection: Connection, path: str, pages: int = 10_000) -> AsyncIterator[bytes]:
    """The pages of a list, following ``Link: <…>; rel="next"`` (RFC 8288)."""
    where, query = path, {"n": "1000"}
    seen = set[str]()
    for _ in range(pages):
        if where in seen:
            raise BadContent(f"the registry's list {path} leads back to its page {where}")
        seen.add(where)
        async with connection.request("GET", where, query=query) as response:
            body = await read_bounded(response, MAX_LISTING)
            link = _NEXT.search(response.headers.get("Link", ""))
        yield body
        if link is None:
            return
        where, query = link[1], {}
        if not where.startswith(("/", "http://", "https://")):
            where = f"{path.rpartition('/')[0]}/{where}"


def _checked(target: str, media_type: str, data: bytes, confirmed: str) -> FetchedManifest:
    if media_type in SCHEMA1 or b'"schemaVersion": 1' in data[:200]:
        raise NotImplementedHere(
            "Docker Image manifest version 2, schema 1 is not supported: ask the author of "
            f"{target} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2"
        )
    own = Digest.of(data)
    if ":" in target:
        wanted = Digest(target)
        own = Digest.of(data, wanted.algorithm)
        if own != wanted:
            raise BadContent(f"manifest verification failed for digest {wanted}")
    elif confirmed and Digest.of(data, Digest(confirmed).algorithm) != confirmed:
        raise BadContent(f"manifest verification failed for digest {confirmed}")
    index = is_index("", data)
    if media_type not in MANIFESTS | INDEXES:
        media_type = _declared(data) or (OCI_INDEX if index else OCI_MANIFEST)
    if (media_type in INDEXES) != index:
        raise BadContent(f"manifest {own} is not of its media type {media_type}")
    return FetchedManifest(media_type, own, data)


class _Typed(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType", default="")


def _declared(data: bytes) -> str:
    found = decode(data, _Typed, "manifest").media_type
    return found if found in MANIFESTS | INDEXES else ""


def _first_byte(response: aiohttp.ClientResponse, offset: int) -> int | None:
    """Where the answer's bytes begin; None when it is of no use."""
    if response.status == 200:
        return 0
    if response.status == 206:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) == offset:
            return offset
    return None


def upload_path(location: str) -> str:
    """An upload's ``Location``: absolute, or a path on the registry."""
    parts = urlsplit(location)
    if not location or not (parts.netloc or location.startswith("/")):
        raise RegistryError(202, "BLOB_UPLOAD_INVALID", f"unusable upload location {location!r}")
    return location
