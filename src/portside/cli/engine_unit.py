"""The engine's unit of systemd: the system's for root, else the one of the user's own instance.

A user's unit has a delegated control group, which an engine in the background does not have. The
system's comes with a socket unit: a connection to the socket starts the engine, so whether it
runs is asked of systemd.
"""

from __future__ import annotations

import os
import subprocess

from portside.model.errors import Unavailable
from portside.model.paths import (
    DEFAULT_CONFIG_DIR,
    DEFAULT_EXEC_ROOT,
    DEFAULT_SOCKET,
    rootless_user,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.client.endpoint import Endpoint

NAME = "portside.service"
SOCKET = "portside.socket"
ADMIN_UNITS = "/etc/systemd/system"
"""Where ``portside daemon install`` puts root's units."""
PACKAGED_UNITS = "/usr/lib/systemd/system"
_BOOTED = "/run/systemd/system"
"""sd_booted(3)"""


def user_unit() -> str:
    """Where a user's unit is once ``portside daemon install`` has put it there; "" for root."""
    if not rootless_user():
        return ""
    return f"{os.path.dirname(DEFAULT_CONFIG_DIR)}/systemd/user/{NAME}"


def has_systemd() -> bool:
    """systemd runs here; for a user, an instance of this user (a login, or the user lingers)."""
    if not rootless_user():
        return os.path.isdir(_BOOTED)
    return os.path.exists(f"{os.path.dirname(DEFAULT_EXEC_ROOT)}/systemd/private")


def is_installed() -> bool:
    """systemd runs, and has the engine's unit."""
    unit = user_unit()
    paths = [unit] if unit else [f"{each}/{NAME}" for each in (ADMIN_UNITS, PACKAGED_UNITS)]
    return has_systemd() and any(os.path.exists(path) for path in paths)


def is_active(name: str = NAME) -> bool:
    """systemd has started the unit, or is starting it."""
    return _call("is-active", name).stdout.strip() in ("active", "activating", "reloading")


def serves(endpoint: Endpoint) -> bool:
    """The engine of this address is the service, whether it runs or not."""
    is_default = endpoint.is_default or endpoint.path == DEFAULT_SOCKET
    return is_default and is_installed()


def is_ended(endpoint: Endpoint) -> bool:
    """It is, and does not run: a connection to the socket would start it."""
    return serves(endpoint) and not is_active() and not running_pid()


def systemctl(*words: str) -> None:
    """Raises Unavailable with systemctl's message."""
    done = _call(*words)
    if done.returncode:
        raise Unavailable(f"{' '.join(done.args)}: {done.stderr.strip()}")


def start() -> None:
    """Start the engine and wait until it is ready. Raises Unavailable."""
    try:
        systemctl("start", NAME)
    except Unavailable as err:
        user = "--user " if rootless_user() else ""
        raise Unavailable(
            f"the engine did not start: {err} (its log: journalctl {user}-u {NAME}; without "
            "the service: portside daemon uninstall)"
        ) from None


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    command = ["systemctl", *words]
    if rootless_user():
        command.insert(1, "--user")
        # not set in a shell of su(1) and sudo(8), while the user's systemd runs
        environment["XDG_RUNTIME_DIR"] = os.path.dirname(DEFAULT_EXEC_ROOT)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def running_pid(exec_root: str = DEFAULT_EXEC_ROOT) -> int:
    """The PID of the engine with this exec root, which has its pid file locked; 0 for none."""
    import fcntl
    import struct

    try:
        fd = os.open(f"{exec_root}/portside.pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        layout = "hhqqi"  # struct flock, fcntl_locking(2)
        asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return int(pid) if kind != fcntl.F_UNLCK else 0


def end_engine_in_background() -> bool:
    """End an engine that systemd has not started, for the unit's to take its place; containers
    continue. Whether there was one."""
    import select
    import signal

    pid = running_pid()
    if pid <= 0 or is_active():
        return False
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
    finally:
        os.close(process)
    return True
