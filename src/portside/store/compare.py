"""Is one tree what another is? For ``system check``: a layer beside its blob unpacked afresh."""

from __future__ import annotations

import os
import stat

from portside.kernel import overlay
from portside.store.tar_unpack import is_whiteout

_OVERLAYS_OWN = (os.fsencode(overlay.XATTR),)
_OPAQUE = overlay.OPAQUE
_PIECE = 1 << 20


def first_difference(one: str, other: str) -> str:
    """What differs first, as a sentence's end; empty when nothing does.

    Compared: names, kinds, modes, owners, contents, links' targets, extended attributes, and
    times, except those of directories (one that no archive has gets the time it was made) and of
    whiteouts (an archive has none).
    """
    todo = [b""]
    while todo:
        name = todo.pop()
        mine, theirs = os.path.join(os.fsencode(one), name), os.path.join(os.fsencode(other), name)
        found = os.lstat(mine)
        if difference := _of_entry(mine, found, theirs):
            return f"{_shown(name)} {difference}"
        if stat.S_ISDIR(found.st_mode):
            names, wanted = set(os.listdir(mine)), set(os.listdir(theirs))
            for odd in sorted(names ^ wanted):
                what = "is missing" if odd in wanted else "is not from its image"
                return f"{_shown(os.path.join(name, odd))} {what}"
            todo += [os.path.join(name, child) for child in names]
    return ""


def _shown(name: bytes) -> str:
    return "/" + os.fsdecode(name).encode("utf-8", "replace").decode()


def _of_entry(mine: bytes, found: os.stat_result, theirs: bytes) -> str:
    wanted = os.lstat(theirs)
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFMT(wanted.st_mode) or found.st_rdev != wanted.st_rdev:
        return "is of another kind"
    if found.st_mode != wanted.st_mode:
        return "has another mode"
    if (found.st_uid, found.st_gid) != (wanted.st_uid, wanted.st_gid):
        return "has another owner"
    timed = kind != stat.S_IFDIR and not is_whiteout(found)
    if timed and found.st_mtime_ns != wanted.st_mtime_ns:
        return "was changed"
    if _attributes(mine) != _attributes(theirs):
        return "has other extended attributes"
    if kind == stat.S_IFLNK and os.readlink(mine) != os.readlink(theirs):
        return "leads elsewhere"
    if kind == stat.S_IFREG and not _same_bytes(mine, theirs):
        return "has other content"
    return ""


def _attributes(path: bytes) -> dict[str, bytes]:
    """Without what overlay notes for itself; opacity is content."""
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name == _OPAQUE or not os.fsencode(name).startswith(_OVERLAYS_OWN)
    }


def _same_bytes(mine: bytes, theirs: bytes) -> bool:
    with open(mine, "rb", buffering=0) as one, open(theirs, "rb", buffering=0) as other:
        while True:
            left, right = one.read(_PIECE), other.read(_PIECE)
            if left != right:
                return False
            if not left:
                return True
