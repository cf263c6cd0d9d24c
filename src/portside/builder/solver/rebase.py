"""``COPY --link`` makes a layer without looking at what it will stand on; the directories that lead
to its files are made as if nothing was there. In job processes.

On a base that has such a directory with another owner or mode, or a link in its place, that layer
would change it (``/tmp`` would lose its sticky bit, ``/lib`` the files behind it). Docker without
snapshots that can be merged copies onto the base then, and so do we.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence

from portside.builder import llb
from portside.model.rootfs import Rootfs
from portside.store.roots import missing, open_beneath, open_root


def copied_to(op: llb.Op) -> tuple[str, ...]:
    """Where copies onto an empty root go; nothing for other operations."""
    if not isinstance(op, llb.FileOp):
        return ()
    found = []
    for item in op.actions:
        if not isinstance(item.action, llb.CopyAction):
            return ()
        found.append(posixpath.normpath("/" + item.action.dest.strip("/")))
    return tuple(found)


def leading_to(path: str) -> Iterator[str]:
    """The path, and each directory above it but the root, from the top."""
    parts = path.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        if parts[0]:
            yield "/" + "/".join(parts[:count])


def parents_differ(base: Rootfs, above: Rootfs, paths: Sequence[str]) -> bool:
    """See :class:`CompareParents`."""
    lower, upper = open_root(base), open_root(above)
    try:
        return any(_differs(lower, upper, path) for path in paths)
    finally:
        os.close(lower)
        os.close(upper)


def _differs(lower: int, upper: int, path: str) -> bool:
    for place in leading_to(path):
        here, there = _look(upper, place), _look(lower, place)
        if here is None or there is None or not stat.S_ISDIR(here.st_mode):
            return False
        if stat.S_ISLNK(there.st_mode):
            return True
        if not stat.S_ISDIR(there.st_mode):
            return False
        if _attributes(here) != _attributes(there):
            return True
    return False


def _attributes(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid


def _look(root: int, path: str) -> os.stat_result | None:
    try:
        fd = open_beneath(root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        if missing(err):
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
