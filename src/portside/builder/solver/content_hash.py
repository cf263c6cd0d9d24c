"""Digests of file trees without times, as BuildKit's cache defines them: path, type, mode,
owner, device number, link target, extended attributes and content. In job processes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence

from portside.builder.llb import CopyAction
from portside.builder.solver.copy_selection import Selected, Selection
from portside.builder.solver.file_digests import FileDigests, read_digest
from portside.model.dockerignore import Ignore
from portside.model.errors import NotFound
from portside.model.rootfs import Rootfs
from portside.store.roots import OPEN_DIR, closing, missing, open_beneath, open_root
from portside.store.tar_pack import read_xattrs
from portside.store.trees import OPEN_FILE

_NONE: Mapping[bytes, bytes] = {}


class ContentHash:
    """One digest over many files; the order of calls counts."""

    def __init__(self, *, owners: bool = True, digests: FileDigests | None = None) -> None:
        """``digests``: what is known of files' contents."""
        self._hash = hashlib.sha256()
        self._owners = owners
        self._digests = digests if digests is not None else FileDigests()
        self._linked: dict[tuple[int, int], bytes] = {}
        """Digests of packed files with several names, by device and inode."""

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
        """Add an entry; returns whether it is a directory."""
        mode = found.st_mode
        if stat.S_ISSOCK(mode):
            return False
        if stat.S_ISREG(mode):
            known = self._digests.known(found)
            if known is None:
                self._read(dir_fd, name, path, found)
                return False
            xattrs = _NONE if known.is_plain else _xattrs_of(dir_fd, name)
            self.add(path, found, content=known.digest, xattrs=xattrs)
            return False
        link = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(mode) else b""
        self.add(path, found, link=link, xattrs=_xattrs_of(dir_fd, name))
        return stat.S_ISDIR(mode)

    def add(
        self, path: bytes, found: os.stat_result, *, link: bytes = b"", content: bytes = b"",
        xattrs: Mapping[bytes, bytes] = _NONE,
    ) -> None:  # fmt: skip
        """Add an entry whose link target, content's digest and extended attributes are known."""
        mode = found.st_mode
        size = found.st_size if stat.S_ISREG(mode) else 0
        device = found.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        uid, gid = (found.st_uid, found.st_gid) if self._owners else (0, 0)
        head = b"%o %d %d %d %d" % (mode, uid, gid, size, device)
        if not link and not xattrs:  # what follows, for most files
            self._hash.update(
                b"%b%b%b%b\0\0\0\0%b%b"
                % (
                    len(path).to_bytes(4, "big"), path, len(head).to_bytes(4, "big"), head,
                    len(content).to_bytes(4, "big"), content,
                )
            )  # fmt: skip
            return
        parts = [path, head, link]
        for pair in sorted(xattrs.items()):
            parts += pair
        parts.append(content)
        self._hash.update(b"".join([len(part).to_bytes(4, "big") + part for part in parts]))

    def packed(
        self, path: bytes, found: os.stat_result, link: bytes, xattrs: Mapping[bytes, bytes],
        fd: int, data: bytes | None,
    ) -> None:  # fmt: skip
        """Add an entry as it is packed (:class:`portside.store.tar_pack.Watcher`)."""
        content = b""
        if stat.S_ISREG(found.st_mode):
            content = self._packed_content(found, fd, data)
        self.add(b"/" + path, found, link=link, content=content, xattrs=xattrs)

    def _packed_content(self, found: os.stat_result, fd: int, data: bytes | None) -> bytes:
        key = (found.st_dev, found.st_ino)
        if fd < 0:  # a hard link: xattrs and content were added with the first name
            return self._linked[key]
        content = self._digests.find(found)
        if content is None:
            content = read_digest(fd) if data is None else hashlib.sha256(data).digest()
        if found.st_nlink > 1:
            self._linked[key] = content
        return content

    def _read(self, dir_fd: int, name: bytes, path: bytes, found: os.stat_result) -> None:
        """Add a regular file of which nothing is known."""
        fd = os.open(name, OPEN_FILE, dir_fd=dir_fd)
        try:
            now = os.fstat(fd)
            xattrs = read_xattrs(fd)
            content = self._digests.find(now)
            if content is None:
                content = read_digest(fd)
                self._digests.add(now, content, is_plain=not xattrs)
        finally:
            os.close(fd)
        self.add(path, found, content=content, xattrs=xattrs)

    def text(self, data: bytes) -> None:
        self._hash.update(len(data).to_bytes(4, "big") + data)


def _xattrs_of(dir_fd: int, name: bytes) -> dict[bytes, bytes]:
    return read_xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name))


def hash_copies(
    source: Rootfs, copies: Sequence[CopyAction], path: str = "/", ignore: Sequence[str] = (),
    digests: FileDigests | None = None,
) -> str:  # fmt: skip
    """The digest of what each copy takes from ``source``; with no copies, of all of ``path``.

    Paths that are not there are part of the answer: that a copy fails is found when it is made.
    """
    hasher = ContentHash(digests=digests)
    rules = Ignore(ignore)
    if not copies and rules:
        copies = (CopyAction(src=path, dest="/"),)
    with closing(open_root(source)) as root:
        if not copies:
            _whole(root, path, hasher)
        for action in copies:
            hasher.text(b"copy")
            try:
                for selected in Selection(root, action, rules):
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
