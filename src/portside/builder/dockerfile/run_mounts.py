"""``RUN --mount``: the flag's value as one typed value."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from portside.builder import llb
from portside.builder.dockerfile.diagnostics import did_you_mean
from portside.model.errors import InvalidParameter
from portside.model.golang.booleans import parse_bool
from portside.model.golang.sizes import ram_bytes

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_KEYS = {
    "bind": ("target", "source", "from", "readwrite", "readonly"),
    "cache": ("target", "source", "from", "id", "sharing", "readonly", "readwrite", "mode",
              "uid", "gid"),
    "tmpfs": ("target", "size", "readwrite"),
    "secret": ("target", "id", "required", "mode", "uid", "gid", "env"),
    "ssh": ("target", "id", "required", "mode", "uid", "gid"),
}  # fmt: skip
_ALL_KEYS = ("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing",
             "required", "size", "mode", "uid", "gid", "env")  # fmt: skip
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "rw": "readwrite",
            "ro": "readonly"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MountFlag:
    type: str = "bind"
    target: str = ""
    source: str = ""
    source_stage: str = ""
    """``from``."""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    env: str = ""
    """A secret that becomes a variable."""


def parse_mount(text: str, expand: Callable[[str], str]) -> MountFlag:
    """``type=cache,target=/x,…``. InvalidParameter, with what was probably meant."""
    if not text:
        raise InvalidParameter("failed to parse csv mounts: EOF")
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as err:
        raise InvalidParameter(f"failed to parse csv mounts: {err}") from None
    found: dict[str, str] = {}
    for item in fields:
        key, equals, value = item.strip().partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals:
            if key not in ("readonly", "readwrite", "required"):
                raise InvalidParameter(f"invalid field '{item}' must be a key=value pair")
            value = "true"
        if key not in _ALL_KEYS:
            hint = did_you_mean(key, _ALL_KEYS)
            raise InvalidParameter(f"unexpected key '{key}' in '{item.strip()}'{hint}")
        found[key] = expand(value)
    kind = found.pop("type", "bind")
    if kind not in TYPES:
        raise InvalidParameter(f'unsupported mount type "{kind}"{did_you_mean(kind, TYPES)}')
    for key in found:
        if key in _KEYS[kind]:
            continue
        if key in ("mode", "uid", "gid"):
            raise InvalidParameter(f'{key} not allowed for "{kind}" type mounts')
        if key == "sharing":
            raise InvalidParameter(f"invalid cache sharing set for {kind} mount")
        raise InvalidParameter(f"unexpected key '{key}' for mount type '{kind}'")
    return _checked(_value(kind, found))


def parse_device(text: str) -> llb.CDIDevice:
    """``NAME[,required[=BOOL]]``; ``name=`` before the name. InvalidParameter."""
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as err:
        raise InvalidParameter(f"failed to parse csv devices: {err}") from None
    name, found = "", {}
    for number, item in enumerate(fields):
        key, equals, value = item.strip().partition("=")
        if key.lower() == "name":
            name = value
        elif key.lower() == "required":
            found["required"] = value if equals else "true"
        elif number == 0:
            name = item.strip()
        else:
            hint = did_you_mean(key, ("name", "required"))
            raise InvalidParameter(f"unexpected key '{key}' in '{item}'{hint}")
    if not name:
        raise InvalidParameter("a device needs a name: --device=vendor.com/class=name")
    required = "required" in found and _boolean(found, "required")
    return llb.CDIDevice(name=name, optional=not required)


def _value(kind: str, found: dict[str, str]) -> MountFlag:
    readonly = kind == "bind"
    if "readonly" in found:
        readonly = _boolean(found, "readonly")
    if "readwrite" in found:
        readonly = not _boolean(found, "readwrite")
    sharing = found.get("sharing", "shared")
    if sharing not in _SHARING:
        raise InvalidParameter(
            f'unsupported sharing value "{sharing}"{did_you_mean(sharing, _SHARING)}'
        )
    return MountFlag(
        type=kind,
        target=found.get("target", ""),
        source=found.get("source", ""),
        source_stage=found.get("from", ""),
        readonly=readonly,
        size=_size(found.get("size", "")),
        id=found.get("id", ""),
        sharing=sharing,
        required="required" in found and _boolean(found, "required"),
        mode=_octal(found["mode"]) if "mode" in found else None,
        uid=_number(found, "uid"),
        gid=_number(found, "gid"),
        env=found.get("env", ""),
    )


def _checked(mount: MountFlag) -> MountFlag:
    target = posixpath.normpath(posixpath.join("/", mount.target))
    if mount.type in ("bind", "cache", "tmpfs") and target in ("/", "//"):
        raise InvalidParameter('invalid mount target "/": give target=PATH')
    if mount.type == "secret" and not (mount.id or mount.target):
        raise InvalidParameter("invalid secret mount. one of source, target required: give id=NAME")
    return mount


def _boolean(found: dict[str, str], key: str) -> bool:
    try:
        return parse_bool(found[key])
    except InvalidParameter:
        raise InvalidParameter(f"invalid value for {key}: {found[key]}") from None


def _number(found: dict[str, str], key: str) -> int:
    text = found.get(key, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InvalidParameter(f"invalid value {text} for {key}")
    return int(text)


def _octal(text: str) -> int:
    if not re.fullmatch("[0-7]{1,5}", text):
        raise InvalidParameter(f"invalid value {text} for mode")
    return int(text, 8)


def _size(text: str) -> int:
    """Bytes of ``10m``, ``1GiB``."""
    try:
        return ram_bytes(text) if text else 0
    except InvalidParameter:
        raise InvalidParameter(f"invalid value for size: {text}") from None
