"""A writable layer becomes a layer: packed and digested in one go. In job processes."""

from __future__ import annotations

import os
import stat

from portside.builder.solver.content_hash import ContentHash
from portside.builder.solver.file_digests import FileDigests
from portside.builder.solver.job_values import Sealed
from portside.kernel.openat2 import openat2
from portside.model.rootfs import Rootfs
from portside.store.layer_pack import pack
from portside.store.overlay_changes import pack_changes
from portside.store.roots import OPEN_DIR
from portside.store.trees import BELOW, measure

EMPTY_SIZE = 1024
"""Bytes of a tar without an entry, as we write it."""
CONTENT_LIMIT = 512 << 20
"""Bytes of files with unknown digests up to which a layer's content is digested without times.
Above this, reading the layer again costs more than it saves: a changed step seldom has the same
large output."""
SMALL = 4 << 20
"""Bytes of files up to which a layer is compressed at once. A larger one is compressed when an
image first needs its blob: most large layers are of stages that no image has."""
GAIN = 1 / 16
"""What compression must save of a large layer, as a fraction, to be worth a compressed copy: the
blob of one that stays as large is its plain tar, which is not stored but made when it is read."""


def seal(
    rootfs: Rootfs, base: str, target: str, stubs: tuple[str, ...],
    digests: FileDigests | None = None,
) -> Sealed:  # fmt: skip
    """See :class:`portside.builder.solver.build_jobs.SealLayer`. ``digests``: of files that were
    just made."""
    digests = digests if digests is not None else FileDigests()
    _drop_stubs(rootfs, base, stubs)
    upper = rootfs.upper
    size = measure(upper)
    is_overlay = rootfs.driver == "overlay"
    target = "" if is_overlay and size > SMALL else target
    hasher = None
    if is_overlay and size - digests.size <= CONTENT_LIMIT:
        hasher = ContentHash(digests=digests)
    watcher = None if hasher is None else hasher.packed
    packed = pack(lambda out: pack_changes(rootfs, base, out, watcher=watcher), target, "gzip")
    has_holes = packed.plain_size < size  # what counts as a hole may be another thing later
    is_noise = is_overlay and not target and packed.gain < GAIN and not has_holes
    return Sealed(
        diff_id=packed.diff_id,
        digest=packed.digest,
        size=packed.size,
        content=packed.diff_id if hasher is None else hasher.hexdigest(),
        tree_size=size,
        is_empty=packed.plain_size <= EMPTY_SIZE,
        tar_size=packed.plain_size if is_noise else 0,
    )


def _drop_stubs(rootfs: Rootfs, base: str, stubs: tuple[str, ...]) -> None:
    """Remove mount points that the runtime made, with their parents: the ones that no layer below
    (on vfs: the tree ``base``) has and that are still empty."""
    if not stubs:
        return
    is_overlay = rootfs.driver == "overlay"
    below = rootfs.lower if is_overlay else (base,) if base else ()
    top = os.open(rootfs.upper, OPEN_DIR)
    lower = [os.open(path, OPEN_DIR) for path in below]
    try:
        for path in (*stubs, "/etc/mtab"):
            _drop_upwards(top, lower, path.strip("/"), is_overlay=is_overlay)
    finally:
        for fd in (top, *lower):
            os.close(fd)


def _drop_upwards(top: int, lower: list[int], name: str, *, is_overlay: bool) -> None:
    """A stub, and then its parents as far as they are in the layer for its sake alone."""
    while name:
        below = next((found for fd in lower if (found := _look(fd, name)) is not None), None)
        if below is not None:
            here = _look(top, name)
            if here is None or not stat.S_ISDIR(here.st_mode) or _differ(here, below):
                return
            if not is_overlay:
                _restore_time(top, lower[0], name)
                return
        if not _drop_stub(top, name):
            return
        name = name.rpartition("/")[0]


def _restore_time(top: int, base: int, name: str) -> None:
    """On vfs: a directory in which only stubs came and went is as it was."""
    fds = []
    try:
        for root in (top, base):
            fds.append(openat2(root, name, OPEN_DIR, resolve=BELOW))
        here, before = fds
        if set(os.listdir(here)) == set(os.listdir(before)):
            found = os.stat(before)
            os.utime(here, ns=(found.st_atime_ns, found.st_mtime_ns))
    except OSError:
        return  # the step has put another thing there: it stays as it is
    finally:
        for fd in fds:
            os.close(fd)


def _differ(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a directory was changed, but for its time."""
    return (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid)


def _look(top: int, path: str) -> os.stat_result | None:
    """What a layer has there, be it a whiteout."""
    parent, _, name = path.rpartition("/")
    try:
        fd = openat2(top, parent or ".", OPEN_DIR, resolve=BELOW)
    except OSError:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(fd)


def _drop_stub(top: int, path: str) -> bool:
    """Whether it is gone: an empty directory, an empty file, or the runtime's link for mtab."""
    parent, _, name = path.rpartition("/")
    try:
        fd = openat2(top, parent or ".", OPEN_DIR, resolve=BELOW)
    except OSError:
        return True  # its parent was never made
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_mtab = stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=fd) == "/proc/mounts"
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(name, dir_fd=fd)
        elif is_mtab or (stat.S_ISREG(found.st_mode) and found.st_size == 0):
            os.unlink(name, dir_fd=fd)
        else:
            return False
    except FileNotFoundError:
        return True
    except OSError:
        return False  # used
    finally:
        os.close(fd)
    return True
