"""``--cache-from``: records of other engines, and their layers when a step needs them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

from portside.builder.cache.cache_manifest import (
    CONFIG_TYPE,
    MAX_CONFIG,
    CacheConfig,
    CacheRow,
    parse_config,
    parse_inline,
)
from portside.builder.results import CacheRequest, ContentStore
from portside.builder.solver.cache_records import CacheRecord, CacheStore
from portside.builder.solver.layout_source import bring_blob
from portside.builder.solver.tree import Tree
from portside.images.download import fetch_blob
from portside.images.progress_meter import Meter
from portside.images.service import ImageService
from portside.model.digest import Digest, chain_id
from portside.model.errors import InvalidParameter, NotFound, PortsideError
from portside.model.image import (
    MAX_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode,
    is_index,
)
from portside.model.platform import Platform, best
from portside.model.progress import quiet
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.registry.client.repository import Repository

if TYPE_CHECKING:
    from portside.store.db import Lease

log = logging.getLogger(__name__)


class _Origin(Protocol):
    """Where a cache's blobs are."""

    async def manifest(self) -> bytes: ...

    async def child(self, digest: str) -> bytes: ...

    async def small(self, digest: str) -> bytes: ...

    async def bring(self, part: Descriptor) -> None: ...


class _Imported(NamedTuple):
    origin: _Origin
    config: CacheConfig
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    rows: dict[str, CacheRow]


def check_import(request: CacheRequest) -> None:
    """InvalidParameter for an unknown type, or one without its place."""
    attrs = request.attrs
    if request.type == "local":
        if request.content is None or not attrs.get("digest"):
            raise InvalidParameter("the local cache importer needs src=PATH with an index.json")
    elif request.type not in ("registry", "inline"):
        raise InvalidParameter(
            f'unknown cache importer: "{request.type}": use registry (ref=…) or local (src=…)'
        )
    elif not attrs.get("ref"):
        raise InvalidParameter("the registry cache importer needs ref=REGISTRY/NAME:TAG")
    else:
        Reference.parse(attrs["ref"])


class RemoteCaches:
    """The caches of one build's ``--cache-from``; read when first asked. One that cannot be read,
    or is of an unknown type, counts as empty, as BuildKit does, and is listed in
    :attr:`failures`."""

    def __init__(
        self, images: ImageService, cache: CacheStore, lease: Lease,
        requests: Sequence[CacheRequest], auths: Mapping[str, AuthConfig],
        importing: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:  # fmt: skip
        """``importing`` is entered with a cache's name while its manifest is read."""
        self._importing = importing
        self._images, self._store, self._cache = images, images.store, cache
        self._lease, self._requests, self._auths = lease, requests, auths
        self._loaded: list[_Imported] | None = None
        self.failures: dict[str, str] = {}

    async def load(self) -> None:
        """Read the manifests."""
        self._loaded = []
        for request in self._requests:
            name = request.attrs.get("ref") or f"{request.type}:{request.attrs.get('src', '')}"
            try:
                with self._importing(name):
                    check_import(request)
                    self._loaded.append(await _read(self._origin(request)))
            except PortsideError as err:
                self.failures[name] = str(err)
                log.info("cannot import the build cache %s: %s", name, err)

    async def find(self, key: str) -> CacheRecord | None:
        """The record behind a key, with its layers here from now on."""
        if self._loaded is None:
            await self.load()
        for imported in self._loaded or ():
            row = imported.rows.get(key)
            if row is None:
                continue
            try:
                return await self._bring(key, row, imported)
            except PortsideError as err:
                log.info("a layer of an imported build cache cannot be fetched: %s", err)
        return None

    def _origin(self, request: CacheRequest) -> _Origin:
        attrs = request.attrs
        if request.type == "local":
            assert request.content is not None
            return _Layout(self._images, request.content, attrs["digest"], self._lease)
        reference = Reference.parse(attrs["ref"]).tagged()
        auth = self._auths.get(reference.domain)
        return _Registry(self._images, reference, auth, self._lease)

    async def _bring(self, key: str, row: CacheRow, imported: _Imported) -> CacheRecord:
        outputs = []
        size = 0
        for item in row.outputs:
            chain = await self._stack(item.layer, imported) if item.layer >= 0 else ""
            outputs.append(Tree(chain, item.content))
            size += self._store.layers.info(chain).size if chain else 0
        return self._cache.add(
            [key], outputs, description=row.description or "imported", size=size,
            sources=row.sources,
        )  # fmt: skip

    async def _stack(self, top: int, imported: _Imported) -> str:
        numbers = [top]
        while (parent := imported.config.layers[numbers[-1]].parent) >= 0:
            numbers.append(parent)
        diff_ids: list[Digest] = []
        chain: Digest | None = None
        for number in reversed(numbers):
            below, diff_id = chain, Digest(imported.diff_ids[number])
            diff_ids.append(diff_id)
            chain = chain_id(diff_ids)
            if not self._store.layers.claim(chain, self._lease.ref):
                part = imported.layers[number]
                await imported.origin.bring(part)
                await self._store.layers.ensure(
                    below, diff_id, Digest(part.digest), part.media_type, owner=self._lease.ref
                )
        return str(chain or "")


async def _read(origin: _Origin) -> _Imported:
    """A cache manifest, or an image with an inline cache."""
    data = await origin.manifest()
    if is_index("", data):
        parts = decode(data, Index, "cache manifest").manifests
        config = next((part for part in parts if part.media_type == CONFIG_TYPE), None)
        if config is None:
            offers = [(part.platform or Platform.host(), part) for part in parts
                      if not part.is_attestation]  # fmt: skip
            chosen = best(Platform.host(), offers)
            if not chosen:
                raise NotFound("the index has no image for this machine")
            data = await origin.child(chosen[0].digest)
        else:
            return _imported(origin, parse_config(await origin.small(config.digest)), parts)
    manifest = decode(data, Manifest, "cache manifest")
    raw = await origin.small(manifest.config.digest)
    if manifest.config.media_type == CONFIG_TYPE:
        return _imported(origin, parse_config(raw), manifest.layers)
    config_of_image = decode(raw, ImageConfig, "image configuration")
    if not config_of_image.inline_cache:
        raise NotFound("the image has no inline cache")
    digests = [part.digest for part in manifest.layers]
    found = parse_inline(config_of_image.inline_cache, digests)
    rows = {row.digest: row for row in found.records}
    diff_ids = tuple(str(diff_id) for diff_id in config_of_image.diff_ids)
    return _Imported(origin, found, manifest.layers, diff_ids, rows)


def _imported(origin: _Origin, config: CacheConfig, parts: Sequence[Descriptor]) -> _Imported:
    known = {part.digest: part for part in parts}
    layers = []
    for layer in config.layers:
        part = known.get(layer.blob)
        if part is None or "diffID" not in layer.annotations:
            raise InvalidParameter(f"the cache manifest does not describe its layer {layer.blob}")
        layers.append(part)
    diff_ids = tuple(layer.annotations["diffID"] for layer in config.layers)
    rows = {row.digest: row for row in config.records if row.outputs}
    return _Imported(origin, config, tuple(layers), diff_ids, rows)


class _Layout:
    """A client's folder."""

    def __init__(
        self, images: ImageService, content: ContentStore, digest: str, lease: Lease
    ) -> None:
        self._store, self._content, self._digest, self._lease = (
            images.store, content, digest, lease,
        )  # fmt: skip

    async def manifest(self) -> bytes:
        return await self._whole(self._digest, MAX_MANIFEST)

    async def child(self, digest: str) -> bytes:
        return await self._whole(digest, MAX_MANIFEST)

    async def small(self, digest: str) -> bytes:
        return await self._whole(digest, MAX_CONFIG)

    async def bring(self, part: Descriptor) -> None:
        await bring_blob(self._store, self._content, part, self._lease.ref)

    async def _whole(self, digest: str, limit: int) -> bytes:
        found = bytearray()
        async for piece in self._content.read(digest):
            found += piece
            if len(found) > limit:
                raise InvalidParameter(f"{digest} is larger than {limit} bytes")
        if Digest.of(bytes(found)) != digest:
            raise InvalidParameter(f"the cache's content is not {digest}")
        return bytes(found)


class _Registry:
    """A repository."""

    def __init__(
        self, images: ImageService, reference: Reference, auth: AuthConfig | None, lease: Lease
    ) -> None:
        self._images, self._reference, self._auth = images, reference, auth
        self._lease = lease

    async def manifest(self) -> bytes:
        return await self.child(self._reference.tag)

    async def child(self, digest: str) -> bytes:
        async def work(repository: Repository) -> bytes:
            return (await repository.get_manifest(digest)).data

        return await self._at(work)

    async def small(self, digest: str) -> bytes:
        async def work(repository: Repository) -> bytes:
            return await repository.get_blob(digest, MAX_CONFIG)

        return await self._at(work)

    async def bring(self, part: Descriptor) -> None:
        async def work(repository: Repository) -> bytes:
            meter = Meter(quiet, part.digest, part.size)
            await fetch_blob(self._images.store, repository, part, self._lease.ref, meter)
            return b""

        await self._at(work)

    async def _at(self, work: Callable[[Repository], Awaitable[bytes]]) -> bytes:
        return await self._images.registries.on_repository(
            self._reference.domain, self._reference.path, work, auth=self._auth
        )
