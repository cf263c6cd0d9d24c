"""Unpacks an untrusted tar archive below a directory of this machine.

Each name is walked from the directory's descriptor, one component after the other, with
O_NOFOLLOW (openat(2)): whatever links the archive holds or makes on the way, nothing is
written anywhere else.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile

from portside.model.errors import InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 18


class _Source:
    """An iterator of pieces as a file that can be read on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int) -> bytes:
        found = [self._rest]
        have = len(self._rest)
        while have < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            found.append(piece)
            have += len(piece)
        data = b"".join(found)
        self._rest = data[size:]
        return data[:size]


def unpack(
    pieces: Iterator[bytes], directory: str, rename: Callable[[str], str], *, keeps_owner: bool,
    is_compressed: bool = False,
) -> None:  # fmt: skip
    """Unpack below ``directory``. Raises InvalidParameter, SystemFailure."""
    mode = "r|*" if is_compressed else "r|"
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise InvalidParameter(f"{directory}: {err.strerror}") from err
    later: list[tuple[list[str], tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=_Source(pieces), mode=mode) as archive:  # type: ignore[call-overload]
            for member in archive:
                parts = _parts(rename(member.name))
                if member.isdir():
                    later.append((parts, member))
                _one(archive, member, parts, top, rename, keeps_owner)
        for parts, member in reversed(later):  # a directory's time, when it has its files
            with contextlib.suppress(OSError), _opened(top, parts) as fd:
                os.utime(fd, (member.mtime, member.mtime))
        for _ in pieces:  # what follows the archive's end
            pass
    except tarfile.TarError as err:
        raise SystemFailure(f"the archive is damaged: {err}") from err
    except OSError as err:
        raise InvalidParameter(f"cannot write below {directory}: {err}") from err
    finally:
        os.close(top)


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidParameter(f"the archive has a name outside the directory: {name!r}")
    return parts


@contextlib.contextmanager
def _opened(top: int, parts: list[str], make: bool = False) -> Iterator[int]:
    """A descriptor of a directory below ``top``; links on the way are refused."""
    fd = os.dup(top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=fd)
            inner = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _one(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    parts: list[str],
    top: int,
    rename: Callable[[str], str],
    keeps_owner: bool,
) -> None:
    if not parts:  # the destination itself
        return
    name = parts[-1]
    with _opened(top, parts[:-1], make=True) as parent:
        if not _make_room(parent, name, member):
            return
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
        elif member.isreg():
            _file(archive, member, parent, name)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            _link(member, top, parent, name, rename)
            return
        elif not _node(member, parent, name):
            return
        _finish(member, parent, name, keeps_owner)


def _make_room(parent: int, name: str, member: tarfile.TarInfo) -> bool:
    """Remove what is in the way; directories and others do not replace one another."""
    try:
        found = os.lstat(name, dir_fd=parent).st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(found) and not member.isdir():
        raise InvalidParameter(f'cannot overwrite directory "{member.name}" with non-directory')
    if member.isdir() and not stat.S_ISDIR(found):
        raise InvalidParameter(f'cannot overwrite non-directory "{member.name}" with directory')
    if not member.isdir():
        os.unlink(name, dir_fd=parent)
    return True


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
    source = archive.extractfile(member)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    with open(fd, "wb") as target:
        while source is not None and (piece := source.read(_PIECE)):
            target.write(piece)


def _link(
    member: tarfile.TarInfo, top: int, parent: int, name: str, rename: Callable[[str], str]
) -> None:
    parts = _parts(rename(member.linkname))
    with _opened(top, parts[:-1]) as directory:
        os.link(parts[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)


def _node(member: tarfile.TarInfo, parent: int, name: str) -> bool:
    """Pipes and devices; False when this user may not make one."""
    kinds = {tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR,
             tarfile.BLKTYPE: stat.S_IFBLK}  # fmt: skip
    if member.type not in kinds:
        return False
    device = os.makedev(member.devmajor, member.devminor)
    try:
        os.mknod(name, kinds[member.type] | 0o600, device, dir_fd=parent)
    except PermissionError:
        return False
    return True


def _finish(member: tarfile.TarInfo, parent: int, name: str, keeps_owner: bool) -> None:
    """Owner, mode, time, without following a link."""
    if keeps_owner:
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
    if not member.issym():
        # mknod, mkdir and open have just made it (or it is a directory): no link is here.
        os.chmod(name, stat.S_IMODE(member.mode), dir_fd=parent)
    if not member.isdir():
        times = (member.mtime, member.mtime)
        os.utime(name, times, dir_fd=parent, follow_symlinks=False)
