"""What the local store reports about its images: list, inspect, history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from portside.images.filters import reference_matches
from portside.images.image_store import (
    Catalogue,
    ImageRecord,
    Variant,
    provides_nothing,
    shown,
)
from portside.images.local_manifests import manifest_summaries
from portside.model.digest import Digest, chain_id
from portside.model.errors import PortsideError, SystemFailure
from portside.model.filters import Filters, boolean, check, earliest_until, labels_match
from portside.model.golang.timestamps import SECOND, rfc3339_or_zero
from portside.model.image import ImageConfig, RunConfig
from portside.model.imageapi import (
    NO_TIME,
    GraphDriver,
    HistoryItem,
    Identity,
    ImageInspect,
    ImageSummary,
    InspectRootFS,
)
from portside.model.platform import Platform
from portside.model.reference import Reference
from portside.store.db import Ref

_KNOWN = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})


@dataclass(slots=True)
class ListOptions:
    """The query of ``GET /images/json``."""

    all: bool = False
    shared_size: bool = False
    manifests: bool = False
    identity: bool = False
    """With manifests: where their images come from."""


class Lister:
    """One listing; what is asked of every image is computed once."""

    def __init__(self, catalogue: Catalogue, filters: Filters, options: ListOptions) -> None:
        check(filters, _KNOWN)
        self._catalogue = catalogue
        self._filters = filters
        self._options = options
        self._dangling = boolean(filters, "dangling")
        self._until = earliest_until(filters)
        self._before = self._created_of("before")
        self._since = self._created_of("since")
        self._records = catalogue.records.items()
        self._parents = {record.parent for _, record in self._records if record.parent}

    def _created_of(self, name: str) -> int | None:
        """The creation time of the one image a filter names."""
        found = None
        for value in self._filters.get(name, ()):
            record = self._catalogue.record(self._catalogue.resolve(value))
            found = _created(self._catalogue.main_config(record))
        return found

    def summaries(self) -> list[ImageSummary]:
        """Newest first."""
        names = self._catalogue.all_references()
        found = [
            summary
            for identifier, record in self._records
            if (summary := self._one(identifier, record, names.get(identifier, [])))
        ]
        if self._options.shared_size:
            found = self._with_shared(found)
        records = dict(self._records)
        return sorted(
            found,
            key=lambda one: _created(self._catalogue.main_config(records[one.id])),
            reverse=True,
        )

    def _one(
        self, identifier: str, record: ImageRecord, names: list[Reference]
    ) -> ImageSummary | None:
        config = self._catalogue.main_config(record)
        labels = config.run.labels if config else None
        if not self._in_time(_created(config)) or not labels_match(self._filters, labels or {}):
            return None
        patterns = self._filters.get("reference", ())
        if patterns:
            names = [n for n in names if any(reference_matches(p, n) for p in patterns)]
        if not self._is_wanted(names, is_parent=identifier in self._parents):
            return None
        tags, digests = shown(names, identifier)
        catalogue = self._catalogue
        users = catalogue.store.db.refs.users(Ref.image(identifier), "container")
        return ImageSummary(
            id=identifier,
            parent_id=record.parent,
            repo_tags=tags,
            repo_digests=digests,
            created=_created(config) // SECOND,
            size=record.size,
            labels=labels,
            containers=len(users),
            manifests=manifest_summaries(
                catalogue, identifier, record, identity=self._options.identity
            )
            if self._options.manifests
            else None,
            descriptor=catalogue.target(identifier, record),
        )

    def _in_time(self, created: int) -> bool:
        if self._before is not None and not created < self._before:
            return False
        if self._since is not None and not created > self._since:
            return False
        return self._until is None or created < self._until

    def _is_wanted(self, names: Sequence[Reference], *, is_parent: bool) -> bool:
        if not names:
            if is_parent and not self._options.all:
                return False
            return self._dangling is not False and not self._filters.get("reference")
        return not (self._dangling and any(name.tag for name in names))

    def _with_shared(self, found: list[ImageSummary]) -> list[ImageSummary]:
        """Fill in what each image shares with others of the whole store."""
        stacks = {key: _chains(self._catalogue, record) for key, record in self._records}
        uses = Counter(chain for chains in stacks.values() for chain in chains)
        sizes = {str(info.chain): info.size for info in self._catalogue.store.layers.all()}
        return [
            msgspec.structs.replace(
                summary,
                shared_size=sum(sizes.get(c, 0) for c in stacks[summary.id] if uses[c] > 1),
            )
            for summary in found
        ]


def _created(config: ImageConfig | None) -> int:
    """Nanoseconds since the epoch; 0 when it is not known."""
    return rfc3339_or_zero(config.created) if config else 0


def _chains(catalogue: Catalogue, record: ImageRecord) -> set[str]:
    """Chain IDs of all unpacked layers of an image."""
    found = set[str]()
    for variant in record.variants:
        if not variant.unpacked:
            continue
        try:
            diff_ids = catalogue.config(variant.config).diff_ids
        except PortsideError:
            continue  # a damaged image must not hide the others
        found |= {str(chain_id(diff_ids[: n + 1])) for n in range(len(diff_ids))}
    return found


def inspect(
    catalogue: Catalogue, identifier: str, platform: Platform | None, *, manifests: bool
) -> ImageInspect:
    """Everything ``GET /images/{name}/json`` reports; with ``platform``, of this platform only.

    An image none of whose platforms is here has no configuration to show.
    """
    record = catalogue.record(identifier)
    variant = record.variant(platform)
    config = catalogue.config(variant.config) if variant else ImageConfig()
    tags, digests = catalogue.shown_names(identifier)
    target = catalogue.target(identifier, record)
    size = (variant.content if variant else 0) + (max(target.size, 0) if record.is_index else 0)
    if platform is not None and variant is not None:
        target = catalogue.entry(identifier, record, variant)
    return ImageInspect(
        id=target.digest,
        repo_tags=tags,
        repo_digests=digests,
        parent=record.parent,
        comment=config.history[-1].comment if config.history else config.comment,
        created=config.created or "",
        docker_version=config.docker_version,
        author=config.author,
        config=config.config or RunConfig(),
        architecture=config.architecture,
        variant=config.variant,
        os=(config.os or "linux") if variant else "",
        os_version=config.os_version,
        size=size,
        graph_driver=GraphDriver(data=None, name=catalogue.store.layers.snapshotter),
        root_fs=InspectRootFS("layers", tuple(config.rootfs.diff_ids or ())),
        last_tag_time=record.last_tagged or record.stored_at or NO_TIME,
        descriptor=target,
        manifests=manifest_summaries(catalogue, identifier, record) if manifests else None,
        identity=Identity.of(record.sources, record.builds),
    )


def history(catalogue: Catalogue, identifier: str, platform: Platform | None) -> list[HistoryItem]:
    """Newest first; lines of images that are still known carry their IDs and tags."""
    variant = catalogue.record(identifier).variant(platform)
    if variant is None:
        raise provides_nothing(identifier)
    lines = _lines(catalogue, variant)
    for number, known in _ancestors(catalogue, identifier, platform, len(lines)):
        tags = catalogue.shown_names(known)[0]
        lines[number] = msgspec.structs.replace(lines[number], id=known, tags=tags or None)
    return lines[::-1]


def _ancestors(
    catalogue: Catalogue, identifier: str, platform: Platform | None, count: int
) -> Iterator[tuple[int, str]]:
    """An image and its parents: the last line of each image's own history, and its ID.

    A build adds many lines to its base's history, so a parent's line is found by their number.
    """
    current, above = identifier, count + 1
    while (record := catalogue.records.find(current)) and (variant := record.variant(platform)):
        if current != identifier:
            count = len(catalogue.config(variant.config).history or ())
        if not 0 < count < above:
            return
        yield count - 1, current
        current, above = record.parent, count
        if not current:
            return


def _lines(catalogue: Catalogue, variant: Variant) -> list[HistoryItem]:
    """Oldest first, with the size of the layer each line made."""
    config = catalogue.config(variant.config)
    diff_ids = config.diff_ids
    sizes = [_layer_size(catalogue, chain_id(diff_ids[: n + 1])) for n in range(len(diff_ids))]
    lines, used = [], 0
    for entry in config.history or ():
        size = 0
        if not entry.empty_layer:
            if used >= len(sizes):
                raise SystemFailure("too many non-empty layers in History section")
            size = sizes[used]
            used += 1
        lines.append(
            HistoryItem(
                created=rfc3339_or_zero(entry.created) // SECOND,
                created_by=entry.created_by,
                size=size,
                comment=entry.comment,
            )
        )
    return lines


def _layer_size(catalogue: Catalogue, chain: Digest) -> int:
    """Bytes of one unpacked layer; 0 while it is not."""
    row = catalogue.store.db.row("SELECT size FROM layers WHERE chain=?", chain)
    return int(row[0]) if row else 0
