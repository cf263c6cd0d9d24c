"""Size limit of a plain volume: a project quota of the file system that the volumes are on."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from portside.kernel import quota
from portside.model.errors import InvalidParameter

_ABSENT = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ESRCH, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems and kernels without project quotas."""


def free_project(root: Path, taken: Collection[int]) -> int:
    """A project number for one more volume: high, and away from other engines' on this host."""
    first = 1 << 30 | int(hashlib.sha256(os.fsencode(root)).hexdigest()[:5], 16) << 10
    return max((number for number in taken if number >= first), default=first) + 1


def limit(directory: Path, name: str, project: int, size: int) -> None:
    """Let a volume's directory hold ``size`` bytes. InvalidParameter where that cannot be."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        quota.set_project(descriptor, project)
        quota.set_limit(descriptor, project, size)
    except OSError as err:
        if err.errno not in _ABSENT:
            raise
        raise InvalidParameter(
            f"create {name}: quota size requested but no quota support: the file system of "
            f"{directory.parent} has no project quotas ({err.strerror}). ext4 and XFS have them, "
            "mounted with prjquota; or give the volume a file system of its own "
            "(-o type=tmpfs -o device=tmpfs -o o=size=..., or a device)"
        ) from err
    finally:
        os.close(descriptor)
