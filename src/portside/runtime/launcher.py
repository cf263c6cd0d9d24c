"""The launcher's own life: import everything, then fork a monitor for each request.

::

    launcher ──fork──► monitor, in reserve ──fork──► starter, in reserve
        │ request          │ keeps the streams           │ forks the container's init,
        └─────────────────►└────────────────────────────►│ tells the monitor, ends

It has one thread and never imports more once it is ready. One pair is kept in reserve, so
that a start waits neither for the forks nor for the pages a fresh process touches first.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from contextlib import suppress

from portside.kernel import cgroup
from portside.kernel import process as kernel
from portside.model.errors import PortsideError
from portside.runtime import messages, monitor, pools, starter
from portside.runtime.rehearsal import rehearse

_QUIET = 0.1
"""Seconds without a word after which the launcher forks a monitor in reserve."""


def main(fd: int, parent: str, files: int) -> None:
    """Serve the engine on an inherited socket until it is gone; never returns.

    ``parent`` is the control group that most containers will be made in, ``files`` the soft
    limit of open files that they get: the engine has raised its own.
    """
    os.set_inheritable(fd, False)
    os.umask(0o022)  # monitors and starters have it, too: mount points and control groups are 0755
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    try:
        _serve(socket.socket(fileno=fd), parent)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)


def _serve(sock: socket.socket, parent: str) -> None:
    os.setsid()
    kernel.set_name("portside-launch")
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # its end is the end of the engine's socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the monitors' status
    kernel.default_internal_signals()
    starter.prepare()
    monitor.prepare()
    with suppress(PortsideError, OSError):  # where it cannot be played, nothing is lost
        rehearse()
    if parent:
        _prepare(parent)
    gc.collect()
    kernel.close_all_but([sock.fileno()])
    pools.fill()
    gc.freeze()
    gc.disable()
    spare: socket.socket | None = _fork_monitor(sock)
    while True:
        if spare is None and not select.select([sock], [], [], _QUIET)[0]:
            spare = _fork_monitor(sock)
        data, fds = messages.receive(sock)
        if not data:
            return
        if data == messages.REFILL:
            spare = spare or _fork_monitor(sock)
            continue
        _hand_over(sock, spare, data, fds)
        spare = None
        for fd in fds:
            os.close(fd)


def _prepare(parent: str) -> None:
    """Make the control group that holds containers', once for all monitors to come.

    A container's own start tells what is wrong with it, if anything is.
    """
    with suppress(PortsideError, OSError):
        cgroup.prepare(cgroup.detect(), parent)


def _hand_over(
    sock: socket.socket, spare: socket.socket | None, data: bytes, fds: list[int]
) -> None:
    """Give a request to the monitor in reserve, or to a fresh one when that was killed."""
    for attempt in (spare, None):
        chosen = attempt or _fork_monitor(sock)
        try:
            socket.send_fds(chosen, [data], fds)
            return
        except OSError:
            continue
        finally:
            chosen.close()


def _fork_monitor(sock: socket.socket) -> socket.socket:
    """Fork a monitor that waits for its request; where to send it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            sock.close()
            ours.close()
            monitor.main(theirs)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    return ours
