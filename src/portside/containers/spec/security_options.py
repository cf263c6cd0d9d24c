"""``--security-opt``: what may be said, and what was."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from portside.model.errors import InvalidText, SystemFailure
from portside.model.golang.booleans import parse_bool

UNCONFINED = "unconfined"
BUILTIN = "builtin"


class SecurityOptions(msgspec.Struct, frozen=True):
    """The options of one container, taken apart."""

    no_new_privileges: bool = False
    apparmor: str = ""
    """A profile's name, ``unconfined``, or empty for the default."""
    seccomp: str = ""
    """A profile's JSON text, ``unconfined``, ``builtin``, or empty for the default."""
    labels: tuple[str, ...] = ()
    """SELinux: ``user:…``, ``role:…``, ``type:…``, ``level:…``, or ``disable``."""
    writable_cgroups: bool | None = None


def parse_security(
    options: Iterable[str] | None, no_new_privileges: bool = False
) -> SecurityOptions:
    """Docker's rules and texts; ``no_new_privileges`` is the daemon's default.

    Raises SystemFailure, whose status dockerd uses here, for an option that is unknown or misses
    its value.
    """
    found = {"no_new_privileges": no_new_privileges}
    texts: dict[str, str] = {}
    labels: list[str] = []
    writable: bool | None = None
    for option in options or ():
        if option == "no-new-privileges":
            found["no_new_privileges"] = True
            continue
        if option == "disable":
            labels.append("disable")
            continue
        key, value = _split(option)
        if key == "label":
            labels.append(value)
        elif key in ("apparmor", "seccomp"):
            texts[key] = value
        elif key == "no-new-privileges":
            found["no_new_privileges"] = _boolean(option, value)
        elif key == "writable-cgroups":
            writable = _boolean(option, value)
        else:
            raise SystemFailure(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        found["no_new_privileges"],
        texts.get("apparmor", ""),
        texts.get("seccomp", ""),
        tuple(labels),
        writable,
    )


def _split(option: str) -> tuple[str, str]:
    """``key=value``, or with the colon of old clients."""
    for separator in ("=", ":"):
        key, found, value = option.partition(separator)
        if found:
            return key, value
    raise SystemFailure(f'invalid --security-opt 1: "{option}"')


def _boolean(option: str, value: str) -> bool:
    """As Go's ParseBool reads it."""
    try:
        return parse_bool(value)
    except InvalidText:
        raise SystemFailure(f'invalid --security-opt 2: "{option}"') from None
