"""The work of ``cp``: Docker's rules for names, and tar in both directions.

A trailing ``/.`` on the source means its contents; a source without one keeps its name
below an existing directory and takes the destination's name otherwise. What comes out of a
container is hostile: it is unpacked by ``untar``, which never leaves the destination.
"""

from __future__ import annotations

import binascii
import os
import stat

from portside.cli.session import Failed
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.errors import InvalidParameter
from portside.model.golang.sizes import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from portside.cli.session import Session

_GO_DIRECTORY, _GO_LINK = 1 << 31, 1 << 27
"""Bits of Go's fs.FileMode, in which the engine reports a file's kind."""
_STAT = "x-docker-container-path-stat"


class Place:
    """One end of a copy."""

    __slots__ = ("exists", "is_directory", "path", "rebase")

    def __init__(self, path: str, exists: bool, is_directory: bool, rebase: str = "") -> None:
        self.path, self.exists, self.is_directory = path, exists, is_directory
        self.rebase = rebase
        """The name its entry has in the archive, when that is not the path's."""


def split_path(path: str) -> tuple[str, str]:
    """Directory and last name; of ``/a/b/.`` these are ``/a/b`` and ``.``."""
    clean = os.path.normpath(path)
    if os.path.basename(path) == ".":
        return clean, "."
    directory, name = os.path.split(clean)
    return directory or ".", name or "."


def asserts_directory(path: str) -> bool:
    return path.endswith("/") or os.path.basename(path) == "."


def arrange(source: Place, target: Place) -> tuple[str, Callable[[str], str]]:
    """Where to unpack, and how entries are renamed. Raises Failed."""
    directory, name = split_path(target.path)
    before = source.rebase or split_path(source.path)[1]

    def rename(entry: str) -> str:
        if before == ".":
            rest = entry.removeprefix("./")
            return name if rest in ("", ".") else f"{name}/{rest}"
        return name + entry[len(before) :] if entry.startswith(before) else entry

    if target.exists and target.is_directory:
        return target.path, lambda entry: entry
    if target.exists and source.is_directory:
        raise Failed(1, "cannot copy directory")
    if not target.exists and not source.is_directory and asserts_directory(target.path):
        raise Failed(1, f"destination directory {target.path} does not exist")
    return directory, rename


class Copy:
    """One call of ``cp``."""

    def __init__(self, session: Session, *, follow: bool, archive: bool, quiet: bool) -> None:
        self.session, self.client = session, session.client
        self.follow, self.archive, self.quiet = follow, archive, quiet
        self.copied = 0

    def _say(self, where: str) -> None:
        if not self.quiet:
            size = human_size(self.copied, 3)
            self.session.warn(f"Successfully copied {size} to {where}")

    # -- out of a container ----------------------------------------------------------------

    def from_container(self, name: str, path: str, target: str) -> None:
        rebase = ""
        if self.follow and (found := self._stat(name, path)) and found["mode"] & _GO_LINK:
            resolved = _resolved(path, found["linkTarget"])
            rebase = split_path(resolved)[1]
            path, original = resolved, path
            if asserts_directory(original) or os.path.basename(original) != rebase:
                rebase = rebase or os.path.basename(original)
        response = self.client.request(
            "GET", path_of("containers", name, "archive"), {"path": path}
        )
        if target == "-":
            from portside.cli.stream_pump import write_all

            if os.isatty(1):
                response.close()
                raise Failed(1, "refusing to write a tar archive to a terminal")
            for piece in response.pieces():
                write_all(1, piece)
            return
        found = _decoded(response.headers.get(_STAT, ""))
        source = Place(path, True, bool(found["mode"] & _GO_DIRECTORY), rebase)
        local = _local(target)
        place = _place_of(local)
        if not place.exists and not os.path.isdir(os.path.dirname(local.rstrip("/")) or "/"):
            response.close()
            raise Failed(1, f"invalid output path: directory "
                         f'"{os.path.dirname(local.rstrip("/"))}" does not exist')  # fmt: skip
        directory, rename = arrange(source, place)
        from portside.cli import untar

        untar.unpack(
            self._counted(response.pieces()), directory, rename,
            keeps_owner=self.archive and os.geteuid() == 0,
        )  # fmt: skip
        self._say(local)

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.copied += len(piece)
            yield piece

    # -- into a container ------------------------------------------------------------------

    def to_container(self, path: str, name: str, target: str) -> None:
        place = self._container_place(name, target)
        if path == "-":
            if place.exists and not place.is_directory:
                raise Failed(1, f'destination "{name}:{target}" must be a directory')
            from portside.cli.images import pieces_of

            with open(0, "rb", buffering=0, closefd=False) as file:
                self._put(name, place.path, pieces_of(file))
            return
        source, local = _source(path, self.follow)
        directory, rename = arrange(source, place)
        self._put(name, directory, self._counted(_tar(local, source, rename)))
        self._say(f"{name}:{target}")

    def _put(self, name: str, directory: str, pieces: Iterator[bytes]) -> None:
        query = {
            "path": directory,
            "noOverwriteDirNonDir": "true",
            "copyUIDGID": "true" if self.archive else None,
        }
        path = path_of("containers", name, "archive")
        response = self.client.request("PUT", path, query, pieces)
        response.read()
        self.client.release(response)

    def _container_place(self, name: str, path: str) -> Place:
        found = self._stat(name, path)
        if found is not None and found["mode"] & _GO_LINK:
            resolved = _resolved(path, found["linkTarget"])
            target = self._stat(name, resolved)
            path, found = resolved, target
        is_directory = found is not None and bool(found["mode"] & _GO_DIRECTORY)
        return Place(path, found is not None, is_directory)

    def _stat(self, name: str, path: str) -> dict[str, Any] | None:
        """The file at a path of the container; None when there is none."""
        try:
            response = self.client.request(
                "HEAD", path_of("containers", name, "archive"), {"path": path}
            )
        except Refused:
            # A HEAD has no text: was it the container or the path? What is wrong with the
            # path is reported, with text, by the request that reads or writes there.
            self.client.get(path_of("containers", name, "json"))
            return None
        self.client.release(response)
        return _decoded(response.headers.get(_STAT, ""))


def _decoded(header: str) -> dict[str, Any]:
    value: dict[str, Any] = jsontext.loads(binascii.a2b_base64(header))
    return value


def _resolved(path: str, target: str) -> str:
    if target.startswith("/"):
        return target
    return os.path.join(os.path.dirname(path.rstrip("/")) or "/", target)


def _local(path: str) -> str:
    """Absolute, with a trailing slash or dot kept."""
    clean = os.path.abspath(path)
    if os.path.basename(path) == "." and os.path.basename(clean) != ".":
        return f"{clean}/."
    return f"{clean}/" if path.endswith("/") and not clean.endswith("/") else clean


def _place_of(path: str) -> Place:
    """The local destination; links are followed."""
    resolved = path
    for _ in range(20):
        try:
            mode = os.lstat(resolved.rstrip("/") or "/").st_mode
        except FileNotFoundError:
            return Place(resolved, False, False)
        except OSError as err:
            raise InvalidParameter(f"{resolved}: {err.strerror}") from err
        if not stat.S_ISLNK(mode):
            return Place(resolved, True, stat.S_ISDIR(mode))
        resolved = _resolved(resolved, os.readlink(resolved.rstrip("/")))
    raise InvalidParameter(f"too many symlinks in {path}")


def _source(path: str, follow: bool) -> tuple[Place, str]:
    """The local source, and the path to read it from."""
    local = _local(path)
    read = local if follow or asserts_directory(local) else local.rstrip("/")
    try:
        if follow:
            read = os.path.realpath(local)
        mode = (os.stat if follow or asserts_directory(local) else os.lstat)(read).st_mode
    except OSError as err:
        reason = (err.strerror or "").lower()
        is_odd = isinstance(err, NotADirectoryError)
        raise Failed(1, reason if is_odd else f"lstat {local}: {reason}") from None
    return Place(local, True, stat.S_ISDIR(mode), ""), read


def _tar(local: str, source: Place, rename: Callable[[str], str]) -> Iterator[bytes]:
    """The archive of a local path, made while it is sent."""
    import tarfile

    name = split_path(source.path)[1]
    out = _Pieces()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for path, entry in _walk(local.rstrip("/") or "/", name):
            info = archive.gettarinfo(path, arcname=rename(entry))
            if info is None:  # a socket
                continue
            info.uname = info.gname = ""
            if info.isreg():
                with open(path, "rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)
            yield from out.take()
    yield from out.take()


def _walk(path: str, entry: str) -> Iterator[tuple[str, str]]:
    yield path, entry
    if not os.path.islink(path) and os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            yield from _walk(f"{path}/{name}", f"{entry}/{name}")


class _Pieces:
    """Collects what tarfile writes."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._held.append(bytes(data))
        return len(data)

    def take(self) -> Iterator[bytes]:
        held, self._held = self._held, []
        yield from held
