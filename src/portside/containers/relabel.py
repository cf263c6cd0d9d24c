"""Setting SELinux labels on whole trees, in a process of its own: a tree may be large.

A tree may change while it is walked, and who changes it may be hostile: each directory is opened
beneath the one before without following links, and what is in it is labelled by its bare name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import ClassVar

import msgspec

from portside.kernel.selinux import label_of, set_label, set_label_of
from portside.model.errors import SystemFailure
from portside.store.worker_pool import Job

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A file or a directory with everything beneath it."""

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
