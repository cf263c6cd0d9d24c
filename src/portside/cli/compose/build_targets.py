"""Services with ``build`` as the targets of ``buildx bake``, as docker compose makes them."""

from __future__ import annotations

import os

from portside.cli.bake.compose_targets import attributes_of
from portside.compose.requests import image_of
from portside.compose.service_builds import BuildOptions, labels_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.compose.project import Project, Values


def target_of(project: Project, name: str, choices: BuildOptions) -> dict[str, Any]:
    """One service's target, in the order in which docker compose prints it."""
    service = project.services[name]
    build = service["build"]
    found = attributes_of(project, _with_choices(build, choices))
    tags = [*(build.get("tags") or ()), image_of(project, name, service)]
    insecure = ["security.insecure"] if build.get("privileged") else []
    found |= {
        "dockerfile": _dockerfile(build),
        "labels": dict(sorted(labels_of(project, name, service).items())),
        "tags": list(dict.fromkeys(tags)),
        "platforms": _platforms(service),
        "entitlements": [*(found.get("entitlements") or ()), *insecure],
        "output": ["type=docker"],
    }
    return {key: found[key] for key in _ORDER if found.get(key)}


_ORDER = (
    "context", "contexts", "dockerfile", "dockerfile-inline", "args", "labels", "tags",
    "cache-from", "cache-to", "target", "secret", "ssh", "platforms", "pull", "no-cache",
    "network", "no-cache-filter", "shm-size", "ulimits", "entitlements", "extra-hosts", "output",
    "attest",
)  # fmt: skip


def _with_choices(build: Values, choices: BuildOptions) -> Values:
    """The flags of ``build`` override the file."""
    return {
        **build,
        "args": {**(build.get("args") or {}), **choices.args},
        "ssh": choices.ssh or build.get("ssh"),
        "pull": choices.pull or build.get("pull"),
        "no_cache": choices.no_cache or build.get("no_cache"),
        "provenance": choices.provenance or build.get("provenance"),
        "sbom": choices.sbom or build.get("sbom"),
    }


def _dockerfile(build: Values) -> str | None:
    if build.get("dockerfile_inline"):
        return None
    given = str(build.get("dockerfile") or "Dockerfile")
    remote = "://" in build["context"] or build["context"].startswith("git@")
    return given if remote else os.path.join(build["context"], given)


def _platforms(service: Values) -> list[str]:
    own = service["build"].get("platforms")
    return list(own) if own else [service["platform"]] if service.get("platform") else []
