"""systemd's protocols: notification of readiness, and listening sockets that it passes.

Protocols of sd_notify(3) and sd_listen_fds(3), spoken directly. Whether the machine shuts down is
asked of systemctl(1), once, at the engine's end.
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress

from portside.model.errors import InvalidParameter
from portside.model.paths import rootless_user

_FIRST_FD = 3
_ANSWER_TIMEOUT = 5
"""Seconds that systemctl may take."""


def notify(message: str) -> None:
    """Send a state such as ``READY=1`` to the service manager that started us. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(message.encode())
    except OSError:
        pass


def listen_fds(name: str = "") -> list[socket.socket]:
    """Sockets passed by the service manager: all, or those called ``name`` (or numbered so)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise InvalidParameter("no sockets found via socket activation: make sure the service "
                               "was started by systemd")  # fmt: skip
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    fds = range(_FIRST_FD, _FIRST_FD + count)
    chosen = list(fds)
    if name and name != "*":
        chosen = [fd for fd, label in zip(fds, names, strict=False) if label == name]
        if not chosen and name.isdigit() and int(name) in fds:
            chosen = [int(name)]
    if not chosen:
        raise InvalidParameter(f"failed to find systemd socket named {name!r}")
    for fd in chosen:
        os.set_inheritable(fd, False)
    return [socket.socket(fileno=fd) for fd in chosen]


def machine_ends() -> bool:
    """Whether systemd shuts the machine down, or for a user's engine ends the user's instance
    (the last logout). Whatever still runs is killed then, in no order."""
    managers = [[], ["--user"]] if rootless_user() else [[]]
    for option in managers:
        with suppress(OSError, subprocess.TimeoutExpired):
            asked = subprocess.run(
                ["systemctl", *option, "is-system-running"],
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
                timeout=_ANSWER_TIMEOUT,
            )  # fmt: skip
            if asked.stdout.strip() == b"stopping":
                return True
    return False
