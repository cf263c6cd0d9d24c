"""Offline: the metadata of a damaged data root from the newest good copy and from what is there.

Used by ``portside system check --offline [--repair]`` while no engine runs. Nothing is deleted:
what cannot be made use of is moved to ``damaged/<UTC time>``.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from portside.containers.container import Record
from portside.images.image_content import Content, survey
from portside.images.image_repair import migrate
from portside.images.image_store import Catalogue
from portside.model.counted import counted
from portside.model.digest import Digest
from portside.model.errors import PortsideError
from portside.model.image import MAX_MANIFEST
from portside.store import backups, crash_repair, guard, metadata_file
from portside.store.archive_values import Limits
from portside.store.db import Database, Ref
from portside.store.layer_backed import DigestTar
from portside.store.layers import Kept, chain_of
from portside.store.store import Store, hold

Report = Callable[[str], None]


def look(root: Path, spill: Path, report: Report) -> bool:
    """Report how a data root stands, changing nothing; whether it is fit for an engine.

    Conflict while an engine holds the root.
    """
    lock = hold(root)
    try:
        try:
            guard.require_directories(root)
        except PortsideError as err:
            report(str(err))
            return False
        held = guard.content(root)
        report(f"{root}: " + (", ".join(f"{n} {kind}" for kind, n in held.items()) or "empty"))
        newest = backups.newest_good(root)
        report(f"newest good copy of the metadata: {newest or 'none'}")
        wrong = guard.problem(root)
        if spill.exists():
            report(f"the newest metadata are in {spill}: the disk was full")
            return True
        if wrong and held:
            report(f"{root}/metadata.db {wrong}")
            report("repair: portside system check --repair --offline")
            return False
        report("the metadata are whole")
        return True
    finally:
        os.close(lock)


def rebuild(root: Path, spill: Path, report: Report) -> None:
    """Make the root fit for an engine again. Raises PortsideError, OSError."""
    lock = hold(root)
    aside = root / "damaged" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    _base(root, spill, aside, report)
    db = Database(root / "metadata.db", spill)
    _forget_lost(root, db, report)
    store = Store(root, lock, db, crash_repair.choose_driver(root, "", db), Limits())
    run = _Rebuild(store, aside, report)
    run.blobs()
    run.layers()
    run.images()
    run.containers()
    mark = guard.count_start(root, db)
    db.write_out()
    guard.write_mark(root, mark)
    db.close()
    os.close(lock)
    report("done: volumes are taken up again when the engine starts")


def _base(root: Path, spill: Path, aside: Path, report: Report) -> None:
    """Start from the metadata if they are whole, else from the newest copy, else from none."""
    if spill.exists():
        report(f"using the metadata in {spill}: the disk was full")
        return
    wrong = guard.problem(root)
    older = wrong.startswith("is older")
    if not wrong or older:
        report(f"using {root}/metadata.db" + (f", which {wrong}" if older else ""))
        return
    report(f"{root}/metadata.db {wrong}")
    path = root / "metadata.db"
    for suffix in ("", *metadata_file.SIDE_FILES):
        if (found := Path(f"{path}{suffix}")).exists():
            _move(found, aside, report)
    newest = backups.newest_good(root)
    if newest is not None:
        report(f"using the copy {newest}")
        shutil.copyfile(newest, path)
    else:
        report("there is no good copy: images lose their names, and networks are forgotten")


def _move(path: Path, aside: Path, report: Report) -> None:
    target = aside / path.parent.name / path.name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.rename(target)
    report(f"moved {path} to {target}")


def _forget_lost(root: Path, db: Database, report: Report) -> None:
    """Records of a kind whose directory is empty go: else no engine would start."""
    held = guard.content(root)
    with db.transaction() as sql:
        for kind, statement in (
            ("blobs", "DELETE FROM blobs"),
            ("layers", "DELETE FROM layers"),
            ("containers", "DELETE FROM writables"),
            ("volumes", "DELETE FROM documents WHERE kind='volume'"),
        ):
            if kind not in held and (count := sql.execute(statement).rowcount):
                report(f"{root}/{kind} is empty: {count} {kind} forgotten")


class _Rebuild:
    """One rebuilding; ``report`` receives a line for each thing that is taken up or moved aside."""

    def __init__(self, store: Store, aside: Path, report: Report) -> None:
        self.store, self.db, self.aside, self.report = store, store.db, aside, report

    def blobs(self) -> None:
        """Files whose bytes are what their names report become blobs again."""
        count = 0
        for path in _entries(self.store.blobs.root / "sha256", self.store.blobs.root / "sha512"):
            name = f"{path.parent.name}:{path.name}"
            if self.store.blobs.has(name):
                continue
            try:
                whole = crash_repair.verify_blob(self.store, Digest(name))
            except PortsideError:
                whole = False
            if not whole:
                _move(path, self.aside, self.report)
                continue
            with self.db.transaction() as sql:
                values = (name, path.stat().st_size, path.stat().st_mtime_ns, "")
                sql.execute(
                    "INSERT INTO blobs(digest, size, created_at, boot) VALUES(?,?,?,?)", values
                )
            count += 1
        self.report(f"{counted(count, 'blobs')} taken up")

    def layers(self) -> None:
        """Directories with a ``layer.json`` that is theirs become layers again."""
        found: list[Kept] = []
        for path in _entries(self.store.layers.layers_dir):
            if path.name.startswith("tmp-") or self.store.layers.has(f"sha256:{path.name}"):
                continue
            kept = self._kept(path)
            if kept is None:
                _move(path, self.aside, self.report)
                continue
            with self.db.transaction() as sql:
                sql.execute(
                    "INSERT INTO layers(chain, parent, diff_id, blob, media_type, size, driver, "
                    "created_at, boot) VALUES(?,?,?,?,?,?,?,?,'')",
                    (kept.chain, kept.parent, kept.diff_id, kept.blob, kept.media_type, kept.size,
                     kept.driver, path.stat().st_mtime_ns),
                )  # fmt: skip
                if kept.parent:
                    self.db.refs.add(Ref.layer(kept.chain), Ref.layer(kept.parent))
            found.append(kept)
        self.report(f"{counted(len(found), 'layers')} taken up")
        for kept in found:
            if kept.blob_size and not self.store.blobs.has(kept.blob):
                self._made_from(kept)

    def _made_from(self, kept: Kept) -> None:
        """A blob without a file, if the layer's files still give it."""
        chain, blob = Digest(kept.chain), Digest(kept.blob)
        try:
            rootfs = self.store.layers.written_rootfs(chain)
            whole = DigestTar(rootfs=rootfs).run([], lambda _: None) == blob
        except (PortsideError, OSError) as err:
            self.report(f"blob {blob} cannot be made from its layer: {err}")
            return
        if not whole:
            self.report(f"blob {blob} cannot be made from its layer: its files were changed")
            return
        self.store.blobs.declare(blob, kept.blob_size, chain, Ref.layer(chain))

    def _kept(self, path: Path) -> Kept | None:
        try:
            kept = msgspec.json.decode((path / "layer.json").read_bytes(), type=Kept)
            parent = Digest(kept.parent) if kept.parent else None
            good = chain_of(parent, Digest(kept.diff_id)) == kept.chain
            return kept if good and Digest(kept.chain).hex == path.name else None
        except (OSError, msgspec.MsgspecError, PortsideError):
            return None

    def images(self) -> None:
        """Indexes and manifests whose content is here become images again, without names."""
        catalogue = Catalogue(self.store)
        migrate(catalogue)
        known = set[str]()
        for identifier, record in catalogue.records.items():
            known |= {identifier, *(variant.manifest for variant in record.variants)}
        found: dict[str, Content] = {}
        inner = set[str]()
        for info in list(self.store.blobs.all()):
            if info.size > MAX_MANIFEST or info.layer:
                continue
            data = self.store.blobs.read(info.digest)
            if not data.lstrip().startswith(b"{") or not re.search(b'"(config|manifests)"', data):
                continue
            try:
                content = survey(catalogue, str(info.digest))
            except PortsideError:
                continue  # another document
            if content.variants:
                found[str(info.digest)] = content
                inner |= content.blobs - {str(info.digest)}
        for identifier, content in found.items():
            if identifier in known or identifier in inner:
                continue
            catalogue.add(identifier, content.record(), content.blobs)
            self.report(f"image {identifier} taken up without a name")
        self.report(f"{counted(len(found.keys() - known - inner), 'images')} taken up")

    def containers(self) -> None:
        """Directories with a ``container.json`` become containers again."""
        records = self.db.collection("container", Record)
        count = 0
        for path in _entries(self.store.writables.containers_dir):
            if path.name in records:
                continue
            try:
                data = (path / "container.json").read_bytes()
                record = msgspec.json.decode(data, type=Record)
                if record.id != path.name:
                    raise OSError(0, "it is another container's")
            except (OSError, msgspec.MsgspecError) as err:
                self.report(f"container {path.name} has no readable container.json: {err}")
                _move(path, self.aside, self.report)
                continue
            self._take_up(path, record)
            self.report(f"container {record.name} ({record.id[:12]}) taken up")
            count += 1
        self.report(f"{counted(count, 'containers')} taken up")

    def _take_up(self, path: Path, record: Record) -> None:
        if self.db.collection("container", Record).resolve(record.name) is not None:
            record.name = f"{record.name}-{record.id[:6]}"
        catalogue = Catalogue(self.store)
        owner = Ref.container(record.id)
        chain = None
        try:
            record.image_id, asked = catalogue.locate(record.image_id)
            image = catalogue.record(record.image_id)
            held = record.image_manifest.digest if record.image_manifest else asked
            variant = image.with_digest(held) or image.variant()
            chain = catalogue.chain(variant) if variant else None
        except PortsideError as err:
            self.report(f"container {record.name}: its image is not here: {err}")
        driver = "vfs" if (path / "root").is_dir() else "overlay"
        with self.db.transaction() as sql:
            self.db.collection("container", Record).insert(record.id, record, record.name)
            values = (record.id, chain or "", driver, record.host.auto_remove)
            sql.execute("INSERT OR REPLACE INTO writables VALUES(?,?,?,?)", values)
            self.db.refs.add(owner, Ref.image(record.image_id))
            if chain is not None:
                self.db.refs.add(owner, Ref.layer(chain))
            for point in record.mounts:
                if point.type == "volume":
                    self.db.refs.add(owner, Ref.volume(point.name))


def _entries(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        if directory.is_dir():
            yield from sorted(directory.iterdir())
