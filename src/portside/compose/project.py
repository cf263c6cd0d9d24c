"""One validated Compose project: plain values, typed by ``spec.py``."""

from __future__ import annotations

from collections.abc import Iterable

from portside.compose.compose_errors import InvalidFile
from portside.compose.yaml_source import Map, Path, position, text_of
from portside.model.errors import NotFound
from portside.model.light_dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Values = dict[str, "Any"]


@dataclass
class Project:
    """The wanted state of a project."""

    name: str
    working_dir: str
    files: list[str]
    environment: dict[str, str]
    services: dict[str, Values]
    disabled: dict[str, Values]
    """Services whose profiles are not active."""
    networks: dict[str, Values]
    volumes: dict[str, Values]
    secrets: dict[str, Values]
    configs: dict[str, Values]
    models: dict[str, Values]
    extensions: Values
    profiles: list[str]
    env_files: list[str]
    tree: Map
    """The merged tree, for positions in messages."""
    separator: str = "-"
    """Between the parts of names: ``_`` as in version 1 of Compose, on request."""

    def error(self, path: Path, message: str) -> InvalidFile:
        """An error about one attribute, with its place in the file."""
        return InvalidFile(message, position(self.tree, path), text_of(path))

    def service(self, name: str) -> Values:
        """A service by name. Raises NotFound."""
        if name in self.services:
            return self.services[name]
        if name in self.disabled:
            raise NotFound(f"service {name!r} is disabled: no such service")
        raise NotFound(f"no such service: {name}")

    def values(self) -> Values:
        """The project as one value of ``spec.PROJECT``."""
        found: Values = {"name": self.name, "services": self.services, **self.extensions}
        for group in ("networks", "volumes", "secrets", "configs", "models"):
            if getattr(self, group):
                found[group] = getattr(self, group)
        return found

    def dependencies(self, name: str) -> dict[str, Values]:
        """The services that a service depends on, with the condition of each."""
        found: dict[str, Values] = self.services[name].get("depends_on") or {}
        return found

    def with_dependencies(self, names: Iterable[str]) -> list[str]:
        """The names and everything they depend on, in the order of the file. Raises NotFound for
        a required dependency whose profiles are not active."""
        wanted: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in wanted or name not in self.services:
                continue
            wanted.add(name)
            for other, how in self.dependencies(name).items():
                if other in self.disabled and how.get("required", True):
                    raise NotFound(self._disabled_dependency(other, name))
                stack.append(other)
        return [name for name in self.services if name in wanted]

    def _disabled_dependency(self, other: str, name: str) -> str:
        profiles = ", ".join(self.disabled[other].get("profiles") or ())
        return f"no such service: {other}: {name} depends on it; activate a profile ({profiles})"

    def enable(self, names: Iterable[str]) -> None:
        """Activate the profiles of services that are named, with all services of these."""
        profiles = {
            profile
            for name in names
            for profile in self.disabled.get(name, {}).get("profiles") or ()
        }
        for name, service in list(self.disabled.items()):
            if profiles.intersection(service.get("profiles") or ()):
                self.services[name] = self.disabled.pop(name)
        self.services = dict(sorted(self.services.items()))

    def select(self, names: list[str], dependencies: bool = True) -> None:
        """Restrict the project to some services. Raises NotFound."""
        if not names:
            return
        self.enable(names)
        for name in names:
            self.service(name)
        kept = self.with_dependencies(names) if dependencies else names
        if not dependencies:
            for name in kept:
                self._forget_dependencies(self.services[name], kept)
        for name in list(self.services):
            if name not in kept:
                self.disabled[name] = self.services.pop(name)

    @staticmethod
    def _forget_dependencies(service: Values, kept: Iterable[str]) -> None:
        depends = service.get("depends_on")
        if depends is not None:
            left = {other: how for other, how in depends.items() if other in kept}
            service["depends_on"] = left
            if not left:
                del service["depends_on"]

    def drop_unused(self) -> None:
        """Drop networks, volumes, secrets, configs and models that no service uses."""
        used: dict[str, set[str]] = {
            group: set() for group in ("networks", "volumes", "secrets", "configs", "models")
        }
        for service in self.services.values():
            used["networks"].update(service.get("networks") or ())
            used["models"].update(service.get("models") or ())
            used["volumes"].update(
                volume["source"] for volume in service.get("volumes") or ()
                if volume["type"] == "volume" and volume.get("source")
            )  # fmt: skip
            for group in ("secrets", "configs"):
                used[group].update(item["source"] for item in service.get(group) or ())
            build = service.get("build") or {}
            used["secrets"].update(item["source"] for item in build.get("secrets") or ())
        for group, names in used.items():
            setattr(
                self, group,
                {name: item for name, item in getattr(self, group).items() if name in names},
            )  # fmt: skip
