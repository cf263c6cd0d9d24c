"""Subordinate user and group IDs: subuid(5), subgid(5), newuidmap(1), newgidmap(1).

A user may map the IDs that the administrator gave to them, and their own, into a user
namespace of theirs. The two set-user-ID programs of the package ``uidmap`` write the mapping.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


class Range(NamedTuple):
    """IDs of the host, ``start`` to ``start + size - 1``."""

    start: int
    size: int


def ranges(path: Path, user: int) -> list[Range]:
    """What ``/etc/subuid`` or ``/etc/subgid`` gives to a user, by name or number, in the file's
    order."""
    return ranges_of(path, _name(user), str(user))


def ranges_of(path: Path, *owners: str) -> list[Range]:
    """The same by the words that a line may begin with; users need not exist. No ID comes twice:
    where lines overlap the first one has it."""
    given: list[Range] = []
    for owner, found in _lines(path):
        if owner in owners:
            given += _without(found, given)
    return given


def _without(new: Range, given: list[Range]) -> list[Range]:
    """The parts of a range that none of the others has, from the lowest."""
    found, position, end = [], new.start, new.start + new.size
    for start, size in sorted(given):
        if start > position:
            found.append(Range(position, min(start, end) - position))
        position = max(position, start + size)
        if position >= end:
            break
    found.append(Range(position, end - position))
    return [part for part in found if part.size > 0]


def first_free(path: Path, beginning: int = 100000) -> int:
    """The first ID from ``beginning`` on above all ranges of the file."""
    return max([beginning, *(found.start + found.size for _, found in _lines(path))])


def _lines(path: Path) -> Iterator[tuple[str, Range]]:
    """Owners and ranges. Lines that make no sense are skipped, as shadow's tools do; no file is
    no range."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            continue
        start, count = int(fields[1]), int(fields[2])
        if count > 0 and start + count <= 1 << 32:
            yield fields[0], Range(start, count)


def arguments(own: int, given: list[Range]) -> list[str]:
    """The triples of newuidmap(1): the namespace's root is the user, the rest follows from 1."""
    words, inside = ["0", str(own), "1"], 1
    for item in given:
        words += [str(inside), str(item.start), str(item.size)]
        inside += item.size
    return words


def write_maps(pid: int, user: int, group: int) -> str:
    """Give the new user namespace of a child its mappings; what is lacking, or nothing.

    With subordinate IDs and the package ``uidmap`` the user is root in there and has the
    subordinate IDs from 1. Without, only root is mapped: that needs no help (and no more
    supplementary groups, user_namespaces(7)). Raises OSError when even that fails.
    """
    lacking = _write_all(pid, user, group)
    if lacking:
        place = Path(f"/proc/{pid}")
        if not (place / "gid_map").read_text():  # newuidmap alone may have failed
            (place / "setgroups").write_text("deny")
            (place / "gid_map").write_text(f"0 {group} 1\n")
        (place / "uid_map").write_text(f"0 {user} 1\n")
    return lacking


def _write_all(pid: int, user: int, group: int) -> str:
    uids, gids = ranges(SUBUID, user), ranges(SUBGID, user)
    if not uids or not gids:
        name = _name(user)
        return (
            f"user {name} has no subordinate IDs in {SUBUID if not uids else SUBGID}: give them "
            f"with: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        )
    # group first: once the users are mapped nothing is left to refuse
    for program, own, given in (("newgidmap", group, gids), ("newuidmap", user, uids)):
        path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin:/sbin")
        if path is None:
            return f"{program} is missing: install the package uidmap"
        command = [path, str(pid), *arguments(own, given)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{program} failed: {done.stderr.strip() or done.returncode}"
    return ""


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def outside(kind: str) -> int:
    """The number, one user namespace up, of root in ours; ``kind`` is ``uid`` or ``gid``."""
    return next((first for inside, first, _ in _rows(kind) if inside == 0), 0)


def mapped_here(kind: str) -> int:
    """How many identifiers from 0 on are mapped in our user namespace."""
    end = 0
    for inside, _, count in sorted(_rows(kind)):
        if inside == end:
            end += count
    return end


def _rows(kind: str) -> list[tuple[int, int, int]]:
    text = Path(f"/proc/self/{kind}_map").read_text()
    rows = [line.split() for line in text.splitlines()]
    return [(int(inside), int(first), int(count)) for inside, first, count in rows]
