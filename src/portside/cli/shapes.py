"""Gives the engine's JSON the shape Go's types have, for templates.

JSON has no difference between struct and map, nor absent pointer and empty list; templates
see the difference (``{{if .State.Health}}``, ``{{.Config.Labels.x}}``, ``[]`` or ``<nil>``).
"""

from __future__ import annotations

from portside.model.golang.template.values import GoMap, GoStruct, GoTime, NilList, NilMap, PortMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MAPS = frozenset(
    ("Annotations", "Config.Config", "Containers", "Data", "DriverOpts", "ExposedPorts", "Labels",
     "LogOpts", "Networks", "Options", "PortBindings", "Ports", "Runtimes", "StorageOpt",
     "Sysctls", "Tmpfs", "Volumes", "AuxiliaryAddresses", "IndexConfigs", "Status", "Details",
     "Attributes", "Services", "InternalAttributes")
)  # fmt: skip
_PORTS = frozenset(("Ports", "PortBindings", "ExposedPorts"))
_POINTERS = frozenset(
    ("Health", "Healthcheck", "OomKillDisable", "PidsLimit", "MemorySwappiness", "Init", "SizeRw",
     "SizeRootFs", "StopTimeout", "IPAMConfig", "ImageManifestDescriptor", "UsageData", "Server",
     "ConfigFrom", "Descriptor", "OnBuild.")
)  # fmt: skip

STATE: Mapping[str, Any] = {"Health": None}
CONFIG: Mapping[str, Any] = {
    "User": "", "Env": NilList(), "Cmd": NilList(), "Healthcheck": None,
    "ExposedPorts": NilMap(), "Volumes": NilMap(), "WorkingDir": "", "Entrypoint": NilList(),
    "OnBuild": NilList(), "Labels": NilMap(), "StopSignal": "", "StopTimeout": None,
    "Shell": NilList(), "MacAddress": "", "NetworkDisabled": False, "ArgsEscaped": False,
}  # fmt: skip
_IMAGE_CONFIG = (
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels",
    "StopSignal", "ArgsEscaped", "Healthcheck", "OnBuild", "Shell",
)  # fmt: skip
HOST_CONFIG: Mapping[str, Any] = {
    "Annotations": NilMap(), "Mounts": NilList(), "StorageOpt": NilMap(), "Sysctls": NilMap(),
    "Tmpfs": NilMap(), "Init": None, "MaskedPaths": NilList(), "ReadonlyPaths": NilList(),
}  # fmt: skip
_OPTIONAL = {"State": STATE, "Config": CONFIG, "HostConfig": HOST_CONFIG}
"""Fields that the engine leaves out when they are empty, and what Go has there."""
_MOUNT_POINT = {
    "Type": "", "Name": "", "Source": "", "Destination": "", "Driver": "", "Mode": "",
    "RW": False, "Propagation": "",
}  # fmt: skip
_MOUNT = {
    "Type": "", "Source": "", "Target": "", "ReadOnly": False, "Consistency": "",
    "BindOptions": None, "VolumeOptions": None, "ImageOptions": None, "TmpfsOptions": None,
}  # fmt: skip
_WHOLE: dict[str, dict[str, Any]] = {
    "container": {"SizeRw": None, "SizeRootFs": None},
    "image": {"Author": "", "Comment": "", "DockerVersion": "", "OsVersion": "", "Parent": "",
              "Variant": "", "Config": GoStruct(CONFIG)},
    "network": {"Peers": NilList(), "Services": NilMap()},
    "volume": {"CreatedAt": "", "Status": NilMap(), "UsageData": None},
}  # fmt: skip
"""The same for whole objects."""


def as_struct(value: Any, name: str = "") -> Any:
    """A JSON value as Go would hold it; ``name`` is the field it was found in."""
    if isinstance(value, dict):
        if name in _MAPS or (name == "Config" and _is_log_config(value)):
            kind, item = (PortMap, "[]") if name in _PORTS else (GoMap, "")
            return kind({key: as_struct(inner, item) for key, inner in value.items()})
        return _with(
            GoStruct({key: as_struct(item, key) for key, item in value.items()}),
            _OPTIONAL.get(name, {}),
        )
    if isinstance(value, list):
        if name == "Mounts":
            return [_mount(item) for item in value]
        return [as_struct(item) for item in value]
    if value is None and name and name not in _POINTERS:
        return NilMap() if name in _MAPS else NilList()
    return value


def _with(made: GoStruct, defaults: Mapping[str, Any]) -> GoStruct:
    missing = [name for name in defaults if name not in made]
    made.update({name: defaults[name] for name in missing})
    made.absent = frozenset(missing)
    return made


def _mount(value: dict[str, Any]) -> GoStruct:
    """In the order of Go's fields: a mount, or the request of one."""
    order = _MOUNT_POINT if "Destination" in value else _MOUNT
    known = {key: as_struct(item, key) for key, item in value.items()}
    made = GoStruct({name: known.get(name, empty) for name, empty in order.items()})
    made.update(known)
    made.absent = frozenset(name for name in order if name not in known)
    return made


def _is_log_config(value: dict[str, Any]) -> bool:
    """``LogConfig.Config`` is a map, unlike a container's and an image's ``Config``."""
    return not value or not any(key in value for key in ("Image", "Env", "Cmd", "Entrypoint"))


def whole(value: dict[str, Any], kind: str) -> Any:
    """An inspection of a ``kind``: container, image, network or volume."""
    made = _with(as_struct(value), _WHOLE[kind])
    if kind == "image" and isinstance(made.get("Config"), GoStruct):
        made["Config"] = _image_config(made["Config"])
    if kind == "network" and isinstance(made.get("Created"), str):
        made["Created"] = GoTime(made["Created"])
    return made


def _image_config(config: GoStruct) -> GoStruct:
    """In the order of Go's fields; each that is empty is left out of JSON."""
    made = GoStruct({name: config[name] for name in _IMAGE_CONFIG})
    made.update(config)
    made.absent = frozenset(name for name, item in made.items() if not item)
    return made


def version(value: dict[str, Any]) -> Any:
    """``version``'s two halves: Go's fields are not named as JSON's are."""
    made = as_struct(value)
    for half in (made["Client"], made["Server"]):
        if half is not None:
            half["APIVersion"] = half["ApiVersion"]
            half.hidden = frozenset(("APIVersion",))
    return made


def event(value: dict[str, Any]) -> Any:
    """An event, with the names that old templates use for parts of it."""
    actor = value.get("Actor") or {}
    old = {"Status": value.get("status", value.get("Action", "")), "ID": actor.get("ID", ""),
           "From": value.get("from", "")}  # fmt: skip
    made = GoStruct(as_struct(value))
    made.update({"Time": value.get("time", 0), "TimeNano": value.get("timeNano", 0)})
    made.hidden = frozenset(("Time", "TimeNano", *old))
    made.update({name: item for name, item in old.items() if name not in value})
    return made
