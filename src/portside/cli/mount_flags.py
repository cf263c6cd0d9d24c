"""``--mount``, ``--volume`` and ``--tmpfs``."""

from __future__ import annotations

import os

from portside.model.errors import InvalidParameter
from portside.model.golang.booleans import parse_bool
from portside.model.golang.csv_line import csv
from portside.model.golang.sizes import ram_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_KINDS = ("bind", "cluster", "image", "npipe", "tmpfs", "volume")
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_SECTION = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions",
            "image": "ImageOptions"}  # fmt: skip


def volumes(given: Iterable[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """``Binds``, and the ``Volumes`` without a source, of ``--volume``."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in given:
        if not text:
            raise InvalidParameter("invalid empty volume spec")
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = {}
            continue
        if source.startswith("."):
            text = f"{os.path.abspath(source)}:{rest}"
        if text not in binds:  # said twice, it is still one
            binds.append(text)
    return binds, anonymous


def tmpfs(given: Iterable[str]) -> dict[str, str]:
    return dict(text.partition(":")[::2] for text in given)


def parse_mount(text: str) -> dict[str, Any]:
    """``type=bind,source=/a,target=/b,readonly`` as the API's Mount. Raises ValueError."""
    mount: dict[str, Any] = {"Type": "volume"}
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTION}
    for field in csv(text):
        name, equals, value = field.partition("=")
        name = name.strip().lower()
        if not equals and name not in _SWITCHES:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        if name != "idmap" or equals:
            _put(mount, sections, field, name, value if equals else "true")
        else:
            sections["bind"]["Idmap"] = "true"
    return _checked(mount, sections)


_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src", "idmap")


def _put(
    mount: dict[str, Any], sections: dict[str, dict[str, Any]], field: str, name: str, value: str
) -> None:
    bind, volume, tmp, image = (sections[kind] for kind in ("bind", "volume", "tmpfs", "image"))
    if name == "type":
        mount["Type"] = value.lower()
    elif name in ("source", "src"):
        mount["Source"] = value
        if value == "." or value.startswith(("./", "../")) or value == "..":
            mount["Source"] = os.path.abspath(value)
    elif name in ("target", "dst", "destination"):
        mount["Target"] = value
    elif name in ("readonly", "ro"):
        mount["ReadOnly"] = _switch(name, value)
    elif name == "consistency":
        mount["Consistency"] = value.lower()
    elif name == "bind-propagation":
        bind["Propagation"] = value.lower()
    elif name == "bind-nonrecursive":
        bind["NonRecursive"] = _switch(name, value)
    elif name == "bind-create-src":
        bind["CreateMountpoint"] = _switch(name, value)
    elif name == "bind-recursive":
        _recursive(bind, value)
    elif name == "idmap":
        bind["Idmap"] = value
    elif name == "volume-subpath":
        volume["Subpath"] = value
    elif name == "volume-nocopy":
        volume["NoCopy"] = _switch(name, value)
    elif name == "volume-label":
        key, _, setting = value.partition("=")
        volume.setdefault("Labels", {})[key] = setting
    elif name == "volume-driver":
        volume.setdefault("DriverConfig", {})["Name"] = value
    elif name == "volume-opt":
        key, _, setting = value.partition("=")
        volume.setdefault("DriverConfig", {}).setdefault("Options", {})[key] = setting
    elif name == "image-subpath":
        image["Subpath"] = value
    elif name == "tmpfs-size":
        tmp["SizeBytes"] = _sized(name, value)
    elif name == "tmpfs-mode":
        tmp["Mode"] = _mode(name, value)
    else:
        raise ValueError(f"unexpected key '{name}' in '{field}'")


def _switch(name: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {name}: {value}") from None


def _recursive(bind: dict[str, Any], value: str) -> None:
    if value == "disabled":
        bind["NonRecursive"] = True
    elif value == "writable":
        bind["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        bind["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(
            f'invalid value for bind-recursive: {value} (must be "enabled", "disabled", '
            '"writable", or "readonly")'
        )


def _sized(name: str, value: str) -> int:
    try:
        return ram_bytes(value)
    except ValueError:
        raise ValueError(f"invalid value for {name}: {value}") from None


def _mode(name: str, value: str) -> int:
    try:
        return int(value, 8)
    except ValueError:
        raise ValueError(f"invalid value for {name}: {value}") from None


def _checked(mount: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kind = mount["Type"]
    if not kind:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for section, options in sections.items():
        if not options:
            continue
        if section != kind:
            raise ValueError(f"cannot mix '{section}-*' options with mount type '{kind}'")
        mount[_SECTION[section]] = options
    bind = mount.get("BindOptions", {})
    if bind.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in "
                "conjunction"
            )
        if bind.get("Propagation") != "rprivate":
            raise ValueError(
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be "
                "specified in conjunction"
            )
    return mount
