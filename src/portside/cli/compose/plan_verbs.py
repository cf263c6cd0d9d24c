"""The planned changes, and the project as a picture: ``up --plan`` and ``graph``."""

from __future__ import annotations

import os

from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.actions import Actions
    from portside.compose.converge import UpOptions
    from portside.flags.table import Options

_SIGNS = {"create": "+", "recreate": "~", "remove": "-", "pull": "+", "rename": "~"}


def show_plan(session: ComposeSession, actions: Actions, choices: UpOptions) -> int:
    """Print what ``up`` would do and why; 0 also when that is much."""
    from portside.compose.change_details import details
    from portside.compose.converge import Convergence
    from portside.compose.observed import observe
    from portside.compose.progress_events import silent
    from portside.compose.requests import image_of
    from portside.compose.service_images import must_pull, names_of

    project = actions.project
    actions.report = silent
    observed = observe(actions.pool, project.name, names_of(project))
    actions.images = observed.images
    lines = []
    for name, service in project.services.items():
        if "provider" in service:
            continue
        image = image_of(project, name, service)
        if must_pull(service, observed.images.get(image)):
            lines.append(f"+ pull image {image}: the pull policy, or it is not present")
        elif image not in observed.images:
            lines.append(f"+ build image {image}: it is not present")
    convergence = Convergence(actions, observed, choices)
    convergence.create()
    by_name = {item.name: item for item in observed.containers}
    for step in convergence.plan.steps:
        lines.append(f"{_SIGNS.get(step.action, ' ')} {step.action} {step.subject}: {step.reason}")
        container = by_name.get(step.subject.removeprefix("container "))
        if step.action == "recreate" and container and "configuration" in step.reason:
            lines += [f"    {text}" for text in details(actions, container.service, container)]
    changed = {step.subject for step in convergence.plan.steps}
    for name in project.services:
        for item in actions.containers.get(name, ()):
            if item.state != "running" and f"container {item.name}" not in changed:
                lines.append(f"  start container {item.name}: it does not run")
    session.finish()
    session.out("\n".join(lines) if lines else "Nothing would change.")
    return 0


@compose_verb("graph", usage="[OPTIONS] [SERVICE...]",
              about="Show the project as a picture: services, networks, volumes, ports and "
              "dependencies", flags="""
      --format string   boxes or svg (default: svg for a file, boxes else)
  -o, --output string   Write to a file
""")  # fmt: skip
def graph(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.compose import project_graph

    output = options.text("output")
    kind = options.text("format") or ("svg" if output else "boxes")
    if kind not in ("boxes", "svg"):
        raise Failed(1, f'unsupported format "{kind}"')
    project = session.load(arguments, environment=False)
    if kind == "svg":
        text = project_graph.svg(project)
    else:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 100
        text = project_graph.boxes(project, columns)
    if output:
        write_text("write the graph", output, text)
    else:
        session.out(text.rstrip("\n"))
    return 0
