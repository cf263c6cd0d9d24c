"""``system check [--repair]``: is what is on the disk what the metadata says?

Checked: every blob's bytes against its digest; every layer's chain, parent and short link, and
its files against its blob; every reference's target; and what nobody owns: unneeded blobs and
layers, files without a record, directories of containers that are gone, half-done ingests. A
repair drops
damaged blobs, unpacks layers again from good ones, and deletes what nobody owns; what it cannot
repair names, with what to do. The engine works meanwhile: what is removed between two looks is
no problem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from portside.model.digest import Digest
from portside.model.errors import PortsideError
from portside.model.progress import Progress, quiet
from portside.store import gc
from portside.store.db import Collection
from portside.store.layers import base36, chain_of
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from pathlib import Path

    from portside.store.blobs import BlobInfo
    from portside.store.store import Store


_YOUNG = 60.0
"""Seconds within which a file may be without a record: it is about to get one."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong; ``repaired`` when this check has repaired it."""

    kind: str
    """metadata, record, blob, layer, reference, orphan, leftover."""
    subject: str
    """A digest, a chain ID or a path."""
    text: str
    repaired: bool = False
    size: int = 0
    """Bytes concerned, of orphans and leftovers."""


class Report(msgspec.Struct):
    """What a check found."""

    blobs: int = 0
    layers: int = 0
    bytes: int = 0
    """Bytes of the blobs that were read."""
    problems: list[Problem] = msgspec.field(default_factory=list)


class VerifyBlobs(Job, kw_only=True):
    """Hash files; the result lists files with a wrong digest and unreadable ones."""

    result: ClassVar[object] = list[str]
    files: list[tuple[str, str]]
    """(digest, path)"""

    def run(self, fds: list[int], progress: Callable[[int], None]) -> list[str]:
        bad, done = [], 0
        for text, path in self.files:
            digest = Digest(text)
            hasher = digest.hasher()
            try:
                with open(path, "rb", buffering=0) as file:
                    while piece := file.read(1 << 20):
                        hasher.update(piece)
                        done += len(piece)
                        progress(done)
            except OSError:
                bad.append(text)
                continue
            if hasher.hexdigest() != digest.hex:
                bad.append(text)
        return bad


async def check(
    store: Store,
    repair: bool = False,
    types: Mapping[str, type] | None = None,
    progress: Callable[[Progress], None] = quiet,
) -> Report:
    """Look at everything; with ``repair`` repair what can be repaired.

    ``types`` are what the records of each kind are read as; ``progress`` is called for each step.
    """
    run = _Check(store, repair, progress)
    run.metadata()
    run.records(types or {})
    await run.blobs()
    await run.layers()
    run.references()
    await run.orphans()
    run.unrecorded()
    run.leftovers()
    if repair:
        await store.trash.wait()  # what was dropped takes no room any more
    return run.report


class _Check:
    def __init__(self, store: Store, repair: bool, progress: Callable[[Progress], None]) -> None:
        self.store, self.repair, self._progress = store, repair, progress
        self.report = Report()
        self._damaged: set[str] = set()
        """Damaged blobs: a layer's files cannot be compared with them."""

    def _add(self, kind: str, subject: str, text: str, repaired: bool, size: int = 0) -> None:
        self.report.problems.append(Problem(kind, str(subject), text, repaired, size))

    def _counter(self, what: str, before: int) -> Callable[[int], None]:
        """Reports how many bytes of blobs are read, with the bytes of earlier jobs (``before``)."""

        def count(done: int) -> None:
            self._progress(
                Progress(
                    status="Verifying", id=what, current=before + done, total=self.report.bytes,
                    is_item=True,
                )
            )  # fmt: skip

        return count

    def metadata(self) -> None:
        wrong = self.store.db.damage()
        if wrong:
            text = f"it is damaged ({wrong}): stop the engine and repair it with --offline"
            self._add("metadata", str(self.store.db.path), text, False)

    def records(self, types: Mapping[str, type]) -> None:
        """Records that cannot be read. Containers and volumes have a copy in their directories;
        without one, what is there is moved aside, and the record goes."""
        for (kind,) in self.store.db.query("SELECT DISTINCT kind FROM documents"):
            read_as = types.get(kind, dict[str, Any])
            for identifier, wrong in self.store.db.collection(kind, read_as).damaged():
                text = f"the record cannot be read: {wrong}"
                if self.repair:
                    text += f": {self._replace(kind, identifier, read_as)}"
                self._add("record", f"{kind} {identifier}", text, self.repair)

    def _replace(self, kind: str, identifier: str, read_as: type) -> str:
        store = self.store
        records: Collection[Any] = store.db.collection(kind, read_as)
        place = {"container": "containers", "volume": "volumes"}.get(kind)
        if place is not None and "/" not in identifier:
            directory = store.root / place / identifier
            try:
                kept = (directory / f"{kind}.json").read_bytes()
                records.put(identifier, msgspec.json.decode(kept, type=read_as))
                return "its copy is used when the engine starts again"
            except (OSError, msgspec.MsgspecError):
                if directory.exists():
                    aside = store.root / "damaged" / place
                    aside.mkdir(mode=0o700, parents=True, exist_ok=True)
                    directory.rename(aside / identifier)
                    records.delete(identifier)
                    return f"its files are in {aside}/{identifier}"
        records.delete(identifier)
        return "dropped"

    async def blobs(self) -> None:
        known = list(self.store.blobs.all())
        await self._made_from_layers([info for info in known if info.layer])
        known = [info for info in known if not info.layer]
        files = [(str(info.digest), str(self.store.blobs.path(info.digest))) for info in known]
        self.report.blobs += len(known)
        self.report.bytes = sum(info.size for info in known)
        # a share for each processor: hashing is all there is to do
        halves = [files[start::2] for start in (0, 1) if files[start::2]]
        before, sizes = 0, {str(info.digest): info.size for info in known}
        for half in halves:
            job = VerifyBlobs(files=half)
            found = await self.store.workers.run(job, progress=self._counter("blobs", before))
            before += sum(sizes[digest] for digest, _ in half)
            for digest in found:
                if not self.store.blobs.has(digest):
                    continue  # removed meanwhile
                self._damaged.add(digest)
                self._add(
                    "blob",
                    digest,
                    "its bytes are not what its digest says, or it is gone"
                    + (": dropped; pull or load its image again" if self.repair else ""),
                    self.repair,
                )
                if self.repair:
                    self.store.blobs.delete(Digest(digest))

    async def _made_from_layers(self, known: Sequence[BlobInfo]) -> None:
        """Blobs without a file: their layers' files must give them."""
        self.report.blobs += len(known)
        for number, info in enumerate(known, 1):
            status = f"Verifying {number} of {len(known)} made from layers"
            self._progress(Progress(status=status, id="blobs", is_item=True))
            good = await self.store.layers.gives(Digest(info.layer), info.digest)
            if good or not self.store.blobs.has(info.digest):
                continue  # or removed meanwhile
            text = "the files of its layer do not give its bytes any more"
            text += ": dropped; build or pull its image again" if self.repair else ""
            self._add("blob", info.digest, text, self.repair)
            if self.repair:
                self.store.blobs.delete(info.digest)

    async def layers(self) -> None:
        layers = self.store.layers
        rows = self.store.db.query("SELECT seq, chain, parent, diff_id, blob FROM layers")
        self.report.layers = len(rows)
        for number, (seq, chain, parent, diff_id, blob) in enumerate(rows, 1):
            status = f"Verifying {number} of {len(rows)}"
            self._progress(Progress(status=status, id="layers", is_item=True))
            if not layers.has(chain):
                continue  # removed meanwhile
            above = Digest(parent) if parent else None
            directory = layers.layers_dir / Digest(chain).hex / "diff"
            link = layers.links_dir / base36(seq)
            if chain_of(above, Digest(diff_id)) != chain:
                self._add("layer", chain, "its chain ID is not that of its contents", False)
            elif above is not None and layers.driver == "vfs" and not layers.has(above):
                self._add("layer", chain, f"its parent {above} is missing", False)
            elif not directory.is_dir():
                await self._unpack_again(chain)
            elif (
                not link.is_symlink()
                or os.readlink(link) != f"../layers/{directory.parts[-2]}/diff"
            ):
                if self.repair:
                    link.unlink(missing_ok=True)
                    link.symlink_to(f"../layers/{directory.parts[-2]}/diff")
                self._add("layer", chain, "its short link is missing or wrong", self.repair)
            elif blob not in self._damaged:
                await self._files(Digest(chain))

    async def _files(self, chain: Digest) -> None:
        try:
            difference = await self.store.layers.difference(chain)
        except (PortsideError, OSError) as err:
            if not self.store.layers.has(chain):
                return  # removed meanwhile
            self._add("layer", chain, f"its files cannot be compared with its blob: {err}", False)
            return
        if difference:
            await self._unpack_again(chain, f"its files are not its blob's: {difference}")

    async def _unpack_again(self, chain: str, text: str = "its files are gone") -> None:
        done = False
        if self.repair:
            try:
                await self.store.layers.unpack_again(Digest(chain))
                text, done = f"{text}: unpacked again", True
            except PortsideError as err:
                text = f"{text} and it cannot be unpacked again ({err}): pull its image again"
        self._add("layer", chain, text, done)

    def references(self) -> None:
        """Owners of things that are not there. Leases do not count, nor does what only they
        hold: a pull that was broken off may have a layer whose parent never came."""
        for kind, column in (("blob", "digest"), ("layer", "chain")):
            rows = self.store.db.query(
                gc.REACHED.replace("('blob', 'layer')", "('blob', 'layer', 'lease')", 1)
                + f"SELECT owner_kind, owner_id, target_id FROM refs WHERE target_kind='{kind}' "
                f"AND target_id NOT IN (SELECT {column} FROM {kind}s) AND owner_kind != 'lease' "
                "AND (owner_kind NOT IN ('blob', 'layer') "
                "OR (owner_kind, owner_id) IN (SELECT kind, id FROM reached))"
            )
            for owner_kind, owner, target in rows:
                text = f"{owner_kind} {owner} needs it and it is missing: pull its image again"
                self._add("reference", target, text, False)

    async def orphans(self) -> None:
        blobs, layers = gc.unreachable(self.store)
        for what, found in (("blob", blobs), ("layer", layers)):
            for digest, size in found:
                self._add("orphan", digest, f"{what} that nothing needs", self.repair, size)
        if self.repair:
            await self.store.collect()

    def unrecorded(self) -> None:
        """Files of blobs and layers that no record names. New files may get their record yet."""
        store = self.store
        roots = [store.blobs.root / name for name in ("sha256", "sha512")]
        roots.append(store.layers.layers_dir)
        files = (info for info in store.blobs.all() if not info.layer)
        known = {str(store.blobs.path(info.digest)) for info in files}
        known |= {str(store.layers.layers_dir / info.chain.hex) for info in store.layers.all()}
        for path in (path for root in roots for path in root.iterdir()):
            found = _look(path)
            is_old = found is not None and time.time() - found.st_mtime > _YOUNG
            if str(path) not in known and is_old and not path.name.startswith("tmp-"):
                self._leftover(str(path), "of no blob or layer that is known")

    def leftovers(self) -> None:
        store = self.store
        documents = set(store.db.collection("container", msgspec.Raw).ids())
        writables = {row[0] for row in store.db.query("SELECT container FROM writables")}
        for path in store.writables.containers_dir.iterdir():
            if path.name not in documents | writables:
                self._leftover(str(path), "directory of a container that is gone")
        for name in writables - documents:
            self._add("leftover", name, "writable layer of a container that is gone", self.repair)
            if self.repair:
                store.writables.remove(name)
        for path in store.blobs.ingest_dir.iterdir():
            if (part := _look(path)) is None:
                continue
            text = "part of a download; the next pull continues it"
            self._add("leftover", str(path), text, False, part.st_size)

    def _leftover(self, path: str, text: str) -> None:
        if self.repair:
            from pathlib import Path

            self.store.trash.discard(Path(path))
        self._add("leftover", path, text, self.repair)


def _look(path: Path) -> os.stat_result | None:
    """Stat a path; None when it was removed since its directory was read."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
