"""Commands that plugins of the docker command add: ``docker-NAME`` below ``cli-plugins``.

Imported only for an unknown word, for the list of commands and for ``info``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence

from portside.cli.session import Session
from portside.client import plugin_programs
from portside.client.config import ClientConfig
from portside.model import jsontext
from portside.model.errors import SystemFailure

_METADATA = "docker-cli-plugin-metadata"
_PATIENCE = 10
"""Seconds in which a plugin has to describe itself."""


def describe(config: ClientConfig, name: str) -> dict[str, str]:
    """What a plugin says of itself, with ``Name`` and ``Path``; ``Err`` where it is none."""
    path = plugin_programs.find(config, name)
    if path is None:
        return {"Name": name, "Err": "not found"}
    found = {"Name": name, "Path": path}
    try:
        done = subprocess.run([path, _METADATA], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_PATIENCE, check=False)  # fmt: skip
        said = jsontext.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, SystemFailure) as err:
        return {**found, "Err": f"invalid metadata: {err}"}
    if not isinstance(said, dict) or not said.get("SchemaVersion") or not said.get("Vendor"):
        return {**found, "Err": "invalid metadata: SchemaVersion and Vendor are required"}
    return {**{key: value for key, value in said.items() if isinstance(value, str)}, **found}


def described(config: ClientConfig, without: Collection[str]) -> list[dict[str, str]]:
    """All plugins but those that a command of our own takes the place of."""
    names = [name for name in plugin_programs.names(config) if name not in without]
    return [describe(config, name) for name in names]


def execute(session: Session, name: str, words: Sequence[str]) -> bool:
    """Become a plugin, called with the words of the whole command line; False if there is none.

    It finds our engine as the docker command would: by ``DOCKER_HOST``, unless a context or an
    address was chosen.
    """
    found = describe(session.config, name)
    if "Err" in found:
        return False
    environment = {**os.environ, "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": session.program}
    if session.endpoint.is_default:
        environment["DOCKER_HOST"] = session.endpoint.text
    os.execve(found["Path"], [found["Path"], *words], environment)
    return True
