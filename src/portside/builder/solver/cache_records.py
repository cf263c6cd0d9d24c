"""The build cache: what steps came to, by key, in the store's metadata.

A record is a document of the kind ``buildcache``; the keys that lead to it are its names, of
which each belongs to one record. It refers to the layers and blobs that it keeps, so that garbage
collection leaves them alone. Record, keys and references are written in one transaction after the
layers are in place: a crash leaves either a whole record or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from portside.builder.solver.tree import Tree
from portside.model.ids import new_id
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.store.store import Store

KIND = "buildcache"
REGULAR, CACHE_MOUNT, LOCAL = "regular", "exec.cachemount", "source.local"


class CacheRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One entry of the build cache."""

    id: str
    description: str = ""
    type: str = REGULAR
    outputs: tuple[Tree, ...] = ()
    parents: tuple[str, ...] = ()
    """Records of what it was made from."""
    size: int = 0
    """Bytes that go when it goes: its layers' files and blobs, or a cache mount's files."""
    created: float = 0
    used: float = 0
    """Seconds since the epoch."""
    count: int = 0
    sources: str = ""
    """Digest of a copy's sources, as the classic builder's history names it."""

    @property
    def is_mutable(self) -> bool:
        """Whether its content changes from build to build."""
        return self.type in (CACHE_MOUNT, LOCAL)


class CacheStore:
    """See the module's docstring."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = store.db.collection(KIND, CacheRecord)
        self._busy: dict[str, int] = {}
        """Records that running builds use, with how many do."""

    # -- finding -------------------------------------------------------------------------

    def find(self, key: str) -> CacheRecord | None:
        """The record behind a key, if its layers are all here; it counts as used now."""
        identifier = self._records.resolve(key)
        record = self._records.find(identifier) if identifier else None
        if record is None:
            return None
        if not all(self._is_whole(tree) for tree in record.outputs):
            self.delete(record.id)
            return None
        used = msgspec.structs.replace(record, used=time.time(), count=record.count + 1)
        self._records.put(record.id, used)
        return used

    def _is_whole(self, tree: Tree) -> bool:
        return not tree.chain or self._store.layers.has(tree.chain)

    def get(self, identifier: str) -> CacheRecord | None:
        return self._records.find(identifier)

    def keys_of(self, identifier: str) -> list[str]:
        """The keys that lead to a record."""
        return sorted(self._records.names(identifier))

    def all(self) -> list[CacheRecord]:
        return self._records.all()

    # -- writing -------------------------------------------------------------------------

    def add(
        self,
        keys: Iterable[str],
        outputs: Sequence[Tree],
        *,
        description: str,
        parents: Iterable[str] = (),
        blobs: Iterable[str] = (),
        size: int = 0,
        sources: str = "",
        created: float = 0,
    ) -> CacheRecord:
        """A new record that owns its layers; keys that led elsewhere lead to it. ``created``:
        seconds since the epoch, when that is not now."""
        now = time.time()
        record = CacheRecord(
            id=new_id()[:25],
            description=description,
            outputs=tuple(outputs),
            parents=tuple(dict.fromkeys(parents)),
            size=size,
            created=created or now,
            used=now,
            count=1,
            sources=sources,
        )
        owner = Ref(KIND, record.id)
        with self._store.db.transaction():
            self._records.insert(record.id, record)
            for key in keys:
                self._records.assign(key, record.id)
            for tree in outputs:
                if tree.chain:
                    self._store.db.refs.add(owner, Ref.layer(tree.chain))
            self._store.db.refs.add(owner, *(Ref.blob(blob) for blob in blobs))
        return record

    def name(self, key: str, record: CacheRecord) -> None:
        """Another key that leads to a record."""
        if record.id in self._records:
            self._records.assign(key, record.id)

    def mount(self, key: str, description: str) -> CacheRecord:
        """The record of a cache mount; made when it is new."""
        found = self._records.resolve(key)
        record = self._records.find(found) if found else None
        now = time.time()
        if record is None:
            record = CacheRecord(id=new_id()[:25], description=description, type=CACHE_MOUNT,
                                 created=now)  # fmt: skip
        record = msgspec.structs.replace(record, used=now, count=record.count + 1)
        with self._store.db.transaction():
            self._records.put(record.id, record)
            self._records.assign(key, record.id)
        return record

    def resize(self, identifier: str, size: int) -> None:
        record = self._records.find(identifier)
        if record is not None:
            self._records.put(identifier, msgspec.structs.replace(record, size=size))

    # -- use -----------------------------------------------------------------------------

    def hold(self, identifier: str) -> None:
        """A build uses the record: it is not evicted meanwhile."""
        self._busy[identifier] = self._busy.get(identifier, 0) + 1

    def let_go(self, identifier: str) -> None:
        left = self._busy.get(identifier, 0) - 1
        if left > 0:
            self._busy[identifier] = left
        else:
            self._busy.pop(identifier, None)

    def is_busy(self, identifier: str) -> bool:
        return identifier in self._busy

    def is_shared(self, record: CacheRecord) -> bool:
        """Whether an image needs its layers, too: deleting the record frees nothing."""
        refs = self._store.db.refs
        for tree in record.outputs:
            if tree.chain and any(
                user.kind not in (KIND, "layer") for user in refs.users(Ref.layer(tree.chain))
            ):
                return True
        return False

    # -- going ---------------------------------------------------------------------------

    def delete(self, identifier: str) -> None:
        """Forget a record; its layers go with the next collection if nothing else has them."""
        self._records.delete(identifier)

    def evict(
        self, records: Iterable[CacheRecord], limit: int, *,
        wanted: Callable[[CacheRecord], bool] = lambda _: True,
    ) -> list[CacheRecord]:  # fmt: skip
        """Delete records, least recently used first and leaves before what they stand on, until
        the rest has at most ``limit`` bytes; returns the deleted ones."""
        known = {record.id: record for record in records}
        total = sum(record.size for record in known.values())
        if total <= limit:
            return []
        children = _children(known)
        order = sorted(known.values(), key=lambda record: record.used)
        gone: list[CacheRecord] = []
        progress = True
        while total > limit and progress:
            progress = False
            for record in order:
                if total <= limit:
                    break
                if record.id not in known or self.is_busy(record.id) or not wanted(record):
                    continue
                if any(child in known for child in children.get(record.id, ())):
                    continue
                self.delete(record.id)
                del known[record.id]
                gone.append(record)
                total -= record.size
                progress = True
        return gone


def _children(known: Mapping[str, CacheRecord]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in known.values():
        for parent in record.parents:
            found.setdefault(parent, []).append(record.id)
    return found
