"""overlayfs (Documentation/filesystems/overlayfs.rst) as a mount that is attached nowhere.

Linux 6.8 takes one ``lowerdir+`` a layer through fsconfig(2). Before, all layers come in one
string: fsconfig(2) cuts strings at 255 bytes, mount(2) gives a page to all options. There
the layers' names are given relative to the directory they share, which makes room for
hundreds, and the mount made is copied with open_tree(2) and taken away again.
"""

from __future__ import annotations

import errno
import os

from portside.kernel import fsopen, mount, process
from portside.kernel.light_stdlib import cache
from portside.model.paths import rootless_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

XATTR = "user.overlay." if rootless_user() else "trusted.overlay."
"""Prefix of the attributes in which an overlay keeps what it has to remember. Trusted ones are
the host's root's alone; ``userxattr`` (Linux 5.11) is the way of user namespaces."""
OPAQUE = f"{XATTR}opaque"
"""``y`` on a directory that hides what lies below (overlayfs.rst)."""
OPTIONS = (
    ("index=off", "userxattr")
    if rootless_user()
    else ("index=off", "redirect_dir=off", "metacopy=off")
)
"""What is in ``upper`` must be the whole truth about the changes: no redirected renames, no
files without their data. ``userxattr`` has neither, and refuses the options that say so."""
VOLATILE = "volatile"
"""Linux 5.10: nothing that is written is synced, neither by fsync(2) in it nor when it is
unmounted, which otherwise syncs the whole file system of ``upper``. For what a crash drops
anyway."""
_PAGE = 4096
"""Bytes of mount(2)'s ``data``, the terminating NUL among them."""


def overlay(
    lower: Sequence[str],
    upper: str = "",
    work: str = "",
    options: Sequence[str] = (),
    *,
    attributes: int = 0,
    private: bool = False,
) -> int:
    """A detached overlay mount as a descriptor; ``lower`` topmost first.

    ``attributes`` are MOUNT_ATTR_ bits. ``private`` says that the caller's mount namespace is
    its own and passes nothing on; else kernels before 6.8 make the caller visit a fresh one,
    so it must have one thread. Raises OSError with the kernel's own message.
    """
    if VOLATILE in options:
        _forget_mount(work)
    if _by_layer():
        return _configured(lower, upper, work, options, attributes)
    if private:
        return _mounted(lower, upper, work, options, attributes)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        process.unshare(process.CLONE_NEWNS)
        try:
            mount.mount("", "/", "", mount.MS_SLAVE | mount.MS_REC)
            return _mounted(lower, upper, work, options, attributes)
        finally:
            process.setns(own, process.CLONE_NEWNS, "setns(/proc/self/ns/mnt)")
    finally:
        os.close(own)


@cache
def _by_layer() -> bool:
    """Whether the kernel knows ``lowerdir+`` (Linux 6.8).

    Until Linux 6.5 overlay took its options as one text at the end, so that fsconfig(2) accepted
    any: the version is asked first. The option is given a directory that is there, since the
    kernel writes a line to its log for one that is not.
    """
    if process.kernel_version() < (6, 8):
        return False
    try:
        context = fsopen.fsopen("overlay")
    except OSError:  # not permitted, or not supported: mounting one reports the error
        return False
    try:
        fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "lowerdir+", "/")
    except OSError:
        return False
    finally:
        os.close(context)
    return True


prepare = _by_layer
"""Asks the kernel now, so that no fork has to."""


@cache
def by_descriptor() -> bool:
    """Whether :func:`overlay_of` can be used: Linux 6.15 takes layers by descriptor, also of
    mounts that are attached nowhere."""
    return process.kernel_version() >= (6, 15)


def overlay_of(
    lower: Sequence[int], upper: int, work: int, options: Sequence[str] = (), attributes: int = 0
) -> int:
    """As :func:`overlay`, of descriptors of directories (idmapped copies, say), which may be of
    mounts that are attached nowhere; ``upper`` and ``work`` are -1 for a read-only one.
    Linux 6.15 (:func:`by_descriptor`)."""
    if VOLATILE in options:
        _forget_mount(f"/proc/self/fd/{work}")
    layers = [("lowerdir+", fd) for fd in lower]
    layers += [("upperdir", upper), ("workdir", work)] if upper >= 0 else []
    context = fsopen.fsopen("overlay")
    try:
        fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "source", "overlay")
        for key, fd in layers:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_FD, key, None, fd)
        return _created(context, options, attributes)
    finally:
        os.close(context)


def _forget_mount(work: str) -> None:
    """A volatile mount leaves a mark that refuses the next one, since after a crash in between the
    files may be damaged (overlayfs.rst, "Volatile mount"). We know that there was none."""
    above = f"{work}/work/incompat"
    for remove, path in (
        (os.unlink, f"{above}/volatile/dirty"), (os.rmdir, f"{above}/volatile"), (os.rmdir, above)
    ):  # fmt: skip
        try:
            remove(path)
        except FileNotFoundError:
            pass


@cache
def can_be_volatile() -> bool:
    return process.kernel_version() >= (5, 10)


def _configured(
    lower: Sequence[str], upper: str, work: str, options: Iterable[str], attributes: int
) -> int:
    context = fsopen.fsopen("overlay")
    try:
        fsopen.fsconfig(
            context, fsopen.FSCONFIG_SET_STRING, "source", "overlay"
        )  # as df(1) shows it
        for path in lower:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "lowerdir+", path)
        if upper:
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "upperdir", upper)
            fsopen.fsconfig(context, fsopen.FSCONFIG_SET_STRING, "workdir", work)
        return _created(context, options, attributes)
    finally:
        os.close(context)


def _created(context: int, options: Iterable[str], attributes: int) -> int:
    """The rest of the options, then the mount."""
    for option in options:
        key, equals, value = option.partition("=")
        kind = fsopen.FSCONFIG_SET_STRING if equals else fsopen.FSCONFIG_SET_FLAG
        fsopen.fsconfig(context, kind, key, value if equals else None)
    fsopen.fsconfig(context, fsopen.FSCONFIG_CMD_CREATE, None, None)
    return fsopen.fsmount(context, attributes)


def _mounted(
    lower: Sequence[str], upper: str, work: str, options: Iterable[str], attributes: int
) -> int:
    """By mount(2), in a namespace of our own, on the directory that the layers share."""
    base = os.path.commonpath([os.path.dirname(path) for path in lower])
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(base)
        names = ":".join(_escaped(os.path.relpath(path, base)) for path in lower)
        data = [f"lowerdir={names}", *map(_quoted, options)]
        if upper:
            data[1:1] = [f"upperdir={_escaped(upper)}", f"workdir={_escaped(work)}"]
        text = ",".join(data)
        if len(os.fsencode(text)) >= _PAGE:
            raise OSError(
                errno.E2BIG, f"{len(lower)} layers are too many for a kernel before 6.8", "overlay"
            )
        mount.mount("overlay", base, "overlay", 0, text)
        try:
            tree = mount.open_tree(mount.AT_FDCWD, base, mount.OPEN_TREE_CLONE)
        finally:
            mount.umount2(base, mount.MNT_DETACH)
        os.fchdir(before)
    finally:
        os.close(before)
    if attributes:
        mount.mount_setattr(tree, set=attributes, about="overlay")
    return tree


def _quoted(option: str) -> str:
    """An option whose value has a comma: security contexts may be quoted (mount(8))."""
    key, equals, value = option.partition("=")
    return f'{key}="{value}"' if equals and "," in value else option


def _escaped(path: str) -> str:
    """A path among overlay's options, where "," and ":" divide."""
    for sign in "\\:,":
        path = path.replace(sign, f"\\{sign}")
    return path
