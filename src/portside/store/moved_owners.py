"""Owners of files moved from one range of identifiers to another, for copies of trees.

What an idmapped mount would show, written to the disk: owners and groups, those named in
access control lists (acl(5)), and the user namespace's root in file capabilities (capabilities(7),
"Namespaced file capabilities").
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable

from portside.model.idmap import mapped
from portside.model.ociruntime import IDMapping

CAPABILITY = "security.capability"
_ACLS = frozenset(("system.posix_acl_access", "system.posix_acl_default"))
_ACL_USER, _ACL_GROUP = 2, 8
_REVISION_2, _REVISION_3, _REVISIONS = 0x02000000, 0x03000000, 0xFF000000
_NOBODY = 65534


class MovedOwners:
    """``uids`` and ``gids`` lead from the source's identifiers (``container_id``) to the copy's
    (``host_id``). What they do not lead anywhere becomes nobody's, without set-ID bits."""

    def __init__(self, uids: Iterable[IDMapping], gids: Iterable[IDMapping]) -> None:
        self._uids, self._gids = tuple(uids), tuple(gids)

    def uid(self, number: int) -> int:
        return _moved(self._uids, number)

    def gid(self, number: int) -> int:
        return _moved(self._gids, number)

    def mode(self, found: os.stat_result) -> int:
        """The permission bits of a copy of a file."""
        mode = stat.S_IMODE(found.st_mode)
        if mapped(self._uids, found.st_uid) is None:
            mode &= ~stat.S_ISUID
        if mapped(self._gids, found.st_gid) is None:
            mode &= ~stat.S_ISGID
        return mode

    def attribute(self, key: str, value: bytes) -> bytes:
        """An extended attribute's value for the copy; malformed ones stay as they are."""
        if key == CAPABILITY:
            return self._capability(value)
        if key in _ACLS:
            return self._acl(value)
        return value

    def _capability(self, value: bytes) -> bytes:
        if len(value) not in (20, 24):
            return value
        (magic,) = struct.unpack_from("<I", value)
        before = struct.unpack_from("<I", value, 20)[0] if len(value) == 24 else 0
        root = self.uid(before)
        flags = magic & ~_REVISIONS
        if not root:
            return struct.pack("<I", _REVISION_2 | flags) + value[4:20]
        return struct.pack("<I", _REVISION_3 | flags) + value[4:20] + struct.pack("<I", root)

    def _acl(self, value: bytes) -> bytes:
        if len(value) < 4 or (len(value) - 4) % 8:
            return value
        found = bytearray(value[:4])
        for tag, bits, number in struct.iter_unpack("<HHI", value[4:]):
            if tag == _ACL_USER:
                number = self.uid(number)
            elif tag == _ACL_GROUP:
                number = self.gid(number)
            found += struct.pack("<HHI", tag, bits, number)
        return bytes(found)


def _moved(mappings: tuple[IDMapping, ...], number: int) -> int:
    found = mapped(mappings, number)
    if found is not None:
        return found
    # nobody, unless the copy's range has that number: then one that no range ends with
    inside = any(0 <= _NOBODY - one.host_id < one.size for one in mappings)
    return max(one.host_id + one.size for one in mappings) if inside else _NOBODY
