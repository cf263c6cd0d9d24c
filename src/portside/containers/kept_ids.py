"""User namespaces by the place of the engine's own user in them, with Podman's meaning.

Only an engine without root has them: the user of one with root is root, inside and outside.
"""

from __future__ import annotations

import msgspec

from portside.kernel import subordinate_ids
from portside.model.errors import InvalidParameter
from portside.model.idmap import IDMappings
from portside.model.ociruntime import IDMapping
from portside.model.paths import rootless_user

NO_MAP = "nomap"
_KEYS = ("uid", "gid", "size")
_MORE = (
    "give its user more subordinate identifiers (usermod --add-subuids FIRST-LAST "
    "--add-subgids FIRST-LAST NAME)"
)


class KeepId(msgspec.Struct, frozen=True):
    """``keep-id`` taken apart."""

    uid: int
    """What the engine's user is inside."""
    gid: int
    size: int = 0
    """Identifiers of the container; 0: all that the engine has."""


def parse_keep_id(mode: str) -> KeepId | None:
    """The options of ``keep-id``; None for another mode. InvalidParameter, also for an engine with
    root."""
    name, colon, text = mode.partition(":")
    if name != "keep-id":
        return None
    _require_rootless(name)
    found = {kind: subordinate_ids.outside(kind) for kind in ("uid", "gid")}
    for part in text.split(",") if colon else ():
        key, _, value = part.partition("=")
        if key not in _KEYS or not (value.isascii() and value.isdecimal() and len(value) < 11):
            raise InvalidParameter(
                f"invalid USER mode: {mode}: keep-id has the options uid=NUMBER, gid=NUMBER and "
                "size=NUMBER"
            )
        found[key] = int(value)
    if found.get("size") == 0:
        raise InvalidParameter(f"invalid USER mode: {mode}: the size must be greater than 0")
    return KeepId(**found)


def is_nomap(mode: str) -> bool:
    """InvalidParameter for an engine with root."""
    if mode != NO_MAP:
        return False
    _require_rootless(mode)
    return True


def _require_rootless(mode: str) -> None:
    if not rootless_user():
        raise InvalidParameter(f"{mode} is only supported in rootless mode")


def keep_id(asked: KeepId) -> IDMappings:
    """The engine's root, who is the user, under the numbers asked for; the others around them.
    InvalidParameter when the engine has too few identifiers."""
    return IDMappings(_around("uid", asked.uid, asked.size), _around("gid", asked.gid, asked.size))


def _around(kind: str, number: int, size: int) -> tuple[IDMapping, ...]:
    available = subordinate_ids.mapped_here(kind)
    if size > available:
        raise InvalidParameter(
            f"--userns=keep-id: size {size} is more than the {available} identifiers of this "
            f"engine: {_MORE}, or ask for a smaller size"
        )
    size = size or available
    if number >= size:
        whose = "this engine" if size == available else "the container"
        more = _MORE if size == available else "ask for a larger size"
        raise InvalidParameter(
            f"--userns=keep-id: {kind} {number} is not among the {size} identifiers of {whose}: "
            f"{more}, or a smaller number (keep-id:uid=…,gid=…)"
        )
    rows = [(0, 1, number), (number, 0, 1), (number + 1, number + 1, size - number - 1)]
    return tuple(IDMapping(*row) for row in rows if row[2])


def nomap() -> IDMappings:
    """The subordinate identifiers alone: the engine's user is nobody in the container.
    InvalidParameter without any."""
    found = []
    for kind in ("uid", "gid"):
        size = subordinate_ids.mapped_here(kind) - 1
        if size < 1:
            raise InvalidParameter(
                f"--userns=nomap: this engine has no subordinate {kind}s: {_MORE}"
            )
        found.append((IDMapping(0, 1, size),))
    return IDMappings(*found)
