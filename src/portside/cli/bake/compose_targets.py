"""Services of Compose files as targets."""

from __future__ import annotations

from portside.cli.session import Failed
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.bake.bake_files import Definitions

_SAME = {
    "context": "context", "dockerfile": "dockerfile", "dockerfile_inline": "dockerfile-inline",
    "args": "args", "target": "target", "labels": "labels", "cache_from": "cache-from",
    "cache_to": "cache-to", "platforms": "platforms", "no_cache": "no-cache", "pull": "pull",
    "network": "network", "shm_size": "shm-size", "additional_contexts": "contexts",
    "entitlements": "entitlements", "no_cache_filter": "no-cache-filter",
}  # fmt: skip


def add_compose(definitions: Definitions, files: list[str]) -> None:
    """Each service with ``build`` is a target, all of them the group ``default``. Raises
    Failed."""
    from portside.compose.project import Request, load

    try:
        project = load(Request(files=files, directory=".", all_resources=True))
    except PortsideError as err:
        raise Failed(1, f"ERROR: failed to parse compose file: {err}") from None
    names = []
    for name, service in sorted(project.services.items()):
        build = service.get("build")
        if build is None:
            continue
        target_name = name.replace(".", "_")
        names.append(target_name)
        definitions.add_target(target_name, _target(service, build, project.working_dir))
    definitions.add_group("default", names)


def _target(service: dict[str, Any], build: dict[str, Any], top: str) -> dict[str, Any]:
    import os

    found: dict[str, Any] = {}
    for key, name in _SAME.items():
        value = build.get(key)
        if value is None:
            continue
        found[name] = value
    if isinstance(found.get("context"), str) and os.path.isabs(found["context"]):
        found["context"] = os.path.relpath(found["context"], os.getcwd())
    if isinstance(found.get("args"), dict):
        found["args"] = {
            key: os.environ.get(key) if value is None else str(value)
            for key, value in found["args"].items()
        }
    if "shm-size" in found:
        found["shm-size"] = str(found["shm-size"])
    hosts = build.get("extra_hosts")
    if hosts:
        found["extra-hosts"] = [text.replace(":", "=", 1) if "=" not in text else text
                                for text in hosts]  # fmt: skip
    tags = list(build.get("tags") or ())
    if service.get("image"):
        tags = [service["image"], *tags] if not build.get("tags") else tags
    if tags:
        found["tags"] = tags
    for secret in build.get("secrets") or ():
        source = secret.get("source") if isinstance(secret, dict) else secret
        found.setdefault("secret", []).append(f"id={source}")
    if build.get("ssh"):
        found["ssh"] = [text if isinstance(text, str) else
                        f"{text['id']}={text['path']}" if text.get("path") else text["id"]
                        for text in build["ssh"]]  # fmt: skip
    for key, value in (build.get("x-bake") or {}).items():
        found[key] = value
    return found
