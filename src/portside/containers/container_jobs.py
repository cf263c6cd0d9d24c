"""Work on a container's files in the store's job processes.

What is in a container is hostile, may be large, and may lie on a file system that never answers
(FUSE): nothing here runs in the engine. Each job process imports this file, so it imports little.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec

from portside.kernel.mount import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    MNT_DETACH,
    OPEN_TREE_CLONE,
    UMOUNT_NOFOLLOW,
    move_mount,
    open_tree,
    umount2,
)
from portside.kernel.selinux import label_of, set_label, set_label_of
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import User
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job

# -- the user of an exec -------------------------------------------------------------------------


class LookUpUser(Job, kw_only=True):
    """Look ``user`` (``NAME|UID[:GROUP|GID]``) up in the root of the process ``pid``; raises
    InvalidParameter in Docker's words when it is not there, NotRunning."""

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    user: str
    pid: int

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        from portside.runtime import privileges
        from portside.runtime.messages import Identity
        from portside.store.roots import open_root

        root = open_root(self.pid)
        try:
            privileges.resolve(User(0, 0), Identity(self.user, ()), root)
        except SystemFailure as err:
            raise InvalidParameter(str(err)) from None


# -- a path of an image --------------------------------------------------------------------------

_WHOLE = ".whole"


class BindImagePath(Job, kw_only=True):
    """Bind ``path`` of ``rootfs`` at ``place``, which is made; InvalidParameter without it.

    The whole is attached beside it for a moment: until Linux 6.15 open_tree(2) copies no part of
    a mount that is attached nowhere.
    """

    result: ClassVar[type] = type(None)
    heavy: ClassVar[bool] = False
    rootfs: Rootfs
    path: str
    place: str

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        from portside.runtime.rootfs import open_root as open_mapped_root
        from portside.store.roots import open_beneath, open_root

        whole = self.place + _WHOLE
        Path(whole).mkdir(0o700)
        if self.rootfs.uid_mappings:
            root = open_mapped_root(self.rootfs, private=False)
        elif self.rootfs.driver == "overlay":
            root = open_root(self.rootfs)
        else:
            root = open_tree(AT_FDCWD, self.rootfs.upper, OPEN_TREE_CLONE)
        _attach(root, whole)
        try:
            top = os.open(whole, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = open_beneath(top, self.path, os.O_PATH | os.O_CLOEXEC)
            except OSError as err:
                reason = os.strerror(err.errno or errno.ENOENT).lower()
                raise InvalidParameter(
                    f"cannot access path {self.path} of the image: {reason}"
                ) from err
            place = Path(self.place)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                place.mkdir(mode=0o700)
            else:
                place.touch(0o600, exist_ok=False)
            _attach(open_tree(found, "", OPEN_TREE_CLONE | AT_EMPTY_PATH), self.place)
            os.close(found)
            os.close(top)
        finally:
            umount2(whole, UMOUNT_NOFOLLOW | MNT_DETACH)
            Path(whole).rmdir()


def _attach(tree: int, place: str) -> None:
    target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        move_mount(tree, target, place)
    finally:
        os.close(target)
        os.close(tree)


# -- SELinux labels of whole trees ---------------------------------------------------------------

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A file or a directory with everything beneath it.

    It may change while it is walked: each directory is opened beneath the one before without
    following links, and what is in it is labelled by its bare name.
    """

    path: str
    label: str


class Relabel(Job, kw_only=True):
    """Label trees; the top of each comes last, so that its label says that all is done.
    SystemFailure with the path of a tree that could not be labelled."""

    result: ClassVar[type] = type(None)
    trees: tuple[Tree, ...]

    def run(self, fds: list[int], progress: Callable[[int], None]) -> None:
        for tree in self.trees:
            try:
                label_tree(tree)
            except OSError as err:
                raise SystemFailure(
                    f"error setting label on mount source '{tree.path}': "
                    f"{(err.strerror or str(err)).lower()}"
                ) from err


def label_tree(tree: Tree) -> None:
    """Label a tree; files that have the label already are left alone. OSError."""
    top = os.open(tree.path, os.O_PATH | os.O_CLOEXEC)
    try:
        place = f"/proc/self/fd/{top}"
        if stat.S_ISDIR(os.fstat(top).st_mode):
            _below(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), tree.label)
            _label(f"{place}/.", tree.label)
        else:
            set_label_of(top, tree.label)
    finally:
        os.close(top)


def _label(path: str, label: str) -> None:
    if label_of(path) != label:
        set_label(path, label)


def _below(top: int, label: str) -> None:
    """Everything beneath a directory, whose descriptor is closed; no recursion, since directories
    may be nested deeper than the interpreter's frames."""
    stack = [(top, _directories(top, label))]
    try:
        while stack:
            directory, names = stack[-1]
            if not names:
                stack.pop()
                os.close(directory)
                continue
            name = names.pop()
            inner = _entered(directory, name)
            if inner >= 0:
                stack.append((inner, _directories(inner, label)))
    finally:
        for directory, _ in stack:
            os.close(directory)


def _directories(directory: int, label: str) -> list[str]:
    """Label what is in a directory; the names of the directories among it."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            _label(f"/proc/self/fd/{directory}/{entry.name}", label)
            if entry.is_dir(follow_symlinks=False):
                found.append(entry.name)
    return found


def _entered(directory: int, name: str) -> int:
    """A descriptor of a directory, -1 for what has gone or is something else by now."""
    try:
        return os.open(name, _OPEN, dir_fd=directory)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise
