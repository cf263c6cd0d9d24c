"""Plugins of the docker command: programs named ``docker-NAME`` in folders of plugins."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.client.config import ClientConfig

PREFIX = "docker-"
_DIRECTORIES = (
    "/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins",
)  # fmt: skip


def _directories(config: ClientConfig) -> list[str]:
    """The folders in the order in which they are searched."""
    more = config.values.get("cliPluginsExtraDirs")
    named = [each for each in more if isinstance(each, str)] if isinstance(more, list) else []
    return [*named, f"{config.directory}/cli-plugins", *_DIRECTORIES]


def is_name(text: str) -> bool:
    """Whether a plugin can have this name: a lower case letter, then these and digits."""
    return text.isascii() and text.isalnum() and text.islower() and text[0].isalpha()


def find(config: ClientConfig, name: str) -> str | None:
    """The program of a plugin; None when there is none that can be executed."""
    for directory in _directories(config) if is_name(name) else ():
        path = f"{directory}/{PREFIX}{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def names(config: ClientConfig) -> list[str]:
    """The names of all plugins, sorted."""
    found = set()
    for directory in _directories(config):
        try:
            files = os.listdir(directory)
        except OSError:
            continue
        found |= {file.removeprefix(PREFIX) for file in files if file.startswith(PREFIX)}
    return sorted(name for name in found if find(config, name))
