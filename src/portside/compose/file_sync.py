"""``develop.watch``: rules for files, and bringing changed files into containers.

All files of a batch go into a container as one tar archive; what was deleted is removed there by
one command.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator

from portside.client.client import path_of
from portside.compose.compose_errors import ComposeError
from portside.compose.engine_pool import EnginePool
from portside.compose.observed import Container
from portside.compose.project import Project, Values
from portside.compose.service_hooks import run as run_hook
from portside.model.dockerignore import Ignore, read_patterns
from portside.model.light_dataclass import dataclass, field

_ALWAYS = (
    "**/.git", "**/.hg", "**/.svn", "**/*.swp", "**/*.swx", "**/*~", "**/.#*", "**/4913",
    "**/.idea", "**/__pycache__", "**/.DS_Store", "**/.pytest_cache",
)  # fmt: skip
"""Temporary files of editors and tools."""


@dataclass
class Rule:
    """One entry of a service's ``develop.watch``."""

    service: str
    path: str
    action: str
    target: str = ""
    exec: Values | None = None
    initial_sync: bool = False
    _ignore: Ignore = field(default_factory=lambda: Ignore(()))
    _include: Ignore | None = None
    _context: str = ""
    _context_ignore: Ignore = field(default_factory=lambda: Ignore(()))

    @property
    def syncs(self) -> bool:
        return self.action.startswith("sync")

    def matches(self, path: str) -> bool:
        """Whether a change of a file is this rule's business."""
        if path != self.path and not path.startswith(self.path + os.sep):
            return False
        inside = os.path.relpath(path, self.path)
        if inside != "." and self._ignore.excludes(inside):
            return False
        in_context = bool(self._context) and path.startswith(self._context + os.sep)
        if in_context and self._context_ignore.excludes(os.path.relpath(path, self._context)):
            return False
        return self._include is None or inside == "." or self._include.excludes(inside)

    def place(self, path: str) -> str:
        """Where a file is in the container."""
        inside = os.path.relpath(path, self.path)
        if inside == ".":
            return self.target
        return posixpath.join(self.target, inside.replace(os.sep, "/"))


def rules_of(project: Project, names: Iterable[str]) -> list[Rule]:
    """The rules of services. Raises ComposeError when there are none, or one cannot work."""
    found = []
    for name in names:
        service = project.services[name]
        entries = (service.get("develop") or {}).get("watch") or ()
        for entry in entries:
            if entry["action"] == "rebuild" and "build" not in service:
                raise ComposeError(
                    f"can't watch service {name!r} with action rebuild without a build section"
                )
            found.append(_rule(name, service, entry))
    if not found:
        raise ComposeError(
            "none of the selected services is configured for watch, consider setting a "
            "'develop' section"
        )
    return found


def _rule(name: str, service: Values, entry: Values) -> Rule:
    context = (service.get("build") or {}).get("context", "")
    context = context if os.path.isdir(context) else ""
    include = entry.get("include")
    return Rule(
        name, os.path.realpath(entry["path"]), entry["action"], entry.get("target", ""),
        entry.get("exec"), bool(entry.get("initial_sync")),
        Ignore([*_ALWAYS, *(entry.get("ignore") or ())]),
        Ignore(include) if include else None,
        os.path.realpath(context) if context else "", _ignore_of(context),
    )  # fmt: skip


def _ignore_of(context: str) -> Ignore:
    try:
        with open(os.path.join(context or "/nonexistent", ".dockerignore")) as file:
            return Ignore(read_patterns(file.read()))
    except OSError:
        return Ignore(())


def sync(pool: EnginePool, containers: Iterable[Container], pairs: list[tuple[str, str]]) -> None:
    """Bring files into containers: each is a path here and its place there. Raises Refused."""
    there = [(path, place) for path, place in pairs if os.path.lexists(path)]
    gone = [place for path, place in pairs if not os.path.lexists(path)]
    archive = _archive(there) if there else b""
    for container in containers:
        if archive:
            pool.put(path_of("containers", container.id, "archive"), {"path": "/"}, archive)
        if gone:
            run_hook(pool, container, {"command": ["rm", "-rf", *gone], "user": "root"}, None)


def _archive(pairs: list[tuple[str, str]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, place in pairs:
            try:
                tar.add(path, place.lstrip("/"), recursive=False, filter=_owned)
            except FileNotFoundError:
                continue  # it was there a moment ago
    return out.getvalue()


def _owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def files_below(rule: Rule, newer_than: float) -> Iterator[tuple[str, str]]:
    """All files of a rule that changed after a time (seconds since 1970), with their places."""
    if os.path.isfile(rule.path):
        if os.path.getmtime(rule.path) > newer_than:
            yield rule.path, rule.place(rule.path)
        return
    for folder, folders, files in os.walk(rule.path):
        folders[:] = [name for name in folders if rule.matches(os.path.join(folder, name))]
        for name in files:
            path = os.path.join(folder, name)
            if rule.matches(path) and os.lstat(path).st_mtime > newer_than:
                yield path, rule.place(path)
