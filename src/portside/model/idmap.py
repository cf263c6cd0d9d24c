"""Which identifiers of the host stand for those of a container (user_namespaces(7))."""

from __future__ import annotations

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.ociruntime import IDMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ID = 0xFFFFFFFF - 1
"""The greatest identifier that the kernel knows; 2^32 - 1 means none."""


class IDMappings(msgspec.Struct, frozen=True):
    """The mappings of users and groups, from the container's to the host's."""

    uids: tuple[IDMapping, ...]
    gids: tuple[IDMapping, ...]

    @property
    def root(self) -> tuple[int, int]:
        """The host's user and group that the container's root is."""
        return self.host_uid(0), self.host_gid(0)

    def host_uid(self, uid: int) -> int:
        """The host's user for one of the container's. InvalidParameter when it is not mapped."""
        return _to_host(self.uids, uid, "uid")

    def host_gid(self, gid: int) -> int:
        """Like :meth:`host_uid`, for a group."""
        return _to_host(self.gids, gid, "gid")

    def last_gid(self) -> int:
        """The last of the container's groups in a row from 0 on that are mapped."""
        end = 0
        for one in sorted(self.gids, key=lambda each: each.container_id):
            if one.container_id == end:
                end += one.size
        return max(end - 1, 0)

    def inverse(self) -> IDMappings:
        """The container's ID for an ID of the host."""
        return IDMappings(_inverse(self.uids), _inverse(self.gids))


def mapped(mappings: Iterable[IDMapping], number: int) -> int | None:
    """What an identifier (``container_id``) becomes (``host_id``); None when it is not mapped."""
    for one in mappings:
        if one.container_id <= number < one.container_id + one.size:
            return one.host_id + number - one.container_id
    return None


def _to_host(mappings: Iterable[IDMapping], number: int, kind: str) -> int:
    found = mapped(mappings, number)
    if found is not None:
        return found
    raise InvalidParameter(f"{kind} {number} is not mapped in the container's user namespace")


def _inverse(mappings: Iterable[IDMapping]) -> tuple[IDMapping, ...]:
    return tuple(IDMapping(one.host_id, one.container_id, one.size) for one in mappings)


def composed(first: Iterable[IDMapping], second: tuple[IDMapping, ...]) -> tuple[IDMapping, ...]:
    """``first`` (disk to container) followed by ``second`` (container to host); what the second
    does not map is left out."""
    found = []
    for one in first:
        low, high = one.host_id, one.host_id + one.size
        for two in second:
            start = max(low, two.container_id)
            end = min(high, two.container_id + two.size)
            if start < end:
                disk = one.container_id + start - low
                found.append(IDMapping(disk, two.host_id + start - two.container_id, end - start))
    return tuple(found)


def in_a_row(ranges: Iterable[tuple[int, int]]) -> tuple[IDMapping, ...]:
    """Ranges of the host (first, count) as the container's identifiers from 0 on."""
    found, next_id = [], 0
    for first, count in ranges:
        found.append(IDMapping(next_id, first, count))
        next_id += count
    return tuple(found)


def short(mappings: Iterable[IDMapping]) -> list[str]:
    """``container:host:size`` of each, as Podman's inspect has it."""
    return [f"{one.container_id}:{one.host_id}:{one.size}" for one in mappings]
