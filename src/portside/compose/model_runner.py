"""``models``: pulled and configured by the plugin ``docker-model``, and passed to the services.

The program is called ``ls --json``, ``pull MODEL``, ``configure [--context-size N] MODEL
[-- FLAG…]`` and ``status --json``, which prints the address where models answer.
"""

from __future__ import annotations

import subprocess

from portside.compose import providers
from portside.compose.actions import Actions
from portside.compose.compose_errors import ComposeError
from portside.compose.progress_events import DONE, ERROR, WORKING
from portside.compose.project import Values
from portside.model import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def ensure(actions: Actions) -> None:
    """Have the models of the project, and set the variables of the services that use them.

    Raises ComposeError, also when there is no such program.
    """
    models = actions.project.models
    if not models or actions.dry_run:
        return
    program = providers.plugin("model")
    if program is None:
        raise ComposeError(
            "'models' support requires Docker Model plugin: a program docker-model in the "
            "directory of docker's plugins"
        )
    known = {
        tag for item in _json(actions, [program, "ls", "--json"], "available models") or ()
        for tag in item.get("tags") or ()
    }  # fmt: skip
    for key, model in models.items():
        name = f"Model {model.get('name') or key}"
        if model["model"] not in known:
            _run(actions, name, [program, "pull", model["model"]], "Pulling", "Pulled")
        _run(actions, name, _configure(program, model), "Configuring", "Configured")
    status = _json(actions, [program, "status", "--json"], "docker-model status")
    _set_variables(actions, str(status.get("endpoint", "")))


def _configure(program: str, model: Values) -> list[str]:
    words = [program, "configure"]
    if (model.get("context_size") or 0) > 0:
        words += ["--context-size", str(model["context_size"])]
    words.append(model["model"])
    flags = model.get("runtime_flags") or []
    return [*words, "--", *flags] if flags else words


def _set_variables(actions: Actions, endpoint: str) -> None:
    """``KEY_MODEL`` and ``KEY_URL``, unless the service names them."""
    for service in actions.project.services.values():
        for key, given in (service.get("models") or {}).items():
            prefix, names = key.upper().replace("-", "_"), given or {}
            environment = service.setdefault("environment", {})
            environment[names.get("model_var") or f"{prefix}_MODEL"] = actions.project.models[key][
                "model"
            ]
            environment[names.get("endpoint_var") or f"{prefix}_URL"] = endpoint


def _run(actions: Actions, id: str, words: list[str], doing: str, done: str) -> None:
    """Call the program, and report its last line as progress. Raises ComposeError."""
    actions.emit(id, WORKING, doing)
    last = ""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", stdin=subprocess.DEVNULL,
                          env=actions.project.environment) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip() or last
    if process.returncode:
        actions.emit(id, ERROR, "Error")
        raise ComposeError(
            f"{' '.join(words[1:])} of docker-model: exit status {process.returncode}: {last}"
        )
    actions.emit(id, DONE, done)


def _json(actions: Actions, words: list[str], what: str) -> Any:
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=actions.project.environment)  # fmt: skip
    try:
        if done.returncode:
            raise ValueError(f"exit status {done.returncode}: {done.stderr.strip()[-200:]}")
        return jsontext.loads(done.stdout)
    except ValueError as err:
        raise ComposeError(f"error checking {what}: {err}") from None
