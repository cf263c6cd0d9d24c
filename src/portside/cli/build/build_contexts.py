"""Sources of contexts: a folder, standard input, a tar file, git, the web, an image."""

from __future__ import annotations

import binascii
import os
import re
import stat

from portside.cli.build.build_connection import RefusedAnswer
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from portside.cli.build.build_connection import Channel
    from portside.cli.build.build_stores import Stores
    from portside.model.git_urls import GitUrl

_HTTP = re.compile(r"https?://")
_PIECE = 1 << 18
_MAX_DOCKERFILE = 4 << 20
MAIN = "context"


class Contexts:
    """All contexts of one build, as the request shows them, and what is read of them."""

    def __init__(self, is_local: bool, stores: Stores) -> None:
        """``is_local``: the engine is on this machine, and receives open directories."""
        self._is_local, self._stores = is_local, stores
        self.request: dict[str, dict[str, Any]] = {}
        self.directories: list[int] = []
        self.dockerfile: str | None = None
        """Base64; None when it is in the stream."""
        self.file = "Dockerfile"
        self._streams: dict[str, Callable[[Channel, list[str] | None], None]] = {}
        self._cleanups: list[Callable[[], None]] = []

    # -- the main context ----------------------------------------------------------------

    def main(self, place: str, file: str, inline: str | None = None) -> None:
        """The context and its Dockerfile, whose text may be given. Raises Failed."""
        if inline is not None and os.path.isdir(place):
            self._use(inline.encode("utf-8", "surrogateescape"))
            self._open(MAIN, place, _text(os.path.join(place, ".dockerignore")) or "")
            return
        if place == "-" and file == "-":
            raise Failed(1, "ERROR: failed to build: can't use stdin for both build context and "
                            "Dockerfile")  # fmt: skip
        if place == "-":
            self._stream_of(open(0, "rb", buffering=0, closefd=False), file)  # noqa: SIM115
        elif os.path.isdir(place):
            self._folder(place, file)
        elif is_git(place):
            self._cloned(place, file)
        elif is_http(place):
            self.file = file or "Dockerfile"
            self.request[MAIN] = {"url": place}
        elif os.path.isfile(place):
            self._stream_of(open(place, "rb", buffering=0), file)  # noqa: SIM115
        else:
            raise Failed(1, "ERROR: failed to build: unable to prepare context: path "
                            f'"{place}" not found')  # fmt: skip

    def _folder(self, place: str, file: str, *, inside: bool = False) -> None:
        """``inside``: the Dockerfile's path is relative to the context, and within it."""
        ignore_beside = ""
        if file == "-":
            self._use(_read_all(open(0, "rb", buffering=0, closefd=False)))  # noqa: SIM115
        else:
            path = os.path.join(place, file or "Dockerfile") if inside or not file else file
            if not file and not os.path.exists(path):
                lower = os.path.join(place, "dockerfile")
                path = lower if os.path.exists(lower) else path
            self.file = os.path.basename(path)
            try:
                with open(path, "rb") as source:
                    self._use(source.read(_MAX_DOCKERFILE + 1))
            except OSError as err:
                why = (err.strerror or "").lower()
                raise Failed(1, "ERROR: failed to build: failed to solve: failed to read "
                                f"dockerfile: open {self.file}: {why}") from None  # fmt: skip
            ignore_beside = f"{path}.dockerignore"
        ignore = _text(ignore_beside) if ignore_beside else None
        if ignore is None:
            ignore = _text(os.path.join(place, ".dockerignore"))
        self._open(MAIN, place, ignore or "")

    def _use(self, dockerfile: bytes) -> None:
        self.dockerfile = binascii.b2a_base64(dockerfile, newline=False).decode()

    def _open(self, name: str, place: str, ignore: str) -> None:
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise Failed(1, f"ERROR: failed to build: {place}: {err.strerror}") from None
        self._cleanups.append(lambda: os.close(fd))
        if self._is_local:
            self.request[name] = {"directory": len(self.directories), "ignore": ignore}
            self.directories.append(fd)
            return
        self.request[name] = {"stream": True, "ignore": ignore}

        def send(channel: Channel, paths: list[str] | None) -> None:
            from portside.cli.build import context_tar

            context_tar.send(channel, fd, ignore, paths)

        self._streams[name] = send

    def _stream_of(self, source: BinaryIO, file: str) -> None:
        """A tar, compressed or not, or a Dockerfile without a context."""
        self.file = file or "Dockerfile"
        head = b""
        while len(head) < 512 and (piece := source.read(512 - len(head))):
            head += piece
        if not is_archive(head):
            self._use(head + _read_all(source))
            return
        self.request[MAIN] = {"stream": True}
        if file == "-":
            raise Failed(1, "ERROR: failed to build: the Dockerfile is read from the archive: give "
                            "its name in it with -f")  # fmt: skip

        def send(channel: Channel, paths: list[str] | None) -> None:
            channel.send([head])
            channel.send(_pieces(source))
            channel.end()

        self._streams[MAIN] = send

    # -- git -----------------------------------------------------------------------------

    def _cloned(self, url: str, file: str) -> None:
        place = self._clone(url)
        self._folder(place, file, inside=True)

    def _clone(self, url: str) -> str:
        from portside.cli.build import git_context

        root, place = git_context.clone(git_url(url))
        self._cleanups.append(lambda: git_context.remove(root))
        return place

    # -- named contexts ------------------------------------------------------------------

    def named(self, text: str) -> None:
        """``NAME=…``. Raises Failed."""
        name, equals, place = text.partition("=")
        if not equals:
            raise Failed(1, f"ERROR: invalid context value: {text}, expected key=value")
        name = name.lower()
        if name == MAIN:
            raise Failed(1, f"ERROR: failed to build: the name {MAIN} is the main context's")
        if place.startswith("docker-image://"):
            self.request[name] = {"image": place.removeprefix("docker-image://")}
        elif place.startswith("oci-layout://"):
            self.request[name] = self._layout(place.removeprefix("oci-layout://"))
        elif os.path.isdir(place):
            self._open(name, place, _text(os.path.join(place, ".dockerignore")) or "")
        elif is_git(place):
            self._open(name, self._clone(place), "")
        elif is_http(place):
            self.request[name] = {"url": place}
        elif place.startswith("target:"):
            raise Failed(1, "ERROR: failed to build: failed to find target "
                            f"{place.removeprefix('target:')} for context {name}")  # fmt: skip
        else:
            raise Failed(1, f"ERROR: failed to build: failed to get build context {name}: stat "
                            f"{place}: no such file or directory")  # fmt: skip

    def _layout(self, place: str) -> dict[str, Any]:
        """PATH[:TAG][@DIGEST] of an OCI layout."""
        from portside.cli.build.build_stores import find

        path, at, digest = place.partition("@")
        tag = "latest"
        if not os.path.isdir(path) and ":" in path:
            path, _, tag = path.rpartition(":")
        found = digest if at else find(path, tag)
        if not found:
            raise Failed(1, f"ERROR: failed to build: the OCI layout {path} has no image {tag}")
        return {"layout": found, "store": self._stores.add(path)}

    # -- answers -------------------------------------------------------------------------

    def send(self, channel: Channel, name: str, paths: list[str] | None) -> None:
        """Send the tar that the engine requested."""
        if name not in self._streams:
            raise RefusedAnswer(f"there is no context {name!r}")
        self._streams[name](channel, paths)

    def close(self) -> None:
        for cleanup in self._cleanups:
            cleanup()
        self._cleanups.clear()


def is_git(place: str) -> bool:
    """Whether a context is a git repository."""
    from portside.model.git_urls import is_git_url

    return is_git_url(place)


def git_url(text: str) -> GitUrl:
    """Raises Failed."""
    from portside.model.errors import InvalidParameter
    from portside.model.git_urls import parse_git_url

    try:
        return parse_git_url(text)
    except InvalidParameter as err:
        raise Failed(1, f"ERROR: failed to build: {err}") from None


def is_http(place: str) -> bool:
    return _HTTP.match(place) is not None


def is_archive(head: bytes) -> bool:
    """Whether this is the beginning of a tar file, plain or compressed."""
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")):
        return True
    if len(head) < 512:
        return False
    field = head[148:156].strip(b"\0 ")
    if not field or any(byte not in b"01234567" for byte in field):
        return False
    return int(field, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


def _read_all(source: BinaryIO) -> bytes:
    found = b""
    while len(found) <= _MAX_DOCKERFILE and (piece := source.read(_PIECE)):
        found += piece
    return found


def _text(path: str) -> str | None:
    """A file's text; None when it does not exist."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(_MAX_DOCKERFILE).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
