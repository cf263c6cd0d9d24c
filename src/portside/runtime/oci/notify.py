"""``NOTIFY_SOCKET``: a container's sd_notify(3) passed on to who supervises us.

The container gets a socket of its own in ``/run/notify``; ``start`` and ``run`` listen there until
it is ready, and name its process as the main one.
"""

from __future__ import annotations

import os

from portside.kernel import c_socket as socket
from portside.kernel.light_stdlib import suppress
from portside.model.ociruntime import Mount, Spec

VARIABLE = "NOTIFY_SOCKET"
_INSIDE = "/run/notify"
_NAME = "notify.sock"


def offer(directory: str, spec: Spec) -> None:
    """Show the container the socket, when we were given one; ``directory`` is its state's."""
    if not os.environ.get(VARIABLE) or spec.process is None:
        return
    place = f"{directory}/notify"
    os.mkdir(place, 0o755)
    options = ("bind", "nosuid", "noexec", "nodev", "ro")
    spec.mounts = (*spec.mounts, Mount(_INSIDE, "bind", place, options))
    spec.process.env = (*spec.process.env, f"{VARIABLE}={_INSIDE}/{_NAME}")


def listen(directory: str) -> socket.socket | None:
    """The container's socket, before it is started; None when no supervisor waits for it."""
    place = f"{directory}/notify"
    if not os.environ.get(VARIABLE) or not os.path.isdir(place):
        return None
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            os.unlink(_NAME, dir_fd=opened)
        # by descriptor: an address has room for 107 bytes only (unix(7))
        found.bind(f"/proc/self/fd/{opened}/{_NAME}")
        os.chmod(_NAME, 0o777, dir_fd=opened)
    finally:
        os.close(opened)
    return found


def pass_on(own: socket.socket, pid: int) -> None:
    """Wait until the container is ready or has ended; report readiness to our supervisor."""
    pidfd = os.pidfd_open(pid)
    import select

    poller = select.poll()
    for fd in (own.fileno(), pidfd):
        poller.register(fd, select.POLLIN)
    with own:
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if own.fileno() in ready:
                if b"READY=1" in own.recv(1 << 16).split(b"\n"):
                    _send(b"READY=1\nMAINPID=%d" % pid)
                    break
            elif pidfd in ready:
                break
    os.close(pidfd)


def _send(message: bytes) -> None:
    address = os.environ[VARIABLE]
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor, suppress(OSError):
        supervisor.sendto(message, address)


def remove(directory: str) -> None:
    """Remove what :func:`offer` and :func:`listen` have made."""
    with suppress(OSError):
        os.unlink(f"{directory}/notify/{_NAME}")
    with suppress(OSError):
        os.rmdir(f"{directory}/notify")
