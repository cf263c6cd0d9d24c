"""``--cache-to``: records of a build and their layers, for other engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from portside.builder.cache.cache_manifest import (
    CONFIG_TYPE,
    CacheConfig,
    CacheLayer,
    CacheOutput,
    CacheResult,
    CacheRow,
    inline,
)
from portside.builder.exporters.export_options import ExportOptions, flag, parse_export
from portside.builder.layers.layer_blobs import LayerBlob, LayerBlobs
from portside.builder.results import CacheRequest, ExportRequest
from portside.builder.solver.cache_records import CacheRecord, CacheStore
from portside.images.service import ImageService
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.golang.timestamps import format_rfc3339
from portside.model.image import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest, encode
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.registry.client.repository import Repository
from portside.registry.client.upload import upload

if TYPE_CHECKING:
    from portside.store.db import Lease

TYPES = ("inline", "registry", "local")


@dataclass(frozen=True, kw_only=True)
class CacheTarget:
    """A checked ``--cache-to``."""

    request: CacheRequest
    options: ExportOptions
    is_max: bool = False
    as_image: bool = True
    ignores_errors: bool = False
    ref: Reference | None = None


def parse_target(request: CacheRequest) -> CacheTarget:
    """InvalidParameter for an unknown type or attribute value. An unknown mode is ``min``, as in
    BuildKit."""
    attrs = dict(request.attrs)
    if request.type not in TYPES:
        raise InvalidParameter(
            f'unknown cache exporter: "{request.type}": use one of {", ".join(TYPES)}'
        )
    if request.type == "registry" and not attrs.get("ref"):
        raise InvalidParameter("the registry cache exporter needs ref=REGISTRY/NAME:TAG")
    if request.type == "local" and request.content is None:
        raise InvalidParameter("the local cache exporter needs dest=PATH")
    flag(attrs, "oci-mediatypes", True)
    kept = {key: value for key, value in attrs.items() if "compression" in key}
    options = parse_export(ExportRequest(type="cacheonly", attrs=kept))
    return CacheTarget(
        request=request,
        options=options,
        is_max=attrs.get("mode", "").lower() == "max",
        as_image=flag(attrs, "image-manifest", True),
        ignores_errors=flag(attrs, "ignore-error", False),
        ref=Reference.parse(attrs["ref"]).tagged() if attrs.get("ref") else None,
    )


class CacheExporter:
    """Exports what one build's results stand on."""

    def __init__(
        self, images: ImageService, cache: CacheStore, lease: Lease,
        auths: Mapping[str, AuthConfig],
    ) -> None:  # fmt: skip
        self._images, self._cache, self._lease, self._auths = images, cache, lease, auths
        self._store = images.store

    async def export(
        self, targets: Sequence[CacheTarget], records: Iterable[CacheRecord], chains: Sequence[str]
    ) -> dict[str, str]:
        """Export to registries and folders; response keys as BuildKit's. ``records`` are the
        results' vertices, ``chains`` the results' own layers."""
        answer: dict[str, str] = {}
        known = list(records)
        for target in targets:
            if target.request.type == "inline":
                continue
            try:
                answer |= await self._one(target, known, chains)
            except PortsideError:
                if not target.ignores_errors:
                    raise
        return answer

    def inline(self, records: Iterable[CacheRecord], chain: str) -> str:
        """The inline cache of an image with these layers: its records alone, by position."""
        stack = self._chains(chain)
        places = {found: number for number, found in enumerate(stack)}
        return inline(self._rows(self._closure(records), places))

    async def _one(
        self, target: CacheTarget, records: Iterable[CacheRecord], chains: Sequence[str]
    ) -> dict[str, str]:
        closure = self._closure(records)
        if target.is_max:
            tops = [tree.chain for record in closure for tree in record.outputs if tree.chain]
        else:
            tops = [chain for chain in chains if chain]
        places, layers, blobs = await self._layers(tops, target)
        config = CacheConfig(layers, self._rows(closure, places))
        return await self._send(target, config, blobs)

    def _closure(self, records: Iterable[CacheRecord]) -> list[CacheRecord]:
        """Records and what they were made from."""
        found: dict[str, CacheRecord] = {}
        pending = list(records)
        while pending:
            record = pending.pop()
            if record.id in found:
                continue
            found[record.id] = record
            pending += [r for p in record.parents if (r := self._cache.get(p)) is not None]
        return [found[key] for key in sorted(found)]

    def _chains(self, chain: str) -> list[str]:
        """All chains of a stack, base first."""
        if not chain:
            return []
        return [str(layer.chain) for layer in reversed(self._store.layers.stack(Digest(chain)))]

    async def _layers(
        self, tops: Iterable[str], target: CacheTarget
    ) -> tuple[dict[str, int], tuple[CacheLayer, ...], list[LayerBlob]]:
        """Every layer of the stacks once, parents first: its place by its chain."""
        blobs = LayerBlobs(self._store, self._lease.ref)
        places: dict[str, int] = {}
        layers: list[CacheLayer] = []
        found: list[LayerBlob] = []
        for top in tops:
            stack = self._chains(top)
            if all(chain in places for chain in stack):
                continue
            parts = await blobs.of_chain(top, target.options.form)
            for number, (chain, part) in enumerate(zip(stack, parts, strict=True)):
                if chain in places:
                    continue
                places[chain] = len(layers)
                described = part.descriptor
                annotations = {"mediaType": described.media_type, "size": str(described.size),
                               "diffID": part.diff_id}  # fmt: skip
                parent = places[stack[number - 1]] if number else -1
                layers.append(CacheLayer(described.digest, parent, annotations))
                found.append(part)
        return places, tuple(layers), found

    def _rows(
        self, records: Iterable[CacheRecord], places: Mapping[str, int]
    ) -> tuple[CacheRow, ...]:
        """Records all of whose outputs are among the layers, by each of their keys."""
        rows = []
        for record in records:
            if any(tree.chain and tree.chain not in places for tree in record.outputs):
                continue
            moment = format_rfc3339(int(record.created * 10**9))
            outputs = tuple(
                CacheOutput(places[tree.chain] if tree.chain else -1, tree.content)
                for tree in record.outputs
            )
            results = tuple(CacheResult(item.layer, moment) for item in outputs if item.layer >= 0)
            for key in self._cache.keys_of(record.id):
                rows.append(
                    CacheRow(digest=key, layers=results, outputs=outputs,
                             description=record.description, sources=record.sources)
                )  # fmt: skip
        return tuple(sorted(rows, key=lambda row: row.digest))

    async def _send(
        self, target: CacheTarget, config: CacheConfig, blobs: Sequence[LayerBlob]
    ) -> dict[str, str]:
        owner, store = self._lease.ref, self._store
        data = msgspec.json.encode(config)
        described = Descriptor(
            media_type=CONFIG_TYPE, digest=str(store.blobs.put(data, owner=owner)), size=len(data)
        )
        layers = tuple({blob.descriptor.digest: blob.descriptor for blob in blobs}.values())
        document: Manifest | Index
        if target.as_image:
            kind = OCI_MANIFEST
            document = Manifest(schema_version=2, media_type=kind, config=described, layers=layers)
        else:
            kind = OCI_INDEX
            document = Index(schema_version=2, media_type=kind, manifests=(*layers, described))
        raw = encode(document)
        manifest = Descriptor(
            media_type=kind, digest=str(store.blobs.put(raw, owner=owner)), size=len(raw)
        )
        parts = (*layers, described)
        content = target.request.content
        if content is not None:
            for part in (*parts, manifest):
                await content.write(
                    part.digest, part.size, store.layers.read_blob(Digest(part.digest))
                )
        if target.ref is not None:
            await self._push(target.ref, parts, manifest, raw)
        return {"cache.manifest": encode(manifest).decode()}

    async def _push(
        self, ref: Reference, parts: Sequence[Descriptor], manifest: Descriptor, raw: bytes
    ) -> None:
        async def work(repository: Repository) -> None:
            for part in parts:
                digest = Digest(part.digest)
                await upload(
                    repository,
                    part.digest,
                    part.size,
                    partial(self._store.layers.read_blob, digest),
                )
            await repository.put_manifest(ref.tag, manifest.media_type, raw)

        await self._images.registries.on_repository(
            ref.domain, ref.path, work, auth=self._auths.get(ref.domain), push=True
        )
