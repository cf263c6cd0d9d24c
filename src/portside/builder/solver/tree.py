"""The result of a vertex: a file tree as a value."""

from __future__ import annotations

import hashlib

import msgspec


class Tree(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either a stack of layers, or a directory of a client's context.

    ``content`` identifies the tree without times: two trees of the same content are the same to
    the cache, whenever they were made.
    """

    chain: str = ""
    """Chain ID of the topmost layer; empty for an empty root, or with ``directory``."""
    content: str = ""
    directory: str = ""
    """Absolute path on this host, read only beneath its own descriptor."""
    ignore: tuple[str, ...] = ()
    """For a directory: the patterns of its ignore file; what they match is not in the tree."""

    @property
    def is_open(self) -> bool:
        """A client's own directory, by a descriptor of the engine."""
        return self.directory.startswith("/proc/")

    @classmethod
    def of_chain(cls, chain: str) -> Tree:
        """Layers that were not made here: their own digest identifies their content."""
        return cls(chain, f"chain:{chain}" if chain else "")

    def above(self, chain: str, upper: str) -> Tree:
        """This tree with a layer on top whose content is ``upper``."""
        return Tree(chain, digest_of(self.content, upper))


def digest_of(*parts: str) -> str:
    """One digest of several texts in order."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        hasher.update(len(data).to_bytes(8, "big") + data)
    return f"sha256:{hasher.hexdigest()}"
