"""What a path of an image leads to, read from its layers without mounting them.

The layers are merged as overlayfs does it (overlayfs.rst, "whiteouts and opaque directories"):
the topmost entry of a name counts, directories of one name are one, a whiteout or an opaque
directory hides what lies below. Each name is looked up in an open directory without following
links; links are resolved here and never leave the layers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from portside.store.overlay_changes import is_opaque
from portside.store.tar_unpack import is_whiteout

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAXIMUM_LINKS = 40
"""As the kernel's MAXSYMLINKS (path_resolution(7))."""

_MAXIMUM_OPENS = 1024
"""Descriptors that one look-up may hold; an image's tree may be of any depth."""


def kind_at(layers: Sequence[str], path: str) -> int | None:
    """The file type (``S_IFDIR`` …) of what ``path`` leads to; None when there is nothing.

    ``layers`` are directories, the topmost first. NotADirectoryError: something before the end
    of the path is not a directory. A path with too many links, or too deep for its many layers,
    leads to nothing.
    """
    with ExitStack() as opened:
        top = [_open(layer, None, opened) for layer in layers]
        stack, pending, links, opens = [top], _names(path), 0, 0
        while pending:
            name = pending.pop()
            if name == "..":
                stack = stack[:-1] or [top]
                continue
            mode, holders = _entry(stack[-1], name)
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAXIMUM_LINKS:
                    return None
                target = os.readlink(name, dir_fd=holders[0])
                stack = [top] if target.startswith("/") else stack
                pending += _names(target)
            elif stat.S_ISDIR(mode):
                opens += len(holders)
                if opens > _MAXIMUM_OPENS:
                    return None
                stack.append([_open(name, holder, opened) for holder in holders])
            elif not mode:
                return None
            elif pending:
                raise NotADirectoryError(path)
            else:
                return stat.S_IFMT(mode)
        return stat.S_IFDIR


def _open(name: str, directory: int | None, opened: ExitStack) -> int:
    # a layer's own path is the store's, and may be a link
    flags = _OPEN if directory is not None else _OPEN & ~os.O_NOFOLLOW
    fd = os.open(name, flags, dir_fd=directory)
    opened.callback(os.close, fd)
    return fd


def _names(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _entry(directories: Sequence[int], name: str) -> tuple[int, list[int]]:
    """The mode of a name in a merged directory, 0 for none, and the directories that hold it: for
    a directory all that are merged, the topmost first."""
    mode, holders = 0, list[int]()
    for directory in directories:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if is_whiteout(found):
            break
        if not stat.S_ISDIR(found.st_mode):
            if not holders:
                return found.st_mode, [directory]
            break
        mode = mode or found.st_mode
        holders.append(directory)
        if _hides(directory, name):
            break
    return mode, holders


def _hides(directory: int, name: str) -> bool:
    fd = os.open(name, _OPEN, dir_fd=directory)
    try:
        return is_opaque(fd)
    finally:
        os.close(fd)
