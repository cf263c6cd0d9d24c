"""Reading and writing one control group file, with errors that name it."""

from __future__ import annotations

import errno
import os

from portside.model.errors import SystemFailure

_HINTS = {
    errno.ENOENT: "the kernel or its configuration does not have this limit",
    errno.ERANGE: "the value is beyond what this machine has",
    errno.EBUSY: "the group uses more than that, and it cannot be taken back now",
    errno.EROFS: "the control groups are mounted read-only here",
    errno.EACCES: "not permitted; the parent group may not offer it",
    errno.EPERM: "not permitted",
    errno.EINVAL: "the kernel does not accept this value here",
    errno.ENODEV: "there is no such device",
    errno.EOPNOTSUPP: "the kernel does not support it for this group",
}


def write(path: str, value: str) -> None:
    """One write(2) of ``value``; the kernel takes or refuses it as a whole. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The whole file; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    finally:
        os.close(fd)


def read_or(path: str, default: str = "") -> str:
    """As :func:`read`; ``default`` when the file cannot be read (not there, or gone meanwhile)."""
    try:
        return read(path)
    except OSError:
        return default


def failure(path: str, value: str, error: OSError) -> SystemFailure:
    """The message for a refused write: which limit, which value, where, and why."""
    directory, _, file = path.rpartition("/")
    hint = _HINTS.get(error.errno or 0, "")
    reason = f"{os.strerror(error.errno or 0)}" + (f" ({hint})" if hint else "")
    return SystemFailure(f"cannot set {file} to {value!r} in {directory}: {reason}")


def keyed(text: str) -> dict[str, int]:
    """A flat keyed file (``name number`` on each line); lines of another form are skipped."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        try:
            found[name] = int(value)
        except ValueError:
            continue
    return found


def number(text: str, unlimited: int = -1) -> int:
    """A single value; ``max`` and nothing at all become ``unlimited``."""
    text = text.strip()
    return unlimited if not text or text == "max" else int(text)
