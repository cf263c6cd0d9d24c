"""Which files a COPY takes, and copying them: hostile trees on both sides. In job processes.

Every path is resolved beneath a root's descriptor (openat2, RESOLVE_IN_ROOT); inside a tree the
walk goes by descriptors, and what is made is made with O_EXCL and O_NOFOLLOW. A link that is
swapped in meanwhile leads nowhere outside.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from portside.builder.llb import CopyAction
from portside.model.dockerignore import Ignore, compile_pattern
from portside.model.errors import InvalidParameter, NotFound
from portside.store.roots import OPEN_DIR, missing, open_beneath

_WILD = re.compile(r"[*?\[]")
MAX_MATCHES = 100_000
MAX_DEPTH = 400
"""Levels of directories that are walked; each holds a descriptor."""


NOTHING = Ignore(())


def followed(root: int, paths: Sequence[str]) -> list[str]:
    """Those paths, the links on their way and what these lead to, as patterns."""
    from portside.store.archive_worker import follow

    found = []
    for path in paths:
        bare = path.strip("/")
        found.append(bare or "**")
        if not _WILD.search(path):
            links: list[str] = []
            end = follow(root, path, links).strip("/")
            found += [re.sub(r"([*?\[\\])", r"\\\1", each) for each in (*links, end) if each]
    return found


class Entry(NamedTuple):
    """One file of a walk, to be opened as ``name`` in ``dir_fd``."""

    dir_fd: int
    name: bytes
    path: bytes
    """Relative to the top of what was selected; empty for the top itself."""
    found: os.stat_result


class Selected:
    """One thing that a copy's source names: a file or a directory with what is in it."""

    def __init__(
        self, root: int, path: str, ignore: Ignore, below: str, absent: Ignore = NOTHING
    ) -> None:
        """``below`` is the path that patterns are relative to, beneath ``path``'s root;
        ``absent`` is what the root's own ignore file names."""
        self._root, self.path, self._ignore, self._below = root, path, ignore, below
        self._absent = absent
        self._waiting: list[Entry] = []
        """Ignored directories, which are there only if something in them is."""
        self.named = ""
        """The source's own last component; a link is followed, and keeps its name."""
        where, _, last = path.rpartition("/")
        self._parent = -1
        try:
            self._parent = open_beneath(root, where or "/", OPEN_DIR)
            self._name = os.fsencode(last or ".")
            self.found = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        except OSError as err:
            self.close()
            if missing(err):
                raise NotFound(f'"{path}": not found') from err
            raise

    def close(self) -> None:
        """Close the descriptors: the entries cannot be opened any more."""
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.found.st_mode)

    def walk(self) -> Iterator[Entry]:
        """The top first, then what is in it, sorted; excluded things are left out, and excluded
        directories not walked."""
        yield Entry(self._parent, self._name, b"", self.found)
        if self.is_dir:
            fd = os.open(self._name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=self._parent)
            yield from self._inside(fd, b"", 0)

    def _inside(self, fd: int, path: bytes, depth: int) -> Iterator[Entry]:
        if depth > MAX_DEPTH:
            os.close(fd)
            raise InvalidParameter(f"{self.path}: more than {MAX_DEPTH} levels of directories")
        try:
            for text in sorted(os.listdir(fd), key=os.fsencode):
                name = os.fsencode(text)
                where = path + b"/" + name if path else name
                try:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                is_dir = stat.S_ISDIR(found.st_mode)
                excluded, prune = self._excluded(where, is_dir)
                missing_, never = self._is_absent(where, is_dir)
                if never or (missing_ and not is_dir):
                    continue
                waiting = len(self._waiting)
                if not excluded:
                    self._waiting.append(Entry(fd, name, where, found))
                    if not missing_:
                        yield from self._waiting
                        self._waiting.clear()
                if is_dir and not prune:
                    child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
                    yield from self._inside(child, where, depth + 1)
                del self._waiting[waiting:]
        finally:
            os.close(fd)

    def _excluded(self, path: bytes, is_dir: bool) -> tuple[bool, bool]:
        if not self._ignore:
            return False, False
        relative = posixpath.join(self._below, os.fsdecode(path)).lstrip("/")
        if not self._ignore.excludes(relative):
            return False, False
        return True, is_dir and self._ignore.prunes(relative)

    def _is_absent(self, path: bytes, is_dir: bool) -> tuple[bool, bool]:
        """Whether the ignore file leaves it out, and everything in it."""
        if not self._absent:
            return False, False
        whole = posixpath.join(self.path, os.fsdecode(path)).lstrip("/")
        if not self._absent.excludes(whole):
            return False, False
        return True, is_dir and self._absent.prunes(whole)


class Selection:
    """Everything that a copy's source names, in order, each open until the next one is taken.
    NotFound, InvalidParameter."""

    def __init__(self, root: int, action: CopyAction, absent: Ignore = NOTHING) -> None:
        """``absent``: what of the root counts as not there."""
        self._root, self._action, self._absent = root, action, absent
        self._ignore = Ignore(action.exclude)

    def __iter__(self) -> Iterator[Selected]:
        action = self._action
        paths = [action.src]
        if action.allow_wildcard and _WILD.search(action.src):
            paths = sorted(self._matches())
            if not paths and not action.allow_empty_wildcard:
                raise NotFound("no source files were specified")
        for path in paths:
            named = posixpath.basename(path)
            if action.follow_symlink:
                path = self._followed(path)
            if self._absent and path.strip("/") and self._absent.prunes(path.strip("/")):
                if path == action.src:
                    raise NotFound(f'"{path}": not found')
                continue
            # patterns are relative to the directory, or to where the last component stands
            selected = Selected(self._root, path, self._ignore, self._below(path), self._absent)
            try:
                if self._is_absent(selected, path):
                    if path == action.src:
                        raise NotFound(f'"{path}": not found')
                    continue
                if not selected.is_dir and self._ignore and self._ignore.excludes(named):
                    continue
                selected.named = named
                yield selected
            finally:
                selected.close()

    def _is_absent(self, selected: Selected, path: str) -> bool:
        """A file that the ignore file names; a directory may hold exceptions."""
        return bool(self._absent) and not selected.is_dir and self._absent.excludes(path.strip("/"))

    def _below(self, path: str) -> str:
        return posixpath.relpath(path, self._action.parents) if self._action.parents else ""

    def _followed(self, path: str) -> str:
        """Where the last component leads, when it is a link, inside the root."""
        from portside.store.archive_worker import follow

        try:
            fd = open_beneath(self._root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return path
        is_link = stat.S_ISLNK(os.fstat(fd).st_mode)
        os.close(fd)
        return follow(self._root, path) if is_link else path

    def _matches(self) -> list[str]:
        found = ["/"]
        for part in self._action.src.strip("/").split("/"):
            if not _WILD.search(part):
                found = [posixpath.join(path, part) for path in found]
                found = [path for path in found if self._exists(path)]
                continue
            rule = compile_pattern(part)
            found = [
                posixpath.join(path, name)
                for path in found
                for name in self._names(path)
                if rule.fullmatch(name)
            ]
            if len(found) > MAX_MATCHES:
                raise InvalidParameter(f"{self._action.src}: matches more than {MAX_MATCHES}")
        return found

    def _exists(self, path: str) -> bool:
        try:
            os.close(open_beneath(self._root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError as err:
            if missing(err):
                return False
            raise
        return True

    def _names(self, path: str) -> list[str]:
        try:
            fd = open_beneath(self._root, path, OPEN_DIR)
        except OSError as err:
            if missing(err):
                return []
            raise
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)
