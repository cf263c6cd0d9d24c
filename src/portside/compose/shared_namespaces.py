"""References from a service to another one's containers: namespaces and volumes."""

from __future__ import annotations

from portside.compose.compose_errors import ComposeError
from portside.compose.observed import Container
from portside.compose.project import Values

_KINDS = {"network_mode": "network", "ipc": "IPC", "pid": "PID"}
_SERVICE = "service:"


def sharers_of(service: Values) -> dict[str, str]:
    """The services whose containers this one's needs to be created, and what for."""
    found = {}
    for key, kind in _KINDS.items():
        text = service.get(key) or ""
        if text.startswith(_SERVICE):
            found[text.removeprefix(_SERVICE)] = f"its {kind} namespace"
    for text in service.get("volumes_from") or ():
        if not text.startswith("container:"):
            found[text.split(":")[0]] = "its volumes"
    for text in service.get("links") or ():
        found.setdefault(text.partition(":")[0], "the link")
    return found


def resolve_service(service: Values, containers: dict[str, list[Container]]) -> Values:
    """A copy of a service that names containers by ID where it named services.

    This is what its configuration hash is made of, so that a service is recreated after the
    one that it shares something with. Raises ComposeError.
    """
    found = dict(service)
    for key, kind in _KINDS.items():
        text = service.get(key) or ""
        if text.startswith(_SERVICE):
            other = text.removeprefix(_SERVICE)
            found[key] = f"container:{_first(containers, other, f'{kind} namespace').id}"
    if service.get("volumes_from"):
        found["volumes_from"] = [
            text.split(":")[1] if text.startswith("container:")
            else _first(containers, text.split(":")[0], "volume").id
            for text in service["volumes_from"]
        ]  # fmt: skip
    return found


def _first(containers: dict[str, list[Container]], service: str, what: str) -> Container:
    known = sorted(containers.get(service, ()), key=lambda item: item.name)
    if not known:
        raise ComposeError(f"cannot share {what} with service {service}: container missing")
    return known[0]
