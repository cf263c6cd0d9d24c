"""Records of builds, for ``buildx history`` and the clients' own records.

A record is a document of the kind ``buildhistory``; it owns its log and its provenance, which are
blobs. The oldest are removed above :data:`KEPT`, except pinned ones.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from portside.model.digest import Digest
from portside.model.errors import NotFound, PortsideError
from portside.model.golang.timestamps import format_rfc3339
from portside.model.image import Descriptor
from portside.store import gc
from portside.store.db import Ref

if TYPE_CHECKING:
    from portside.builder.results import Attestation
    from portside.store.store import Store

KIND = "buildhistory"
KEPT = 50
MAX_LOG = 8 << 20
"""Bytes of output that are kept of a build, while it runs and afterwards; the oldest go."""
SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
IN_TOTO = "application/vnd.in-toto+json"
PREDICATE = "in-toto.io/predicate-type"
STATUS_PB = "application/vnd.buildkit.status.v0"
"""A log of messages of ``Control/Status``, each after its size in four bytes, lowest first."""
STATUS_JSON = "application/vnd.portside.status.v1+json"
"""A log of the same messages as lines of JSON."""


class Steps(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many steps a build had."""

    total: int = 0
    completed: int = 0
    cached: int = 0
    warnings: int = 0


class BuildRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One build."""

    ref: str
    frontend: str = ""
    attrs: dict[str, str] = {}
    """The frontend's attributes as clients spell them, without possible secrets."""
    exporters: tuple[tuple[str, dict[str, str]], ...] = ()
    created: int = 0
    completed: int = 0
    """Nanoseconds since the epoch."""
    error: str = ""
    error_code: int = 0
    error_status: bytes = b""
    """The whole error as google.rpc.Status."""
    response: dict[str, str] = {}
    steps: Steps = Steps()
    pinned: bool = False
    log: Descriptor | None = None
    results: dict[str, tuple[Descriptor, ...]] = {}
    """What was exported, by platform ("" when there is but one)."""
    provenance: dict[str, Descriptor] = {}
    """Predicates, by platform."""

    @property
    def is_active(self) -> bool:
        return not self.completed


class Event(msgspec.Struct, frozen=True):
    record: BuildRecord
    is_deleted: bool = False


class BuildHistory:
    """The newest builds; running builds are in memory only."""

    def __init__(
        self, store: Store, built: Callable[[str, str, str], None] = lambda *_: None
    ) -> None:
        """``built`` gets the digest of what a build exported, its reference and its time."""
        self._store, self._built = store, built
        self._records = store.db.collection(KIND, BuildRecord)
        self._active: dict[str, BuildRecord] = {}
        self._listeners: set[asyncio.Queue[Event]] = set()

    def begin(
        self, ref: str, frontend: str, attrs: Mapping[str, str],
        exporters: Iterable[tuple[str, Mapping[str, str]]],
    ) -> BuildRecord:  # fmt: skip
        record = self._active[ref] = BuildRecord(
            ref=ref, frontend=frontend, created=time.time_ns(),
            attrs={key: value for key, value in attrs.items() if not SECRET.search(key)},
            exporters=tuple((kind, dict(found)) for kind, found in exporters),
        )  # fmt: skip
        self._publish(Event(record))
        return record

    def end(
        self, record: BuildRecord, *, log: bytes, log_type: str,
        provenance: Mapping[str, Attestation],
    ) -> None:  # fmt: skip
        """``record`` with everything but its blobs, which are stored here. A full disk leaves
        the build without a record."""
        self._active.pop(record.ref, None)
        record = msgspec.structs.replace(record, completed=time.time_ns())
        with suppress(PortsideError), self._store.lease("history") as lease:
            blobs = self._store.blobs

            def put(data: bytes, kind: str, notes: dict[str, str]) -> Descriptor:
                digest = str(blobs.put(data, owner=lease.ref))
                return Descriptor(media_type=kind, digest=digest, size=len(data), annotations=notes)

            record = msgspec.structs.replace(
                record,
                log=put(log[-MAX_LOG:], log_type, {}),
                provenance={
                    key: put(msgspec.json.encode(found.predicate), IN_TOTO,
                             {PREDICATE: found.predicate_type})
                    for key, found in provenance.items()
                },
            )  # fmt: skip
            owned = [part for part in (record.log, *record.provenance.values()) if part]
            with self._store.db.transaction():
                self._records.put(record.ref, record)
                self._store.db.refs.add(
                    Ref(KIND, record.ref), *(Ref.blob(part.digest) for part in owned)
                )
                if digest := record.response.get("containerimage.digest"):
                    self._built(digest, record.ref, format_rfc3339(record.created))
        self._drop_surplus()
        self._publish(Event(record))

    def _drop_surplus(self) -> None:
        loose = [record for record in self._records.all() if not record.pinned]
        loose.sort(key=lambda record: record.created)
        for record in loose[: max(0, len(loose) - KEPT)]:
            self._drop(record)

    def _drop(self, record: BuildRecord) -> None:
        """Delete a record, and its blobs unless others have the same."""
        owned = self._store.db.refs.targets(Ref(KIND, record.ref), "blob")
        self._records.delete(record.ref)
        gc.release(self._store, owned)

    def all(self) -> list[BuildRecord]:
        """All builds, running ones included, newest first."""
        found = [*self._records.all(), *self._active.values()]
        return sorted(found, key=lambda record: -record.created)

    def get(self, ref: str) -> BuildRecord:
        """A build's record. NotFound."""
        found = self.find(ref)
        if found is None:
            raise NotFound(f"no build {ref[:80]} in the history")
        return found

    def find(self, ref: str) -> BuildRecord | None:
        return self._active.get(ref) or self._records.find(ref)

    def log(self, record: BuildRecord) -> bytes:
        return self._blob(record.log)

    def predicate(self, part: Descriptor) -> bytes:
        return self._blob(part)

    def _blob(self, part: Descriptor | None) -> bytes:
        if part is None:
            return b""
        return self._store.blobs.read(Digest(part.digest), max(MAX_LOG, part.size))

    def pin(self, ref: str, pinned: bool) -> None:
        record = msgspec.structs.replace(self.get(ref), pinned=pinned)
        if not record.is_active:
            self._records.put(ref, record)

    def delete(self, refs: Sequence[str]) -> None:
        """Delete a build's record, but not a running build's. NotFound."""
        for record in [self.get(ref) for ref in refs]:
            if not record.is_active:
                self._drop(record)
                self._publish(Event(record, is_deleted=True))

    async def events(
        self, ref: str = "", *, active_only: bool = False, follow: bool = True, limit: int = 0
    ) -> AsyncIterator[Event]:
        """Events: the known records, oldest first, then changes as they happen."""
        queue: asyncio.Queue[Event] = asyncio.Queue(1000)
        self._listeners.add(queue)
        try:
            known = [
                record for record in self.all()
                if (not ref or record.ref == ref) and (record.is_active or not active_only)
            ]  # fmt: skip
            for record in reversed(known[:limit] if limit else known):
                yield Event(record)
            while follow:
                event = await queue.get()
                if not ref or event.record.ref == ref:
                    yield event
        finally:
            self._listeners.discard(queue)

    def _publish(self, event: Event) -> None:
        for queue in self._listeners:
            if not queue.full():
                queue.put_nowait(event)
