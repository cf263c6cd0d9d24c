"""``--init``: PID 1 that starts the command, passes signals on and reaps what it inherits."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress

from portside.kernel import apparmor
from portside.kernel import process as kernel

_OWN = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGFPE, signal.SIGILL,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
        signal.SIGTTIN, signal.SIGTTOU)  # fmt: skip
"""Signals that are not for the child: they cannot be caught, or concern this process."""


NAME = "docker-init"
"""What programs that look at PID 1 know."""


def become(tell: socket.socket, arguments: Sequence[str], profile: int, name: str) -> None:
    """Fork: the child returns and goes on to execve; this process stays as PID 1.

    Call it when all rights are given up: whoever is allowed to trace processes inside gets
    what this one has. ``profile``: for AppArmor's profile ``name``, which the child enters
    at execve(2), or -1.

    The child leads a process group of its own, in the terminal's foreground, so that job
    control works in it as if it were first.
    """
    everything = set(range(1, signal.NSIG)) - set(_OWN)
    waited = {number for number in everything if number < 32 or number >= 34}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if os.isatty(0):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, waited | {signal.SIGCHLD})
        return
    tell.close()  # execve is the child's to tell; the monitor sees the pipe close with it
    for fd in (0, 1, 2):
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, fd)
        if null > 2:
            os.close(null)
    if os.geteuid():
        kernel.capset(0, 0, 0)  # as execve(2) does it to a user other than root
    apparmor.enter_now(profile, name)
    kernel.set_name(NAME)
    with suppress(OSError):
        kernel.set_command_line((f"/sbin/{NAME}", "--", *arguments))
    kernel.close_range(3)
    os._exit(_serve(child, waited | {signal.SIGCHLD}))


def _serve(child: int, waited: set[int]) -> int:
    """Until the child is gone; its exit code, or 128 plus the signal that ended it."""
    while True:
        number = signal.sigwait(waited)
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
