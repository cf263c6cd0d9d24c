"""Who the container's process is: user and groups from the image's files, capabilities,
limits, no-new-privileges and the seccomp filter.

The files are read from inside the root, where no link leads out, and only so far as is
sane for files that a stranger wrote.
"""

from __future__ import annotations

import os
import resource

import msgspec

from portside.kernel import process as kernel
from portside.kernel import seccomp as filters
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Capabilities, Process, Rlimit, User
from portside.runtime.messages import Identity

_MAX_FILE = 16 << 20
_MAX_ID = (1 << 31) - 1
"""As other runtimes have it; the kernel would take twice as many."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Who(msgspec.Struct):
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _entries(path: str) -> list[list[str]]:
    """Lines of passwd or group, split; empty when the image has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        text = file.read(_MAX_FILE).decode(errors="replace")
    return [line.split(":") for line in text.splitlines() if line and line[0] not in "#+-"]


def _number(text: str) -> int | None:
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        return None
    value = int(text) if len(text) < 20 else _MAX_ID + 1
    if not 0 <= value <= _MAX_ID:
        raise SystemFailure(f"uids and gids must be in range 0-{_MAX_ID}")
    return value


def _is_id(text: str) -> bool:
    """Whether a field of passwd or group is an identifier; a line where it is not is skipped."""
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= _MAX_ID


def _passwd() -> list[list[str]]:
    """Lines with a login name and numbers that make sense; a missing home is ``/``."""
    found = [e for e in _entries("/etc/passwd") if len(e) > 3 and _is_id(e[2]) and _is_id(e[3])]
    return [[*e[:5], (e[5] if len(e) > 5 else "") or "/"] if len(e) > 4 else [*e, "", "/"]
            for e in found]  # fmt: skip


def _groups() -> list[list[str]]:
    found = [e for e in _entries("/etc/group") if len(e) > 2 and _is_id(e[2])]
    return [e if len(e) > 3 else [*e, ""] for e in found]


def resolve(user: User, wanted: Identity) -> Who:
    """The numbers behind names; raises SystemFailure in Docker's words."""
    if not wanted.user and not wanted.groups:
        return _known(user)
    name, _, group = wanted.user.partition(":")
    passwd, groups = _passwd(), _groups()
    uid, gid, login, home = _user(name or str(user.uid), user, passwd)
    if group:
        gid = _group(group, groups)
    further = [int(e[2]) for e in groups if login and not group and login in e[3].split(",")]
    further += [_group(each, groups) for each in wanted.groups]
    return Who(uid, gid, tuple(dict.fromkeys([gid, *further, *user.additional_gids])), home)


def _known(user: User) -> Who:
    if not all(0 <= number <= _MAX_ID for number in (user.uid, user.gid, *user.additional_gids)):
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}")
    home = next((e[5] for e in _passwd() if int(e[2]) == user.uid), "/")
    return Who(user.uid, user.gid, user.additional_gids, home)


def _user(name: str, default: User, passwd: list[list[str]]) -> tuple[int, int, str, str]:
    """Uid, gid, login name and home of a user by name or number."""
    named = next((e for e in passwd if e[0] == name), None)
    number = _number(name)
    if named is None and number is not None:
        named = next((e for e in passwd if int(e[2]) == number), None)
    if named is not None:
        return int(named[2]), int(named[3]), named[0], named[5]
    if number is None:
        raise SystemFailure(f"unable to find user {name}: no matching entries in passwd file")
    return number, default.gid, "", "/"


def _group(name: str, groups: list[list[str]]) -> int:
    for entry in groups:
        if entry[0] == name:
            return int(entry[2])
    number = _number(name)
    if number is None:
        raise SystemFailure(f"unable to find group {name}: no matching entries in group file")
    return number


def environment(pairs: tuple[str, ...], who: Who) -> dict[str, str]:
    """Variables by name, the last one counts; HOME is set when nobody did."""
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidParameter(f'invalid environment variable: "{pair}"')
        if not name:
            raise InvalidParameter(f'invalid environment variable: "{pair}": empty name')
        if "\0" in pair:
            raise InvalidParameter(f'invalid environment variable: "{name}": a null byte in it')
        env[name] = value
    if not env.get("HOME"):
        env["HOME"] = who.home
    return env


def set_limits(limits: tuple[Rlimit, ...]) -> None:
    """setrlimit(2) for each; raises SystemFailure naming the limit."""
    for limit in limits:
        number = getattr(resource, limit.type, None)
        if number is None:
            raise InvalidParameter(f"unknown rlimit {limit.type!r}")
        soft, hard = (resource.RLIM_INFINITY if v < 0 or v >= 1 << 63 else v for v in
                      (limit.soft, limit.hard))  # fmt: skip
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError) as err:
            raise SystemFailure(
                f"error setting rlimit {limit.type} to {limit.soft}:{limit.hard}: {err} "
                "(raising a hard limit needs CAP_SYS_RESOURCE)"
            ) from err


def drop(
    process: Process, who: Who, last_capability: int, seccomp: bytes, seccomp_flags: int
) -> int:
    """Become the user, with no more than the capabilities that were given: none, when nothing
    is said of them. Returns what :func:`seccomp.install` does.

    The filter is installed while we may (seccomp(2) asks for CAP_SYS_ADMIN or
    no-new-privileges): before capabilities go, or as the last step.
    """
    listener = -1
    sets = process.capabilities or Capabilities()
    held = kernel.bounding_set()
    bits = {
        name: kernel.capability_bits(getattr(sets, name)) & held
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    kernel.drop_bounding(bits["bounding"], last_capability)
    if seccomp and not process.no_new_privileges:
        listener = filters.install(seccomp, seccomp_flags)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    kernel.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 0)
    if process.user.umask is not None:
        os.umask(process.user.umask)
    else:
        os.umask(0o022)
    # root gets its permitted set back at execve; others keep only what is ambient
    try:
        kernel.capset(bits["effective"], bits["permitted"], bits["inheritable"])
    except OSError as err:
        raise SystemFailure(f"unable to apply caps: {(err.strerror or '').lower()}") from err
    kernel.raise_ambient(bits["ambient"] & bits["permitted"] & bits["inheritable"])
    if process.no_new_privileges:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if seccomp:
            listener = filters.install(seccomp, seccomp_flags)
    return listener
