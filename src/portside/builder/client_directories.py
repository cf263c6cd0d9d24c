"""Directories of clients as they were last sent: the next build of the same directory receives
only what differs.

A directory is used by one build at a time; one that wants it meanwhile gets another. Only a few
are kept: the ones used last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from portside.builder.solver.file_digests import beside
from portside.model.ids import new_id

if TYPE_CHECKING:
    from portside.store.trash import Trash

KEPT = 16


class ClientDirectories:
    """Beneath one directory of the data root, which is emptied at the engine's start."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root, self._trash = root, trash
        self._idle: dict[str, Path] = {}
        """Unused directories by key; the most recently used at the end."""
        self._open: dict[Path, None] = {}
        """Digests of clients' own directories; the most recently used at the end."""

    @contextmanager
    def use(self, key: str) -> Iterator[Path]:
        """A directory that may hold what ``key`` was when it was sent last; empty ``key``: a new
        one that is not kept. It may not exist yet."""
        path = self._idle.pop(key, None) if key else None
        path = path or self._root / new_id()
        try:
            yield path
        finally:
            older = self._idle.pop(key, None) if key else path
            if key:
                self._idle[key] = path
            for gone in (older, *self._surplus()):
                if gone is not None:
                    self.discard(gone)

    def _surplus(self) -> list[Path]:
        keys = list(self._idle)[: max(0, len(self._idle) - KEPT)]
        return [self._idle.pop(key) for key in keys]

    def clear(self) -> None:
        """Remove directories that no build uses."""
        for path in self._idle.values():
            self.discard(path)
        self._idle.clear()
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
