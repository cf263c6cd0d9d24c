"""The forms that older API versions have for containers and the disk.

Services answer in the newest version's form. A function here takes such an answer, not yet
encoded, and gives it the form that a client of an older version was promised. The public
version history of the Engine API names the changes.
"""

from __future__ import annotations

from typing import Any

Version = tuple[int, int]
_SHORT = 12
_USAGES = ("ImagesUsage", "ContainersUsage", "VolumesUsage", "BuildCacheUsage")
_OLD_USAGES = ("LayersSize", "Images", "Containers", "Volumes", "BuildCache")
_DEFAULT_BRIDGE = (
    "Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen",
    "SecondaryIPAddresses", "SecondaryIPv6Addresses", "EndpointID", "Gateway", "GlobalIPv6Address",
    "GlobalIPv6PrefixLen", "IPAddress", "IPPrefixLen", "IPv6Gateway", "MacAddress",
)  # fmt: skip
"""Fields of ``NetworkSettings`` for the default bridge; removed in 1.52."""
"""Digits of a short identifier."""


def container(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """``GET /containers/{id}/json``."""
    if version >= (1, 52):
        for name in _DEFAULT_BRIDGE:
            value["NetworkSettings"].pop(name, None)
        if not value["Config"].get("OnBuild"):
            value["Config"].pop("OnBuild", None)
        value["Config"].pop("MacAddress", None)
        value["HostConfig"].pop("KernelMemoryTCP", None)
        snapshot = {"Name": value.pop("GraphDriver")["Name"]}
        value["Storage"] = {"RootFS": {"Snapshot": snapshot}}
    if version < (1, 48):
        value.pop("ImageManifestDescriptor", None)
    if version < (1, 45):
        for endpoint in value["NetworkSettings"]["Networks"].values():
            _add_short_name(endpoint, value["Id"][:_SHORT])
    return value


def _add_short_name(endpoint: dict[str, Any], short: str) -> None:
    """Aliases held the short identifier, where names are resolved at all."""
    if endpoint.get("DNSNames") and short not in (endpoint.get("Aliases") or ()):
        endpoint["Aliases"] = [*(endpoint.get("Aliases") or ()), short]


def event(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """One message of ``GET /events``: three fields, replaced in 1.22, were sent until 1.52."""
    if version >= (1, 52):
        for name in ("status", "id", "from"):
            value.pop(name, None)
    return value


def summary(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """One entry of ``GET /containers/json``."""
    if version < (1, 48):
        value.pop("ImageManifestDescriptor", None)
        for endpoint in value["NetworkSettings"]["Networks"].values():
            endpoint.pop("GwPriority", None)
    if version < (1, 46):
        value["HostConfig"].pop("Annotations", None)
    return value


def disk_usage(value: dict[str, Any], version: Version, verbose: bool) -> dict[str, Any]:
    """``GET /system/df``: the old fields, the sums of API 1.52, or in 1.52 both.

    ``value`` has both, with the sums' ``Items``, which are sent only when asked for.
    """
    for usage in _USAGES:
        if usage not in value:
            continue
        if version < (1, 52):
            del value[usage]
        elif not verbose:
            value[usage].pop("Items", None)
    if version >= (1, 53) or (verbose and version >= (1, 52)):
        for name in _OLD_USAGES:
            value.pop(name, None)
        return value
    if version < (1, 42):
        value["BuilderSize"] = 0
    if value["Containers"] is not None:
        value["Containers"] = [summary(item, version) for item in value["Containers"]]
    return value
