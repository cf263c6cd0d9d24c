"""Compose files to one tree: documents, variables, ``include``, ``extends``, merging.

For each document: variables are replaced, included files are loaded and joined, ``!reset`` is
applied to what came before, services are laid over those they extend, and the result is merged
over the documents before it (the order of the Compose Specification's reference loader).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from portside.compose import dotenv
from portside.compose.canonical import absolute, canonical, resolve_paths, set_defaults
from portside.compose.compose_errors import ComposeError, InvalidFile, Position
from portside.compose.interpolation import Lookup, interpolate
from portside.compose.merge import drop, enforce_unique, extend_service, merge
from portside.compose.yaml_source import (
    MAX_ALL_NODES,
    MAX_BYTES,
    Document,
    Map,
    Seq,
    copy,
    documents,
    position,
)
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.remote_files import RemoteFiles


STDIN = "-"
_NODES_OF_A_READING = 100
"""As so many values counts the reading of a document, however small it is."""
_RESOURCES = ("services", "volumes", "networks", "secrets", "configs", "models")


@dataclass
class Loader:
    """The shared context of all files of one project."""

    working_dir: str
    environment: dict[str, str]
    warn: Callable[[str], None]
    interpolates: bool = True
    resolves_paths: bool = True
    stdin: bytes | None = None
    """The content of the file ``-``; read from standard input when None."""
    remotes: RemoteFiles | None = None
    _seen: dict[str, list[Document]] = field(default_factory=dict)
    """Documents that are parsed but not yet loaded."""
    _left: int = field(default_factory=lambda: MAX_ALL_NODES)

    def lookup(self) -> Lookup:
        return self.environment.get

    def load(self, files: list[str]) -> Map:
        """The merged tree of the files. Raises InvalidFile."""
        return self._model(files, self.working_dir, self.environment, [])

    def _model(
        self, files: list[str], base: str, environment: dict[str, str], included: list[str]
    ) -> Map:
        tree = Map()
        for file in files:
            tree = self._file(file, tree, base, environment, included, full=True)
        set_defaults(tree)
        if self.resolves_paths:
            resolve_paths(tree, base)
        elif included:
            resolve_paths(tree, os.path.relpath(base, self.working_dir or "."))
        return tree

    def read(self, file: str, at: Position | None = None, path: str = "") -> bytes:
        """The text of a file, one byte too many at most. Raises InvalidFile; ``at`` and ``path``
        are where the file is named."""
        if file == STDIN:
            if self.stdin is None:
                self.stdin = sys.stdin.buffer.read(MAX_BYTES + 1)
            return self.stdin
        try:
            with open(file, "rb") as handle:
                return handle.read(MAX_BYTES + 1)
        except (OSError, ValueError) as err:
            raise InvalidFile(f"open {file}: {_cause(err)}", at, path) from None

    def look_at(self, file: str, at: Position | None = None, path: str = "") -> list[Document]:
        """The documents of a file before it is loaded, see :meth:`read`; not to be changed."""
        self._check_place(file, at, path)
        self._seen[file] = self._documents(file, at, path)
        return self._seen[file]

    def _place(self, path: str, base: str, at: Position | None, attribute: str) -> str:
        """A file that another one names, on this machine. Raises InvalidFile."""
        if self.remotes is None or not self.remotes.accepts(path):
            return absolute(path, base)
        self.remotes.included[path] = None
        try:
            return self.remotes.fetch(path)
        except ComposeError as err:
            raise InvalidFile(str(err), at, attribute) from None

    def _check_place(self, file: str, at: Position | None, attribute: str) -> None:
        """Raises InvalidFile for a file that a remote one may not name."""
        if self.remotes is None or at is None:
            return
        try:
            self.remotes.check(file, at.file)
        except ComposeError as err:
            raise InvalidFile(str(err), at, attribute) from None

    def _documents(self, file: str, at: Position | None = None, path: str = "") -> list[Document]:
        """The documents of a file; those of all files have one limit of size."""
        found = []
        for document in documents(self.read(file, at, path), file):
            found.append(document)
            self._left -= document.nodes + _NODES_OF_A_READING
            if self._left < 0:
                raise InvalidFile(
                    f"the files of the project have more than {MAX_ALL_NODES} values, each "
                    "included or extended file counted every time that it is named",
                    at or Position(file, 1, 1), path,
                )  # fmt: skip
        return found

    def _file(
        self, file: str, tree: Map, base: str, environment: dict[str, str],
        included: list[str], full: bool,
    ) -> Map:  # fmt: skip
        for document in self._seen.pop(file, None) or self._documents(file):
            tree = self._document(document, file, tree, base, environment, included, full)
        return tree

    def _document(
        self, document: Document, file: str, tree: Map, base: str,
        environment: dict[str, str], included: list[str], full: bool,
    ) -> Map:  # fmt: skip
        mine = document.tree
        if mine is None:
            return tree
        if not isinstance(mine, Map):
            raise InvalidFile("top-level object must be a mapping", Position(file, 1, 1))
        if self.interpolates:
            interpolate(mine, environment.get, self.warn)
        if full:
            self._include(mine, base, environment, [*included, file])
        drop(tree, document.resets)
        if full:
            self._extend_all(mine, file, base, environment, document)
        tree = merge(tree, mine)
        tree = enforce_unique(tree)
        if full and tree.pop("version", None) is not None:
            self.warn(f"{file}: the attribute `version` is obsolete, it will be ignored, "
                      "please remove it to avoid potential confusion")  # fmt: skip
        canonical(tree, self.warn, lenient=not self.interpolates)
        found = enforce_unique(tree)
        assert isinstance(found, Map)
        return found

    # -- include --------------------------------------------------------------------------------

    def _include(
        self, mine: Map, base: str, environment: dict[str, str], included: list[str]
    ) -> None:
        entries = mine.pop("include", None)
        if entries is None:
            return
        if not isinstance(entries, Seq):
            raise InvalidFile("`include` must be a list", mine.where.get("include"))
        for index, entry in enumerate(entries):
            said = _include_entry(entry, entries.spot(index), f"include[{index}]")
            self._include_one(said, mine, base, environment, included)

    def _include_one(
        self, said: _Include, mine: Map, base: str, environment: dict[str, str],
        included: list[str],
    ) -> None:  # fmt: skip
        at, directory = said.at, said.directory
        files = [self._place(path, base, place, said.attribute) for path, place in said.paths]
        if files[0] in included:
            chain = "\n include ".join([*included[1:], files[0]])
            raise InvalidFile(f"include cycle detected:\n{included[0]}\n include {chain}", at)
        project = absolute(directory, base) if directory else os.path.dirname(files[0])
        inner = dict(self._include_environment(said, project, base, environment))
        inner.update(environment)
        for file, (_, place) in zip(files, said.paths, strict=True):
            self.look_at(file, place, said.attribute)
        found = self._model(files, project, inner, included)
        for group in _RESOURCES:
            self._import(found.get(group), group, mine)

    def _include_environment(
        self, said: _Include, project: str, base: str, environment: dict[str, str]
    ) -> dict[str, str]:
        env_files = said.env_files
        if not env_files:
            default = os.path.join(project, ".env")
            env_files = [(default, said.at)] if os.path.isfile(default) else []
        files = [(absolute(path, base), at) for path, at in env_files if path != "/dev/null"]
        for path, at in files:
            self._check_place(path, at, f"{said.attribute}.env_file")
        return read_env_files(files, environment.get, f"{said.attribute}.env_file")

    @staticmethod
    def _import(found: Any, group: str, mine: Map) -> None:
        if not isinstance(found, Map):
            return
        target = mine.get(group)
        if not isinstance(target, Map):
            target = Map(found.at)
            mine[group] = target
        for name, value in found.items():
            if name in target and target[name] != value:
                raise InvalidFile(
                    f"{group}.{name} conflicts with imported resource; "
                    "change it by another file, with -f or in `include.path`",
                    target.where.get(name),
                )
            target.put(name, value, found.where.get(name))

    # -- extends --------------------------------------------------------------------------------

    def _extend_all(
        self, mine: Map, file: str, base: str, environment: dict[str, str], document: Document
    ) -> None:
        services = mine.get("services")
        if services is None:
            return
        if not isinstance(services, Map):
            raise InvalidFile("services must be a mapping", mine.where.get("services"))
        for name in services:
            services[name] = self._extended(
                name, services, file, base, environment, document, [])  # fmt: skip

    def _extended(
        self, name: str, services: Map, file: str, base: str, environment: dict[str, str],
        document: Document | None, chain: list[tuple[str, str]],
    ) -> Any:  # fmt: skip
        service = services[name]
        if service is None:
            return None
        at = services.where.get(name)
        if not isinstance(service, Map):
            raise InvalidFile(f"services.{name} must be a mapping", at)
        if "extends" not in service:
            return service
        _check_chain(chain, file, name, at)
        chain = [*chain, (file, name)]
        reference, other = _extends_of(service, name)
        if other is None:
            if reference not in services:
                raise InvalidFile(
                    f'cannot extend service "{name}" in {file}: service "{reference}" not found',
                    position(service, ("extends",)),
                )
            found = self._extended(reference, services, file, base, environment, document, chain)
        else:
            found = self._base_from_file(
                name, reference, other, file, base, environment, chain,
                position(service, ("extends", "file")),
            )  # fmt: skip
        if found is None:
            return service
        source = copy(found)
        if document is not None and document.resets:
            holder, inner = Map(), Map()
            inner[name] = source
            holder["services"] = inner
            drop(holder, document.resets)
        merged = extend_service(source, service, name)
        merged.pop("extends", None)
        services[name] = merged
        return merged

    def _base_from_file(
        self, name: str, reference: str, other: str, file: str, base: str,
        environment: dict[str, str], chain: list[tuple[str, str]], at: Position | None,
    ) -> Any:  # fmt: skip
        attribute = f"services.{name}.extends.file"
        path = self._place(other, base, at, attribute)
        self.look_at(path, at, attribute)
        tree = self._file(path, Map(), os.path.dirname(path), environment, [], full=False)
        services = tree.get("services")
        if not isinstance(services, Map):
            raise InvalidFile(
                f'cannot extend service "{name}" in {path}: no services section', at)  # fmt: skip
        if reference not in services:
            raise InvalidFile(
                f'cannot extend service "{name}" in {file}: service "{reference}" not found in '
                f"{other}", at)  # fmt: skip
        directory = os.path.dirname(path)
        resolve_paths(tree, directory if self.resolves_paths else os.path.relpath(directory, base))
        return self._extended(reference, services, path, directory, environment, None, chain)


_Placed = tuple[str, Position | None]
"""A path and where it is named."""


@dataclass
class _Include:
    """One entry of ``include``."""

    paths: list[_Placed]
    at: Position | None
    attribute: str
    directory: str = ""
    """The project's directory; where the first file is when empty."""
    env_files: list[_Placed] = field(default_factory=list)


def _include_entry(entry: Any, at: Position | None, attribute: str) -> _Include:
    """An entry in its short or its long form. Raises InvalidFile."""
    if isinstance(entry, str):
        return _Include([(entry, at)], at, attribute)
    if not isinstance(entry, Map):
        raise InvalidFile("must be a string or a mapping", at, attribute)
    _check_keys(entry, ("path", "project_directory", "env_file"), attribute)
    paths = _texts(entry, "path", attribute)
    if not paths:
        raise InvalidFile("missing property 'path'", at, attribute)
    directory = entry.get("project_directory") or ""
    if not isinstance(directory, str):
        place = entry.where.get("project_directory", at)
        raise InvalidFile("must be a string", place, f"{attribute}.project_directory")
    return _Include(paths, at, attribute, directory, _texts(entry, "env_file", attribute))


def _check_keys(entry: Map, known: tuple[str, ...], attribute: str) -> None:
    """Raise InvalidFile for a key that is not known."""
    from portside.compose.attribute_kinds import unknown_key

    for key in entry:
        if key not in known and not key.startswith("x-"):
            raise InvalidFile(unknown_key(key, known), entry.where.get(key), f"{attribute}.{key}")


def _texts(entry: Map, key: str, attribute: str) -> list[_Placed]:
    """A string or a list of strings. Raises InvalidFile."""
    value, at = entry.get(key), entry.where.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        return [(value, at)]
    if not isinstance(value, Seq) or not all(isinstance(item, str) for item in value):
        raise InvalidFile("must be a string or a list of strings", at, f"{attribute}.{key}")
    return [(item, value.spot(index)) for index, item in enumerate(value)]


def _extends_of(service: Map, name: str) -> tuple[str, str | None]:
    """The service that one extends and its file, if another. Raises InvalidFile."""
    extends, attribute = service["extends"], f"services.{name}.extends"
    if isinstance(extends, str):
        return extends, None
    if isinstance(extends, Map):
        _check_keys(extends, ("service", "file"), attribute)
        file = extends.get("file")
        if file is not None and not isinstance(file, str):
            raise InvalidFile("must be a string", position(extends, ("file",)), f"{attribute}.file")
        if isinstance(extends.get("service"), str):
            return extends["service"], file
    raise InvalidFile(f"extends.{name}.service is required", position(service, ("extends",)))


def _check_chain(chain: list[tuple[str, str]], file: str, name: str, at: Position | None) -> None:
    if (file, name) not in chain:
        return
    lines = ["Circular reference:", f"  {chain[0][1]} in {chain[0][0]}"]
    lines += [f"  extends {other} in {path}" for path, other in [*chain[1:], (file, name)]]
    raise InvalidFile("\n".join(lines), at)


def read_env_files(files: Iterable[_Placed], lookup: Lookup, attribute: str = "") -> dict[str, str]:
    """Variables of several files, the later ones winning. Raises InvalidFile; each file comes with
    where it is named, ``attribute`` is what names it."""
    found: dict[str, str] = {}

    def look(name: str) -> str | None:
        outside = lookup(name)
        return outside if outside is not None else found.get(name)

    for file, at in files:
        try:
            values = dotenv.read(file, look)
        except FileNotFoundError:
            raise InvalidFile(f"couldn't find env file: {file}", at, attribute) from None
        except IsADirectoryError:
            raise InvalidFile(f"{file} is a directory", at, attribute) from None
        except (OSError, ValueError) as err:
            raise InvalidFile(f"open {file}: {_cause(err)}", at, attribute) from None
        found.update((name, value) for name, value in values.items() if value is not None)
    return found


def _cause(err: Exception) -> str:
    """Why a file cannot be opened."""
    return (getattr(err, "strerror", None) or str(err)).lower()
