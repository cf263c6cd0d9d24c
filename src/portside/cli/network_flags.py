"""``--network`` and the flags that describe how a container joins its network."""

from __future__ import annotations

from portside.model.errors import InvalidParameter
from portside.model.golang.csv_line import csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.flags.table import Options

_WITH_COLON = ("container:", "pasta:", "slirp4netns:")
"""Modes with something after a colon. Networks' names have none: the engine refuses Podman's."""
_FIELDS = {
    "alias": "aliases", "driver-opt": "driver_opts", "ip": "ip", "ip6": "ip6",
    "link-local-ip": "link_local", "mac-address": "mac", "gw-priority": "priority",
}  # fmt: skip


def parse_network(text: str) -> dict[str, Any]:
    """``NAME`` or ``name=NAME,alias=A,ip=…``. Raises ValueError."""
    if "=" not in text or text.startswith(_WITH_COLON):
        return {"target": text}
    found: dict[str, Any] = {}
    for field in csv(text):
        name, equals, value = field.partition("=")
        name, value = name.strip().lower(), value.strip()
        if not equals:
            raise ValueError(f"invalid field {field}")
        if name == "name":
            found["target"] = value
        elif name == "alias" or name == "link-local-ip":
            found.setdefault(_FIELDS[name], []).append(value)
        elif name == "driver-opt":
            key, _, setting = value.partition("=")
            if not setting:
                raise ValueError("invalid key value pair format in driver options")
            found.setdefault("driver_opts", {})[key.strip().lower()] = setting.strip()
        elif name == "gw-priority":
            try:
                found["priority"] = int(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value})") from None
        elif name in _FIELDS:
            found[_FIELDS[name]] = value
        else:
            raise ValueError(f"invalid field key {name}")
    if not found.get("target"):
        raise ValueError("network name/id is not specified")
    return found


def attachments(options: Options) -> list[dict[str, Any]]:
    """The requested networks; flags such as ``--ip`` belong to the first.

    Raises InvalidParameter.
    """
    found = [dict(item) for item in options.many("network")]
    if not found:
        found = [{"target": "default"}]
    first = found[0]
    if options.many("network-alias") and not _is_user_defined(first["target"]):
        raise InvalidParameter(
            "network-scoped aliases are only supported for user-defined networks"
        )
    several: list[str]
    for flag, key in (
        ("network-alias", "aliases"),
        ("link-local-ip", "link_local"),
        ("link", "links"),
    ):
        if flag == "link" and not _is_user_defined(first["target"]):
            continue  # of the container itself, not of an attachment
        if several := options.many(flag):
            if first.get(key):
                raise InvalidParameter(
                    f"conflicting options: cannot specify both --{flag} and per-network "
                    f"{flag.removeprefix('network-')}"
                )
            first[key] = several
    for flag, key in (("ip", "ip"), ("ip6", "ip6"), ("mac-address", "mac")):
        if given := options.text(flag):
            if flag == "mac-address" and not _is_mac(given):
                raise InvalidParameter(f"{given} is not a valid mac address")
            if first.get(key):
                raise InvalidParameter(
                    f"conflicting options: cannot specify both --{flag} and per-network "
                    f"{flag} address"
                )
            first[key] = given
    names = [item["target"] for item in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParameter(f'network "{name}" is specified multiple times')
    if len(found) > 1 and any(not _is_user_defined(name) for name in names):
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined "
            "network-modes"
        )
    return found


def _is_mac(text: str) -> bool:
    """Two hexadecimal digits six times, with colons or hyphens between them."""
    import re

    return bool(re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text))


def _is_user_defined(name: str) -> bool:
    return name not in ("default", "bridge", "host", "none") and not name.startswith("container:")


def endpoint(wanted: dict[str, Any]) -> dict[str, Any]:
    """The API's EndpointSettings of one attachment. Raises InvalidParameter."""
    found: dict[str, Any] = {}
    for key, name in (
        ("aliases", "Aliases"),
        ("links", "Links"),
        ("driver_opts", "DriverOpts"),
        ("mac", "MacAddress"),
        ("priority", "GwPriority"),
    ):
        if wanted.get(key):
            found[name] = wanted[key]
    addresses = {
        name: wanted[key]
        for key, name in (
            ("ip", "IPv4Address"),
            ("ip6", "IPv6Address"),
            ("link_local", "LinkLocalIPs"),
        )
        if wanted.get(key)
    }
    if addresses:
        found["IPAMConfig"] = addresses
    return found
