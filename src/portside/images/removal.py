"""Untagging, deleting and pruning, by Docker's rules.

A name that is not an image's last is only untagged. The last name of an image that containers use
goes only by force, and then the image stays without a name. By its ID an image can be deleted
while stopped containers use it (by force): they keep the layers they stand on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from portside.images.image_store import (
    Catalogue,
    ImageRecord,
    Variant,
    lacks_platform,
)
from portside.images.local_manifests import containers_of
from portside.model.errors import Conflict, InvalidParameter, NotFound, PortsideError
from portside.model.events import Publisher
from portside.model.filters import Filters, boolean, check, earliest_until, labels_match
from portside.model.golang.timestamps import rfc3339_or_zero
from portside.model.ids import short
from portside.model.imageapi import DeleteItem, PruneReport
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.store.db import Ref

_PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until", "all"})


class ImageInUse(Conflict):
    """An image cannot be deleted, or only by force."""

    def __init__(self, identifier: str, why: str, *, hard: bool) -> None:
        force = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short(identifier)} ({force}) - {why}")


class Remover:
    """One removal; collects what it did."""

    def __init__(
        self, catalogue: Catalogue, is_running: Callable[[str], bool], publish: Publisher
    ) -> None:
        self._catalogue = catalogue
        self._is_running = is_running
        self._publish = publish
        self.items: list[DeleteItem] = []

    async def remove(
        self, name: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()
    ) -> list[DeleteItem]:
        """Untag or delete what ``name`` means, or only some of its platforms.

        Raises NotFound, Conflict, InvalidParameter (platforms without ``force``).
        """
        identifier = self._catalogue.resolve(name)
        record = self._catalogue.record(identifier)
        if platforms and not force:
            raise InvalidParameter(
                "Content will be removed from all images referencing this variant. "
                "Use —-force to force delete."
            )
        for platform in platforms:
            if record.variant(platform) is None:
                raise lacks_platform(name, platform)
        if platforms and record.is_index:
            self._remove_platforms(identifier, record, platforms)
        elif self._catalogue.is_id(name):
            self._remove_id(identifier, force=force, prune=prune)
        else:
            self._remove_name(name, identifier, force=force, prune=prune)
        await self.finish()
        return self.items

    async def finish(self) -> int:
        """Delete what nobody owns any more; bytes freed."""
        return await self._catalogue.store.collect()

    def delete(self, identifier: str, *, prune: bool = True) -> None:
        """Delete an image with its names, and then its nameless ancestors that nothing needs."""
        parent = self._catalogue.record(identifier).parent
        for reference in self._catalogue.references(identifier):
            self._untag(reference, identifier)
        self._catalogue.delete(identifier)
        self._publish("image", "delete", identifier, {"name": identifier})
        self.items.append(DeleteItem(deleted=identifier))
        if prune and self._is_leftover(parent):
            self.delete(parent)

    def _is_leftover(self, identifier: str) -> bool:
        catalogue = self._catalogue
        return (
            identifier in catalogue.records
            and not catalogue.references(identifier)
            and not catalogue.children(identifier)
            and not self._users(identifier)
        )

    def _remove_name(self, name: str, identifier: str, *, force: bool, prune: bool) -> None:
        given = Reference.parse(name)
        references = self._catalogue.references(identifier)
        going = [given.tagged()] if given.digest is None else _of_repository(references, given)
        if not going:
            raise NotFound(f"No such image: {given.familiar}")
        users = self._users(identifier)
        is_last = is_single(references) or set(references) <= set(going)
        if is_last and users and not force:
            raise Conflict(
                f"conflict: unable to delete {given.tagged().familiar} (must be forced) - "
                f"container {short(users[0])} is using its referenced image {short(identifier)}"
            )
        if is_last and not users:
            self.delete(identifier, prune=prune)
            return
        for reference in references if is_last else going:
            self._untag(reference, identifier)

    def _remove_id(self, identifier: str, *, force: bool, prune: bool) -> None:
        users = self._users(identifier)
        for user in users:
            if self._is_running(user):
                why = f"image is being used by running container {short(user)}"
                raise ImageInUse(identifier, why, hard=True)
        if not force and not is_single(self._catalogue.references(identifier)):
            why = "image is referenced in multiple repositories"
            raise ImageInUse(identifier, why, hard=False)
        if not force and users:
            why = f"image is being used by stopped container {short(users[0])}"
            raise ImageInUse(identifier, why, hard=False)
        self.delete(identifier, prune=prune)

    def _remove_platforms(
        self, identifier: str, record: ImageRecord, platforms: Sequence[Platform]
    ) -> None:
        """Take platforms away from an image that keeps its name and its index."""
        going: list[Variant] = []
        for platform in platforms:
            variant = record.variant(platform)
            assert variant is not None
            for user in containers_of(self._catalogue, variant):
                if self._is_running(user):
                    why = f"image is being used by running container {short(user)}"
                    raise ImageInUse(variant.manifest, why, hard=True)
            going.append(variant)
        left = tuple(variant for variant in record.variants if variant not in going)
        owner, refs = Ref.image(identifier), self._catalogue.store.db.refs
        with self._catalogue.changes():
            kept = {part for variant in left for part in self._parts(variant)}
            lost = {part for variant in going for part in self._parts(variant)} - kept
            refs.remove(owner, *lost)
            self._catalogue.records.put(identifier, msgspec.structs.replace(record, variants=left))
        for variant in going:
            self.items.append(DeleteItem(deleted=variant.manifest))

    def _parts(self, variant: Variant) -> set[Ref]:
        """What an image owns for one platform; less when it is damaged."""
        parts = {Ref.blob(variant.manifest), Ref.blob(variant.config)}
        try:
            layers = self._catalogue.manifest(variant.manifest).layers
            parts |= {Ref.blob(layer.digest) for layer in layers}
            chain = self._catalogue.chain(variant) if variant.unpacked else None
        except PortsideError:
            return parts
        return parts | ({Ref.layer(chain)} if chain else set())

    def _untag(self, reference: Reference, identifier: str) -> None:
        if self._catalogue.untag(reference):
            self._publish("image", "untag", identifier, {"name": reference.familiar})
            self.items.append(DeleteItem(untagged=reference.familiar))

    def _users(self, identifier: str) -> list[str]:
        refs = self._catalogue.store.db.refs
        return [user.id for user in refs.users(Ref.image(identifier), "container")]


def _of_repository(references: list[Reference], given: Reference) -> list[Reference]:
    """The names to remove: removal by digest takes every name in the digest's repository."""
    return [reference for reference in references if reference.name == given.name]


def is_single(references: list[Reference]) -> bool:
    """Whether removing a name removes the image: at most one tag, all in one repository."""
    tags = [r for r in references if r.digest is None]
    return len(tags) <= 1 and len({r.name for r in references}) <= 1


async def prune(
    catalogue: Catalogue,
    filters: Filters,
    is_running: Callable[[str], bool],
    publish: Publisher,
) -> PruneReport:
    """Delete images without a tag, or with ``dangling=false`` all that no container uses."""
    check(filters, _PRUNE_FILTERS)
    dangling_only = boolean(filters, "dangling") is not False
    until = earliest_until(filters)
    remover = Remover(catalogue, is_running, publish)
    for identifier in catalogue.records.ids():
        record = catalogue.records.find(identifier)
        if record is None:
            continue  # a parent that went with its last child
        config = catalogue.main_config(record)
        if until is not None and not rfc3339_or_zero(config.created if config else "") < until:
            continue
        if not labels_match(filters, (config.run.labels if config else None) or {}):
            continue
        if dangling_only and any(r.tag for r in catalogue.references(identifier)):
            continue
        if catalogue.store.db.refs.users(Ref.image(identifier), "container"):
            continue
        remover.delete(identifier)
    freed = await remover.finish()
    publish("image", "prune", "", {"reclaimed": str(freed)})
    return PruneReport(tuple(remover.items) or None, freed)
