"""A container's root as a directory descriptor, whether it runs or not.

A running container's root is ``/proc/PID/root``: walking from it crosses the mounts of the
container's own mount namespace. A stopped one's is its overlay, mounted nowhere: fsmount(2)
gives a descriptor, and the mount is gone when the descriptor is closed. Either way every
lookup starts at the descriptor with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS): no path
of the host is ever involved. Used in worker processes only.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from portside.kernel import idmapped
from portside.kernel import mount as mnt
from portside.kernel.openat2 import IN_ROOT, openat2
from portside.kernel.overlay import overlay
from portside.kernel.process import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    PR_SET_DUMPABLE,
    prctl,
    setns,
)
from portside.model.errors import NotRunning, SystemFailure
from portside.model.rootfs import Rootfs

OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """A descriptor that is closed at the end, whatever happens: workers do many jobs."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_root(source: Rootfs | int) -> int:
    """A descriptor of the root of a :class:`Rootfs` or of a running process, to walk from.

    NotRunning when the process is gone, SystemFailure when the overlay cannot be mounted.
    """
    if isinstance(source, int):
        try:
            root = os.open(f"/proc/{source}/root", OPEN_DIR)
        except (FileNotFoundError, ProcessLookupError):
            raise NotRunning(f"process {source} has ended") from None
        enter_user_namespace(source)
        return root
    if source.driver == "bind":
        return os.open(source.upper, OPEN_DIR)
    if source.upper:
        _await_others(source.upper)
    return mount_overlay(source)


def enter_stored(rootfs: Rootfs) -> None:
    """As :func:`enter_user_namespace`, for a root that is stored with the host's identifiers and
    was opened before."""
    if rootfs.stored_uids:
        namespace = idmapped.user_namespace(rootfs.stored_uids, rootfs.stored_gids)
        try:
            _enter(namespace)
        finally:
            os.close(namespace)


def enter_user_namespace(pid: int) -> None:
    """Be root in the user namespace of a container's process, so that its files' owners are read
    and written as it sees them. For jobs: there is no way back. Nothing when it is ours."""
    try:
        theirs = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(f"process {pid} has ended") from None
    try:
        if os.fstat(theirs).st_ino == os.stat("/proc/self/ns/user").st_ino:
            return
        _enter(theirs)
    finally:
        os.close(theirs)


def _enter(namespace: int) -> None:
    setns(namespace, CLONE_NEWUSER, "the container's user namespace")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl(PR_SET_DUMPABLE, 1)  # else our own files in /proc are not ours


def _await_others(upper: str) -> None:
    """Until no other job has this overlay mounted: two mounts of one upper directory disturb one
    another (a mount empties the work directory in which the other makes its files). The
    descriptor stays open: the lock lasts as long as this process."""
    fcntl.flock(os.open(upper, OPEN_DIR), fcntl.LOCK_EX)


def open_bare_root(pid: int) -> int:
    """The root mount of a running process alone: a detached copy of it, without the mounts on
    it. open_tree(2) copies mounts of one's own namespace only, hence the visit."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        setns(theirs, CLONE_NEWNS, f"setns(/proc/{pid}/ns/mnt)")
        os.close(theirs)
        tree = mnt.open_tree(mnt.AT_FDCWD, "/", mnt.OPEN_TREE_CLONE)
        setns(own, CLONE_NEWNS, "setns(/proc/self/ns/mnt)")
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(f"process {pid} has ended") from None
    finally:
        os.close(own)
    enter_user_namespace(pid)
    return tree


def mount_overlay(rootfs: Rootfs) -> int:
    """The overlay as a detached mount's root directory, an O_PATH descriptor.

    The descriptor itself must stay open: once it is closed the mount belongs to no namespace,
    each reference to it dropped takes the mount lock, and openat2(2) answers EAGAIN for every
    ".." since it sees mounts change all the time.
    """
    attributes = mnt.MOUNT_ATTR_NODEV | mnt.MOUNT_ATTR_NOSUID
    if not rootfs.upper:
        attributes |= mnt.MOUNT_ATTR_RDONLY
    try:
        return overlay(
            rootfs.lower, rootfs.upper, rootfs.work, rootfs.options, attributes=attributes
        )
    except OSError as err:
        raise SystemFailure(f"cannot mount the overlay: {err.strerror} ({err.filename})") from err


def open_beneath(root_fd: int, path: str | bytes, flags: int) -> int:
    """Open ``path`` with every link resolved inside the root; OSError as open(2)."""
    return openat2(root_fd, path or ".", flags, resolve=IN_ROOT)


def resolved(root_fd: int, fd: int) -> str:
    """Where ``fd`` is, as a path inside the root.

    For showing only: the tree may change at any time, so nothing is opened by it.
    """
    top = os.readlink(f"/proc/self/fd/{root_fd}")
    path = os.readlink(f"/proc/self/fd/{fd}")
    if top != "/" and path.startswith(top):
        path = path[len(top) :]
    return path or "/"


def missing(err: OSError) -> bool:
    """Whether an open failed since there is no such path."""
    return err.errno in (errno.ENOENT, errno.ENOTDIR)
