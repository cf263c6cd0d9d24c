"""Services that another program provides: ``provider`` of the Compose Specification.

The program is called ``PROGRAM compose --project-name=NAME up|down --OPTION=VALUE SERVICE`` and
says what it does in lines of JSON: ``{"type": "info|error|setenv|debug", "message": "…"}``. With
setenv it gives variables to the services that depend on it, each with the service's name before.
"""

from __future__ import annotations

import json
import shutil
import subprocess

from portside.client import plugin_programs
from portside.client.config import ClientConfig
from portside.compose.actions import Actions
from portside.compose.compose_errors import ComposeError
from portside.compose.progress_events import DONE, ERROR, WORKING
from portside.compose.project import Values


def run(actions: Actions, name: str, verb: str) -> None:
    """Call the provider for ``up`` or ``down``. Raises ComposeError."""
    service = actions.project.services[name]
    provider = service["provider"]
    doing, done = ("Creating", "Created") if verb == "up" else ("Removing", "Removed")
    actions.emit(name, WORKING, doing)
    if not actions.dry_run:
        words = _command(actions, name, provider, verb)
        try:
            variables = _call(actions, name, words)
        except ComposeError:
            actions.emit(name, ERROR, "Error")
            raise
        if verb == "up":
            _give(actions, name, variables)
    actions.emit(name, DONE, done)


def _command(actions: Actions, name: str, provider: Values, verb: str) -> list[str]:
    program = _find(provider["type"])
    words = [program, "compose", f"--project-name={actions.project.name}", verb]
    for option, values in (provider.get("options") or {}).items():
        for value in values if isinstance(values, list) else [values]:
            words.append(f"--{option}={value}")
    return [*words, name]


def plugin(kind: str) -> str | None:
    """The program of a plugin of docker."""
    return plugin_programs.find(ClientConfig(), kind)


def _find(kind: str) -> str:
    found = plugin(kind) or shutil.which(kind)
    if found is None:
        raise ComposeError(f'"{kind}" not found: a provider is a program on the PATH, or a plugin '
                           f"of docker named docker-{kind}")  # fmt: skip
    return found


def _call(actions: Actions, name: str, words: list[str]) -> dict[str, str]:
    """Run the program; the variables that it sets."""
    variables = {}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=actions.project.environment,
                          text=True) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
                kind, text = message["type"], str(message.get("message", ""))
            except (ValueError, KeyError, TypeError):
                process.kill()
                raise ComposeError(f"invalid response from provider of {name}: {line!r}") from None
            if kind == "error":
                raise ComposeError(text)
            if kind == "info":
                actions.emit(name, WORKING, text)
            elif kind == "setenv":
                key, separator, value = text.partition("=")
                if not separator:
                    raise ComposeError(f"invalid response from provider of {name}: {text!r}")
                variables[key] = value
    if process.returncode:
        raise ComposeError(f"failed to run provider of {name}: exit status {process.returncode}")
    return variables


def _give(actions: Actions, name: str, variables: dict[str, str]) -> None:
    prefix = name.replace("-", "_").upper() + "_"
    for service in actions.project.services.values():
        if name in (service.get("depends_on") or {}):
            environment = service.setdefault("environment", {})
            for key, value in variables.items():
                environment[prefix + key] = value
