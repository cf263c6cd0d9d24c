"""Untagging, deleting and pruning, by Docker's rules.

A name that is not an image's last is only untagged. Deleting needs that no other image and
no running container stands on the image; other names and stopped containers can be
overruled with ``force`` (a container keeps the layers it stands on).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portside.images.image_store import Catalogue
from portside.model.digest import chain_id
from portside.model.errors import Conflict, InvalidParameter, NotFound
from portside.model.events import Publisher
from portside.model.filters import Filters, boolean, check, labels_match
from portside.model.filters import until as until_of
from portside.model.golang.timestamps import rfc3339_or_zero
from portside.model.ids import short
from portside.model.imageapi import DeleteItem, PruneReport
from portside.model.reference import Reference
from portside.store.db import Ref
from portside.store.gc import unreachable

_PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until", "all"})


class ImageInUse(Conflict):
    """An image cannot be deleted; ``used`` tells that a container is the reason."""

    def __init__(self, identifier: str, why: str, *, hard: bool, used: bool) -> None:
        force = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {short(identifier)} ({force}) - {why}")
        self.used = used


@dataclass(frozen=True, slots=True)
class _Checks:
    """Which obstacles count."""

    references: bool
    stopped: bool


_FORCED = _Checks(references=False, stopped=False)
_ALL = _Checks(references=True, stopped=True)


class Remover:
    """One removal; collects what it did."""

    def __init__(
        self, catalogue: Catalogue, is_running: Callable[[str], bool], publish: Publisher
    ) -> None:
        self._catalogue = catalogue
        self._is_running = is_running
        self._publish = publish
        self.items: list[DeleteItem] = []
        self._told: set[str] = set()
        """Chain IDs of layers that ``items`` names already."""

    async def remove(self, name: str, *, force: bool, prune: bool) -> list[DeleteItem]:
        """Untag or delete what ``name`` means. Raises NotFound, Conflict."""
        identifier = self._catalogue.resolve(name)
        if self._catalogue.is_id(name, identifier):
            self._remove_id(identifier, force=force)
            quiet = False
        else:
            if not self._untag_name(name, identifier, force=force):
                return self.items
            quiet = True
        self._delete(identifier, force=force, prune=prune, quiet=quiet)
        await self.finish()
        return self.items

    async def finish(self) -> int:
        """Delete what nobody owns any more; bytes freed."""
        return await self._catalogue.store.collect()

    def prune(self, identifier: str) -> None:
        """Remove an image by each of its names, as far as nothing stands on it."""
        for reference in self._catalogue.references(identifier):
            if self._catalogue.by_reference(reference) == identifier:  # not gone with its tag
                self._untag_name(str(reference), identifier, force=False)
        if identifier in self._catalogue.records:
            self._delete(identifier, force=False, prune=True, quiet=True)

    def _untag_name(self, name: str, identifier: str, *, force: bool) -> bool:
        """Remove one name; whether no other is left."""
        references = self._catalogue.references(identifier)
        users = self._users(identifier)
        if not force and users and is_single(references):
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {short(users[0])} is using its referenced image {short(identifier)}"
            )
        reference = self._stored_name(Reference.parse(name), references)
        self._untag(reference, identifier)
        if reference.digest is None:
            left = self._catalogue.references(identifier)
            if not any(r.tag and r.name == reference.name for r in left):
                for digest in (r for r in left if r.name == reference.name):
                    self._catalogue.untag(digest)
                    self.items.append(DeleteItem(untagged=digest.familiar))
        return not self._catalogue.references(identifier)

    @staticmethod
    def _stored_name(given: Reference, references: list[Reference]) -> Reference:
        if given.digest is None:
            return given.tagged()
        wanted = given.with_digest(given.digest)
        if wanted in references:
            return wanted
        raise NotFound(f"No such image: {given.familiar}")

    def _untag(self, reference: Reference, identifier: str) -> None:
        self._catalogue.untag(reference)
        self._publish("image", "untag", identifier, {"name": identifier})
        self.items.append(DeleteItem(untagged=reference.familiar))

    def _remove_id(self, identifier: str, *, force: bool) -> None:
        references = self._catalogue.references(identifier)
        if not is_single(references):
            return
        self._check(identifier, _Checks(references=False, stopped=not force))
        for reference in references:
            self._untag(reference, identifier)

    def _delete(self, identifier: str, *, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(identifier, _FORCED if force else _ALL)
        except ImageInUse as err:
            if quiet and (err.used or not self._is_dangling(identifier)):
                return
            raise
        parent = self._catalogue.record(identifier).parent
        for reference in self._catalogue.references(identifier):
            self._untag(reference, identifier)
        self._forget(identifier)
        if prune and parent in self._catalogue.records and not self._catalogue.children(parent):
            self._delete(parent, force=False, prune=True, quiet=True)

    def _is_dangling(self, identifier: str) -> bool:
        catalogue = self._catalogue
        return not (catalogue.references(identifier) or catalogue.children(identifier))

    def _forget(self, identifier: str) -> None:
        diff_ids = self._catalogue.config(identifier).diff_ids
        self._catalogue.delete(identifier)
        self._publish("image", "delete", identifier, {"name": identifier})
        self.items.append(DeleteItem(deleted=identifier))
        lost = {str(chain) for chain, _ in unreachable(self._catalogue.store)[1]} - self._told
        for count in range(len(diff_ids), 0, -1):
            chain = str(chain_id(diff_ids[:count]))
            if chain in lost:
                self.items.append(DeleteItem(deleted=chain))
                self._told.add(chain)

    def _check(self, identifier: str, checks: _Checks) -> None:
        """Raise ImageInUse for the first obstacle that counts."""
        if self._catalogue.children(identifier):
            why = "image has dependent child images"
            raise ImageInUse(identifier, why, hard=True, used=False)
        users = self._users(identifier)
        for user in users:
            if self._is_running(user):
                why = f"image is being used by running container {short(user)}"
                raise ImageInUse(identifier, why, hard=True, used=True)
        if checks.references and self._catalogue.references(identifier):
            why = "image is referenced in multiple repositories"
            raise ImageInUse(identifier, why, hard=False, used=False)
        if checks.stopped and users:
            why = f"image is being used by stopped container {short(users[0])}"
            raise ImageInUse(identifier, why, hard=False, used=True)

    def _users(self, identifier: str) -> list[str]:
        refs = self._catalogue.store.db.refs
        return [user.id for user in refs.users(Ref.image(identifier), "container")]


def is_single(references: list[Reference]) -> bool:
    """At most one tag, and everything in one repository: removing it removes the image."""
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
    until = until_of(filters)
    remover = Remover(catalogue, is_running, publish)
    for identifier in catalogue.records.ids():
        if identifier not in catalogue.records:
            continue  # a parent that went with its last child
        config = catalogue.config(identifier)
        if until is not None and not rfc3339_or_zero(config.created) < until:
            continue
        if not labels_match(filters, config.run.labels or {}):
            continue
        await _prune_one(remover, catalogue, identifier, dangling_only)
    freed = await remover.finish()
    publish("image", "prune", "", {"reclaimed": str(freed)})
    return PruneReport(tuple(remover.items) or None, freed)


async def _prune_one(
    remover: Remover, catalogue: Catalogue, identifier: str, dangling_only: bool
) -> None:
    references = catalogue.references(identifier)
    if dangling_only and any(r.tag for r in references):
        return
    if catalogue.store.db.refs.users(Ref.image(identifier), "container"):
        return
    if catalogue.children(identifier):
        return
    try:
        remover.prune(identifier)
    except (Conflict, NotFound, InvalidParameter):
        return  # taken into use meanwhile
