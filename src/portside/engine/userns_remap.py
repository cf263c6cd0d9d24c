"""``userns-remap``: whose subordinate identifiers containers get.

The user is named in daemon.json; the identifiers come from the lines of /etc/subuid and
/etc/subgid that name it (and its group). ``default`` stands for ``dockremap``, which is made when
it is missing, as dockerd does.
"""

from __future__ import annotations

import grp
import logging
import pwd
import shutil
import subprocess

from portside.kernel import subordinate_ids as ids
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.idmap import IDMappings, in_a_row

DEFAULT_USER = "dockremap"
_COUNT = 65536
_PATIENCE = 60
"""Seconds for a program that changes the system's users."""

log = logging.getLogger(__name__)


def mappings(option: str) -> IDMappings | None:
    """The mappings that an option's text asks for; None for none at all.

    Raises InvalidParameter for a user or group that does not exist, or has no ranges.
    """
    if not option:
        return None
    user, colon, group = option.partition(":")
    if user == "default" and not colon:
        _make_default_user()
        user = DEFAULT_USER
    if not user or (colon and not group) or ":" in group:
        raise InvalidParameter(f"userns-remap: invalid user/group specification: {option!r}")
    name, uid, primary = _user(user)
    if uid == 0:
        log.warning("userns-remap: root cannot be remapped with itself; user namespaces are OFF")
        return None
    group_name, gid = _group(group or primary)
    uids = sorted(ids.ranges_of(ids.SUBUID, name, str(uid)))
    gids = sorted(
        ids.ranges_of(ids.SUBGID, group_name, str(gid)) or ids.ranges_of(ids.SUBGID, name, str(uid))
    )
    for found, file, who in ((uids, ids.SUBUID, name), (gids, ids.SUBGID, group_name)):
        if not found:
            raise InvalidParameter(
                f"userns-remap: {file} has no range for {who!r}: "
                f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            )
    return IDMappings(in_a_row(uids), in_a_row(gids))


def _user(text: str) -> tuple[str, int, str]:
    """Name, number and primary group of a user by name or number."""
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        raise InvalidParameter(f"userns-remap: there is no user {text!r}") from None
    return found.pw_name, found.pw_uid, str(found.pw_gid)


def _group(text: str) -> tuple[str, int]:
    try:
        found = grp.getgrgid(int(text)) if text.isdecimal() else grp.getgrnam(text)
    except (KeyError, OverflowError):
        raise InvalidParameter(f"userns-remap: there is no group {text!r}") from None
    return found.gr_name, found.gr_gid


def _make_default_user() -> None:
    """The user ``dockremap`` with its ranges, unless they are there."""
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        log.info("Making the user %s for userns-remap", DEFAULT_USER)
        _run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false",
             DEFAULT_USER)  # fmt: skip
    for file, option in ((ids.SUBUID, "--add-subuids"), (ids.SUBGID, "--add-subgids")):
        if not ids.ranges_of(file, DEFAULT_USER):
            first = ids.first_free(file)
            _run("usermod", option, f"{first}-{first + _COUNT - 1}", DEFAULT_USER)


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise SystemFailure(
            f"userns-remap: {program} is missing (install the package passwd or shadow), or make "
            f"the user {DEFAULT_USER} and its ranges yourself"
        )
    done = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode:
        raise SystemFailure(f"userns-remap: {program}: {done.stderr.strip()}")
