"""What a start undoes of a killed engine's half-done work, and how data reaches the disk.

At a start, before anything else looks at the store:

- leases end, except leases of pulls, and what only they kept is collected;
- ``ingest/tmp-*``, ``layers/tmp-*`` and everything in ``trash/`` go;
- files beneath ``blobs/`` and directories beneath ``layers/`` that no record names go (a crash
  came between a rename and its record, or between a record's deletion and the file's);
- records whose file is gone go;
- writable layers without a record go to the trash (a killed create or remove);
- after a power cut, which another boot id betrays, blobs and layers that were not settled are
  verified again: bad blobs are dropped, layers are dropped or marked for unpacking again; those
  whose files are their blob's only copy are compared with its digest.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from portside.kernel import overlay
from portside.model.counted import counted
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.store.db import Database, Ref
from portside.store.durability import settle
from portside.store.space import is_full

if TYPE_CHECKING:
    from portside.store.store_parts import StoreParts

log = logging.getLogger(__name__)

DRIVERS = ("overlay", "vfs")
LOST = "layers-to-unpack-again"
UNSURE = "layers-to-compare"
LEFT = "leases-were-dropped"


class Lost(msgspec.Struct):
    """A layer that was dropped at a start; its blob makes it again."""

    chain: str
    parent: str
    diff_id: str
    blob: str
    media_type: str


def choose_driver(root: Path, wanted: str, db: Database) -> str:
    """The storage driver of this data root: what it was made with, once it has layers.

    The file ``storage-driver`` says which; one that is missing or holds something else is written
    again from the layers' records. InvalidParameter for an unknown driver, or one that differs from
    the data root's; SystemFailure when the records disagree with each other.
    """
    if wanted == "overlay2":
        wanted = "overlay"  # Docker's name for it
    if wanted and wanted not in DRIVERS:
        raise InvalidParameter(f"storage driver {wanted!r} is not known: use overlay or vfs")
    mark = root / "storage-driver"
    kept = _kept_driver(mark, db)
    if kept and wanted and kept != wanted:
        raise InvalidParameter(
            f"{root} was made with storage driver {kept}: start with {kept}, or choose "
            "another --data-root"
        )
    chosen = kept or wanted or ("overlay" if _can_overlay(root) else "vfs")
    if chosen != _read_driver(mark):
        temporary = root / "storage-driver.tmp"
        try:
            temporary.write_text(chosen + "\n")
            temporary.rename(mark)
        except OSError as err:
            if not (kept and is_full(err)):
                raise
            log.warning("%s cannot be written: %s", mark, err.strerror)
    return chosen


def _read_driver(mark: Path) -> str:
    try:
        return mark.read_bytes()[:64].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _kept_driver(mark: Path, db: Database) -> str:
    """The storage driver of the data root; empty for a new one."""
    rows = db.query("SELECT driver FROM layers UNION SELECT driver FROM writables")
    recorded = {str(row[0]) for row in rows}
    found = _read_driver(mark)
    if len(recorded) > 1:
        raise SystemFailure(
            f"the metadata name layers of the storage drivers {' and '.join(sorted(recorded))}: "
            "run `portside system check --repair --offline`"
        )
    of_layers = recorded.pop() if recorded else ""
    if found in DRIVERS and of_layers in ("", found):
        return found
    if found or of_layers:
        log.warning(
            "%s holds %r, and the layers are of the storage driver %s: written again",
            mark, found[:40], of_layers or "(none yet)",
        )  # fmt: skip
    return of_layers


def _can_overlay(root: Path) -> bool:
    """Whether whiteouts and overlay's attributes can be made here: we are privileged and the
    file system is fit for an upper directory (overlay itself is not, nor is NFS)."""
    probe = root / f"probe-{os.getpid()}"
    try:
        probe.mkdir(mode=0o700)
        os.setxattr(probe, overlay.OPAQUE, b"y")
        os.mknod(probe / "whiteout", stat.S_IFCHR, 0)
        return "overlay" in Path("/proc/filesystems").read_text() and _not_overlay(root)
    except OSError as err:
        log.warning("overlay cannot be used in %s (%s): falling back to vfs", root, err)
        return False
    finally:
        (probe / "whiteout").unlink(missing_ok=True)
        if probe.exists():
            probe.rmdir()


def _not_overlay(root: Path) -> bool:
    """An overlay file system refuses to be another's upper directory (overlayfs.rst)."""
    device = root.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted and fields[fields.index("-") + 1] == "overlay":
            return False
    return True


def at_start(store: StoreParts) -> None:
    """Bring the disk and the records together; see the module's docstring."""
    _leases(store)
    for directory in (store.blobs.ingest_dir, store.layers.layers_dir):
        for path in directory.glob("tmp-*"):
            store.trash.discard(path)
    _blobs(store)
    _layers(store)
    _writables(store)
    _unsettled(store)


def _leases(store: StoreParts) -> None:
    """A lease of a killed engine keeps what a pull has downloaded, for the next try. Other work
    starts again: a build's finished steps belong to the cache's records by then."""
    rows = store.db.query("SELECT id FROM leases WHERE note NOT LIKE 'pull %'")
    store.db.drop_leases(row[0] for row in rows)
    if rows:
        store.db.set_meta(LEFT, "1")


def _blobs(store: StoreParts) -> None:
    known = {info.digest for info in store.blobs.all() if not info.layer}
    swept: list[str] = []
    for algorithm in ("sha256", "sha512"):
        found = set(os.listdir(store.blobs.root / algorithm))
        for name in found:
            if f"{algorithm}:{name}" not in known:
                store.trash.discard(store.blobs.root / algorithm / name)
                swept.append(name)
        for digest in known:
            if digest.algorithm == algorithm and digest.hex not in found:
                log.warning("blob %s is recorded but its file is gone", digest)
                store.blobs.delete(digest)
    _log_swept("blobs", swept)


def _log_swept(kind: str, swept: list[str]) -> None:
    """Log what a sweep moved to the trash."""
    if swept:
        names = ", ".join(name[:12] for name in sorted(swept)[:10])
        more = f" and {len(swept) - 10} more" if len(swept) > 10 else ""
        what = counted(len(swept), kind)
        log.warning("%s that no record names: removed: %s%s", what, names, more)


def _layers(store: StoreParts) -> None:
    from portside.store.layers import base36

    layers = store.layers
    rows = store.db.query("SELECT seq, chain FROM layers")
    known = {Digest(chain).hex: (seq, chain) for seq, chain in rows}
    found = set(os.listdir(layers.layers_dir))
    for name in found - set(known):
        store.trash.discard(layers.layers_dir / name)
    _log_swept("layers", sorted(found - set(known)))
    for name in set(known) - found:
        log.warning("layer %s is recorded but its files are gone", known[name][1])
        _drop_layer(store, known[name][1])
    links = {base36(known[name][0]): name for name in set(known) & found}
    present = set(os.listdir(layers.links_dir)) - {"empty"}
    for link in present - set(links):
        (layers.links_dir / link).unlink()
    for link in set(links) - present:
        (layers.links_dir / link).symlink_to(f"../layers/{links[link]}/diff")


def _drop_layer(store: StoreParts, chain: str) -> None:
    """Drop a layer that is damaged, and note that it is to be unpacked again."""
    row = store.db.row("SELECT parent, diff_id, blob, media_type FROM layers WHERE chain=?", chain)
    if row is not None and row[2]:
        with store.db.transaction():
            lost = msgspec.json.decode(store.db.get_meta(LOST) or "[]", type=list[Lost])
            store.db.set_meta(LOST, msgspec.json.encode([*lost, Lost(chain, *row)]).decode())
    store.layers.delete(Digest(chain))


async def recover(store: StoreParts) -> None:
    """Unpack again what a power cut has damaged and something still needs."""
    lost = msgspec.json.decode(store.db.get_meta(LOST) or "[]", type=list[Lost])
    for layer in lost:
        if not store.db.refs.users(Ref.layer(layer.chain)):
            continue
        parent = Digest(layer.parent) if layer.parent else None
        with store.lease("recover") as lease:
            try:
                await store.layers.ensure(
                    parent, Digest(layer.diff_id), Digest(layer.blob), layer.media_type,
                    owner=lease.ref,
                )  # fmt: skip
                log.warning("layer %s was unpacked again", layer.chain)
            except PortsideError as err:
                log.error("layer %s is lost: %s: pull its image again", layer.chain, err)
    store.db.set_meta(LOST, "[]")
    await _compare(store)
    if store.db.get_meta(LEFT):
        store.db.set_meta(LEFT, "")
        await store.collect()


async def _compare(store: StoreParts) -> None:
    """Drop layers that do not give their blob after a power cut, now that those below are whole."""
    unsure = msgspec.json.decode(store.db.get_meta(UNSURE) or "[]", type=list[tuple[str, str]])
    for chain, digest in unsure:
        if store.layers.has(chain) and not await store.layers.gives(Digest(chain), digest):
            log.error("layer %s was damaged by a power cut: build or pull its image again", chain)
            store.layers.delete(Digest(chain))
    if unsure:
        store.db.set_meta(UNSURE, "[]")


def _writables(store: StoreParts) -> None:
    """Writable layers nobody recorded; the other files of a container are not ours."""
    known = {row[0] for row in store.db.query("SELECT container FROM writables")}
    swept = []
    for directory in store.writables.containers_dir.iterdir():
        if directory.name not in known:
            gone = [store.trash.discard(directory / name) for name in ("upper", "work", "root")]
            if any(gone):
                swept.append(directory.name)
    _log_swept("writable layers", swept)


def _unsettled(store: StoreParts) -> None:
    """After another boot: verify what may not have reached the disk."""
    for (digest,) in store.db.query(
        "SELECT digest FROM blobs WHERE layer='' AND boot NOT IN ('', ?)", store.boot
    ):
        if not verify_blob(store, Digest(digest)):
            log.warning("blob %s was damaged by a power cut and is dropped", digest)
            store.blobs.delete(Digest(digest))
    unsure = store.db.query(
        "SELECT layer, digest FROM blobs JOIN layers ON layer=chain "
        "WHERE layers.boot NOT IN ('', ?)", store.boot
    )  # fmt: skip
    if unsure:
        known = msgspec.json.decode(store.db.get_meta(UNSURE) or "[]", type=list[tuple[str, str]])
        store.db.set_meta(UNSURE, msgspec.json.encode([*known, *unsure]).decode())
    for (chain,) in store.db.query(
        "SELECT chain FROM layers WHERE boot NOT IN ('', ?) "
        "AND chain NOT IN (SELECT layer FROM blobs)", store.boot
    ):  # fmt: skip
        # checking its files costs as much as unpacking its blob again, which is done
        log.warning("layer %s may be incomplete after a power cut and is dropped", chain)
        _drop_layer(store, chain)
    settle(store.root, store.db)


def verify_blob(store: StoreParts, digest: Digest) -> bool:
    """Whether the blob's bytes are what its digest says."""
    hasher = digest.hasher()
    try:
        with store.blobs.path(digest).open("rb") as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
    except OSError:
        return False
    return hasher.hexdigest() == digest.hex
