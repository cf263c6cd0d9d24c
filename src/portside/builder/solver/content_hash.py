"""Digests of file trees without times, as BuildKit's cache defines them: path, type, mode,
owner, device number, link target, extended attributes and content. In job processes."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import msgspec

from portside.builder.llb import CopyAction
from portside.builder.solver.copy_selection import Selected, Selection
from portside.model.dockerignore import Ignore
from portside.model.errors import NotFound
from portside.store.roots import OPEN_DIR, closing, missing, open_beneath, open_root
from portside.store.tar_pack import read_xattrs
from portside.store.trees import OPEN_FILE

if TYPE_CHECKING:
    from portside.builder.solver.build_jobs import HashContent

PIECE = 1 << 20


class ContentHash:
    """One digest over many files; the order of calls counts."""

    def __init__(self, *, owners: bool = True) -> None:
        self._hash = hashlib.sha256()
        self._owners = owners

    def hexdigest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def tree(self, fd: int, path: bytes) -> None:
        """Everything in the directory ``fd``, sorted."""
        for text in sorted(os.listdir(fd), key=os.fsencode):
            name = os.fsencode(text)
            where = path + b"/" + name
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if self.entry(fd, name, where, found):
                child = os.open(name, OPEN_DIR | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    self.tree(child, where)
                finally:
                    os.close(child)

    def entry(self, dir_fd: int, name: bytes, path: bytes, found: os.stat_result) -> bool:
        """One entry; whether it is a directory."""
        mode = found.st_mode
        if stat.S_ISSOCK(mode):
            return False
        link = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(mode) else b""
        size = found.st_size if stat.S_ISREG(mode) else 0
        device = found.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        uid, gid = (found.st_uid, found.st_gid) if self._owners else (0, 0)
        xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name))
        head = b"%o %d %d %d %d" % (mode, uid, gid, size, device)
        for part in (path, head, link, *(x for pair in sorted(xattrs.items()) for x in pair)):
            self._hash.update(len(part).to_bytes(4, "big") + part)
        if stat.S_ISREG(mode):
            self._data(dir_fd, name)
        return stat.S_ISDIR(mode)

    def _data(self, dir_fd: int, name: bytes) -> None:
        fd = os.open(name, OPEN_FILE, dir_fd=dir_fd)
        try:
            while piece := os.read(fd, PIECE):
                self._hash.update(piece)
        finally:
            os.close(fd)

    def text(self, data: bytes) -> None:
        self._hash.update(len(data).to_bytes(4, "big") + data)


def hash_copies(job: HashContent) -> str:
    """See :class:`HashContent`. Paths that are not there are part of the answer: that a copy
    fails is found when it is made."""
    with closing(open_root(job.source)) as root:
        return _hash_copies(job, root)


def _hash_copies(job: HashContent, root: int) -> str:
    hasher = ContentHash()
    ignore = Ignore(job.ignore)
    if not job.copies and ignore:
        job = msgspec.structs.replace(job, copies=(CopyAction(src=job.path, dest="/"),))
    if not job.copies:
        _whole(root, job.path, hasher)
    for action in job.copies:
        hasher.text(b"copy")
        try:
            for selected in Selection(root, action, ignore):
                _selected(selected, hasher)
        except NotFound as err:
            hasher.text(f"missing {err}".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def _whole(root: int, path: str, hasher: ContentHash) -> None:
    try:
        fd = open_beneath(root, path, os.O_PATH | os.O_CLOEXEC)
    except OSError as err:
        if missing(err):
            hasher.text(b"missing")
            return
        raise
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            with closing(os.open(".", OPEN_DIR, dir_fd=fd)) as top:
                hasher.tree(top, b"")
        else:
            name = os.path.basename(path)
            with closing(open_beneath(root, os.path.dirname(path) or "/", OPEN_DIR)) as parent:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                hasher.entry(parent, os.fsencode(name), b"", found)
    finally:
        os.close(fd)


def _selected(selected: Selected, hasher: ContentHash) -> None:
    for entry in selected.walk():
        hasher.entry(entry.dir_fd, entry.name, entry.path, entry.found)
