"""What repair and collection take of the store; for type checkers only."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from portside.store.backups import Backups
from portside.store.blobs import BlobStore
from portside.store.db import Database, Lease
from portside.store.layers import LayerStore
from portside.store.trash import Trash
from portside.store.writable_layers import WritableLayers


class StoreParts(Protocol):
    """See :class:`portside.store.store.Store`."""

    root: Path
    boot: str
    db: Database
    blobs: BlobStore
    layers: LayerStore
    writables: WritableLayers
    trash: Trash
    backups: Backups

    def lease(self, note: str) -> Lease: ...

    async def collect(self) -> int: ...
