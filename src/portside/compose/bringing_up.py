"""``up``, ``create``, ``scale`` and ``start``: images, then the plan, then its steps."""

from __future__ import annotations

import time

from portside.client.errors import Refused
from portside.compose import conditions, preflight, socket_access
from portside.compose.actions import Actions
from portside.compose.conditions import TimedOut
from portside.compose.converge import Convergence, UpOptions, add_starts, add_wait, in_order, runs
from portside.compose.executor import execute
from portside.compose.observed import observe
from portside.compose.project import Project
from portside.compose.service_images import ImageTools, ensure, names_of
from portside.compose.step_plan import Plan
from portside.model.golang.durations import format_duration


def prepare(actions: Actions, choices: UpOptions, tools: ImageTools, parallel: int) -> Convergence:
    """Look at everything and get the images; the plan up to created containers."""
    project = actions.project
    for name in in_order(project):
        if "provider" in project.services[name]:
            from portside.compose import providers

            providers.run(actions, name, "up")
    if project.models:
        from portside.compose import model_runner

        model_runner.ensure(actions)
    socket_access.give(actions)
    try:
        observed = observe(actions.pool, project.name, names_of(project))
    except Refused:
        preflight.check_names(project)
        raise
    ensure(actions.pool, project, observed.images, tools, actions.report, parallel, actions.warn,
           actions.dry_run)  # fmt: skip
    actions.images = observed.images
    convergence = Convergence(actions, observed, choices)
    convergence.create()
    return convergence


def create(actions: Actions, choices: UpOptions, tools: ImageTools, parallel: int) -> None:
    """Have every container, started or not."""
    execute(prepare(actions, choices, tools, parallel).plan, parallel)


def up(
    actions: Actions, choices: UpOptions, tools: ImageTools, parallel: int, *,
    wait: bool = False, wait_seconds: int = 0,
) -> None:  # fmt: skip
    """Have every container running. ``wait``: until healthy, at most so many seconds (0: as long
    as it takes)."""
    plan = prepare(actions, choices, tools, parallel).plan
    project = actions.project
    preflight.check_ports(project, [name for name in project.services if not runs(actions, name)])
    _start(plan, actions, parallel, wait, wait_seconds)


def start(actions: Actions, parallel: int, *, wait: bool = False, wait_seconds: int = 0) -> None:
    """Start the existing containers."""
    _start(Plan(), actions, parallel, wait, wait_seconds)


def _start(plan: Plan, actions: Actions, parallel: int, wait: bool, wait_seconds: int) -> None:
    """Plan the start of what the plan makes, and do it all."""
    deadline = time.monotonic() + wait_seconds if wait_seconds else None
    started = add_starts(plan, actions, list(plan.steps), deadline)
    if wait:
        for name, service in actions.project.services.items():
            if "provider" not in service:
                add_wait(plan, actions, name, _final_condition(actions.project, name),
                         started[name], deadline)  # fmt: skip
    try:
        execute(plan, parallel)
    except TimedOut:
        raise TimedOut(
            f"application not healthy after {format_duration(wait_seconds * 10**9)}"
        ) from None


def _final_condition(project: Project, name: str) -> str:
    """A service that others wait to complete is to complete, every other one to run."""
    for service in project.services.values():
        how = (service.get("depends_on") or {}).get(name, {})
        if how.get("condition") == conditions.COMPLETED:
            return conditions.COMPLETED
    return conditions.RUNNING_OR_HEALTHY
