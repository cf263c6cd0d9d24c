"""Services of Compose files as targets: for ``buildx bake``, and for ``compose build``."""

from __future__ import annotations

import os

from portside.cli.session import Failed
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.bake.bake_files import Definitions
    from portside.compose.project import Project, Values

_SAME = {
    "context": "context", "dockerfile_inline": "dockerfile-inline", "target": "target",
    "cache_from": "cache-from", "cache_to": "cache-to", "pull": "pull", "no_cache": "no-cache",
    "network": "network", "no_cache_filter": "no-cache-filter", "entitlements": "entitlements",
}  # fmt: skip
"""Attributes that a target has under another name, and that mean the same."""


def attributes_of(project: Project, build: Values) -> dict[str, Any]:
    """``build`` of a service as a target's attributes; empty ones are left out.

    The Dockerfile's name, tags, labels, platforms and outputs are the caller's: bake and compose
    differ there.
    """
    environment = project.environment
    values: dict[str, Any] = {name: build.get(key) for key, name in _SAME.items()}
    values |= {
        "contexts": {
            name: f"target:{place.removeprefix('service:')}"
            if place.startswith("service:") else place
            for name, place in sorted((build.get("additional_contexts") or {}).items())
        },
        "args": {
            name: str(environment[name] if value is None else value)
            for name, value in sorted((build.get("args") or {}).items())
            if value is not None or name in environment
        },
        "secret": [_secret(project, item) for item in build.get("secrets") or ()],
        "ssh": [f"{name}={path}" for name, path in (build.get("ssh") or {}).items()],
        "shm-size": str(build.get("shm_size") or ""),
        "ulimits": [_ulimit(name, value) for name, value in (build.get("ulimits") or {}).items()],
        "extra-hosts": {
            host: ",".join(texts) for host, texts in (build.get("extra_hosts") or {}).items()
        },
        "attest": [*_attest("provenance", build), *_attest("sbom", build)],
    }  # fmt: skip
    return {name: value for name, value in values.items() if value}


def _secret(project: Project, item: Any) -> str:
    """An entry of ``build.secrets``; one from the environment may be set by ``.env`` alone."""
    source = item if isinstance(item, str) else item["source"]
    identifier = source if isinstance(item, str) else item.get("target") or source
    definition = project.secrets.get(source) or {}
    if variable := definition.get("environment"):
        if variable in project.environment:
            os.environ.setdefault(variable, project.environment[variable])
        return f"id={identifier},type=env,env={variable}"
    return f"id={identifier},type=file,src={definition.get('file', '')}"


def _ulimit(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name}={value.get('soft', 0)}:{value.get('hard', 0)}"
    return f"{name}={value}"


def _attest(kind: str, build: Values) -> list[str]:
    value = build.get(kind)
    text = str(value).lower() if isinstance(value, bool) else str(value or "")
    if not text:
        return []
    more = {"true": "", "false": ",disabled=true"}.get(text, f",{text}")
    return [f"type={kind}{more}"]


# -- bake ------------------------------------------------------------------------------------


def add_compose(definitions: Definitions, files: list[str]) -> None:
    """Each service with ``build`` is a target, all of them the group ``default``. Raises
    Failed."""
    from portside.compose.project_loading import Request, load

    try:
        project = load(Request(files=files, directory="."))
    except PortsideError as err:
        raise Failed(1, f"ERROR: failed to parse compose file: {err}") from None
    names = []
    for name, service in sorted(project.services.items()):
        if service.get("build") is None:
            continue
        names.append(_target_name(name))
        definitions.add_target(names[-1], _target(project, service))
    definitions.add_group("default", names)


def _target_name(service: str) -> str:
    return service.replace(".", "_")


def _target(project: Project, service: Values) -> dict[str, Any]:
    """A service's target as ``docker buildx bake`` makes it: paths are relative, and a secret has
    the name of its source."""
    build = service["build"]
    secrets = [item if isinstance(item, str) else item["source"]
               for item in build.get("secrets") or ()]  # fmt: skip
    found = attributes_of(project, {**build, "secrets": secrets})
    if isinstance(found.get("context"), str):
        found["context"] = _relative(found["context"])
    contexts = found.get("contexts") or {}
    for name, place in contexts.items():
        other = place.removeprefix("target:")
        contexts[name] = f"target:{_target_name(other)}" if other != place else _relative(place)
    if "secret" in found:
        found["secret"] = [_relative_source(text) for text in found["secret"]]
    if "attest" in found:
        found["attest"] = found["attest"][::-1]
    for key in ("dockerfile", "labels", "platforms"):
        if build.get(key):
            found[key] = build[key]
    tags = list(build.get("tags") or ())
    if service.get("image") and not tags:
        tags = [service["image"]]
    if tags:
        found["tags"] = tags
    return found | (build.get("x-bake") or {})


def _relative(place: str) -> str:
    return os.path.relpath(place) if os.path.isabs(place) else place


def _relative_source(secret: str) -> str:
    head, mark, path = secret.partition(",src=")
    return f"{head}{mark}{_relative(path)}"
