"""The images of a project's services to build, and their order."""

from __future__ import annotations

from portside.compose.compose_errors import ComposeError
from portside.compose.project import Project, Values
from portside.compose.requests import (
    COMPOSE_VERSION,
    PROJECT,
    SERVICE,
    VERSION,
    image_of,
)
from portside.model.light_dataclass import dataclass, field


@dataclass
class BuildOptions:
    """The flags of ``build``."""

    args: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    ssh: dict[str, str] = field(default_factory=dict)
    """Identifiers of agents, and their sockets or keys."""
    provenance: str = ""
    sbom: str = ""


def with_needed(project: Project, names: list[str]) -> list[str]:
    """The services to build, each after the services whose images it is built from."""
    done: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise ComposeError(f"dependency cycle detected: {' -> '.join([*way, name])}")
        service = project.services.get(name) or project.disabled.get(name) or {}
        contexts = (service.get("build") or {}).get("additional_contexts") or {}
        for context in contexts.values():
            if context.startswith("service:"):
                visit(context.removeprefix("service:"), (*way, name))
        if name not in done and "build" in service:
            done.append(name)

    for name in names:
        visit(name, ())
    return done


def tags_of(project: Project, name: str, service: Values) -> list[str]:
    """Every name of a service's image."""
    tags = [image_of(project, name, service), *(service["build"].get("tags") or ())]
    return list(dict.fromkeys(tags))


def labels_of(project: Project, name: str, service: Values) -> dict[str, str]:
    """The image's labels: the service's own and those by which it is found again."""
    return {
        **(service["build"].get("labels") or {}),
        PROJECT: project.name, SERVICE: name, COMPOSE_VERSION: VERSION,
    }  # fmt: skip
