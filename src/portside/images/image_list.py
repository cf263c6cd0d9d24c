"""What the local store tells about its images: list, inspect, history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portside.images.filters import reference_matches
from portside.images.image_store import Catalogue, ImageRecord, shown
from portside.images.local_manifests import manifest_summaries
from portside.model.digest import chain_id
from portside.model.errors import SystemFailure
from portside.model.filters import Filters, boolean, check, earliest_until, labels_match
from portside.model.golang.timestamps import SECOND, rfc3339_or_zero
from portside.model.image import Descriptor, RunConfig
from portside.model.imageapi import (
    NO_TIME,
    GraphDriver,
    HistoryItem,
    ImageInspect,
    ImageSummary,
    InspectRootFS,
)
from portside.model.reference import Reference
from portside.store.db import Ref

_KNOWN = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})


@dataclass(slots=True)
class ListOptions:
    """The query of ``GET /images/json``."""

    all: bool = False
    shared_size: bool = False
    manifests: bool = False
    containers: bool = False


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

    def _created_of(self, name: str) -> int | None:
        """The creation time of the one image a filter names."""
        found = None
        for value in self._filters.get(name, ()):
            identifier = self._catalogue.resolve(value)
            found = rfc3339_or_zero(self._catalogue.config(identifier).created)
        return found

    def summaries(self) -> list[ImageSummary]:
        records = self._catalogue.records.items()
        names = self._catalogue.all_references()
        parents = {record.parent for _, record in records if record.parent}
        found = [
            summary
            for identifier, record in records
            if (summary := self._one(identifier, record, names.get(identifier, []), parents))
        ]
        if self._options.shared_size:
            found = self._with_shared(found)
        return sorted(found, key=self._age, reverse=True)

    def _age(self, summary: ImageSummary) -> int:
        return rfc3339_or_zero(self._catalogue.config(summary.id).created)

    def _one(
        self, identifier: str, record: ImageRecord, names: list[Reference], parents: set[str]
    ) -> ImageSummary | None:
        config = self._catalogue.config(identifier)
        labels = config.run.labels
        if not self._in_time(rfc3339_or_zero(config.created)):
            return None
        if not labels_match(self._filters, labels or {}):
            return None
        patterns = self._filters.get("reference", ())
        if patterns:
            names = [n for n in names if any(reference_matches(p, n) for p in patterns)]
        tags, digests = shown(names)
        if not self._is_wanted(tags, digests, is_parent=identifier in parents):
            return None
        users = self._catalogue.store.db.refs.users(Ref.image(identifier), "container")
        return ImageSummary(
            id=identifier,
            parent_id=record.parent,
            repo_tags=tags,
            repo_digests=digests,
            created=rfc3339_or_zero(config.created) // SECOND,
            size=record.size,
            labels=labels,
            containers=len(users) if self._options.containers else -1,
            manifests=manifest_summaries(self._catalogue, identifier, record)
            if self._options.manifests
            else None,
            descriptor=target_descriptor(self._catalogue, record)
            if self._options.manifests
            else None,
        )

    def _in_time(self, created: int) -> bool:
        if self._before is not None and not created < self._before:
            return False
        if self._since is not None and not created > self._since:
            return False
        return self._until is None or created < self._until

    def _is_wanted(self, tags: Sequence[str], digests: Sequence[str], *, is_parent: bool) -> bool:
        if not tags and not digests:
            if is_parent and not self._options.all:
                return False
            return self._dangling is not False and not self._filters.get("reference")
        return not (self._dangling and tags)

    def _with_shared(self, found: list[ImageSummary]) -> list[ImageSummary]:
        """Fill in what each image shares with others of the whole store."""
        import msgspec

        stacks = {key: _chains(self._catalogue, key) for key in self._catalogue.records.ids()}
        uses = Counter(chain for chains in stacks.values() for chain in chains)
        sizes = {str(info.chain): info.size for info in self._catalogue.store.layers.all()}
        return [
            msgspec.structs.replace(
                summary,
                shared_size=sum(sizes.get(c, 0) for c in stacks[summary.id] if uses[c] > 1),
            )
            for summary in found
        ]


def _chains(catalogue: Catalogue, identifier: str) -> list[str]:
    diff_ids = catalogue.config(identifier).diff_ids
    return [chain_id(diff_ids[: n + 1]) for n in range(len(diff_ids))]


def target_descriptor(catalogue: Catalogue, record: ImageRecord) -> Descriptor:
    """What the image's name means at a registry: its index, else its manifest."""
    digest = record.index or record.manifest
    media_type = record.index_type if record.index else record.manifest_type
    row = catalogue.store.db.row("SELECT size FROM blobs WHERE digest=?", digest)
    return Descriptor(media_type=media_type, digest=digest, size=int(row[0]) if row else -1)


def inspect(catalogue: Catalogue, identifier: str, *, manifests: bool) -> ImageInspect:
    """Everything ``GET /images/{name}/json`` tells."""
    record, config = catalogue.record(identifier), catalogue.config(identifier)
    tags, digests = catalogue.shown_names(identifier)
    return ImageInspect(
        id=identifier,
        repo_tags=tags,
        repo_digests=digests,
        parent=record.parent,
        comment=config.comment,
        created=config.created or "",
        container=config.container,
        docker_version=config.docker_version,
        author=config.author,
        config=config.config or RunConfig(),
        architecture=config.architecture,
        variant=config.variant,
        os=config.os or "linux",
        os_version=config.os_version,
        size=record.size,
        graph_driver=_graph_driver(catalogue, identifier),
        root_fs=InspectRootFS("layers", config.rootfs.diff_ids),
        last_tag_time=record.last_tagged or NO_TIME,
        descriptor=target_descriptor(catalogue, record),
        manifests=manifest_summaries(catalogue, identifier, record) if manifests else None,
    )


def _graph_driver(catalogue: Catalogue, identifier: str) -> GraphDriver:
    layers, chain = catalogue.store.layers, catalogue.chain(identifier)
    if layers.driver != "overlay":
        return GraphDriver(data=None, name=layers.driver)
    if chain is None:
        return GraphDriver(data=None, name="overlay2")
    paths = [str(layers.layers_dir / info.chain.hex / "diff") for info in layers.stack(chain)]
    own = paths[0].removesuffix("/diff")
    # the last two are named as Docker names them; they exist while something is mounted there
    data = {"UpperDir": paths[0], "MergedDir": f"{own}/merged", "WorkDir": f"{own}/work"}
    if len(paths) > 1:
        data["LowerDir"] = ":".join(paths[1:])
    return GraphDriver(data=data, name="overlay2")


def history(catalogue: Catalogue, identifier: str) -> list[HistoryItem]:
    """Newest first; lines of images that are still known carry their IDs and tags."""
    lines = _lines(catalogue, identifier)
    current: str | None = identifier
    found = []
    for line in reversed(lines):
        if current:
            tags = catalogue.shown_names(current)[0]
            found.append(_named(line, current, tags))
            record = catalogue.records.find(current)
            current = record.parent if record else ""
            if current and current not in catalogue.records:
                current = ""
        else:
            found.append(line)
    return found


def _named(line: HistoryItem, identifier: str, tags: tuple[str, ...]) -> HistoryItem:
    import msgspec

    return msgspec.structs.replace(line, id=identifier, tags=tags or None)


def _lines(catalogue: Catalogue, identifier: str) -> list[HistoryItem]:
    """Oldest first, with the size of the layer each line made."""
    config = catalogue.config(identifier)
    chain = catalogue.chain(identifier)
    stack = list(reversed(catalogue.store.layers.stack(chain))) if chain else []
    lines, used = [], 0
    for entry in config.history or ():
        size = 0
        if not entry.empty_layer:
            if used >= len(stack):
                raise SystemFailure("too many non-empty layers in History section")
            size = stack[used].size
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
