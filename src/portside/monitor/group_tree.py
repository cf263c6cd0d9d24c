"""The list of control groups, kept up to date by inotify.

The directories of all hierarchies together are the groups, by their path below the mount.
inotify(7) reports what appears and disappears; where watches run out, the tree is walked again
from time to time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from portside.kernel.cgroup import Hierarchy, Layout
from portside.kernel.cgroup.layout import parse
from portside.kernel.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_Q_OVERFLOW,
    Inotify,
)

_CONTAINER = re.compile(r"(?:^|/|-|:)([0-9a-f]{64})(?:\.scope)?$")
_IN_ONLYDIR = 0x01000000
MOST = 20_000
"""Groups at most; further groups are not sampled, and the log says so."""
_FOLLOWED = ("memory", "cpuacct", "cpu", "pids", "blkio")
"""Version 1 hierarchies whose directories are walked; the others have the same groups."""


def container_id(name: str) -> str:
    """The container's ID in a group's name, or empty: engines end the path with it."""
    found = _CONTAINER.search(name)
    return found[1] if found else ""


def layout_below(rootfs: str) -> Layout:
    """The machine's hierarchies, seen from inside a container that has the host at ``rootfs``.

    A container's own mount of the hierarchy shows its own group only, so those below
    ``rootfs`` or at ``/sys/fs/cgroup`` of a bind mount are preferred. Raises SystemFailure.
    """
    with open("/proc/self/mountinfo") as file:
        lines = file.read().splitlines()
    if rootfs and rootfs != "/":
        prefix = f"{rootfs.rstrip('/')}/sys/fs/cgroup"
        inside = [line for line in lines if line.split(" ")[4].startswith(prefix)]
        lines = inside or lines
    return parse("\n".join(lines))


def roots(layout: Layout) -> tuple[str, ...]:
    """Mount points to walk: version 2's, and the version 1 hierarchies that are read."""
    chosen: list[Hierarchy] = []
    for controller in _FOLLOWED:
        for hierarchy in layout.hierarchies:
            if controller in hierarchy.controllers and hierarchy not in chosen:
                chosen.append(hierarchy)
    mounts = tuple(hierarchy.mount for hierarchy in chosen)
    # Walking one hierarchy that has all groups would do; systemd makes some in a few only.
    first = mounts[:2] if layout.unified else mounts
    return (*first, layout.unified) if layout.unified else first


class GroupTree:
    """The groups below one root group. ``fileno`` is readable when something changed."""

    def __init__(self, layout: Layout, root: str = "/") -> None:
        self._mounts = roots(layout)
        self._root = root.rstrip("/")
        self._inotify: Inotify | None = Inotify()
        self._watched: dict[str, int] = {}
        """Directory: number of its watch."""
        self._directory_of: dict[int, str] = {}
        self.truncated = False

    def fileno(self) -> int:
        return self._inotify.fileno() if self._inotify is not None else -1

    @property
    def is_watching(self) -> bool:
        """Whether every directory is watched, so that walking the tree is not needed."""
        return self._inotify is not None

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def changes(self) -> tuple[set[str], set[str]] | None:
        """Groups that appeared and disappeared since the last call or walk.

        A group is there while it is in any hierarchy. None: what happened is not known in full
        (the kernel's queue was too short), and :meth:`walk` finds it out.
        """
        came: set[str] = set()
        went: set[str] = set()
        while self._inotify is not None and (events := self._inotify.read()):
            for watch, mask, name in events:
                if mask & IN_Q_OVERFLOW or self.truncated:
                    self._take_all()
                    return None
                if mask & IN_IGNORED:
                    self._forget(watch)
                parent = self._directory_of.get(watch)
                if parent is None or not mask & IN_ISDIR or not name:
                    continue
                path = f"{parent}/{name}"
                if mask & IN_DELETE:
                    went.add(self._group(path))
                    came.discard(self._group(path))
                    continue
                for directory in self._directories(path):
                    self._watch(directory)
                    came.add(self._group(directory))
        gone = {group for group in went if not self._is_anywhere(group)}
        return came - gone, gone

    def _take_all(self) -> None:
        while self._inotify is not None and self._inotify.read():
            pass

    def _group(self, directory: str) -> str:
        mount = next(m for m in self._mounts if directory == m or directory.startswith(f"{m}/"))
        return directory[len(mount) :] or "/"

    def _is_anywhere(self, group: str) -> bool:
        return any(os.path.isdir(f"{mount}{group}") for mount in self._mounts)

    def walk(self) -> set[str]:
        """All groups: ``/``, ``/system.slice``, …; new directories are watched.

        The machine, and the groups that lead to the chosen one, are always there.
        """
        names = self._root.split("/")
        found = {"/", *("/".join(names[:number]) for number in range(2, len(names)))}
        self.truncated = False
        seen: set[str] = set()
        for mount in self._mounts:
            top = f"{mount}{self._root}"
            for directory in self._directories(top):
                seen.add(directory)
                found.add(directory[len(mount) :] or "/")
                if len(found) >= MOST:
                    self.truncated = True
                    break
        for directory in self._watched.keys() - seen:
            self._forget(self._watched[directory])
        return found

    def _directories(self, top: str) -> Iterator[str]:
        pending = [top]
        while pending:
            directory = pending.pop()
            self._watch(directory)  # before it is read: what is made in between is reported
            try:
                with os.scandir(directory) as entries:
                    below = [e.path for e in entries if e.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # removed meanwhile
            yield directory
            pending += below

    def _watch(self, directory: str) -> None:
        if self._inotify is None or directory in self._watched:
            return
        try:
            mask = IN_CREATE | IN_DELETE | _IN_ONLYDIR
            number = self._inotify.watch(directory, mask)
            self._watched[directory] = number
            self._directory_of[number] = directory
        except FileNotFoundError:
            pass
        except OSError:
            self.close()  # out of watches: walk from time to time

    def _forget(self, number: int) -> None:
        """The kernel removed the watch with the directory."""
        directory = self._directory_of.pop(number, None)
        if directory is not None and self._watched.get(directory) == number:
            del self._watched[directory]
