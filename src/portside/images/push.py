"""Pushing: an image of the local store becomes a manifest and blobs of a registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

from portside.images.compress import pushable
from portside.images.image_store import Catalogue, ImageRecord, check_platform, parse_stored
from portside.images.progress_meter import Meter
from portside.images.pull_layers import all_or_first_error
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import MAX_MANIFEST, Descriptor, Manifest, decode
from portside.model.platform import Platform
from portside.model.progress import Progress, Report
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.registry.client.client import RegistryClient
from portside.registry.client.repository import Repository
from portside.registry.client.upload import Outcome, upload
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.store.store import Store

PIECE = 1 << 20


class Pusher:
    """One push; made for each by the service."""

    def __init__(
        self,
        catalogue: Catalogue,
        registries: RegistryClient,
        slots: asyncio.Semaphore,
        report: Report,
    ) -> None:
        self._catalogue = catalogue
        self._store = catalogue.store
        self._registries = registries
        self._slots = slots
        self._report = report

    async def push(
        self,
        reference: Reference,
        auth: AuthConfig | None,
        *,
        all_tags: bool,
        platform: Platform | None,
    ) -> Reference:
        """Push one tag, or every tag of the name; what was pushed (then a bare name).

        Raises NotFound when there is nothing to push, and what the registry client raises.
        """
        if reference.digest is not None:
            raise InvalidParameter("cannot push a digest reference")
        self._report(Progress(status=f"The push refers to repository [{reference.name}]"))
        chosen = self._choose(reference, all_tags)
        for name, identifier in chosen:
            check_platform(self._catalogue.get(identifier), name.familiar, platform)
            await self._registries.on_repository(
                name.domain,
                name.path,
                partial(self._push_one, name, identifier),
                auth=auth,
                push=True,
            )
        return reference if all_tags and reference.is_name_only else chosen[0][0]

    def _choose(self, reference: Reference, all_tags: bool) -> list[tuple[Reference, str]]:
        known = {
            parsed: identifier
            for name, identifier in self._catalogue.records.all_names().items()
            if (parsed := parse_stored(name)).name == reference.name
        }
        if not known:
            raise NotFound(
                "An image does not exist locally with the tag: " + reference.familiar_name
            )
        if all_tags and reference.is_name_only:
            tagged = sorted((n, i) for n, i in known.items() if n.digest is None)
            if not tagged:
                raise NotFound(f"no tags to push for {reference.familiar_name}")
            return tagged
        wanted = reference.tagged()
        if wanted not in known:
            raise NotFound(f"tag does not exist: {wanted.familiar}")
        return [(wanted, known[wanted])]

    async def _push_one(self, name: Reference, identifier: str, repository: Repository) -> None:
        record = await pushable(self._catalogue, identifier)
        manifest = self._catalogue.manifest(record)
        diff_ids = self._catalogue.config(identifier).diff_ids
        meters = [
            Meter(self._report, diff_id, layer.size)
            for diff_id, layer in zip(diff_ids, manifest.layers, strict=True)
        ]
        for meter in reversed(meters):  # topmost first, as Docker lists them
            meter.say("Preparing")
        await all_or_first_error(
            [
                self._layer(repository, name, layer, meter)
                for layer, meter in zip(manifest.layers, meters, strict=True)
            ]
        )
        await self._blob(repository, name, manifest.config, None)
        digest, size = await self._manifests(repository, name, record)
        self._catalogue.assign(name.with_digest(digest), identifier)
        self._report(Progress(status=f"{name.tag}: digest: {digest} size: {size}"))
        aux = {"Tag": name.tag, "Digest": str(digest), "Size": size}
        self._report(Progress(aux=aux))

    async def _layer(
        self, repository: Repository, name: Reference, layer: Descriptor, meter: Meter
    ) -> None:
        if layer.urls:
            meter.say("Skipped foreign layer")
            return
        if self._slots.locked():
            meter.say("Waiting")
        async with self._slots:
            outcome = await self._blob(repository, name, layer, meter)
        if outcome is Outcome.EXISTED:
            meter.say("Layer already exists")
        elif outcome is Outcome.PUSHED:
            meter.say("Pushed")

    async def _blob(
        self, repository: Repository, name: Reference, blob: Descriptor, meter: Meter | None
    ) -> Outcome:
        neighbours = self._neighbours(name, blob.digest)
        digest = Digest(blob.digest)
        outcome = await upload(
            repository,
            blob.digest,
            self._store.blobs.size(digest),
            lambda offset: read_blob(self._store, digest, offset),
            neighbours=neighbours,
            sent=lambda done: meter.count("Pushing", done) if meter else None,
        )
        if outcome is Outcome.MOUNTED and meter is not None:
            meter.say(f"Mounted from {neighbours[0]}")
        return outcome

    def _neighbours(self, name: Reference, digest: str) -> tuple[str, ...]:
        """Repositories of the same registry that are known to have had the blob."""
        owners = self._store.db.refs.users(Ref.blob(digest), "image")
        found: dict[str, None] = {}
        for owner in owners:
            for reference in self._catalogue.references(owner.id):
                at_registry = reference.digest is not None and reference.domain == name.domain
                if at_registry and reference.path != name.path:
                    found[reference.path] = None
        return tuple(found)[:1]

    async def _manifests(
        self, repository: Repository, name: Reference, record: ImageRecord
    ) -> tuple[Digest, int]:
        """Put the manifest, and around it the index that ties its attestations to it, if all of
        that is here; what the tag is. A list that only chose among platforms is not pushed: the
        image may have other names that never were in it."""
        index = self._catalogue.index(record) if record.attestations else None
        here = {record.manifest, *record.attestations}
        if index is None or not {entry.digest for entry in index.manifests} <= here:
            data = self._store.blobs.read(Digest(record.manifest), MAX_MANIFEST)
            return await repository.put_manifest(name.tag, record.manifest_type, data), len(data)
        for entry in index.manifests:
            if entry.digest in record.attestations:
                await self._attestation(repository, name, entry.digest)
            data = self._store.blobs.read(Digest(entry.digest), MAX_MANIFEST)
            await repository.put_manifest(entry.digest, entry.media_type, data)
        data = self._store.blobs.read(Digest(record.index), MAX_MANIFEST)
        return await repository.put_manifest(name.tag, record.index_type, data), len(data)

    async def _attestation(self, repository: Repository, name: Reference, digest: str) -> None:
        data = self._store.blobs.read(Digest(digest), MAX_MANIFEST)
        manifest = decode(data, Manifest, f"manifest {digest}")
        for part in (manifest.config, *manifest.layers):
            await self._blob(repository, name, part, None)


async def read_blob(store: Store, digest: Digest, offset: int = 0) -> AsyncIterator[bytes]:
    """A stored blob's bytes from ``offset``, read in a thread."""
    with store.blobs.open(digest) as file:
        file.seek(offset)
        while piece := await store.blobs.run(lambda: file.read(PIECE)):
            yield piece
