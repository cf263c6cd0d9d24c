"""Content digests (image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import re

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash

_LENGTHS = {"sha256": 64, "sha512": 128}
_GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


class Digest(str):
    """``algorithm:hex``, checked when made; sha256 and sha512 are supported."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        algorithm, _, encoded = text.partition(":")
        if not _GRAMMAR.fullmatch(text):
            raise InvalidParameter(f"invalid digest format: {text!r}: expected algorithm:hex")
        if algorithm not in _LENGTHS:
            raise InvalidParameter(f"unsupported digest algorithm: {algorithm!r}")
        if len(encoded) != _LENGTHS[algorithm] or not re.fullmatch("[0-9a-f]+", encoded):
            raise InvalidParameter(
                f"invalid checksum digest length: {text!r}: "
                f"{algorithm} takes {_LENGTHS[algorithm]} lower-case hexadecimal digits"
            )
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``."""
        import hashlib  # commands that parse a name compute no digest

        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        import hashlib

        return hashlib.new(self.algorithm)


def chain_id(diff_ids: list[Digest]) -> Digest:
    """The ChainID of a stack of layers, base first (image-spec, config.md, "Layer ChainID")."""
    if not diff_ids:
        raise InvalidParameter("a chain needs at least one layer")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = Digest.of(f"{chain} {diff_id}".encode())
    return chain
