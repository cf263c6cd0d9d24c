"""The container's root: put together without a path on the host, then pivoted into."""

from __future__ import annotations

import errno
import os

from portside.kernel import idmapped, mount, process
from portside.kernel.light_stdlib import contextmanager
from portside.kernel.overlay import by_descriptor, overlay, overlay_of
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.idmap import IDMappings
from portside.model.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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


def attach(
    rootfs: Rootfs, state_dir: str, propagation: str, opened: int = -1, shared: bool = False
) -> int:
    """Mount the root on ``state_dir`` in this mount namespace; a descriptor of it.

    Nothing of it is seen outside: the namespace is ours, and what it inherited from the
    host only receives the host's changes (mount_namespaces(7), slave). ``opened``: the root
    as :func:`open_root` made it before. ``shared``: the namespace is the caller's, where only
    the root's own mount is ours; :func:`detach` takes it away.
    """
    try:
        flags = _PROPAGATION[propagation]
    except KeyError:
        raise InvalidParameter(f"unknown rootfsPropagation {propagation!r}") from None
    # sharing is for the root's own mount, after it is in place; the host's get no more than slave
    if not shared:
        _set_all(mount.MS_PRIVATE if flags == mount.MS_PRIVATE else mount.MS_SLAVE)
    root = opened if opened >= 0 else open_root(rootfs)
    if state_dir == ".":  # by the empty path: "." would need the right to search it
        mount.move_mount(root, mount.AT_FDCWD, state_dir)
    else:
        target = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount.move_mount(root, target, state_dir)
        finally:
            os.close(target)
    # what the root's own mount is to be, pivot_root(2) must not find shared yet
    mount.mount_setattr(root, propagation=mount.MS_PRIVATE, about=state_dir)
    return root


def open_root(
    rootfs: Rootfs, private: bool = True, namespace: int = -1, used: list[int] | None = None
) -> int:
    """The root, mounted nowhere yet. ``private``: this mount namespace is the caller's own.
    ``namespace``: a user namespace that has the root's mappings already. ``used`` gets the
    descriptors that it was made of, which are closed without it."""
    if not rootfs.uid_mappings:
        return _plain_root(rootfs, private)
    made = -1
    if namespace < 0:
        namespace = made = idmapped.user_namespace(rootfs.uid_mappings, rootfs.gid_mappings)
    try:
        return _mapped_root(rootfs, namespace, used)
    finally:
        if made >= 0:
            os.close(made)


def _plain_root(rootfs: Rootfs, private: bool) -> int:
    if rootfs.driver == "overlay":
        return _overlay(rootfs, private)
    if rootfs.driver != "bind":
        raise InvalidParameter(f"unknown storage driver {rootfs.driver!r}")
    clone = mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE
    try:
        return mount.open_tree(mount.AT_FDCWD, rootfs.upper, clone)
    except OSError as err:
        raise SystemFailure(f"the root file system {rootfs.upper}: {err.strerror}") from err


def _mapped_root(rootfs: Rootfs, namespace: int, used: list[int] | None) -> int:
    if rootfs.driver != "overlay":
        root = _plain_root(rootfs, True)
        idmapped.map_owners_as(root, namespace)
        return root
    if not by_descriptor():
        _cover_with_mapped(rootfs, namespace)
        with _as_mapped_root(rootfs):
            return _overlay(rootfs, True)
    from contextlib import ExitStack

    with ExitStack() as stack:

        def opened(fd: int) -> int:
            if used is None:
                stack.callback(os.close, fd)
            else:
                used.append(fd)
            return fd

        lower = [opened(idmapped.mapped_copy(path, namespace)) for path in rootfs.lower]
        upper = work = -1
        if rootfs.work:
            # both must be of one mount, so the directory that holds them is mapped
            above, directory = os.path.dirname(rootfs.upper), os.O_PATH | os.O_DIRECTORY
            tree = opened(idmapped.mapped_copy(above, namespace))
            upper, work = (
                opened(os.open(os.path.basename(path), directory | os.O_CLOEXEC, dir_fd=tree))
                for path in (rootfs.upper, rootfs.work)
            )
        with _as_mapped_root(rootfs):
            try:
                return overlay_of(lower, upper, work, rootfs.options)
            except OSError as err:
                raise _no_root(err) from err


def _no_root(err: OSError) -> SystemFailure:
    return SystemFailure(f"cannot mount the container's root: {err.strerror}")


def _cover_with_mapped(rootfs: Rootfs, namespace: int) -> None:
    """Lay idmapped copies of the layers over themselves, in a mount namespace of our own.

    An overlay cannot be idmapped as a whole, its layers can; before Linux 6.15 they must be
    attached somewhere.
    """
    process.unshare(process.CLONE_NEWNS)
    _set_all(mount.MS_SLAVE)
    above = [os.path.dirname(rootfs.upper)] if rootfs.work else []
    for directory in (*rootfs.lower, *above):
        tree = idmapped.mapped_copy(directory, namespace)
        target = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount.move_mount(tree, target, directory)
        finally:
            os.close(tree)
            os.close(target)


@contextmanager
def _as_mapped_root(rootfs: Rootfs) -> Iterator[None]:
    """Run as the user that the disk's root is shown as, with root's rights.

    An overlay writes to its upper layer as who mounted it, and an idmapped mount takes files
    of mapped users only (EOVERFLOW).
    """
    user, group = IDMappings(rootfs.uid_mappings, rootfs.gid_mappings).root
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
        # "/" is not a mount point: this is a plain chroot. Every mount we can see is set instead.
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
        raise _no_root(err) from err


def detach(path: str) -> None:
    """Undo :func:`attach` in a shared namespace, with all that was mounted below."""
    try:
        mount.umount2(path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOENT):  # it is gone
            raise


def enter(root: int) -> None:
    """Make the mount of ``root`` our root directory, and leave the namespace's mounts alone."""
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    os.close(root)


def move(root: int, propagation: str) -> None:
    """Move the mount of ``root`` over the root of this mount namespace, which stays below.

    For a root that pivot_root(2) refuses, such as an initramfs. Whoever gets out of the new one
    would be in the old one, so what shows the host's processes and devices is taken away first.
    """
    inside = os.readlink(f"/proc/self/fd/{root}")
    with open("/proc/self/mountinfo") as file:
        lines = [line.split(" ") for line in file]
    places = [fields[4] for fields in lines if fields[fields.index("-") + 1] in ("proc", "sysfs")]
    for place in reversed(places):
        if place != inside and not place.startswith(f"{inside}/"):
            mount.umount2(place, mount.MNT_DETACH)
    os.fchdir(root)
    mount.mount(".", "/", "", mount.MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    if propagation:
        mount.mount_setattr(root, propagation=_PROPAGATION[propagation], about="/")
    os.close(root)


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
