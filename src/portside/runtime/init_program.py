"""``--init``: the program that is PID 1, starts the command, passes signals on and reaps.

It is Docker's own, tini, linked statically, executed from a copy that nobody can write to. PID 1
lives as long as the container and can be looked into from inside: it must not be a fork of ours.
"""

from __future__ import annotations

import os

from portside.kernel import mount, process
from portside.model.errors import InvalidParameter
from portside.runtime import executable
from portside.runtime.mounts import filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "docker-init"
"""The name of PID 1 that programs know from Docker."""
_PLACES = tuple(
    f"{directory}/{name}"
    for name in (NAME, "tini-static")
    for directory in ("/usr/local/bin", "/usr/bin", "/usr/libexec/docker", "/usr/sbin", "/sbin")
)


def find(path: str = "") -> str:
    """The program, ``path`` if it is given. Raises InvalidParameter when there is none that
    runs without a loader and libraries of the host."""
    for candidate in (path,) if path else _PLACES:
        if os.access(candidate, os.X_OK) and executable.is_static(candidate):
            return candidate
    raise InvalidParameter(
        f"--init: {path or 'docker-init or tini-static'} is missing or not linked statically: "
        "install tini (Debian: package tini), or name one by --init-path"
    )


def open_copy(path: str = "") -> int:
    """A directory with a copy of the program, read-only and mounted nowhere, as a descriptor."""
    source = os.open(find(path), os.O_RDONLY | os.O_CLOEXEC)
    tree = filesystem("tmpfs", "tmpfs", ["mode=755", "nr_inodes=3"], 0)
    try:
        target = os.open(NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755,
                         dir_fd=tree)  # fmt: skip
        try:
            while os.sendfile(target, source, None, 1 << 20):
                pass
            os.fchmod(target, 0o755)
        finally:
            os.close(target)
        mount.mount_setattr(tree, set=mount.MOUNT_ATTR_RDONLY, about=NAME)
    except BaseException:
        os.close(tree)
        raise
    finally:
        os.close(source)
    return tree


def execute(directory: int, arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Become the program, which starts the command; returns only by raising."""
    process.execveat(directory, NAME, (f"/sbin/{NAME}", "--", *arguments), env)
