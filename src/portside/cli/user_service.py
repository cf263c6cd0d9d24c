"""The engine of a user as a service of the user's systemd, which delegates control groups to it."""

from __future__ import annotations

import os
import subprocess

from portside.model.errors import Unavailable
from portside.model.paths import DEFAULT_CONFIG_DIR, DEFAULT_EXEC_ROOT

NAME = "portside.service"


def unit() -> str:
    """Where its unit is once ``portside daemon install`` has put it there."""
    return f"{os.path.dirname(DEFAULT_CONFIG_DIR)}/systemd/user/{NAME}"


def has_systemd() -> bool:
    """The user's instance of systemd runs: there was a login, or the user lingers."""
    return os.path.exists(f"{os.path.dirname(DEFAULT_EXEC_ROOT)}/systemd/private")


def is_installed() -> bool:
    """Whether the unit exists and a systemd of this user runs."""
    return has_systemd() and os.path.exists(unit())


def start() -> None:
    """Start it and wait until it is ready. Raises Unavailable with systemctl's message."""
    words = ("systemctl", "--user", "start", NAME)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"the engine did not start: {' '.join(words)}: {done.stderr.strip()} (its log: "
            f"journalctl --user -u {NAME}; without the service: portside daemon uninstall)"
        )
