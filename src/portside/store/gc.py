"""Garbage collection: what no document and no lease needs is deleted.

The graph is the ``refs`` table. Roots are all owners that are neither blobs nor layers:
images, containers, leases, build caches. Layers hold their parents. Marking and forgetting is
one transaction, so nothing that a concurrent pull has just claimed can be swept; files go
afterwards, and files that a crash leaves behind are unrecorded and removed at the next start.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from portside.model.counted import counted
from portside.model.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.store.db import Ref
    from portside.store.store_parts import StoreParts

log = logging.getLogger(__name__)

REACHED = """
    WITH RECURSIVE reached(kind, id) AS (
        SELECT target_kind, target_id FROM refs WHERE owner_kind NOT IN ('blob', 'layer')
        UNION
        SELECT refs.target_kind, refs.target_id FROM refs JOIN reached
            ON refs.owner_kind = reached.kind AND refs.owner_id = reached.id
            WHERE reached.kind IN ('blob', 'layer'))
"""


def unreachable(store: StoreParts) -> tuple[list[tuple[Digest, int]], list[tuple[Digest, int]]]:
    """Blobs and layers that nothing needs, each with its size in bytes."""
    blobs = store.db.query(
        REACHED
        + "SELECT digest, CASE layer WHEN '' THEN size ELSE 0 END FROM blobs WHERE digest NOT IN "
        "(SELECT id FROM reached WHERE kind='blob')"
    )
    layers = store.db.query(
        REACHED + "SELECT chain, size FROM layers WHERE chain NOT IN "
        "(SELECT id FROM reached WHERE kind='layer')"
    )
    return [(Digest(d), s) for d, s in blobs], [(Digest(c), s) for c, s in layers]


def collect(store: StoreParts) -> int:
    """Delete what nothing needs; bytes freed (files of layers and blobs, old downloads)."""
    if store.backups.damaged:
        log.error("nothing is collected: the metadata are damaged (%s)", store.backups.damaged)
        return 0
    store.db.expire_leases()
    freed = drop_old_ingests(store)
    with store.db.transaction() as sql:
        blobs, layers = unreachable(store)
        sql.executemany("DELETE FROM blobs WHERE digest=?", [(d,) for d, _ in blobs])
        for chain, _ in layers:
            sql.execute("DELETE FROM refs WHERE owner_kind='layer' AND owner_id=?", (chain,))
    for digest, _ in blobs:
        store.blobs.delete(digest)
    for chain, _ in layers:
        store.layers.delete(chain)
    if blobs or layers:
        log.info(
            "collected %s and %s that nothing needs",
            counted(len(blobs), "blobs"),
            counted(len(layers), "layers"),
        )
    return freed + sum(size for _, size in blobs) + sum(size for _, size in layers)


def release(store: StoreParts, blobs: Iterable[Ref]) -> int:
    """Delete the blobs among these that nothing refers to any more; returns how many.

    What :func:`collect` does, without a walk over everything, for what has just lost an owner.
    """
    if store.backups.damaged:
        return 0
    with store.db.transaction() as sql:
        gone = [item.id for item in blobs if not store.db.refs.users(item)]
        sql.executemany("DELETE FROM blobs WHERE digest=?", [(digest,) for digest in gone])
    for digest in gone:
        store.blobs.delete(Digest(digest))
    return len(gone)


def drop_old_ingests(store: StoreParts, seconds: float = 7 * 86400) -> int:
    """Delete partial downloads nobody continued for ``seconds``; bytes freed."""
    freed = 0
    for path in store.blobs.ingest_dir.iterdir():
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # whole in this moment
        if found.st_mtime < time.time() - seconds:
            freed += found.st_size
            path.unlink(missing_ok=True)
    return freed
