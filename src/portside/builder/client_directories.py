"""Directories of clients as they were last sent: the next build of the same directory receives
only what differs.

A directory is used by one build at a time; one that wants it meanwhile gets another. Only a few
are kept: the ones used last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from portside.builder.solver.copied_layers import CopiedLayers
from portside.builder.solver.file_digests import beside
from portside.model.ids import new_id

if TYPE_CHECKING:
    from portside.store.trash import Trash

KEPT = 16


@dataclass
class ClientDirectory:
    """A directory that is kept, as ``buildx du`` lists it."""

    path: Path
    name: str
    """The client's name of it: ``context``, ``dockerfile``."""
    id: str = field(default_factory=lambda: new_id()[:25])
    created: float = field(default_factory=time.time)
    used: float = 0
    """Seconds since the epoch."""
    count: int = 0
    size: int = 0
    """Bytes, when it was measured last."""
    measured: float = 0
    """When that was, in seconds since the epoch; 0: never."""


class ClientDirectories:
    """Beneath one directory of the data root, which is emptied at the engine's start."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root, self._trash = root, trash
        self._idle: dict[str, ClientDirectory] = {}
        """Unused directories by key; the most recently used at the end."""
        self._open: dict[Path, None] = {}
        """Digests of clients' own directories; the most recently used at the end."""
        self.copied = CopiedLayers(root)

    @contextmanager
    def use(self, key: str, name: str = "") -> Iterator[Path]:
        """A directory that may hold what ``key`` was when it was sent last; empty ``key``: a new
        one that is not kept. It may not exist yet."""
        found = self._idle.pop(key, None) if key else None
        found = found or ClientDirectory(self._root / new_id(), name)
        try:
            yield found.path
        finally:
            older = self._idle.pop(key, None) if key else found
            if key:
                found.used = time.time()
                found.count += 1
                self._idle[key] = found
            for gone in (older, *self._surplus()):
                if gone is not None:
                    self.discard(gone.path)

    def _surplus(self) -> list[ClientDirectory]:
        keys = list(self._idle)[: max(0, len(self._idle) - KEPT)]
        return [self._idle.pop(key) for key in keys]

    def idle(self) -> list[ClientDirectory]:
        """Those that no build uses; least recently used first."""
        return list(self._idle.values())

    def remove(self, identifier: str) -> None:
        """Remove one that no build uses; nothing happens when it is in use or gone."""
        for key, found in list(self._idle.items()):
            if found.id == identifier:
                del self._idle[key]
                self.discard(found.path)

    def clear(self) -> None:
        """Remove directories that no build uses."""
        for found in self._idle.values():
            self.discard(found.path)
        self._idle.clear()
        self.forget_open()

    def forget_open(self) -> None:
        """Forget the digests of clients' own directories, and of what was copied."""
        self.copied.clear()
        for path in self._open:
            path.unlink(missing_ok=True)
        self._open.clear()

    def discard(self, path: Path) -> None:
        """Remove a directory and what is known of its files."""
        self._trash.discard(path)
        Path(beside(str(path))).unlink(missing_ok=True)

    def digests_of_open(self, directory: str) -> str:
        """Where to keep the digests of a client's own directory, which is open here."""
        found = os.stat(directory)
        path = self._root / f"open-{found.st_dev}-{found.st_ino}.digests"
        self._open.pop(path, None)
        self._open[path] = None
        while len(self._open) > KEPT:
            older = next(iter(self._open))
            del self._open[older]
            older.unlink(missing_ok=True)
        return str(path)
