"""Compose files to one tree: documents, variables, ``include``, ``extends``, merging.

For each document: variables are replaced, included files are loaded and joined, ``!reset`` is
applied to what came before, services are laid over those they extend, and the result is merged
over the documents before it (the order of the Compose Specification's reference loader).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from portside.compose import dotenv
from portside.compose.canonical import absolute, canonical, resolve_paths, set_defaults
from portside.compose.compose_errors import ComposeError, InvalidFile, Position
from portside.compose.interpolation import Lookup, interpolate
from portside.compose.merge import drop, enforce_unique, extend_service, merge
from portside.compose.yaml_source import Document, Map, Seq, copy, documents, position
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


STDIN = "-"
_RESOURCES = ("services", "volumes", "networks", "secrets", "configs", "models")


@dataclass
class Loader:
    """What all files of one project share."""

    working_dir: str
    environment: dict[str, str]
    warn: Callable[[str], None]
    interpolates: bool = True
    resolves_paths: bool = True
    stdin: bytes | None = None
    """What stands for the file ``-``; read from standard input when None."""
    profiles_seen: set[str] = field(default_factory=set)
    _seen: dict[str, list[Document]] = field(default_factory=dict)
    """What is parsed already and not yet loaded."""

    def lookup(self) -> Lookup:
        return self.environment.get

    def load(self, files: list[str]) -> Map:
        """The merged tree of the files. Raises InvalidFile and ComposeError."""
        return self._model(files, self.working_dir, self.environment, [])

    def _model(
        self, files: list[str], base: str, environment: dict[str, str], included: list[str]
    ) -> Map:
        tree = Map()
        for file in files:
            tree = self._file(file, tree, base, environment, included, full=True)
        set_defaults(tree)
        if self.resolves_paths or included:
            resolve_paths(tree, base)
        return tree

    def read(self, file: str) -> bytes:
        """The text of a file. Raises ComposeError."""
        if file == STDIN:
            if self.stdin is None:
                self.stdin = sys.stdin.buffer.read()
            return self.stdin
        try:
            with open(file, "rb") as handle:
                return handle.read()
        except OSError as err:
            raise ComposeError(f"open {file}: {(err.strerror or str(err)).lower()}") from None

    def look_at(self, file: str) -> list[Document]:
        """The documents of a file before it is loaded; not to be changed."""
        self._seen[file] = list(documents(self.read(file), file))
        return self._seen[file]

    def _file(
        self, file: str, tree: Map, base: str, environment: dict[str, str],
        included: list[str], full: bool,
    ) -> Map:  # fmt: skip
        for document in self._seen.pop(file, None) or documents(self.read(file), file):
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
            self._include(mine, base, environment, [*included, file], document)
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
        self, mine: Map, base: str, environment: dict[str, str], included: list[str],
        document: Document,
    ) -> None:  # fmt: skip
        entries = mine.pop("include", None)
        if entries is None:
            return
        if not isinstance(entries, Seq):
            raise InvalidFile("`include` must be a list", mine.where.get("include"))
        for index, entry in enumerate(entries):
            self._include_one(entry, entries.spot(index), mine, base, environment, included,
                              document)  # fmt: skip

    def _include_one(
        self, entry: Any, at: Position | None, mine: Map, base: str,
        environment: dict[str, str], included: list[str], document: Document,
    ) -> None:  # fmt: skip
        paths, directory, env_files = _include_entry(entry, at)
        files = [absolute(path, base) for path in paths]
        if not files:
            raise InvalidFile("include: missing property 'path'", at)
        if files[0] in included:
            chain = "\n include ".join([*included[1:], files[0]])
            raise InvalidFile(f"include cycle detected:\n{included[0]}\n include {chain}", at)
        project = absolute(directory, base) if directory else os.path.dirname(files[0])
        inner = dict(self._include_environment(env_files, project, base, environment))
        inner.update(environment)
        found = self._model(files, project, inner, included)
        for group in _RESOURCES:
            self._import(found.get(group), group, mine, document)

    def _include_environment(
        self, env_files: list[str], project: str, base: str, environment: dict[str, str]
    ) -> dict[str, str]:
        if not env_files:
            default = os.path.join(project, ".env")
            env_files = [default] if os.path.isfile(default) else []
        files = [absolute(path, base) for path in env_files if path != "/dev/null"]
        return read_env_files(files, environment.get)

    @staticmethod
    def _import(found: Any, group: str, mine: Map, document: Document) -> None:
        if not isinstance(found, Map):
            return
        target = mine.get(group)
        if not isinstance(target, Map):
            target = Map(found.at)
            mine[group] = target
        for name, value in found.items():
            if name in target:
                holder = Map()
                holder[group] = Map()
                holder[group][name] = value
                drop(holder, document.resets)
                value = merge(value, target[name], (group, name))
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
                name, reference, other, file, base, environment, chain, position(service, ("extends",)))  # fmt: skip # noqa: E501
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
        path = absolute(other, base)
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


def _include_entry(entry: Any, at: Position | None) -> tuple[list[str], str, list[str]]:
    """Paths, project directory and environment files of one entry."""
    if isinstance(entry, str):
        return [entry], "", []
    if not isinstance(entry, Map):
        raise InvalidFile("must be a string or a mapping", at, "include")
    for key in entry:
        if key not in ("path", "project_directory", "env_file"):
            raise InvalidFile(f"additional properties '{key}' not allowed", at, "include")
    return (
        _texts(entry.get("path")),
        entry.get("project_directory") or "",
        _texts(entry.get("env_file")),
    )


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _extends_of(service: Map, name: str) -> tuple[str, str | None]:
    extends = service["extends"]
    if isinstance(extends, str):
        return extends, None
    if isinstance(extends, Map) and isinstance(extends.get("service"), str):
        return extends["service"], extends.get("file")
    raise InvalidFile(f"extends.{name}.service is required", position(service, ("extends",)))


def _check_chain(chain: list[tuple[str, str]], file: str, name: str, at: Position | None) -> None:
    if (file, name) not in chain:
        return
    lines = ["Circular reference:", f"  {chain[0][1]} in {chain[0][0]}"]
    lines += [f"  extends {other} in {path}" for path, other in [*chain[1:], (file, name)]]
    raise InvalidFile("\n".join(lines), at)


def read_env_files(files: list[str], lookup: Lookup) -> dict[str, str]:
    """Variables of several files, the later ones winning. Raises ComposeError."""
    found: dict[str, str] = {}

    def look(name: str) -> str | None:
        outside = lookup(name)
        return outside if outside is not None else found.get(name)

    for file in files:
        try:
            values = dotenv.read(file, look)
        except FileNotFoundError:
            raise ComposeError(f"couldn't find env file: {file}") from None
        except IsADirectoryError:
            raise ComposeError(f"{file} is a directory") from None
        except OSError as err:
            raise ComposeError(f"open {file}: {(err.strerror or str(err)).lower()}") from None
        found.update((name, value) for name, value in values.items() if value is not None)
    return found
