"""Staying with a process that was started in the foreground: signals, terminal, its end."""

from __future__ import annotations

import os

from portside.kernel.light_stdlib import suppress
from portside.runtime.init_channel import Child
from portside.runtime.oci import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without enum

_NOT_PASSED = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP,
               signal.SIGPIPE)  # fmt: skip


def pass_signals(child: Child) -> None:
    """Pass signals that we receive on to the child from now on."""
    pidfd = os.pidfd_open(child.pid)

    def passed(number: int, _: object) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(pidfd, number)

    for number in signal.valid_signals():
        if number not in _NOT_PASSED:
            with suppress(OSError, ValueError):
                signal.signal(number, passed)


def attend(child: Child) -> int:
    """Until the child has ended: its exit status, or 128 plus the signal's number."""
    if child.leader >= 0:
        pidfd = os.pidfd_open(child.pid)
        console.follow_size(child.leader)
        with console.raw():
            console.relay(child.leader, pidfd)
        os.close(pidfd)
    _, status = os.waitpid(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
