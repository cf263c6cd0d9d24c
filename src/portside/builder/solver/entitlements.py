"""What steps may use only when the request permits it (``--allow``), as BuildKit names it.

A request is granted what daemon.json's ``builder.entitlements`` lets requests have; as in dockerd,
``security-insecure`` is off unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from portside.builder import llb
from portside.model.entitlement_names import DEVICE, NETWORK_HOST, SECURITY_INSECURE
from portside.model.errors import Forbidden, InvalidParameter, NotFound

if TYPE_CHECKING:
    from portside.containers.spec.cdi import Edits, Registry

AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"
"""An annotation of a CDI device, or of its file: builds may use it without ``--allow``."""
DEVICE_CLASS = "org.mobyproject.buildkit.device.class"
"""An annotation of a CDI device: a name for one or several of them."""
_DEFAULTS = {"network-host": True, "security-insecure": False, "device": True}


def grantable(settings: Mapping[str, Any]) -> frozenset[str]:
    """The entitlements that requests may have; ``settings``: ``builder`` of daemon.json.

    InvalidParameter names the key.
    """
    given = settings.get("entitlements", {})
    if not isinstance(given, Mapping):
        raise InvalidParameter("builder.entitlements must be an object")
    for key, value in given.items():
        if key not in _DEFAULTS:
            raise InvalidParameter(f"builder.entitlements.{key} is not known")
        if not isinstance(value, bool):
            raise InvalidParameter(f"builder.entitlements.{key} must be true or false")
    values = {**_DEFAULTS, **given}
    return frozenset(key.replace("-", ".") for key, value in values.items() if value)


def check_granted(asked: Iterable[str], granted: frozenset[str]) -> None:
    """Forbidden for an entitlement that the engine gives to no request."""
    for name in asked:
        if name.partition("=")[0] not in granted:
            raise Forbidden(
                f"granting entitlement {name} is not allowed by build daemon configuration"
            )


def check_modes(op: llb.ExecOp, allowed: frozenset[str]) -> None:
    """Forbidden for a network or security mode that the request does not allow."""
    wanted = {NETWORK_HOST: op.network == "host", SECURITY_INSECURE: op.security == "insecure"}
    for name, is_wanted in wanted.items():
        if is_wanted and name not in allowed:
            raise Forbidden(f"{name} is not allowed: give --allow {name} with the build")


def device_edits(
    devices: Iterable[llb.CDIDevice], allowed: frozenset[str], directories: Sequence[str]
) -> list[Edits]:
    """What the devices of ``RUN --device`` change in the step's container.

    ``directories``: where CDI files are. A device that is not there is left out unless it is
    required. NotFound; Forbidden for a device that the request does not allow.
    """
    from portside.containers.spec import cdi

    registry = cdi.Registry.read(directories)
    names: list[str] = []
    for device in devices:
        found = _named(device.name, registry)
        if not found and not device.optional:
            raise NotFound(f"required device {device.name!r} is not registered; "
                           f"{registry.where()}")  # fmt: skip
        names += found
    for name in names:
        if not _is_allowed(name, registry, allowed):
            raise Forbidden(f"device {name} is requested by the build but not allowed: "
                            f"give --allow device={name} with the build")  # fmt: skip
    return registry.edits(names)


def _named(name: str, registry: Registry) -> list[str]:
    """``vendor.com/class=NAME``, ``vendor.com/class=*`` for all, ``vendor.com/class`` for the
    first, or what an annotation calls the devices."""
    kind, equals, own = name.partition("=")
    if equals and own != "*":
        return [name] if name in registry.devices else []
    if "/" in kind:
        known = registry.names(kind)
        return known if equals else known[:1]
    return [each for each, device in registry.devices.items()
            if device.annotations.get(DEVICE_CLASS) == name]  # fmt: skip


def _is_allowed(name: str, registry: Registry, allowed: frozenset[str]) -> bool:
    by_name = {DEVICE, f"{DEVICE}={name}", f"{DEVICE}={name.partition('=')[0]}"}
    return bool(by_name & allowed) or _is_auto_allowed(registry, name)


def _is_auto_allowed(registry: Registry, name: str) -> bool:
    return registry.devices[name].annotations.get(AUTO_ALLOW) == "true"


class BuildDevice(NamedTuple):
    """A device that steps can ask for."""

    name: str
    is_auto_allowed: bool
    annotations: dict[str, str]


def known_devices(directories: Sequence[str]) -> list[BuildDevice]:
    """The devices of the CDI files in ``directories``, by name."""
    from portside.containers.spec.cdi import Registry

    registry = Registry.read(directories)
    return [
        BuildDevice(name, _is_auto_allowed(registry, name), device.annotations)
        for name, device in sorted(registry.devices.items())
    ]
