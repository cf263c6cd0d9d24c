"""Short forms as long ones, defaults, and relative paths as absolute: all in place on a tree."""

from __future__ import annotations

import os
import re

from portside.compose.compose_errors import InvalidFile
from portside.compose.merge import shown
from portside.compose.short_forms import parse_ports, parse_volume
from portside.compose.yaml_source import Map, Path, Seq, text_of
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REMOTE = ("https://", "http://", "git://", "ssh://", "github.com/", "git@")


def canonical(tree: Map, warn: Callable[[str], None], lenient: bool = False) -> None:
    """Long forms for everything that has a short one. ``lenient``: what cannot be read, as
    it has variables, stays as it is. Raises InvalidFile."""
    for name, service in _mapping(tree.get("services")).items():
        if isinstance(service, Map):
            _service(service, ("services", name), lenient)
    for group in ("networks", "volumes", "secrets", "configs"):
        for name, resource in _mapping(tree.get(group)).items():
            if isinstance(resource, Map):
                _external(resource, (group, name), warn)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _service(service: Map, path: Path, lenient: bool) -> None:
    ports = service.get("ports")
    if isinstance(ports, Seq):
        service["ports"] = _ports(ports, (*path, "ports"), lenient)
    volumes = service.get("volumes")
    if isinstance(volumes, Seq):
        for index, item in enumerate(volumes):
            if isinstance(item, str):
                volumes[index] = _volume(volumes, index, (*path, "volumes"), lenient)
    for key in ("networks", "models"):
        if isinstance(service.get(key), Seq):
            service[key] = _as_mapping(service[key], None)
    depends = service.get("depends_on")
    if isinstance(depends, Seq):
        service["depends_on"] = _as_mapping(
            depends, {"condition": "service_started", "required": True}
        )
    elif isinstance(depends, Map):
        for entry in depends.values():
            if isinstance(entry, Map):
                entry.setdefault("condition", "service_started")
                entry.setdefault("required", True)
    if "env_file" in service:
        service["env_file"] = _env_files(service["env_file"])
    if isinstance(service.get("build"), str):
        build = Map(service.where.get("build"))
        build.put("context", service["build"], build.at)
        service["build"] = build
    if isinstance(service.get("build"), Map):
        _build(service["build"], (*path, "build"))
    if service.get("gpus") == "all":
        request = Map(service.where.get("gpus"))
        request["count"] = -1
        service["gpus"] = _one(request)
    dns = service.get("dns")
    if isinstance(dns, str):
        service["dns"] = dns = _one(dns)
    if isinstance(dns, Seq):
        dns[:] = [item for item in dns if item not in (None, "")]


def _one(item: Any) -> Seq:
    found = Seq(getattr(item, "at", None))
    found.add(item, found.at)
    return found


def _ports(ports: Seq, path: Path, lenient: bool) -> Seq:
    found = Seq(ports.at)
    for index, item in enumerate(ports):
        at = ports.spot(index)
        if isinstance(item, Map):
            found.add(item, at)
            continue
        place = (*path, f"[{index}]")
        if isinstance(item, bool) or not isinstance(item, (str, int)):
            raise InvalidFile("must be a number, a string or a mapping", at, text_of(place))
        try:
            for port in parse_ports(shown(item)):
                port.at = at
                found.add(port, at)
        except InvalidParameter as err:
            if not lenient:
                raise InvalidFile(str(err), at, text_of(place)) from None
            found.add(item, at)
    return found


def _volume(volumes: Seq, index: int, path: Path, lenient: bool) -> Any:
    try:
        volume = parse_volume(volumes[index])
    except InvalidParameter as err:
        if lenient:
            return volumes[index]
        place = text_of((*path, f"[{index}]"))
        raise InvalidFile(str(err), volumes.spot(index), place) from None
    volume.at = volumes.spot(index)
    return volume


def _as_mapping(items: Seq, default: dict[str, Any] | None) -> Map:
    found = Map(items.at)
    for index, key in enumerate(items):
        entry: Any = None
        if default is not None:
            entry = Map(items.spot(index))
            entry.update(default)
        found.put(shown(key), entry, items.spot(index))
    return found


def _env_files(value: Any) -> Any:
    items = _one(value) if isinstance(value, str) else value
    if not isinstance(items, Seq):
        return items
    for index, item in enumerate(items):
        if isinstance(item, str):
            entry = Map(items.spot(index))
            entry["path"] = item
            items[index] = item = entry
        if isinstance(item, Map):
            item.setdefault("required", True)
    return items


def _build(build: Map, path: Path) -> None:
    ssh = build.get("ssh")
    if isinstance(ssh, Seq):
        found = Map(ssh.at)
        for index, item in enumerate(ssh):
            name, equals, place = shown(item).partition("=")
            if not equals and name != "default":
                raise InvalidFile(f'invalid ssh key "{name}"', ssh.spot(index),
                                  text_of((*path, "ssh", f"[{index}]")))  # fmt: skip
            found.put(name, place if equals else None, ssh.spot(index))
        build["ssh"] = found
    contexts = build.get("additional_contexts")
    if isinstance(contexts, Seq):
        found = Map(contexts.at)
        for index, item in enumerate(contexts):
            name, equals, value = shown(item).partition("=")
            if not equals:
                raise InvalidFile(f"invalid value {item}, expected key=value",
                                  contexts.spot(index),
                                  text_of((*path, "additional_contexts")))  # fmt: skip
            found.put(name, value, contexts.spot(index))
        build["additional_contexts"] = found


def _external(resource: Map, path: Path, warn: Callable[[str], None]) -> None:
    external = resource.get("external")
    if not isinstance(external, Map):
        return
    resource["external"] = True
    name = external.get("name")
    if name is not None:
        warn(f"{text_of(path)}: external.name is deprecated. Please set name and external: true")
    if name is None:
        return
    if resource.get("name", name) != name:
        raise InvalidFile("name and external.name conflict; only use name", external.at,
                          text_of(path))  # fmt: skip
    resource["name"] = name


# -- defaults -------------------------------------------------------------------------------------


def set_defaults(tree: Map) -> None:
    """The values that attributes have when they are not given."""
    for service in _mapping(tree.get("services")).values():
        if not isinstance(service, Map):
            continue
        build = service.get("build")
        if isinstance(build, Map):
            build.setdefault("context", ".")
        for secret in _items(service, "secrets"):
            if isinstance(secret, Map) and "source" in secret:
                secret.setdefault("target", f"/run/secrets/{secret['source']}")
        for port in _items(service, "ports"):
            if isinstance(port, Map):
                port.setdefault("protocol", "tcp")
                port.setdefault("mode", "ingress")
        for request in [*_items(service, "gpus"), *_reserved(service)]:
            if isinstance(request, Map) and "count" not in request and "device_ids" not in request:
                request["count"] = -1


def _items(service: Map, key: str) -> list[Any]:
    """The items of a sequence; strings among references to files become mappings."""
    items = service.get(key)
    if not isinstance(items, Seq):
        return []
    if key in ("secrets", "configs"):
        for index, item in enumerate(items):
            if isinstance(item, str):
                entry = Map(items.spot(index))
                entry["source"] = item
                items[index] = entry
    return items


def _reserved(service: Map) -> list[Any]:
    found: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        found = _mapping(found).get(key)
    return found if isinstance(found, list) else []


# -- paths ----------------------------------------------------------------------------------------


_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""The begin of an absolute path of Windows."""


def absolute(path: str, base: str) -> str:
    """A path with ``~`` expanded, beneath ``base`` unless it is absolute."""
    path = os.path.expanduser(path)
    if not path or path.startswith("/") or _WINDOWS.match(path):
        return path
    return os.path.normpath(os.path.join(base, path)) if base else os.path.normpath(path)


def is_remote(context: str) -> bool:
    """Is a build context no folder of this machine?"""
    return "://" in context or context.startswith(("service:", *REMOTE))


def resolve_paths(tree: Map, base: str) -> None:
    """Make the paths of files and folders absolute. Raises InvalidFile."""
    for name, service in _mapping(tree.get("services")).items():
        if isinstance(service, Map):
            _service_paths(service, base, ("services", name))
    for group in ("configs", "secrets"):
        for item in _mapping(tree.get(group)).values():
            if isinstance(item, Map) and isinstance(item.get("file"), str):
                item["file"] = absolute(item["file"], base)
    for volume in _mapping(tree.get("volumes")).values():
        options = _mapping(volume).get("driver_opts")
        if _mapping(volume).get("driver") != "local" or not isinstance(options, Map):
            continue
        if options.get("o") == "bind" and isinstance(options.get("device"), str):
            options["device"] = absolute(options["device"], base)


def _service_paths(service: Map, base: str, path: Path) -> None:
    build = service.get("build")
    if isinstance(build, Map):
        _build_paths(build, base)
    for entry in _items(service, "env_file"):
        if isinstance(entry, Map) and isinstance(entry.get("path"), str):
            entry["path"] = absolute(entry["path"], base)
    files = service.get("label_file")
    if isinstance(files, str):
        service["label_file"] = files = _one(files)
    if isinstance(files, Seq):
        files[:] = [absolute(item, base) if isinstance(item, str) else item for item in files]
    extends = service.get("extends")
    if isinstance(extends, Map) and isinstance(extends.get("file"), str):
        extends["file"] = absolute(extends["file"], base)
    for watch in _items(_develop(service), "watch"):
        if isinstance(watch, Map) and isinstance(watch.get("path"), str):
            watch["path"] = os.path.realpath(absolute(watch["path"], base))
    for index, volume in enumerate(_items(service, "volumes")):
        if isinstance(volume, Map) and volume.get("type") == "bind":
            source = volume.get("source")
            if not isinstance(source, str):
                place = text_of((*path, "volumes", f"[{index}]"))
                raise InvalidFile('invalid mount config for type "bind": field Source must not be '
                                  "empty", volume.at, place)  # fmt: skip
            volume["source"] = absolute(source, base)


def _develop(service: Map) -> Map:
    develop = service.get("develop")
    return develop if isinstance(develop, Map) else Map()


def _build_paths(build: Map, base: str) -> None:
    context = build.get("context")
    if isinstance(context, str) and not is_remote(context):
        build["context"] = absolute(context, base)
    contexts = build.get("additional_contexts")
    for key, value in _mapping(contexts).items():
        if isinstance(value, str) and not is_remote(value):
            build["additional_contexts"][key] = absolute(value, base)
    ssh = build.get("ssh")
    for key, value in _mapping(ssh).items():
        if isinstance(value, str):
            build["ssh"][key] = absolute(value, base)
