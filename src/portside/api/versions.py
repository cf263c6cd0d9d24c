"""What older API versions were told about containers and the disk.

Services answer in the newest version's words. A function here takes such an answer, not yet
encoded, and gives it the form that a client of an older version was promised. The public
version history of the Engine API names the changes.
"""

from __future__ import annotations

from typing import Any

Version = tuple[int, int]
_SHORT = 12
"""Digits of a short identifier."""


def container(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """``GET /containers/{id}/json``."""
    if version < (1, 48):
        value.pop("ImageManifestDescriptor", None)
    if version < (1, 45):
        for endpoint in value["NetworkSettings"]["Networks"].values():
            _add_short_name(endpoint, value["Id"][:_SHORT])
    if version < (1, 42):
        value["HostConfig"].setdefault("KernelMemory", 0)
        value["HostConfig"].setdefault("KernelMemoryTCP", 0)
    return value


def _add_short_name(endpoint: dict[str, Any], short: str) -> None:
    """Aliases held the short identifier, where names are resolved at all."""
    if endpoint.get("DNSNames") and short not in (endpoint.get("Aliases") or ()):
        endpoint["Aliases"] = [*(endpoint.get("Aliases") or ()), short]


def summary(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """One entry of ``GET /containers/json``."""
    if version < (1, 48):
        value.pop("ImageManifestDescriptor", None)
        for endpoint in value["NetworkSettings"]["Networks"].values():
            endpoint.pop("GwPriority", None)
    if version < (1, 46):
        value["HostConfig"].pop("Annotations", None)
    return value


def disk_usage(value: dict[str, Any], version: Version) -> dict[str, Any]:
    """``GET /system/df``."""
    if version < (1, 42):
        value["BuilderSize"] = 0
    if value["Containers"] is not None:
        value["Containers"] = [summary(item, version) for item in value["Containers"]]
    return value
