"""What the last copies made: a copy that is done again links the files that have not changed from
the layer that it made before.

Making a file costs several times what a link to one costs. Both layers are siblings, on the same
base and with the same names, so that no tree has both files: the one above hides the other. The
memory is the engine's own and short: a copy that is not in it is made as a whole.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portside.builder.solver.job_values import Earlier
from portside.model.ids import new_id
from portside.store.roots import OPEN_DIR

KEPT = 16
FEWEST = 100
"""Files of a copy from which on it is remembered."""


@dataclass(frozen=True)
class _Copied:
    chain: str
    digests: Path


class CopiedLayers:
    """By key (operation and base): the layer, and a file in ``root`` with its files' digests."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Copied] = {}
        """The most recently made at the end."""

    def find(self, key: str, layers_dir: Path) -> Earlier | None:
        known = self._known.get(key)
        if known is None:
            return None
        directory = layers_dir / known.chain.partition(":")[2] / "diff"
        return Earlier(directory=str(directory), digests=str(known.digests))

    def new_file(self) -> Path:
        """Where the digests of the files of a copy can be kept."""
        return self._root / f"copied-{new_id()}.digests"

    def keep(self, key: str, chain: str, digests: Path) -> None:
        """Remember what a copy made; forget it if ``digests`` was not written."""
        self._forget(key)
        if digests.exists():
            self._known[key] = _Copied(chain, digests)
        for older in list(self._known)[:-KEPT]:
            self._forget(older)

    def clear(self) -> None:
        for key in list(self._known):
            self._forget(key)

    def _forget(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            known.digests.unlink(missing_ok=True)


class EarlierLayer:
    """The layer that a copy made before, in its job. Digests are known by path: a layer's files are
    what its name (its chain ID) says, so they hold even if it was removed and made again."""

    def __init__(self, earlier: Earlier | None) -> None:
        self._digests: dict[bytes, bytes] = {}
        self.fd = -1
        """The layer's top; -1 if there is none."""
        if earlier is not None:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                data = Path(earlier.digests).read_bytes()
                self._digests = msgspec.msgpack.decode(data, type=dict[bytes, bytes])
                self.fd = os.open(earlier.directory, OPEN_DIR)

    def digest(self, path: bytes) -> bytes | None:
        """The digest of the content of a file without extended attributes."""
        return self._digests.get(path)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class MadeFiles:
    """Digests of the files without extended attributes that a copy makes, by path in the layer.
    Of a file with several names only the first is here: each inode is linked by one name."""

    def __init__(self) -> None:
        self._digests: dict[bytes, bytes] = {}

    def add(self, path: bytes, digest: bytes) -> None:
        self._digests[path] = digest

    def forget(self, path: bytes) -> None:
        self._digests.pop(path, None)

    def save(self, path: str) -> None:
        """Write them for :class:`EarlierLayer` if there are many; a full disk raises nothing."""
        if not path or len(self._digests) < FEWEST:
            return
        try:
            with open(path, "xb") as file:
                file.write(msgspec.msgpack.encode(self._digests))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
