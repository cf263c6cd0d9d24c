"""Seccomp profiles in Docker's JSON format, and what one means for one container.

Docker's format adds conditions to the runtime-spec's: rules that hold only with or without
capabilities, on some architectures, or from a kernel version on, and the further ABIs of
each architecture. ``resolve`` decides them and gives the runtime-spec's value.
"""

from __future__ import annotations

import functools
import os

import msgspec

from portside.model import ociruntime as oci
from portside.model.errors import InvalidParameter

_GO_ARCHES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("386", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
}
"""Names by ``uname -m``: the name that conditions use, and the architecture's own token."""

MAX_PROFILE = 4 << 20
"""Bytes of the largest profile read."""


class _Part(msgspec.Struct, rename="camel", omit_defaults=True):
    pass


class Condition(_Part):
    """``includes`` or ``excludes`` of a rule."""

    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str | None = None


class Arg(_Part):
    """A condition on an argument of a system call."""

    index: int = 0
    value: int = 0
    op: str = ""
    value_two: int = 0


class Rule(_Part):
    """``syscalls``: an action for system calls, with its conditions."""

    name: str = ""
    names: tuple[str, ...] | None = None
    action: str = ""
    errno_ret: int | None = None
    args: tuple[Arg, ...] | None = None
    comment: str = ""
    includes: Condition | None = None
    excludes: Condition | None = None


class Architecture(_Part):
    """One of ``archMap``."""

    architecture: str = ""
    sub_architectures: tuple[str, ...] | None = None


class Profile(_Part):
    """Docker's format of a seccomp profile."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[Architecture, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[Rule, ...] | None = None


_NAMES = {
    name.lower(): name
    for part in (Condition, Arg, Rule, Architecture, Profile)
    for name in part.__struct_encode_fields__
}


def load(text: str | bytes, caps: tuple[str, ...]) -> oci.Seccomp:
    """A profile as the user wrote it. Raises InvalidParameter with what is wrong."""
    if len(text) > MAX_PROFILE:
        raise InvalidParameter(f"seccomp profile is larger than {MAX_PROFILE} bytes")
    try:
        profile = msgspec.convert(_with_known_names(msgspec.json.decode(text)), Profile)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    return resolve(profile, caps)


def _with_known_names(value: object) -> object:
    """The fields' names as they are here: Docker reads them in upper and lower case, and a rule
    under a name that is passed over would not hold."""
    if isinstance(value, dict):
        return {_NAMES.get(key.lower(), key): _with_known_names(one) for key, one in value.items()}
    return [_with_known_names(one) for one in value] if isinstance(value, list) else value


def resolve(
    profile: Profile,
    caps: tuple[str, ...],
    machine: str | None = None,
    kernel: tuple[int, int] | None = None,
) -> oci.Seccomp:
    """The rules that hold for a container with ``caps`` in its bounding set, on this machine."""
    if profile.architectures and profile.arch_map:
        raise InvalidParameter(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either "
            "'architectures' or 'archMap'"
        )
    if not profile.default_action:
        raise InvalidParameter(
            "seccomp profile without a defaultAction (seccomp=unconfined is without a filter)"
        )
    arch, native = _GO_ARCHES.get(machine or os.uname().machine, ("", ""))
    version = kernel or kernel_version()
    rules = []
    for rule in profile.syscalls or ():
        if rule.name and rule.names:
            raise InvalidParameter(
                "both 'name' and 'names' are specified in the seccomp profile, use either "
                "'name' or 'names'"
            )
        if _holds(rule, caps, arch, version):
            rules.append(_syscall(rule))
    return oci.Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=_architectures(profile, native),
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(rules),
    )


def _architectures(profile: Profile, native: str) -> tuple[str, ...]:
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            return (native, *(entry.sub_architectures or ()))
    return profile.architectures or ()


def _syscall(rule: Rule) -> oci.SeccompSyscall:
    args = tuple(oci.SeccompArg(a.index, a.value, a.op, a.value_two) for a in rule.args or ())
    names = rule.names or ((rule.name,) if rule.name else ())
    return oci.SeccompSyscall(names, rule.action, rule.errno_ret, args)


def _holds(rule: Rule, caps: tuple[str, ...], arch: str, kernel: tuple[int, int]) -> bool:
    """Every ``includes`` condition, and no ``excludes`` one."""
    no, yes = rule.excludes or Condition(), rule.includes or Condition()
    if arch in (no.arches or ()) or any(cap in caps for cap in no.caps or ()):
        return False
    if no.min_kernel and kernel >= parse_kernel(no.min_kernel):
        return False
    if yes.arches and arch not in yes.arches:
        return False
    if not all(cap in caps for cap in yes.caps or ()):
        return False
    return not yes.min_kernel or kernel >= parse_kernel(yes.min_kernel)


@functools.cache
def kernel_version() -> tuple[int, int]:
    """Version of the running kernel, such as (6, 18)."""
    return parse_kernel(".".join(os.uname().release.replace("-", ".").split(".")[:2]))


def parse_kernel(text: str) -> tuple[int, int]:
    """``4.8``; raises InvalidParameter."""
    major, dot, minor = text.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()) or (int(major), int(minor)) == (0, 0):
        raise InvalidParameter(f'invalid kernel version: "{text}", expected "<kernel>.<major>"')
    return int(major), int(minor)
