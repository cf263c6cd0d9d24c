"""Linux capabilities by name and number (capabilities(7), linux/capability.h)."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from portside.model.errors import InvalidParameter

NAMES: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
        "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
        "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
        "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
        "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
        "CHECKPOINT_RESTORE"
    ).split()
)
"""The position is the capability's number."""

NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}

DEFAULT: tuple[str, ...] = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
        "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
)
"""Docker's default capabilities of a container."""

ALL = "ALL"


def decode(mask: int) -> tuple[str, ...]:
    """Names of the bits of a set as ``/proc/PID/status`` shows it."""
    return tuple(name for name, number in NUMBERS.items() if mask >> number & 1)


def encode(names: Iterable[str]) -> int:
    """The bits of a set of names; unknown names raise KeyError."""
    mask = 0
    for name in names:
        mask |= 1 << NUMBERS[name]
    return mask


@functools.cache
def available() -> tuple[str, ...]:
    """Capabilities this process could give to another: its own bounding set."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapBnd:"):
                return decode(int(line.split()[1], 16))
    return NAMES


def normalize(names: Iterable[str], field: str) -> tuple[str, ...]:
    """With prefix and in capitals, ``ALL`` as it is. Raises InvalidParameter with Docker's text."""
    found = []
    for given in names:
        name = given.strip().upper()
        if name != ALL:
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in NUMBERS:
                raise InvalidParameter(f'invalid {field}: unknown capability: "{name}"')
        found.append(name)
    return tuple(found)


def tweak(add: Iterable[str], drop: Iterable[str], privileged: bool = False) -> tuple[str, ...]:
    """The set of a container: the default, less ``drop``, plus ``add``.

    ``ALL`` in ``add`` starts from everything and takes away only what ``drop`` names; ``ALL``
    in ``drop`` starts from nothing. Privileged gives all there is, whatever else is said.
    """
    have = available()
    adding, dropping = normalize(add, "CapAdd"), normalize(drop, "CapDrop")
    missing = [name for name in adding if name != ALL and name not in have]
    if missing and not privileged:
        raise InvalidParameter(
            f"invalid CapAdd: capability not supported by your kernel or not available "
            f'in the current environment: "{missing[0]}"'
        )
    if privileged:
        return have
    if ALL in adding:
        return tuple(name for name in have if name not in dropping)
    if ALL in dropping:
        return tuple(dict.fromkeys(name for name in adding if name != ALL))
    start = [name for name in DEFAULT if name in have and name not in dropping]
    return tuple(dict.fromkeys([*start, *(name for name in adding if name in have)]))
