"""stop, restart, kill, pause, unpause and rm: the containers of services, in the order that their
dependencies ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portside.compose.actions import Actions
from portside.compose.conditions import STARTED
from portside.compose.converge import add_wait
from portside.compose.executor import execute
from portside.compose.observed import Container, containers
from portside.compose.progress_events import DONE
from portside.compose.project import Project
from portside.compose.step_plan import Plan, Step
from portside.compose.teardown import reversed_order


def stop(actions: Actions, services: Iterable[str], parallel: int) -> None:
    """Stop containers, dependents first."""
    project, wanted = actions.project, set(services) or set(actions.project.services)
    found = containers(actions.pool, project.name)
    plan = Plan()
    steps: dict[str, list[Step]] = {}
    for name in reversed_order(project.services):
        after = [
            step for other, service in project.services.items()
            if name in (service.get("depends_on") or {}) for step in steps.get(other, ())
        ]  # fmt: skip
        mine = []
        if name in wanted:
            for item in found:
                if item.service == name:
                    mine.append(plan.add("stop", f"container {item.name}",
                                         _stopper(actions, name, item), after=after))  # fmt: skip
        steps[name] = mine or after
    execute(plan, parallel)


def _stopper(actions: Actions, name: str, container: Container) -> Callable[[], None]:
    def perform() -> None:
        actions.stop(actions.project.services.get(name), container)

    return perform


def restart(actions: Actions, services: list[str], dependencies: bool, parallel: int) -> None:
    """Restart containers, then their dependents with ``restart: true``, each once what it depends
    on meets its condition again."""
    project = actions.project
    chosen = set(services) or set(project.services)
    order = list(reversed(list(reversed_order(project.services))))
    if dependencies and services:
        for name in order:
            depends = project.services[name].get("depends_on") or {}
            if any(other in chosen and how.get("restart") for other, how in depends.items()):
                chosen.add(name)
    found = containers(actions.pool, project.name)
    for item in found:
        actions.containers.setdefault(item.service, []).append(item)
    plan = Plan()
    steps: dict[str, list[Step]] = {}
    for name in order:
        after: list[Step] = []
        for other, how in (project.services[name].get("depends_on") or {}).items():
            before = steps.get(other, []) if how.get("restart") else []
            if name in chosen and before and how["condition"] != STARTED:
                before = [
                    add_wait(plan, actions, other, how["condition"], before,
                             required=how.get("required", True), dependent=name)
                ]  # fmt: skip
            after += before
        steps[name] = after
        if name in chosen:
            steps[name] = [
                plan.add("restart", f"container {item.name}", _restarter(actions, name, item),
                         after=after)
                for item in found if item.service == name
            ] or after  # fmt: skip
    execute(plan, parallel)


def _restarter(actions: Actions, name: str, container: Container) -> Callable[[], None]:
    service = actions.project.services[name]
    query = {"t": actions.timeout}

    def perform() -> None:
        if container.state == "running":
            actions.run_hooks(container, service.get("pre_stop"))
        actions.post(container, "restart", "Restarting", "Started", query)
        actions.run_hooks(container, service.get("post_start"))

    return perform


def each(
    actions: Actions, found: Iterable[Container], work: Callable[[Container], None], parallel: int,
    action: str,
) -> None:  # fmt: skip
    """Do something to containers, all at once."""
    plan = Plan()
    for item in found:

        def perform(item: Container = item) -> None:
            work(item)

        plan.add(action, f"container {item.name}", perform)
    execute(plan, parallel)


def toggle(actions: Actions, verb: str, done: str, services: Iterable[str], parallel: int) -> None:
    """Pause or unpause running containers."""
    found = containers(actions.pool, actions.project.name, all=False, services=services)

    def work(item: Container) -> None:
        if not actions.dry_run:
            from portside.client.client import path_of

            actions.pool.post(path_of("containers", item.id, verb))
        actions.emit(item.event_id, DONE, done)

    each(actions, found, work, parallel, verb)


def of_project(found: Iterable[Container], project: Project) -> list[Container]:
    """The containers of services that the project has."""
    return [item for item in found if item.service in project.services]
