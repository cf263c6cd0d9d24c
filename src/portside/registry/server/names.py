"""The grammar of repository names, tags and references (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import re

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.registry.server.errors import RegistryError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_LONGEST = 255


def is_name(text: str) -> bool:
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """The repository's name; raises NAME_INVALID."""
    if not is_name(name):
        raise RegistryError("NAME_INVALID", name)
    return name


def check_digest(text: str) -> Digest:
    """The digest; raises DIGEST_INVALID."""
    try:
        return Digest(text)
    except InvalidParameter as err:
        raise RegistryError("DIGEST_INVALID", text, message=str(err)) from err


def check_reference(text: str) -> str | Digest:
    """A tag, or a digest when it holds a colon; raises TAG_INVALID or DIGEST_INVALID."""
    return check_digest(text) if ":" in text else check_tag(text)


def check_tag(text: str) -> str:
    """The tag; raises TAG_INVALID."""
    if not _TAG.fullmatch(text):
        raise RegistryError("TAG_INVALID", text, message=f"invalid tag: {text!r}")
    return text


def known_reference(text: str) -> str | Digest:
    """The reference of something that is asked for; raises as :func:`check_reference` does,
    but what cannot be a tag is simply not there: MANIFEST_UNKNOWN."""
    try:
        return check_reference(text)
    except RegistryError as err:
        if err.code != "TAG_INVALID":
            raise
        detail = f"unknown tag={text}"
        raise RegistryError("MANIFEST_UNKNOWN", detail, message="manifest unknown") from err


def lexical(text: str) -> tuple[str, str]:
    """Sorts names as lists have them: case-insensitively ("Listing Tags")."""
    return text.lower(), text


def fits(pattern: str, name: str) -> bool:
    """Whether a repository's name fits a pattern: ``*`` is within a path part, ``**`` any."""
    translated = "".join(
        ".*" if token == "**" else "[^/]*" if token == "*" else re.escape(token)
        for token in re.split(r"(\*\*|\*)", pattern)
    )
    return re.fullmatch(translated, name) is not None
