"""``idmap`` of a bind mount: whose files of the source are whose in the container.

``idmap`` alone exchanges the source's owner with the container's user, everybody else stays:
a directory of the host's user 1000 is the container's root's own, and what that writes
belongs to 1000 on the disk. ``idmap=uids=DISK-SHOWN-COUNT#…;gids=…`` says it in full.
"""

from __future__ import annotations

from pathlib import Path

from portside.model.errors import InvalidParameter
from portside.model.ociruntime import IDMapping

_ALL = 0xFFFFFFFF
"""Identifiers are 0 to 2^32 - 2."""

Mappings = tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]]


def checked(text: str) -> str:
    """The same text; raises InvalidParameter for a mapping that makes no sense."""
    if text in ("auto", "true"):
        return "auto"
    if text:
        _parse(text)
    return text


def mappings(text: str, source: str, user: str) -> Mappings:
    """Those of users and groups, from the disk's to the shown; ``user`` is the container's."""
    if text != "auto":
        return _parse(text)
    owner = Path(source).stat()
    uid, _, gid = user.partition(":")
    uid, gid = (uid or "0", gid or "0") if uid != "root" else ("0", gid or "0")
    if not (uid.isdigit() and gid.isdigit()):
        raise InvalidParameter(
            f"idmap needs the container's user as numbers, not {user!r}, or the mapping in full: "
            "idmap=uids=DISK-SHOWN-COUNT;gids=DISK-SHOWN-COUNT"
        )
    return _exchange(owner.st_uid, int(uid)), _exchange(owner.st_gid, int(gid))


def _exchange(one: int, other: int) -> tuple[IDMapping, ...]:
    """All identifiers as they are, but these two."""
    if one == other:
        return (IDMapping(0, 0, _ALL),)
    low, high = sorted((one, other))
    ranges = (
        (0, 0, low),
        (low, high, 1),
        (low + 1, low + 1, high - low - 1),
        (high, low, 1),
        (high + 1, high + 1, _ALL - high - 1),
    )
    return tuple(IDMapping(*found) for found in ranges if found[2] > 0)


def _parse(text: str) -> Mappings:
    found: dict[str, tuple[IDMapping, ...]] = {}
    for part in text.split(";"):
        name, _, ranges = part.partition("=")
        try:
            if name not in ("uids", "gids") or name in found:
                raise ValueError(name)
            numbers = [[int(n) for n in one.split("-")] for one in ranges.split("#")]
            found[name] = tuple(IDMapping(*one) for one in numbers)
            if any(len(one) != 3 or one[2] < 1 or max(one) >= _ALL for one in numbers):
                raise ValueError(ranges)
        except (ValueError, TypeError):
            raise InvalidParameter(
                f"invalid idmap {text!r}: uids=DISK-SHOWN-COUNT#…;gids=DISK-SHOWN-COUNT#…"
            ) from None
    if len(found) != 2:
        raise InvalidParameter(f"invalid idmap {text!r}: it needs both uids and gids")
    return found["uids"], found["gids"]
