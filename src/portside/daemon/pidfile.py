"""The pid file: one engine per file, distinguished from a stale one by a lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from portside.kernel.directories import make_public
from portside.model.errors import Conflict


class PidFile:
    """Holds a pid file for the life of this process.

    The lock is a POSIX record lock (fcntl_locking(2)): it ends with this process and is not
    inherited by the launcher and the monitors, which outlive it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        make_public(self.path.parent)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.fchmod(self._fd, 0o644)  # service managers and users may read it
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise Conflict(
                f"failed to start daemon, ensure portside is not running or delete {path}: "
                f"process with PID {pid or 'unknown'} is still running"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Forget the file; the lock goes with the descriptor."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
