"""Builds the images of services, and shows what the builder says."""

from __future__ import annotations

import sys

from portside.cli import auth
from portside.compose import service_builds
from portside.compose.progress_events import DONE, WORKING, Event
from portside.compose.requests import image_of
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project


def build_services(
    session: ComposeSession, project: Project, names: list[str], choices: Any = None
) -> None:
    """Build the images of services one after the other, and show it."""
    choices = choices or service_builds.BuildOptions()
    for name in service_builds.with_needed(project, names):
        image = image_of(project, name, project.services[name])
        report = session.board("Building").report
        report(Event(image, WORKING, "Building"))
        if not session.dry_run:
            output: list[str] = []
            show = _shower(session, output)
            try:
                service_builds.build_by_api(
                    session.pool, project, name, choices, show, _registries(session)
                )
            except PortsideError:
                session.finish()
                sys.stderr.write("".join(output))
                raise
        report(Event(image, DONE, "Built"))


def _registries(session: ComposeSession) -> dict[str, str]:
    """Credentials of all known registries, for base images."""
    import binascii

    from portside.model import jsontext

    known = {server: auth.lookup(session.config, server)
             for server in session.config.mapping("auths")}  # fmt: skip
    if not known:
        return {}
    text = jsontext.dumps(known).encode()
    return {"X-Registry-Config": binascii.b2a_base64(text, newline=False).decode()}


def _shower(session: ComposeSession, output: list[str]) -> Callable[[dict[str, Any]], None]:
    """Shows a build's output as it comes where lines are shown, else keeps it for a failure."""
    plain = session.progress == "plain" or (session.progress == "auto" and not sys.stderr.isatty())

    def show(message: dict[str, Any]) -> None:
        text = str(message.get("stream") or "")
        if not text:
            return
        if plain:
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            output.append(text)

    return show
