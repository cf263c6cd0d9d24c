"""Identity of the container's process: user and groups from the image's files, capabilities,
limits, no-new-privileges and the seccomp filter.

The files are read from inside the root, where no link leads out, and only so far as is
sane for files that a stranger wrote.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

import msgspec

from portside.kernel.light_stdlib import suppress
from portside.kernel.openat2 import IN_ROOT, openat2
from portside.kernel.process import (
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    bounded,
    capability_bits,
    capset,
    drop_bounding,
    permitted,
    prctl,
    raise_ambient,
    setgroups,
)
from portside.kernel.seccomp import install
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Capabilities, Process, Rlimit, User
from portside.runtime.messages import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    _T = TypeVar("_T")

_MAX_FILE = 16 << 20
_MAX_LINE = 64 << 10
_MAX_ID = (1 << 31) - 1
"""The limit of other runtimes; the kernel would allow twice as many."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Who(msgspec.Struct):
    """A user as passwd(5) and group(5) describe it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _entries(path: str, root: int | None) -> Iterator[list[str]]:
    """Lines of passwd or group, split; none when the image has no such file. ``root`` is a
    descriptor of the container's root, None for one's own.

    Only a regular file beneath the root is opened: opening a device may have effects, and a link
    of /proc may lead out of the root. A line cut off by a limit counts for nothing.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    root = os.open("/", flags) if root is None else os.open(".", flags, dir_fd=root)
    try:
        found = openat2(root, path, os.O_PATH, resolve=IN_ROOT)
        regular = stat.S_ISREG(os.fstat(found).st_mode)
        os.close(found)
        if not regular:
            return
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        file = os.fdopen(openat2(root, path, flags, resolve=IN_ROOT), "rb")
    except OSError:
        return
    finally:
        os.close(root)
    with file:
        left = _MAX_FILE if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else 0
        while left > 0 and (line := file.readline(_MAX_LINE)):
            left -= len(line)
            if len(line) == _MAX_LINE or left < 0:
                return
            text = line.decode(errors="replace").rstrip("\n")
            if text and text[0] not in "#+-":
                yield text.split(":")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        return None
    value = int(text) if len(text) < 20 else _MAX_ID + 1
    if not 0 <= value <= _MAX_ID:
        raise SystemFailure(f"uids and gids must be in range 0-{_MAX_ID}")
    return value


def _is_id(text: str) -> bool:
    """Whether a field of passwd or group is an identifier; a line where it is not is skipped."""
    return text.isascii() and text.isdecimal() and len(text) < 11 and int(text) <= _MAX_ID


def _passwd(root: int | None) -> list[list[str]]:
    """Lines with a login name and numbers that make sense; a missing home is ``/``."""
    lines = _entries("/etc/passwd", root)
    found = [e for e in lines if len(e) > 3 and _is_id(e[2]) and _is_id(e[3])]
    return [[*e[:5], (e[5] if len(e) > 5 else "") or "/"] if len(e) > 4 else [*e, "", "/"]
            for e in found]  # fmt: skip


def _groups(root: int | None) -> list[list[str]]:
    found = [e for e in _entries("/etc/group", root) if len(e) > 2 and _is_id(e[2])]
    return [e if len(e) > 3 else [*e, ""] for e in found]


def are_numbers(wanted: str) -> bool:
    """Whether ``USER[:GROUP]`` has no names; SystemFailure for a number out of range."""
    return all(_number(part) is not None for part in wanted.split(":", 1) if part)


def resolve(user: User, wanted: Identity, root: int | None = None) -> Who:
    """The numbers behind names, from the files beneath the descriptor ``root`` (None: beneath
    one's own root); raises SystemFailure in Docker's words."""
    if not wanted.user and not wanted.groups:
        return _known(user)
    name, _, group = wanted.user.partition(":")
    passwd, groups = _passwd(root), _groups(root)
    uid, gid, login, home = _user(name or str(user.uid), user, passwd)
    if group:
        gid = _group(group, groups)
    further = [int(e[2]) for e in groups if login and not group and login in e[3].split(",")]
    further += [_group(each, groups) for each in wanted.groups]
    return Who(uid, gid, tuple(dict.fromkeys([gid, *further, *user.additional_gids])), home)


def _known(user: User) -> Who:
    if not all(0 <= number <= _MAX_ID for number in (user.uid, user.gid, *user.additional_gids)):
        raise InvalidParameter(f"uids and gids must be in range 0-{_MAX_ID}")
    home = next((e[5] for e in _passwd(None) if int(e[2]) == user.uid), "/")
    return Who(user.uid, user.gid, user.additional_gids, home)


def _user(name: str, default: User, passwd: list[list[str]]) -> tuple[int, int, str, str]:
    """Uid, gid, login name and home of a user by name or number.

    A number is never a name: the image could have a user of that name who is root
    (CVE-2016-3697).
    """
    number = _number(name)
    if number is not None:
        named = next((e for e in passwd if int(e[2]) == number), None)
    else:
        named = next((e for e in passwd if e[0] == name), None)
    if named is not None:
        return int(named[2]), int(named[3]), named[0], named[5]
    if number is None:
        raise SystemFailure(f"unable to find user {name}: no matching entries in passwd file")
    return number, default.gid, "", "/"


def _group(name: str, groups: list[list[str]]) -> int:
    number = _number(name)
    if number is not None:
        return number
    for entry in groups:
        if entry[0] == name:
            return int(entry[2])
    raise SystemFailure(f"unable to find group {name}: no matching entries in group file")


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


def _unmapped(who: Who) -> str:
    """The first ID that the user namespace does not have, of those that a process shall get."""
    for kind, name, wanted in (
        ("uid", "user", (who.uid,)),
        ("gid", "group", (who.gid, *who.groups)),
    ):
        with suppress(OSError), open(f"/proc/self/{kind}_map") as file:  # there may be no /proc
            ranges = [(int(first), int(count)) for first, _, count in map(str.split, file)]
            for number in wanted:
                if not any(first <= number < first + count for first, count in ranges):
                    return f"{name} {number}"
    return f"user {who.uid}"


def drop(
    process: Process,
    who: Who,
    last_capability: int,
    seccomp: bytes,
    seccomp_flags: int,
    as_user: Callable[[], _T],
) -> tuple[_T, int]:
    """Become the user, with no more than the capabilities that were given: none, when nothing
    is said of them. Returns what ``as_user`` and :func:`seccomp.install` return.

    ``as_user`` is called with exactly the rights that the command will have to follow paths
    (effective capabilities decide there, and over the links of /proc/PID), before the filter is
    installed: seccomp(2) asks for CAP_SYS_ADMIN or no-new-privileges.
    """
    sets = process.capabilities or Capabilities()
    bits = {
        name: capability_bits(getattr(sets, name))
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    wanted = 0
    for some in bits.values():
        wanted |= some
    held = bounded(wanted)
    bits = {name: some & held for name, some in bits.items()}
    ambient = bits["ambient"] & bits["permitted"] & bits["inheritable"]
    if who.uid != 0 and process.no_new_privileges:
        # execve(2) leaves a plain program what is ambient, but one with file capabilities what is
        # permitted before, in spite of no_new_privs
        bits["effective"] &= ambient
        bits["permitted"] &= ambient
    drop_bounding(bits["bounding"], last_capability)
    prctl(PR_SET_KEEPCAPS, 1)
    try:
        setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        raise SystemFailure(
            f"{_unmapped(who)} is not mapped in the container's user namespace: the namespace is "
            "too small (--userns=auto:size=NUMBER), or the caller has no or too few subordinate "
            "IDs (/etc/subuid, /etc/subgid)"
        ) from err
    prctl(PR_SET_KEEPCAPS, 0)
    os.umask(0o022 if process.user.umask is None else process.user.umask)
    held_now = permitted()
    try:
        # root has its permitted set again after execve(2); others keep only what is ambient
        usual = bits["permitted"] if who.uid == 0 else ambient
        capset(usual & held_now, held_now, bits["inheritable"])
        found = as_user()
        listener = -1
        if seccomp and not process.no_new_privileges:
            capset(held_now, held_now, bits["inheritable"])
            listener = install(seccomp, seccomp_flags)
        capset(bits["effective"], bits["permitted"], bits["inheritable"])
    except OSError as err:
        if err.filename != "capset":
            raise
        raise SystemFailure(f"unable to apply caps: {(err.strerror or '').lower()}") from err
    raise_ambient(ambient)
    if process.no_new_privileges:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if seccomp:
            listener = install(seccomp, seccomp_flags)
    return found, listener
