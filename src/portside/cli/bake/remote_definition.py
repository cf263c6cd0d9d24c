"""Bake files of a git repository, an archive or a single file on the web.

What a remote definition names by a relative path is the remote's own; ``cwd://`` is the working
directory here. A remote file is not trusted: nothing outside its root is read for it, and nothing
outside the working directory without ``--allow fs=PATH``.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import partial

from portside.cli.bake.bake_targets import is_remote
from portside.cli.session import Failed
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

    from portside.cli.bake.bake_targets import Target

LOCAL = "cwd://"
_MAX_DEFINITION = 2 << 20
"""Bytes of a single file."""
_MAX_ARCHIVE = 4 << 30
"""Bytes of all files of an archive."""
_PIECE = 1 << 20
_TIMEOUT = 60.0
"""Seconds without data."""
_GIT_AUTH = ("BUILDX_BAKE_GIT_AUTH_TOKEN", "BUILDX_BAKE_GIT_AUTH_HEADER")
_NOT_LOCAL = re.compile(r"(?:https?|git|ssh|docker-image|oci-layout)://|target:|git@|github\.com/")


def is_url(text: str) -> bool:
    """Whether an argument names a remote definition rather than a target."""
    from portside.cli.build.build_contexts import is_git, is_http

    return is_git(text) or is_http(text)


class RemoteDefinition:
    """A remote that was fetched; :meth:`close` removes it from here."""

    def __init__(self, url: str) -> None:
        """Raises Failed."""
        from portside.cli.build.build_contexts import is_git

        self.url = url
        self.text: str | None = None
        """Of a single file."""
        self.root = ""
        """Where the files of a repository or an archive are; empty for a single file."""
        self._directory = ""
        self.is_git = is_git(url)
        if self.is_git:
            from portside.cli.build import git_context
            from portside.cli.build.build_contexts import git_url

            self._directory, self.root = git_context.clone(git_url(url), _git_environment(url))
        else:
            self._download()

    def close(self) -> None:
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    # -- fetching ------------------------------------------------------------------------

    def _download(self) -> None:
        import urllib.error
        import urllib.request

        from portside.cli.build.build_contexts import is_archive

        try:
            with urllib.request.urlopen(self.url, timeout=_TIMEOUT) as answer:
                head = answer.read(512)
                if is_archive(head):
                    self._unpack(head, answer)
                    return
                data = head + answer.read(_MAX_DEFINITION + 1)
        except urllib.error.HTTPError as err:
            raise Failed(1, f"ERROR: {self.url}: invalid response status {err.code}") from None
        except (OSError, ValueError) as err:
            raise Failed(1, f"ERROR: {self.url}: {getattr(err, 'reason', err)}") from None
        if len(data) > _MAX_DEFINITION:
            raise Failed(1, f"ERROR: {self.url}: non-archive definition URL bigger than maximum "
                            "allowed size (2MB)")  # fmt: skip
        try:
            self.text = data.decode()
        except UnicodeDecodeError as err:
            raise Failed(1, f"ERROR: {self.url}: {err}") from None

    def _unpack(self, head: bytes, rest: BinaryIO) -> None:
        """The archive's files; members that lead out of it are refused."""
        import tarfile
        import tempfile

        from portside.cli import untar

        self._directory = tempfile.mkdtemp(prefix="portside-bake-remote-")
        try:
            with tempfile.TemporaryFile() as file:
                file.write(head)
                shutil.copyfileobj(rest, file)
                file.seek(0)
                with tarfile.open(fileobj=file) as archive:
                    self._check_members(archive)
                file.seek(0)
                pieces = iter(partial(file.read, _PIECE), b"")
                untar.unpack(pieces, self._directory, str, keeps_owner=False, is_compressed=True)
        except Failed:
            self.close()
            raise
        except (tarfile.TarError, EOFError, OSError, PortsideError) as err:
            self.close()
            raise Failed(1, f"ERROR: {self.url}: the archive cannot be read: {err}") from None
        self.root = self._directory

    def _check_members(self, archive: tarfile.TarFile) -> None:
        size = 0
        for member in archive:
            size += member.size
            if size > _MAX_ARCHIVE:
                raise Failed(1, f"ERROR: {self.url}: the archive's files are larger than 4 GiB")
            if member.isdev():
                raise Failed(1, f"ERROR: {self.url}: {member.name} in the archive is a device")

    # -- the files -----------------------------------------------------------------------

    def files(self, names: list[str], defaults: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Name and path of each bake file in the root. Raises Failed for one that is not there."""
        for name in names or defaults:
            path = self._beneath(name, name)
            if os.path.isfile(path):
                yield name, path
            elif names:
                raise Failed(1, f"ERROR: {self.url}: stat {name}: no such file or directory")

    def stored(self) -> str:
        """The path of a single file."""
        import tempfile

        self._directory = tempfile.mkdtemp(prefix="portside-bake-remote-")
        path = os.path.join(self._directory, "compose.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.text or "")
        return path

    def _beneath(self, place: str, what: str) -> str:
        """A path of the root, links followed. Raises Failed when it leads out."""
        from portside.model.paths import is_within

        path = os.path.realpath(os.path.join(self.root, os.path.normpath(f"/{place}").lstrip("/")))
        if not is_within(path, self.root):
            raise Failed(1, f"ERROR: {self.url}: {what} leads out of the remote definition")
        return path

    # -- targets -------------------------------------------------------------------------

    def located(self, target: Target) -> Target:
        """With each place of the remote as a path here. Raises Failed."""
        if not self.root:  # a single file: its paths are those of the working directory
            return target
        found = dict(target)
        place = found["context"]
        if not is_remote(place):
            found["context"] = self._beneath(place, f"context {place}")
            if not found["dockerfile"].startswith(LOCAL):
                name = os.path.join(place, found["dockerfile"])
                found["dockerfile"] = self._beneath(name, f"dockerfile {name}")
        contexts = found.get("contexts") or {}
        found["contexts"] = {
            name: place if _NOT_LOCAL.match(place) or place.startswith(LOCAL)
            else self._beneath(place, f"context {name}")
            for name, place in contexts.items()
        }  # fmt: skip
        return found

    def check_access(self, name: str, target: Target, allowed: Iterable[str]) -> None:
        """Raises Failed for a path here that a remote definition may not use."""
        from portside.model.paths import is_within

        places = [os.getcwd(), *(text.partition("=")[2] for text in allowed
                                 if text.startswith("fs") and "=" in text)]  # fmt: skip
        if "*" in places:
            return
        roots = [os.path.expanduser(place) for place in places]
        for path in self._local_paths(target):
            if not any(is_within(path, root) for root in roots):
                full = os.path.realpath(path)
                raise Failed(
                    1,
                    f"ERROR: target {name}: the remote definition uses {path}, outside of the "
                    f"working directory: allow it with --allow fs={full}",
                )

    def _local_paths(self, target: Target) -> Iterator[str]:
        places = [target["context"], target["dockerfile"], *(target.get("contexts") or {}).values()]
        for place in places:
            if place.startswith(LOCAL):
                yield place.removeprefix(LOCAL) or "."
            elif not self.root and not _NOT_LOCAL.match(place):
                yield place
        for entry in _entries(target, "secret", "cache-from", "cache-to", "output"):
            yield from (entry[key] for key in ("src", "dest") if entry.get(key))
        for entry in _entries(target, "ssh"):
            yield from entry.get("paths", ())


def _entries(target: Target, *keys: str) -> Iterator[dict[str, Any]]:
    for key in keys:
        yield from target.get(key) or ()


def _git_environment(url: str) -> dict[str, str]:
    """Credentials for the server, by the environment: arguments are visible to other users."""
    token, header = (os.environ.get(name) for name in _GIT_AUTH)
    if not url.startswith("https://") or not (token or header):
        return {}
    if not header:
        import base64

        text = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        header = f"basic {text}"
    host = "/".join(url.split("/")[:3])
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{host}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: {header}"}  # fmt: skip
