"""Pushing: an image of the local store becomes a manifest and blobs of a registry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import msgspec

from portside.images.image_store import (
    Catalogue,
    ImageRecord,
    Variant,
    lacks_platform,
    parse_stored,
    provides_nothing,
)
from portside.images.progress_meter import Meter
from portside.images.pull_layers import all_or_first_error
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import MAX_MANIFEST, Descriptor, Index, decode, is_index
from portside.model.platform import Platform
from portside.model.progress import Progress, Report
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.registry.client.client import RegistryClient
from portside.registry.client.repository import Repository
from portside.registry.client.upload import Outcome, upload
from portside.store.db import Ref


@dataclass(slots=True)
class _Part:
    """The parts of an image that are pushed."""

    target: Descriptor
    """The tag's target."""
    variants: list[Variant]
    attestations: list[str]
    instead_of: Descriptor | None = None
    """The index that is not pushed since parts of it are not here."""


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
            await self.push_image(name, identifier, auth, platform=platform)
        return reference if all_tags and reference.is_name_only else chosen[0][0]

    async def push_image(
        self,
        name: Reference,
        identifier: str,
        auth: AuthConfig | None,
        *,
        platform: Platform | None = None,
        by_digest: bool = False,
    ) -> None:
        """Push an image, whatever its local names are, as ``name``; with ``by_digest`` no tag
        leads to it afterwards."""
        part = self._part(name, identifier, platform)
        await self._registries.on_repository(
            name.domain,
            name.path,
            partial(self._push_one, name, identifier, part, by_digest),
            auth=auth,
            push=True,
        )

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

    def _part(self, name: Reference, identifier: str, platform: Platform | None) -> _Part:
        """Select the parts of an image to push; NotFound when they are not here."""
        record = self._catalogue.record(identifier)
        whole = self._catalogue.descriptor(identifier, record.media_type)
        if not record.is_index and platform is None:
            return _Part(whole, list(record.variants), [])
        if platform is None and self._is_complete(identifier, record):
            return _Part(whole, list(record.variants), list(record.attestations))
        variant = record.variant(platform)
        if variant is None:
            if platform is not None:
                raise lacks_platform(name.familiar, platform)
            raise provides_nothing(name.familiar)
        chosen = self._catalogue.manifest_descriptor(variant)
        return _Part(chosen, [variant], [], whole if platform is None else None)

    def _is_complete(self, identifier: str, record: ImageRecord) -> bool:
        """Whether everything that the image's index names is here."""
        here = {*(variant.manifest for variant in record.variants), *record.attestations}
        pending, seen = [identifier], set[str]()
        while pending:
            digest = pending.pop()
            if digest in seen or digest in here:
                continue
            seen.add(digest)
            if not self._store.blobs.has(digest):
                return False
            data = self._store.blobs.read(Digest(digest), MAX_MANIFEST)
            if not is_index("", data):
                return False
            pending += [entry.digest for entry in decode(data, Index, "index").manifests]
        return True

    async def _push_one(
        self,
        name: Reference,
        identifier: str,
        part: _Part,
        by_digest: bool,
        repository: Repository,
    ) -> None:
        manifests = [*(variant.manifest for variant in part.variants), *part.attestations]
        documents = [self._catalogue.manifest(digest) for digest in manifests]
        layers = {layer.digest: layer for document in documents for layer in document.layers}
        meters = {
            digest: Meter(self._report, digest, layer.size) for digest, layer in layers.items()
        }
        for meter in reversed(meters.values()):  # topmost first, as Docker lists them
            meter.say("Preparing")
        await all_or_first_error(
            [
                self._layer(repository, name, layer, meters[digest])
                for digest, layer in layers.items()
            ]
        )
        for document in documents:
            await self._blob(repository, name, document.config, None)
        await self._manifests(repository, part)
        data = self._store.blobs.read(Digest(part.target.digest), MAX_MANIFEST)
        digest = await repository.put_manifest(
            part.target.digest if by_digest else name.tag, part.target.media_type, data
        )
        self._catalogue.at_registry(identifier, name)
        self._report(Progress(status=f"{name.tag}: digest: {digest} size: {len(data)}"))
        aux = {"Tag": name.tag, "Digest": str(digest), "Size": len(data)}
        self._report(Progress(aux=aux))
        if part.instead_of is not None:
            instead = {
                "manifestPushedInsteadOfIndex": True,
                "originalIndex": msgspec.to_builtins(part.instead_of),
                "selectedManifest": msgspec.to_builtins(part.target),
            }
            self._report(Progress(aux=instead))

    async def _manifests(self, repository: Repository, part: _Part) -> None:
        """Everything below an index, by digest: what it names must be there first."""
        digest, pending = part.target.digest, list[tuple[str, str]]()

        def below(digest: str) -> None:
            data = self._store.blobs.read(Digest(digest), MAX_MANIFEST)
            if is_index("", data):
                for entry in decode(data, Index, f"index {digest}").manifests:
                    below(entry.digest)
                    pending.append((entry.digest, entry.media_type))

        below(digest)
        for digest, media_type in dict(pending).items():
            data = self._store.blobs.read(Digest(digest), MAX_MANIFEST)
            await repository.put_manifest(digest, media_type, data)

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
            lambda offset: self._store.layers.read_blob(digest, offset),
            neighbours=neighbours,
            sent=lambda done: meter.count("Pushing", done) if meter else None,
        )
        if outcome is Outcome.MOUNTED and meter is not None:
            meter.say(f"Mounted from {neighbours[0]}")
        return outcome

    def _neighbours(self, name: Reference, digest: str) -> tuple[str, ...]:
        """Repositories of the same registry that are known to have the blob."""
        prefix = f"{name.domain}/"
        for owner in self._store.db.refs.users(Ref.blob(digest), "image"):
            record = self._catalogue.records.find(owner.id)
            for source in record.sources if record else ():
                if source.startswith(prefix) and source != name.name:
                    return (source.removeprefix(prefix),)
        return ()
