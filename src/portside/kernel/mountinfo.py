"""The entry in /proc/self/mountinfo of the mount that holds a path (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass

from portside.kernel.mountinfo_text import unescaped

MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line, as far as it is of use here."""

    path: str
    shared: bool
    """Mounts made here are seen in the other members of its peer group."""
    slave: bool
    """Mounts made in its master are seen here."""
    kind: str = ""
    """The file system's type."""


def mount_of(path: str) -> MountPoint:
    """The mount that holds ``path``, links in which are followed; OSError when it is gone."""
    real = os.path.realpath(path, strict=True)
    found = MountPoint("/", False, False)
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _, source = line.partition(" - ")
            fields = mount.split()
            at = unescaped(fields[4])
            holds = at in ("/", real) or real.startswith(f"{at}/")
            # a later line lies over an earlier one at the same place
            if holds and len(at) >= len(found.path):
                tags = {tag.partition(":")[0] for tag in fields[6:]}
                kind = source.partition(" ")[0]
                found = MountPoint(at, "shared" in tags, "master" in tags, kind)
    return found


def mounts_below(path: str) -> list[str]:
    """Mount points strictly below a real path, in the order in which they were mounted."""
    found = []
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            at = unescaped(line.split()[4])
            if at.startswith(f"{path}/"):
                found.append(at)
    return found
