"""The container's root: put together without a path on the host, then pivoted into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from portside.kernel import mount, process
from portside.kernel.overlay import overlay
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.rootfs import Rootfs
from portside.runtime import userns

_PROPAGATION = {
    "": mount.MS_SLAVE,
    "private": mount.MS_PRIVATE,
    "rprivate": mount.MS_PRIVATE,
    "slave": mount.MS_SLAVE,
    "rslave": mount.MS_SLAVE,
    "shared": mount.MS_SHARED,
    "rshared": mount.MS_SHARED,
    "unbindable": mount.MS_UNBINDABLE,
    "runbindable": mount.MS_UNBINDABLE,
}


def attach(rootfs: Rootfs, state_dir: str, propagation: str, opened: int = -1) -> int:
    """Mount the root on ``state_dir`` in this mount namespace; a descriptor of it.

    Nothing of it is seen outside: the namespace is ours, and what it inherited from the
    host only receives the host's changes (mount_namespaces(7), slave). ``opened``: the root
    as :func:`open_root` made it before.
    """
    try:
        flags = _PROPAGATION[propagation]
    except KeyError:
        raise InvalidParameter(f"unknown rootfsPropagation {propagation!r}") from None
    # sharing is for the root's own mount, after it is in place; the host's get no more than slave
    _set_all(mount.MS_PRIVATE if flags == mount.MS_PRIVATE else mount.MS_SLAVE)
    root = opened if opened >= 0 else open_root(rootfs)
    target = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.move_mount(root, target, state_dir)
    finally:
        os.close(target)
    # what the root's own mount is to be, pivot_root(2) must not find shared yet
    mount.mount_setattr(root, propagation=mount.MS_PRIVATE, about=state_dir)
    return root


def open_root(rootfs: Rootfs, private: bool = True) -> int:
    """The root, mounted nowhere yet. ``private``: this mount namespace is the caller's own."""
    if rootfs.uid_mappings and rootfs.driver == "overlay":
        _map_owners(rootfs)
        with _as_mapped_root(rootfs):
            return _overlay(rootfs, True)
    if rootfs.driver == "overlay":
        return _overlay(rootfs, private)
    if rootfs.driver != "bind":
        raise InvalidParameter(f"unknown storage driver {rootfs.driver!r}")
    clone = mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE
    try:
        root = mount.open_tree(mount.AT_FDCWD, rootfs.upper, clone)
    except OSError as err:
        raise SystemFailure(f"the root file system {rootfs.upper}: {err.strerror}") from err
    if rootfs.uid_mappings:
        userns.map_owners(root, rootfs.uid_mappings, rootfs.gid_mappings)
    return root


def _map_owners(rootfs: Rootfs) -> None:
    """Lay idmapped copies of the layers over themselves, in a mount namespace of our own.

    An overlay cannot be idmapped as a whole, its layers can. Upper and work directory must
    be of one mount, so the directory that holds both is mapped.
    """
    process.unshare(process.CLONE_NEWNS)
    _set_all(mount.MS_SLAVE)
    namespace = userns.user_namespace(rootfs.uid_mappings, rootfs.gid_mappings)
    above = [os.path.dirname(rootfs.upper)] if rootfs.work else []
    try:
        for directory in (*rootfs.lower, *above):
            tree = mount.open_tree(mount.AT_FDCWD, directory, mount.OPEN_TREE_CLONE)
            target = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                userns.map_owners_as(tree, namespace)
                mount.move_mount(tree, target, directory)
            finally:
                os.close(tree)
                os.close(target)
    finally:
        os.close(namespace)


@contextmanager
def _as_mapped_root(rootfs: Rootfs) -> Iterator[None]:
    """With root's rights, but the user that the disk's root is shown as.

    An overlay writes to its upper layer as who mounted it, and an idmapped mount takes files
    of mapped users only (EOVERFLOW).
    """
    user, group = rootfs.uid_mappings[0].host_id, rootfs.gid_mappings[0].host_id
    process.prctl(process.PR_SET_SECUREBITS, process.SECBIT_NO_SETUID_FIXUP)
    try:
        os.setegid(group)
        os.seteuid(user)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        process.prctl(process.PR_SET_SECUREBITS, 0)


def _set_all(flags: int) -> None:
    try:
        mount.mount("", "/", "", flags | mount.MS_REC)
    except OSError as err:
        # "/" is no mount point: a plain chroot. Every mount we can see is set instead.
        if err.errno != 22:
            raise
        with open("/proc/self/mountinfo") as file:
            for line in file:
                mount.mount("", line.split(" ")[4], "", flags)


def _overlay(rootfs: Rootfs, private: bool = True) -> int:
    """The root's overlay, mounted nowhere yet."""
    try:
        return overlay(rootfs.lower, rootfs.upper, rootfs.work, rootfs.options, private=private)
    except OSError as err:
        raise SystemFailure(f"cannot mount the container's root: {err.strerror}") from err


def pivot(root: int, namespace: int, propagation: str) -> None:
    """Make the mount of ``root`` the root of this mount namespace, and forget all others.

    Joining our own namespace once more first brings us to its real root: in a chroot,
    pivot_root(2) would exchange something else, and whoever joins the namespace later (an
    exec) would land in the host's root.
    """
    process.setns(namespace, process.CLONE_NEWNS, "mount namespace")
    os.close(namespace)
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root)
    mount.pivot_root(".", ".")
    # slave, so that the host keeps its mounts; by descriptor, since the name "." would stand
    # for the new root here, whose shared mounts must stay what they are
    mount.mount_setattr(old, propagation=mount.MS_SLAVE, recursive=True, about="/")
    os.close(old)
    # the old root lies on top of the new one
    mount.umount2(".", mount.MNT_DETACH)
    os.chdir("/")
    if propagation:  # of the root alone: the mounts below have what was asked for them
        mount.mount_setattr(root, propagation=_PROPAGATION[propagation], about="/")
    os.close(root)
