"""The container's root: put together without a path on the host, then pivoted into."""

from __future__ import annotations

import os

from portside.kernel import fsopen, process
from portside.kernel import mount as kernel
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.rootfs import Rootfs

_PROPAGATION = {
    "": kernel.MS_SLAVE,
    "private": kernel.MS_PRIVATE,
    "rprivate": kernel.MS_PRIVATE,
    "slave": kernel.MS_SLAVE,
    "rslave": kernel.MS_SLAVE,
    "shared": kernel.MS_SHARED,
    "rshared": kernel.MS_SHARED,
    "unbindable": kernel.MS_UNBINDABLE,
    "runbindable": kernel.MS_UNBINDABLE,
}


def attach(rootfs: Rootfs, state_dir: str, propagation: str) -> int:
    """Mount the root on ``state_dir`` in this mount namespace; a descriptor of it.

    Nothing of it is seen outside: the namespace is ours, and what it inherited from the
    host only receives the host's changes (mount_namespaces(7), slave).
    """
    try:
        flags = _PROPAGATION[propagation]
    except KeyError:
        raise InvalidParameter(f"unknown rootfsPropagation {propagation!r}") from None
    # sharing is for the root's own mount, after it is in place; the host's get no more than slave
    outer = kernel.MS_PRIVATE if flags == kernel.MS_PRIVATE else kernel.MS_SLAVE
    _set_all(outer)
    if rootfs.driver == "overlay":
        root = overlay(rootfs)
    elif rootfs.driver == "bind":
        clone = kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE
        root = kernel.open_tree(kernel.AT_FDCWD, rootfs.upper, clone)
    else:
        raise InvalidParameter(f"unknown storage driver {rootfs.driver!r}")
    target = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.move_mount(root, target, state_dir)
    finally:
        os.close(target)
    inner = kernel.MS_PRIVATE if not propagation else flags
    kernel.mount_setattr(root, propagation=inner, about=state_dir)
    return root


def _set_all(flags: int) -> None:
    try:
        kernel.mount("", "/", "", flags | kernel.MS_REC)
    except OSError as err:
        # "/" is no mount point: a plain chroot. Every mount we can see is set instead.
        if err.errno != 22:
            raise
        with open("/proc/self/mountinfo") as file:
            for line in file:
                kernel.mount("", line.split(" ")[4], "", flags)


def overlay(rootfs: Rootfs) -> int:
    """A detached overlay mount (overlayfs.rst); one ``lowerdir+`` a layer lifts the limit of
    a page on the option's length that mount(2) has (Linux 6.5), else paths are shortened."""
    context = fsopen.fsopen("overlay")
    try:
        _layers(context, rootfs)
        if rootfs.upper:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "upperdir", rootfs.upper)
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "workdir", rootfs.work)
        for option in rootfs.options:
            key, equals, value = option.partition("=")
            kind = fsopen.FSCONFIG_SET_STRING if equals else fsopen.FSCONFIG_SET_FLAG
            fsopen.fsconfig(context, kind, key, value if equals else None)
        fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
        return fsopen.fsmount(context)
    except OSError as err:
        raise SystemFailure(f"cannot mount the container's root: {err.strerror}") from err
    finally:
        os.close(context)


def _layers(context: int, rootfs: Rootfs) -> None:
    try:
        for lower in rootfs.lower:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "lowerdir+", lower)
    except OSError as err:
        if err.errno != 22:
            raise
        joined = ":".join(lower.replace(":", "\\:") for lower in rootfs.lower)
        fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "lowerdir", joined)


def pivot(root: int, namespace: int) -> None:
    """Make the mount of ``root`` the root of this mount namespace, and forget all others.

    Joining our own namespace once more first brings us to its real root: in a chroot,
    pivot_root(2) would exchange something else, and whoever joins the namespace later (an
    exec) would land in the host's root.
    """
    process.setns(namespace, process.CLONE_NEWNS, "mount namespace")
    os.close(namespace)
    os.fchdir(root)
    kernel.pivot_root(".", ".")
    # the old root lies on top of the new one at "."; slave, so that the host keeps its mounts
    kernel.mount("", ".", "", kernel.MS_SLAVE | kernel.MS_REC)
    kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")
    os.close(root)
