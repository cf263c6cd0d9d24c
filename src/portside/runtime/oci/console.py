"""A container's terminal: sent to the caller's console socket, or connected to our own terminal."""

from __future__ import annotations

import os
import sys

from portside.kernel import c_socket as socket
from portside.kernel.light_stdlib import contextmanager, suppress
from portside.model.errors import InvalidParameter, SystemFailure
from portside.runtime import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
else:
    import _signal as signal  # without enum

NEEDS_SOCKET = "cannot allocate tty if runtime will detach without setting console socket"
"""runc's error for a detached terminal that nobody receives."""


def check(socket_path: str, *, detach: bool, terminal: bool) -> None:
    """A detached terminal needs a console socket, and nothing else takes one. Raises
    InvalidParameter."""
    if detach and terminal and not socket_path:
        raise InvalidParameter(NEEDS_SOCKET)
    if socket_path and not (detach and terminal):
        raise InvalidParameter(
            "cannot use console socket if runtime will not detach or allocate tty"
        )


def hand_over(path: str, leader: int) -> None:
    """Send the leading side to a console socket (runc's ``--console-socket``)."""
    try:
        _send(path, b"/dev/ptmx", leader, "console socket")
    finally:
        os.close(leader)


def hand_over_pidfd(path: str, pid: int) -> None:
    """Send a process's descriptor to a socket (runc's ``--pidfd-socket``)."""
    pidfd = os.pidfd_open(pid)
    try:
        _send(path, b"pidfd", pidfd, "pidfd socket")
    finally:
        os.close(pidfd)


def _send(path: str, name: bytes, fd: int, what: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
            socket.send_fds(sock, [name], [fd])
        except OSError as err:
            raise SystemFailure(f"{what} {path}: {err.strerror}") from err


@contextmanager
def raw() -> Iterator[None]:
    """Our own terminal passes every key on; afterwards it is as it was."""
    if not os.isatty(0):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def follow_size(leader: int) -> None:
    """Give a terminal the size of our own, now and whenever that changes."""

    def changed(*_: object) -> None:
        with suppress(OSError):
            columns, lines = os.get_terminal_size(0)
            if columns:
                terminal.set_size(leader, lines, columns)

    changed()
    signal.signal(signal.SIGWINCH, changed)


def relay(leader: int, pidfd: int) -> None:
    """Copy between our streams and the terminal until its process is gone."""
    import select

    poller = select.poll()
    for fd in (0, leader, pidfd):
        poller.register(fd, select.POLLIN)
    sys.stdout.flush()
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if leader in ready:
            if _copy(leader, 1):
                continue
            return
        if 0 in ready and not _copy(0, leader):
            poller.unregister(0)
        if pidfd in ready:
            return


def _copy(source: int, target: int) -> bool:
    """Pass on what is there; False at the end."""
    try:
        data = os.read(source, 1 << 16)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    except OSError:  # EIO: no process has the other side open
        return False
    return bool(data)
