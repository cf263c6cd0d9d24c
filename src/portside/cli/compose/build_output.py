"""Builds the images of services by ``buildx bake``, and shows the builder's output."""

from __future__ import annotations

from portside.cli.compose import build_targets
from portside.cli.session import Failed
from portside.compose import service_builds
from portside.compose.progress_events import DONE, WORKING, Event
from portside.compose.requests import image_of
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project
    from portside.compose.service_images import ImageTools

_MODES = {"json": "rawjson"}
"""The builder's name of a ``--progress`` mode of compose, where the names differ."""


def image_tools(
    session: ComposeSession, project: Project, *, builds: bool = True, **more: Any
) -> ImageTools:
    """The way the images of a project are obtained."""
    from portside.cli import auth, references
    from portside.compose.service_images import ImageTools

    return ImageTools(
        auth=lambda image: auth.header(session.config, image), split=references.split,
        build=(lambda names: build_services(session, project, names)) if builds else None, **more,
    )  # fmt: skip


def build_services(
    session: ComposeSession, project: Project, names: list[str],
    choices: service_builds.BuildOptions | None = None,
) -> None:  # fmt: skip
    """Build the images of services, all at once, and show it. Raises PortsideError."""
    choices = choices or service_builds.BuildOptions()
    needed = service_builds.with_needed(project, names)
    if not needed:
        return
    images = [image_of(project, name, project.services[name]) for name in needed]
    for image in images:
        session.board("Building").report(Event(image, WORKING, "Building"))
    if not session.dry_run:
        session.finish()
        _bake(session, project, needed, choices)
    for image in images:
        session.board("Building").report(Event(image, DONE, "Built"))


def _bake(
    session: ComposeSession, project: Project, names: list[str],
    choices: service_builds.BuildOptions,
) -> None:  # fmt: skip
    from portside.cli.bake import bake_command, bake_targets
    from portside.cli.flag_values import convert
    from portside.flags.table import parse, read_table

    targets = {}
    for name in names:
        target = build_targets.target_of(project, name, choices)
        targets[name] = bake_targets.finished(
            {key: bake_targets.normalized(key, value) for key, value in target.items()}
        )
    words = [f"--progress={_MODES.get(session.progress, session.progress)}"]
    options, _ = parse(read_table(bake_command.FLAGS), words, convert=convert)
    try:
        bake_command.Builds(session, options, targets).run()
    except Failed as err:
        raise PortsideError(str(err).removeprefix("ERROR: ")) from None
