"""Services with ``build`` as the targets of ``buildx bake``, as docker compose makes them."""

from __future__ import annotations

import os

from portside.compose.requests import image_of
from portside.compose.service_builds import BuildOptions, labels_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.project import Project, Values

_SAME = {"cache_from": "cache-from", "cache_to": "cache-to", "target": "target",
         "network": "network", "no_cache_filter": "no-cache-filter"}  # fmt: skip
"""Attributes that are a target's under another name, and mean the same."""


def target_of(project: Project, name: str, choices: BuildOptions) -> dict[str, Any]:
    """One service's target, in the order in which docker compose prints it."""
    service = project.services[name]
    build = service["build"]
    args = {**(build.get("args") or {}), **choices.args}
    values: dict[str, Any] = {
        "context": build["context"],
        "contexts": {
            key: _context(place)
            for key, place in sorted((build.get("additional_contexts") or {}).items())
        },
        "dockerfile": _dockerfile(build),
        "dockerfile-inline": build.get("dockerfile_inline"),
        "args": {
            key: str(project.environment[key] if value is None else value)
            for key, value in sorted(args.items())
            if value is not None or key in project.environment
        },
        "labels": dict(sorted(labels_of(project, name, service).items())),
        "tags": list(dict.fromkeys([*(build.get("tags") or ()), image_of(project, name, service)])),
        **{key: build.get(source) for source, key in _SAME.items()},
        "secret": [_secret(project, item) for item in build.get("secrets") or ()],
        "ssh": [f"{key}={path}" for key, path in (choices.ssh or build.get("ssh") or {}).items()],
        "platforms": _platforms(service),
        "pull": choices.pull or build.get("pull"),
        "no-cache": choices.no_cache or build.get("no_cache"),
        "shm-size": str(build["shm_size"]) if build.get("shm_size") else None,
        "ulimits": [_ulimit(key, value) for key, value in (build.get("ulimits") or {}).items()],
        "entitlements": [
            *(build.get("entitlements") or ()),
            *(["security.insecure"] if build.get("privileged") else ()),
        ],
        "extra-hosts": {
            host: ",".join(texts) for host, texts in (build.get("extra_hosts") or {}).items()
        },
        "output": ["type=docker"],
        "attest": [
            *_attest("provenance", choices.provenance or build.get("provenance")),
            *_attest("sbom", choices.sbom or build.get("sbom")),
        ],
    }
    return {key: values[key] for key in _ORDER if values[key]}


_ORDER = (
    "context", "contexts", "dockerfile", "dockerfile-inline", "args", "labels", "tags",
    "cache-from", "cache-to", "target", "secret", "ssh", "platforms", "pull", "no-cache",
    "network", "no-cache-filter", "shm-size", "ulimits", "entitlements", "extra-hosts", "output",
    "attest",
)  # fmt: skip


def _context(place: str) -> str:
    return f"target:{place.removeprefix('service:')}" if place.startswith("service:") else place


def _dockerfile(build: Values) -> str | None:
    if build.get("dockerfile_inline"):
        return None
    given = str(build.get("dockerfile") or "Dockerfile")
    remote = "://" in build["context"] or build["context"].startswith("git@")
    return given if remote else os.path.join(build["context"], given)


def _platforms(service: Values) -> list[str]:
    own = service["build"].get("platforms")
    return list(own) if own else [service["platform"]] if service.get("platform") else []


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


def _attest(kind: str, value: Any) -> list[str]:
    text = str(value).lower() if isinstance(value, bool) else str(value or "")
    if not text:
        return []
    more = {"true": "", "false": ",disabled=true"}.get(text, f",{text}")
    return [f"type={kind}{more}"]
