"""Pulling: a reference at a registry becomes an image of the local store.

Content belongs to a lease while it arrives; one transaction then gives it to the image
and names it. A killed engine therefore leaves a lease, never half an image.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portside.images.download import fetch_blob
from portside.images.image_content import record_image, survey
from portside.images.image_store import Catalogue, Variant
from portside.images.platform_select import Chosen, choose
from portside.images.progress_meter import Meter
from portside.images.pull_layers import unpack_layers
from portside.model.digest import Digest
from portside.model.errors import Cancelled, NotFound, PortsideError
from portside.model.image import Descriptor, Manifest, decode
from portside.model.platform import Platform
from portside.model.progress import Progress, Report, quiet
from portside.model.reference import Reference
from portside.registry.client.errors import RegistryError, Unreachable
from portside.registry.client.repository import Repository

if TYPE_CHECKING:
    from portside.store.db import Lease

KEPT = 24 * 3600.0
"""Seconds that the blobs of a broken-off pull are kept for the next try."""
_ATTESTATION_LIMIT = 64 << 20
"""Bytes of one image's attestations that are kept."""


@dataclass(slots=True)
class Pulled:
    """A finished pull."""

    id: str
    digest: Digest
    """The digest that the reference had at the registry."""
    is_new: bool


class Puller:
    """One pull; made for each by the service."""

    def __init__(self, catalogue: Catalogue, slots: asyncio.Semaphore, report: Report) -> None:
        self.catalogue = catalogue
        self.store = catalogue.store
        self._slots = slots
        self._report = report

    async def pull(
        self, repository: Repository, ref: Reference, platform: Platform | None
    ) -> Pulled:
        """Bring ``ref`` here and name it. Raises what the registry client raises."""
        current = await self._up_to_date(repository, ref, platform)
        top = None if current else await repository.get_manifest(ref.target)
        # not a word before it is found: what is not there is an answer 404, not a stream
        shown = str(ref) if ref.digest else ref.target
        self._report(Progress(status=f"Pulling from {repository.path}", id=shown))
        if current is not None:
            return self._finish(current)
        assert top is not None
        chosen = await choose(repository, top, platform)
        lease = self.store.db.lease(f"pull {ref.familiar}")
        with lease:
            try:
                await self._bring(repository, chosen, lease)
            except (Unreachable, asyncio.CancelledError, Cancelled):
                lease.keep(KEPT)
                raise
            await self._attestations(repository, chosen, lease)
            pulled = await self._record(ref, chosen, lease)
        return self._finish(pulled)

    async def _up_to_date(
        self, repository: Repository, ref: Reference, platform: Platform | None
    ) -> Pulled | None:
        """The image behind ``ref`` if the registry still means the same one, and all of it is
        here: what a repair has dropped is brought again."""
        identifier = self.catalogue.by_reference(ref)
        if identifier is None:
            return None
        variant = self.catalogue.record(identifier).variant(platform or Platform.host())
        if variant is None or not variant.unpacked or not self._is_whole(identifier, variant):
            return None
        if ref.digest is None:
            head = await repository.head_manifest(ref.target)
            if head is None or head.digest != identifier:
                return None
        return Pulled(identifier, Digest(identifier), is_new=False)

    def _is_whole(self, identifier: str, variant: Variant) -> bool:
        """Whether the store has every blob of an image and, of its layers, the files."""
        try:
            found = survey(self.catalogue, identifier)
            chain = self.catalogue.chain(variant)
        except PortsideError:
            return False
        here = any(variant.manifest == other.manifest for other in found.variants)
        return here and (chain is None or self.store.layers.has(chain))

    async def _bring(self, repository: Repository, chosen: Chosen, lease: Lease) -> None:
        """Documents and layers into the store, the layers also unpacked."""
        for document in (*chosen.indexes, chosen.fetched):
            self.store.blobs.put(document.data, owner=lease.ref, expected=document.digest)
        self.store.blobs.put(chosen.config_bytes, owner=lease.ref, expected=chosen.id)

        async def fetch(descriptor: Descriptor, meter: Meter) -> None:
            if self.store.blobs.claim(Digest(descriptor.digest), lease.ref):
                return
            if self._slots.locked():
                meter.say("Waiting")
            async with self._slots:
                await fetch_blob(self.store, repository, descriptor, lease.ref, meter)
            meter.say("Download complete")

        await unpack_layers(
            self.store,
            chosen.manifest.layers,
            chosen.config.diff_ids,
            fetch,
            lease.ref,
            # an image that is known and only gets another name has nothing to report
            quiet if self._is_known(chosen) else self._report,
        )

    async def _attestations(self, repository: Repository, chosen: Chosen, lease: Lease) -> None:
        """Keep what attests the image (provenance, SBOM); an image is good without them."""
        left = _ATTESTATION_LIMIT
        for entry in chosen.attestations:
            try:
                fetched = await repository.get_manifest(entry.digest)
                manifest = decode(fetched.data, Manifest, "attestation")
                parts = (manifest.config, *manifest.layers)
                left -= sum(max(part.size, 0) for part in parts)
                if left < 0 or any(part.size < 0 for part in parts):
                    break
                for part in parts:
                    meter = Meter(lambda _: None, part.digest, part.size)
                    await fetch_blob(self.store, repository, part, lease.ref, meter)
            except PortsideError:
                continue
            self.store.blobs.put(fetched.data, owner=lease.ref, expected=fetched.digest)

    def _is_known(self, chosen: Chosen) -> bool:
        record = self.catalogue.records.find(str(chosen.target.digest))
        return record is not None and record.with_digest(str(chosen.fetched.digest)) is not None

    async def _record(self, ref: Reference, chosen: Chosen, lease: Lease) -> Pulled:
        target = chosen.target
        before = self.catalogue.by_reference(ref)
        identifier = await record_image(
            self.catalogue,
            lease,
            target.descriptor,
            names=[ref.with_digest(target.digest) if ref.digest else ref],
            unpack=lambda variant: variant.manifest == chosen.fetched.digest,
        )
        self.catalogue.at_registry(identifier, ref)
        return Pulled(identifier, target.digest, is_new=before != identifier)

    def _finish(self, pulled: Pulled) -> Pulled:
        self._report(Progress(status=f"Digest: {pulled.digest}"))
        return pulled


def outcome(ref: Reference, is_new: bool) -> Progress:
    """The last message of a pull."""
    if is_new:
        return Progress(status=f"Status: Downloaded newer image for {ref.familiar}")
    return Progress(status=f"Status: Image is up to date for {ref.familiar}")


def in_words(err: RegistryError, ref: Reference) -> PortsideError:
    """A registry's refusal of a pull as Docker shows it; NotFound for what is not there."""
    if err.code == "MANIFEST_UNKNOWN":
        return NotFound(f"manifest for {ref.familiar} not found: {err}")
    if err.code == "NAME_UNKNOWN":
        return NotFound(f"repository {ref.familiar_name} not found: {err}")
    if err.code == "DENIED":
        return NotFound(
            f"pull access denied for {ref.familiar_name}, repository does not exist or may "
            f"require 'docker login': {err}"
        )
    return err
