"""Runs an installed plugin of the docker command, for a command that we do not have."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.cli.session import Session

_DIRECTORIES = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def find(session: Session, name: str) -> str:
    """The path of ``docker-NAME``, or nothing."""
    more = session.config.values.get("cliPluginsExtraDirs") or ()
    for directory in (*more, f"{session.config.directory}/cli-plugins", *_DIRECTORIES):
        path = f"{directory}/docker-{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def execute(session: Session, path: str, words: Sequence[str]) -> int:
    """Become the plugin, with this call's engine as its own; does not return.

    The words are the command's name and its arguments.
    """
    session.client.connect()  # start an engine where that is done
    endpoint = session.endpoint
    environment = {**os.environ, "DOCKER_HOST": endpoint.text}
    environment.pop("DOCKER_CONTEXT", None)
    if session.config.directory:
        environment["DOCKER_CONFIG"] = session.config.directory
    if endpoint.tls is not None:
        environment["DOCKER_CERT_PATH"] = os.path.dirname(endpoint.tls.cert or endpoint.tls.ca)
        environment["DOCKER_TLS_VERIFY" if endpoint.tls.verify else "DOCKER_TLS"] = "1"
    os.execve(path, [path, *words], environment)
