"""The merged files with their variables left as they are: ``config --no-interpolate``.

Values are not decoded, as a number may be ``${NAME}``; what is implied is filled in all the same.
"""

from __future__ import annotations

import os

from portside.compose.merge import shown
from portside.compose.short_forms import parse_device
from portside.compose.yaml_source import Map, Seq
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMED = ("networks", "volumes", "configs", "secrets")


def normalize_tree(tree: Map, name: str) -> None:
    """Fill in names, the default network and dependencies, in place."""
    tree["name"] = name
    services = _mapping(tree.get("services"))
    _networks(tree, services)
    for service in services.values():
        if isinstance(service, Map):
            _service(service)
    for group in _NAMED:
        resources = _mapping(tree.get(group))
        for key, resource in resources.items():
            if not isinstance(resource, Map):
                resource = resources[key] = Map()
            if resource.get("name") is None:
                own = f"{name}_{key}"
                resource["name"] = key if resource.get("external") in (True, "true") else own


def _mapping(value: Any) -> Map:
    return value if isinstance(value, Map) else Map()


def lengthen(tree: Map) -> None:
    """The long forms that decoding makes of the short ones, in place."""
    for service in _mapping(tree.get("services")).values():
        if not isinstance(service, Map):
            continue
        if isinstance(service.get("label_file"), str):
            service["label_file"] = [service["label_file"]]
        for holder in (service, _mapping(service.get("build"))):
            for key in ("secrets", "configs"):
                _each(holder, key, _reference)
        _each(service, "devices", _device)
        for request in service.get("gpus") or ():
            if _mapping(request).get("count") == -1:
                request["count"] = "all"
        for watch in _mapping(service.get("develop")).get("watch") or ():
            for key in ("include", "ignore"):
                if isinstance(_mapping(watch).get(key), str):
                    watch[key] = [watch[key]]
        build = _mapping(service.get("build"))
        for key in ("provenance", "sbom"):
            if key in build:
                build[key] = shown(build[key])


def _each(holder: Map, key: str, lengthened: Any) -> None:
    items = holder.get(key)
    if isinstance(items, Seq):
        items[:] = [lengthened(item) if isinstance(item, str) else item for item in items]


def _reference(text: str) -> Map:
    found = Map()
    found["source"] = text
    return found


def _device(text: str) -> Any:
    try:
        return parse_device(text)
    except InvalidParameter:
        return text


def _networks(tree: Map, services: Map) -> None:
    uses_default = False
    for service in services.values():
        if not isinstance(service, Map) or "provider" in service or "network_mode" in service:
            continue
        if not service.get("networks"):
            service["networks"] = Map()
            service["networks"]["default"] = None
        uses_default |= "default" in service["networks"]
    if uses_default:
        if not isinstance(tree.get("networks"), Map):
            tree["networks"] = Map()
        tree["networks"].setdefault("default", None)


def _service(service: Map) -> None:
    if service.get("pull_policy") == "if_not_present":
        service["pull_policy"] = "missing"
    build = service.get("build")
    if isinstance(build, Map):
        if build.get("dockerfile") is None and build.get("dockerfile_inline") is None:
            build["dockerfile"] = "Dockerfile"
        if "args" in build:
            build["args"] = _with_values(build["args"])
    for volume in service.get("volumes") or ():
        if isinstance(volume, Map) and isinstance(volume.get("target"), str):
            volume["target"] = os.path.normpath(volume["target"])
    _dependencies(service)


def _dependencies(service: Map) -> None:
    found = _mapping(service.get("depends_on"))

    def imply(name: str, restart: bool) -> None:
        if name not in found:
            found[name] = Map()
            found[name].update(condition="service_started", restart=restart, required=True)

    for link in service.get("links") or ():
        parts = str(link).split(":")
        imply(parts[0] if len(parts) == 2 else str(link), True)
    for key in ("network_mode", "ipc", "pid", "uts", "cgroup"):
        text = str(service.get(key) or "")
        if text.startswith("service:"):
            imply(text.removeprefix("service:"), True)
    for text in service.get("volumes_from") or ():
        if not str(text).startswith("container:"):
            imply(str(text).split(":")[0], False)
    if found:
        service["depends_on"] = found


def _with_values(value: Any) -> Any:
    """Arguments that have a value: the environment of variables that are not replaced is empty."""
    if isinstance(value, Map):
        found = Map()
        found.update((key, item) for key, item in value.items() if item is not None)
        return found
    if isinstance(value, Seq):
        texts = Seq()
        texts.extend(item for item in value if not isinstance(item, str) or "=" in item)
        return texts
    return value
