"""``run``: one more container of a service, for one command."""

from __future__ import annotations

import os

from portside.compose import bringing_up, conditions, injected_files, socket_access
from portside.compose.actions import Actions
from portside.compose.converge import UpOptions
from portside.compose.executor import execute
from portside.compose.observed import Container, containers, observe
from portside.compose.project import Project, Values
from portside.compose.requests import ONEOFF, SLUG
from portside.compose.service_images import ImageTools, ensure, names_of
from portside.compose.step_plan import Plan
from portside.model.light_dataclass import dataclass, field, replace


@dataclass
class OneOff:
    """The flags of ``run``."""

    service: str
    command: list[str] = field(default_factory=list)
    name: str = ""
    entrypoint: list[str] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    tty: bool = False
    interactive: bool = True
    auto_remove: bool = False
    use_aliases: bool = False
    ports: list[Values] | None = None
    """Replaces the service's value; None leaves it."""
    volumes: list[Values] = field(default_factory=list)


def create(
    actions: Actions, wanted: OneOff, choices: UpOptions, tools: ImageTools, parallel: int,
    dependencies: bool,
) -> Container:  # fmt: skip
    """Have the dependencies as the service needs them, then create the container."""
    project = actions.project
    service = project.services[wanted.service]
    _start_dependencies(actions, wanted.service, choices, tools, parallel, dependencies)
    only = replace(project, services={wanted.service: service})
    observed = observe(actions.pool, project.name, names_of(only))
    ensure(actions.pool, only, observed.images, tools, actions.report, parallel, actions.warn,
           actions.dry_run)  # fmt: skip
    actions.images = observed.images
    for name in project.services:
        actions.containers[name] = observed.of_service(name)
    slug = os.urandom(32).hex()
    given = wanted.name or project.separator.join((project.name, wanted.service, "run", slug[:12]))
    project.services[wanted.service] = changed = _changed(service, wanted, given)
    request = actions.request(
        wanted.service, -1, one_off=True, use_aliases=wanted.use_aliases,
        attach_stdin=wanted.interactive, auto_remove=wanted.auto_remove,
        labels={SLUG: slug, ONEOFF: "True"},
    )  # fmt: skip
    made = actions.post_create(given, request)
    if not actions.dry_run:
        injected_files.inject(actions.pool, project, changed, made.id)
    return made


def _start_dependencies(
    actions: Actions, service: str, choices: UpOptions, tools: ImageTools, parallel: int,
    dependencies: bool,
) -> None:  # fmt: skip
    """Networks and volumes, and the other services up to the required conditions."""
    project = actions.project
    others = {name: item for name, item in project.services.items()
              if name != service and dependencies}  # fmt: skip
    disabled = {**project.disabled, service: project.services[service]}
    before: Project = replace(project, services=others, disabled=disabled, models={})
    inner = replace(actions, project=before)
    if project.models:
        from portside.compose import model_runner

        model_runner.ensure(actions)
    socket_access.give(actions)
    bringing_up.up(inner, choices, tools, parallel)
    if dependencies:
        _await(actions, service, parallel)


def _await(actions: Actions, service: str, parallel: int) -> None:
    from portside.compose.converge import add_wait

    project = actions.project
    found = containers(actions.pool, project.name)
    plan = Plan()
    for name, how in project.dependencies(service).items():
        actions.containers[name] = [item for item in found if item.service == name]
        condition = how.get("condition", conditions.STARTED)
        if condition != conditions.STARTED and name in project.services:
            add_wait(plan, actions, name, condition, [], required=how.get("required", True),
                     dependent=service)  # fmt: skip
    execute(plan, parallel)


def _changed(service: Values, wanted: OneOff, name: str) -> Values:
    """The service as the flags change it."""
    found = {key: value for key, value in service.items() if key != "restart"}
    if found.get("deploy"):
        found["deploy"] = {key: value for key, value in found["deploy"].items()
                           if key != "restart_policy"}  # fmt: skip
    found |= {"container_name": name, "scale": 1, "tty": wanted.tty,
              "stdin_open": wanted.interactive}  # fmt: skip
    if wanted.command:
        found["command"] = wanted.command
    if wanted.entrypoint is not None:
        found["entrypoint"] = wanted.entrypoint
        if not wanted.command:
            found["command"] = []
    for key, value in (("user", wanted.user), ("working_dir", wanted.workdir)):
        if value:
            found[key] = value
    for key, given, other in (
        ("cap_add", wanted.cap_add, wanted.cap_drop), ("cap_drop", wanted.cap_drop, wanted.cap_add),
    ):  # fmt: skip
        kept = [name for name in found.get(key) or () if name not in other]
        if kept or given:
            found[key] = [*kept, *given]
    if wanted.environment:
        found["environment"] = {**(found.get("environment") or {}), **wanted.environment}
    if wanted.labels:
        found["labels"] = {**(found.get("labels") or {}), **wanted.labels}
    if wanted.ports is not None:
        found["ports"] = wanted.ports
    if wanted.volumes:
        found["volumes"] = [*(found.get("volumes") or ()), *wanted.volumes]
    return found


def parsed(
    project: Project, ports: list[str], volumes: list[str]
) -> tuple[list[Values], list[Values]]:
    """``--publish`` and ``--volume`` as a service's own attributes. Raises InvalidFile."""
    from portside.compose import spec
    from portside.compose.attribute_kinds import Here
    from portside.compose.canonical import canonical, resolve_paths, set_defaults
    from portside.compose.yaml_source import Map, Seq

    tree, services, service = Map(), Map(), Map()
    for key, texts in (("ports", ports), ("volumes", volumes)):
        service[key] = Seq()
        for text in texts:
            service[key].add(text, None)
    service["image"] = "image"
    services["run"], tree["services"] = service, services
    canonical(tree, lambda text: None)
    set_defaults(tree)
    resolve_paths(tree, project.working_dir)
    found = spec.PROJECT.decode(tree, Here(tree))["services"]["run"]
    return found.get("ports") or [], found.get("volumes") or []
