"""Compose files that are not on this machine: ``oci://REGISTRY/NAME[:TAG]``, an artifact of
``compose publish``, and git repositories, ``URL.git[#REF[:FOLDER]]``.

Both are kept in the directory where docker compose keeps them, beneath the digest of the artifact
or the commit, so that each is fetched once. A name in a file that came from elsewhere is not
trusted: ``include`` and ``extends`` read nothing outside of what was fetched.
"""

from __future__ import annotations

import os
import posixpath
import time

from portside.compose.artifact_types import ARTIFACT, ENV_FILE, FILE, OLD_CONFIG
from portside.compose.compose_errors import ComposeError
from portside.model.light_dataclass import dataclass, field
from portside.model.paths import is_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Protocol

    class Sources(Protocol):
        """What fetches."""

        def artifact(self, name: str) -> Artifact:
            """A manifest alone. Raises PortsideError."""

        def layers(self, name: str, digest: str) -> list[bytes]:
            """The layers of a manifest, of bounded size. Raises PortsideError."""

        def commit(self, remote: str, reference: str) -> str:
            """The commit of a branch, a tag or HEAD. Raises ComposeError."""

        def check_out(self, remote: str, commit: str, directory: str) -> None:
            """Put the files of a commit into an empty directory. Raises ComposeError."""


OCI = "oci://"
SWITCHES = {"OCI": "COMPOSE_EXPERIMENTAL_OCI_REMOTE", "git": "COMPOSE_EXPERIMENTAL_GIT_REMOTE"}
"""Variables that turn a kind off."""
MAIN = "compose.yaml"
"""The file in which an artifact's files are put together."""
_OLD = 24 * 3600
"""Seconds after which a directory that was not completed is removed."""
_UNFINISHED = ".new-"


@dataclass
class Artifact:
    """A manifest in a registry, with its digest."""

    digest: str
    manifest: dict[str, Any]


@dataclass
class RemoteFiles:
    """The remote files of one project. ``connect`` makes the sources when they are needed; of the
    ``names`` of files in a folder, the first that exists is read."""

    connect: Callable[[], Sources]
    environment: Mapping[str, str]
    names: tuple[str, ...]
    requested: list[str] = field(default_factory=list)
    """The files that the user named, in order."""
    included: dict[str, None] = field(default_factory=dict)
    """What files themselves named."""
    _known: dict[str, str] = field(default_factory=dict)
    _roots: dict[str, None] = field(default_factory=dict)

    def accepts(self, path: str) -> bool:
        """Whether a path names a file elsewhere."""
        if path.startswith(OCI):
            return True
        if "://" not in path and "@" not in path and not path.startswith("github.com/"):
            return False
        from portside.model.git_urls import is_git_url

        return is_git_url(path)

    @property
    def is_main(self) -> bool:
        """Whether the first file that the user named is elsewhere."""
        return bool(self.requested) and self.accepts(self.requested[0])

    def fetch(self, path: str) -> str:
        """The file's path on this machine. Raises ComposeError and the errors of the sources."""
        found = self._known.get(path)
        if found is None:
            found = self._artifact(path) if path.startswith(OCI) else self._repository(path)
            self._known[path] = found
        return found

    def check(self, path: str, named_in: str) -> None:
        """Raises ComposeError when a file from elsewhere names one outside of what was fetched."""
        if self._is_fetched(named_in) and not self._is_fetched(path):
            raise ComposeError(f"{path} is outside of the remote project")

    def _is_fetched(self, path: str) -> bool:
        return any(is_within(path, root) for root in self._roots)

    # -- artifacts --------------------------------------------------------------------------

    def _artifact(self, path: str) -> str:
        self._check_switch("OCI")
        name = path.removeprefix(OCI)
        found = self.connect().artifact(name)
        root = os.path.join(self._cache(), found.digest.partition(":")[2])
        if not os.path.isfile(os.path.join(root, MAIN)):
            _check_kind(name, found.manifest)
            data = self.connect().layers(name, found.digest)
            files = _files_of(name, found.manifest["layers"], data)
            _remove(root)
            with _Unfinished(root) as directory:
                for file, content in files.items():
                    with open(os.path.join(directory, file), "xb") as handle:
                        handle.write(content)
        self._roots[os.path.realpath(root)] = None
        return os.path.join(root, MAIN)

    # -- git --------------------------------------------------------------------------------

    def _repository(self, path: str) -> str:
        from portside.model.git_urls import COMMIT, parse_git_url

        self._check_switch("git")
        folder = _folder_of(path)
        url = parse_git_url(path)
        commit = url.ref
        if not COMMIT.fullmatch(commit):
            commit = self.connect().commit(url.remote, url.ref or "HEAD")
        if url.commit and not commit.startswith(url.commit):
            raise ComposeError(f"{path}: the commit is {commit}, not {url.commit}")
        root = os.path.join(self._cache(), commit)
        if not _has_files(root):
            _remove(root)
            with _Unfinished(root) as directory:
                self.connect().check_out(url.remote, commit, directory)
        self._roots[os.path.realpath(root)] = None
        return self._in_repository(path, root, folder or url.subdir)

    def _in_repository(self, path: str, root: str, folder: str) -> str:
        place = os.path.normpath(os.path.join(root, folder))
        if not os.path.lexists(place):
            raise ComposeError(f"{path}: the repository has no {folder}")
        if os.path.isdir(place):
            files = [os.path.join(place, name) for name in self.names]
            place = next((file for file in files if os.path.isfile(file)), "")
            if not place:
                raise ComposeError(f"{path}: no configuration file provided: not found")
        if not is_within(place, root):
            raise ComposeError(f"{path}: a link leads out of the repository")
        return place

    # -- the cache --------------------------------------------------------------------------

    def _cache(self) -> str:
        """The directory of what was fetched, which is made."""
        base = self.environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        found = os.path.join(os.path.abspath(base), "docker-compose")
        os.makedirs(found, 0o700, exist_ok=True)
        for name in os.listdir(found):
            place = os.path.join(found, name)
            if name.startswith(_UNFINISHED) and _age(place) > _OLD:
                _remove(place)
        return found

    def _check_switch(self, kind: str) -> None:
        from portside.model.golang.booleans import parse_bool

        name = SWITCHES[kind]
        try:
            is_on = parse_bool(self.environment.get(name) or "1")
        except ValueError as err:
            raise ComposeError(
                f"{name} environment variable expects boolean value: {err}"
            ) from None
        if not is_on:
            raise ComposeError(f'{kind} remote resource is disabled by "{name}"')


class _Unfinished:
    """A directory beside its later place, which it takes when it is complete."""

    def __init__(self, place: str) -> None:
        self._place = place
        cache, name = os.path.split(place)
        self._directory = os.path.join(cache, f"{_UNFINISHED}{name}-{os.getpid()}")

    def __enter__(self) -> str:
        _remove(self._directory)
        os.mkdir(self._directory, 0o700)
        return self._directory

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            if kind is None:
                os.rename(self._directory, self._place)
        except OSError:
            if not os.path.isdir(self._place):  # another call was not faster
                raise
        finally:
            _remove(self._directory)


def _check_kind(name: str, manifest: dict[str, Any]) -> None:
    """Raises ComposeError for a manifest of something other than a Compose project."""
    kind = manifest.get("artifactType") or ""
    config = manifest.get("config")
    old = config.get("mediaType") if isinstance(config, dict) else ""
    if (kind and kind != ARTIFACT) or (not kind and old != OLD_CONFIG):
        what = kind or manifest.get("mediaType") or "another kind of content"
        raise ComposeError(f"{name} is not a compose project OCI artifact, but {what}")
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not all(isinstance(item, dict) for item in layers):
        raise ComposeError(f"{name}: the manifest has no layers")


def _files_of(name: str, layers: list[dict[str, Any]], data: list[bytes]) -> dict[str, bytes]:
    """Names and contents of an artifact's files. Raises ComposeError."""
    found: dict[str, bytes] = {}
    for layer, content in zip(layers, data, strict=True):
        notes = layer.get("annotations") or {}
        if layer.get("mediaType") == FILE:
            is_main = notes.get("com.docker.compose.extends") != "true"
            file = MAIN if is_main else _plain(name, notes.get("com.docker.compose.file"))
        elif layer.get("mediaType") == ENV_FILE:
            is_main, file = False, _plain(name, notes.get("com.docker.compose.envfile"))
        else:
            continue
        if is_main and MAIN in found:
            content = found[MAIN] + b"\n---\n" + content
        elif file in found and found[file] != content:
            raise ComposeError(f"{name}: the artifact has two files {file!r}")
        found[file] = content
    if MAIN not in found:
        raise ComposeError(f"{name}: the artifact has no Compose file")
    return found


def _plain(name: str, file: Any) -> str:
    """The name of an artifact's file, which is not a path. Raises ComposeError."""
    if not isinstance(file, str) or file in ("", ".", "..", MAIN) or len(file.encode()) > 255 or (
        any(character in file for character in "/\\\0")
    ):  # fmt: skip
        raise ComposeError(f"{name}: the artifact has a file with the invalid name {file!r}")
    return file


def _folder_of(path: str) -> str:
    """What follows the reference in the address of a repository. Raises ComposeError."""
    folder = path.partition("#")[2].partition(":")[2]
    clean = posixpath.normpath(folder) if folder else ""
    if clean.startswith("/"):
        raise ComposeError(f"git subdirectory must be relative, got: {folder}")
    if clean == ".." or clean.startswith("../"):
        raise ComposeError(f"git subdirectory path traversal detected: {folder}")
    return clean


def _has_files(root: str) -> bool:
    """A call that was killed may have left a repository without its files."""
    return os.path.isdir(root) and any(name != ".git" for name in _names(root))


def _names(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.name


def _remove(directory: str) -> None:
    """Remove a directory if it exists."""
    import shutil  # takes 10 ms, and most projects have no remote file

    shutil.rmtree(directory, ignore_errors=True)


def _age(place: str) -> float:
    try:
        return time.time() - os.lstat(place).st_mtime
    except OSError:
        return 0.0
