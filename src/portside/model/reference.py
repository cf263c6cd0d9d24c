"""Image references, read and written as Docker does.

A user's ``busybox`` is ``docker.io/library/busybox:latest``; what is shown again is the
short ("familiar") form. The grammar is the one of the distribution project's
``reference`` package, which every client and registry follows::

    reference := name [ ":" tag ] [ "@" digest ]
    name      := [ domain "/" ] path-component [ "/" path-component ]*
"""

from __future__ import annotations

import re

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_LONGEST_PATH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_HEX_ID = re.compile("[a-f0-9]{64}")
_TAG_ALONE = re.compile(_TAG, re.ASCII)


class Reference:
    """A normalised reference: ``domain`` and ``path`` are never empty. A value: equal when all
    parts are, and never changed. (The module dataclasses takes longer than a short command.)"""

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str = "", digest: Digest | None = None) -> None:
        self.domain, self.path, self.tag, self.digest = domain, path, tag, digest

    def _key(self) -> tuple[str, str, str, str]:
        return self.domain, self.path, self.tag, self.digest or ""

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Reference) else NotImplemented

    def __lt__(self, other: Reference) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference a user wrote, normalised; no tag is added (see :meth:`tagged`).

        Raises InvalidParameter with Docker's texts.
        """
        if _HEX_ID.fullmatch(text):
            raise InvalidParameter(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )
        domain, rest = _split_domain(text)
        name = rest.partition("@")[0].partition(":")[0]
        if name.lower() != name:
            raise InvalidParameter(
                f"invalid reference format: repository name ({name}) must be lowercase"
            )
        match = _REFERENCE.fullmatch(f"{domain}/{rest}")
        if match is None:
            raise InvalidParameter("invalid reference format")
        if len(match["path"]) > _LONGEST_PATH:
            raise InvalidParameter("repository name must not be more than 255 characters")
        digest = _digest(match["digest"]) if match["digest"] else None
        return cls(match["domain"], match["path"], match["tag"] or "", digest)

    @property
    def name(self) -> str:
        """``domain/path``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as users write it: without ``docker.io/`` and ``library/``, unless what is
        left would then be read as something else."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        if short != self.path and "/" not in short and not _HEX_ID.fullmatch(short):
            return short
        return self.path if _split_domain(self.path) == (DEFAULT_DOMAIN, self.path) else self.name

    @property
    def familiar(self) -> str:
        """The whole reference as users write it."""
        return self.familiar_name + self._suffix()

    @property
    def is_name_only(self) -> bool:
        return not self.tag and self.digest is None

    @property
    def target(self) -> str:
        """The reference in requests to the registry: the digest, else the tag, else ``latest``."""
        return str(self.digest) if self.digest else self.tag or DEFAULT_TAG

    def tagged(self) -> Reference:
        """The reference with the tag ``latest`` when neither tag nor digest was given."""
        return Reference(self.domain, self.path, DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        """The same name with this tag and no digest; raises InvalidParameter."""
        if not _TAG_ALONE.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The same name with this digest and no tag: how RepoDigests are written."""
        return Reference(self.domain, self.path, "", digest)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return self.name + self._suffix()


def _split_domain(text: str) -> tuple[str, str]:
    """The registry's host and the rest: ``localhost/x`` and ``a.b/x`` name a host, ``a/b`` does
    not."""
    first, slash, rest = text.partition("/")
    is_domain = bool(slash) and (
        first == "localhost" or "." in first or ":" in first or first.lower() != first
    )
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _digest(text: str) -> Digest:
    try:
        return Digest(text)
    except InvalidParameter as err:
        algorithm = text.partition(":")[0]
        if algorithm not in ("sha256", "sha512"):
            raise InvalidParameter("unsupported digest algorithm") from err
        if text.lower() != text:
            raise InvalidParameter("invalid checksum digest format") from err
        raise InvalidParameter("invalid checksum digest length") from err
