"""Device access: Docker's defaults as values, and the rules' meaning once all are applied.

A rule list is applied in order, as the version 1 ``devices`` controller does
(``cgroup-v1/devices.rst``): a rule for ``a`` replaces everything before it, a rule that
agrees with the default removes exceptions, one that disagrees adds one.
"""

from __future__ import annotations

import msgspec

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from portside.model.ociruntime import DeviceCgroup

ANY = -1
"""A major or minor number that stands for all (``*``)."""

DENY_ALL = (False, "a", ANY, ANY, "rwm")
DEFAULT_DEVICES: tuple[tuple[bool, str, int, int, str], ...] = (
    DENY_ALL,
    (True, "c", 1, 5, "rwm"),  # zero
    (True, "c", 1, 3, "rwm"),  # null
    (True, "c", 1, 9, "rwm"),  # urandom
    (True, "c", 1, 8, "rwm"),  # random
    (True, "c", 5, 0, "rwm"),  # tty
    (True, "c", 5, 1, "rwm"),  # console
    (False, "c", 10, 229, "rwm"),  # fuse
)
"""(allow, type, major, minor, access): what Docker puts into its configuration."""

RUNTIME_DEVICES: tuple[tuple[bool, str, int, int, str], ...] = (
    (True, "c", ANY, ANY, "m"),  # making a node is harmless without opening it
    (True, "b", ANY, ANY, "m"),
    (True, "c", 1, 3, "rwm"),  # null
    (True, "c", 1, 8, "rwm"),  # random
    (True, "c", 1, 7, "rwm"),  # full
    (True, "c", 5, 0, "rwm"),  # tty
    (True, "c", 1, 5, "rwm"),  # zero
    (True, "c", 1, 9, "rwm"),  # urandom
    (True, "c", 136, ANY, "rwm"),  # pts/*
    (True, "c", 5, 2, "rwm"),  # ptmx
    (True, "c", 10, 200, "rwm"),  # net/tun, which CAP_NET_ADMIN guards
)
"""Devices that an OCI runtime always allows (config-linux.md)."""

Key = tuple[str, int, int]


class DeviceAccess(msgspec.Struct):
    """The sum of a rule list: a default and the exceptions to it."""

    allow: bool = True
    """Whether a device without an exception is allowed; a new group allows all."""
    exceptions: dict[Key, str] = {}
    """Access letters (of ``rwm``) by (``b`` or ``c``, major, minor)."""

    @property
    def unrestricted(self) -> bool:
        return self.allow and not self.exceptions

    def apply(self, allow: bool, kind: str, major: int, minor: int, access: str) -> None:
        """One rule, in order."""
        if kind == "a" and (major, minor) == (ANY, ANY):
            self.allow = allow
            self.exceptions.clear()
            return
        kinds = ("b", "c") if kind == "a" else (kind,)
        for one in kinds:
            key = (one, major, minor)
            have = set(self.exceptions.get(key, ""))
            have = have - set(access) if allow == self.allow else have | set(access)
            if have:
                self.exceptions[key] = "".join(letter for letter in "rwm" if letter in have)
            else:
                self.exceptions.pop(key, None)


def rules_of(devices: Iterable[DeviceCgroup]) -> list[tuple[bool, str, int, int, str]]:
    """Runtime-spec rules as tuples. Raises InvalidParameter for a rule the kernel cannot know."""
    found = []
    for device in devices:
        kind, access = device.type or "a", device.access or "rwm"
        if kind == "u":
            kind = "c"
        if kind not in ("a", "b", "c") or not set(access) <= set("rwm"):
            raise InvalidParameter(
                f"invalid device rule: type {device.type!r} access {device.access!r} "
                "(types are a, b, c; access letters are r, w, m)"
            )
        major = ANY if device.major is None else device.major
        minor = ANY if device.minor is None else device.minor
        found.append((device.allow, kind, major, minor, access))
    return found


def fold(rules: Iterable[tuple[bool, str, int, int, str]]) -> DeviceAccess:
    """The sum of a list of rules, applied in order."""
    state = DeviceAccess()
    for rule in rules:
        state.apply(*rule)
    return state


def rule_text(kind: str, major: int, minor: int, access: str) -> str:
    """The rule as version 1 and ``--device-cgroup-rule`` write it: ``c 1:3 rwm``."""

    def number(value: int) -> str:
        return "*" if value == ANY else str(value)

    return f"{kind} {number(major)}:{number(minor)} {access}"
