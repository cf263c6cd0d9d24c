"""The runtime-spec's hooks (config.md, "POSIX-platform Hooks"): programs called at each step.

Each gets the container's state as JSON on its standard input. A hook that fails, or takes
longer than its ``timeout``, fails the operation, but for poststop, whose failures are only noted.
"""

from __future__ import annotations

import os
import time

import msgspec

from portside.kernel import process
from portside.kernel.light_stdlib import suppress
from portside.kernel.polling import readable
from portside.model.errors import SystemFailure
from portside.model.ociruntime import Hook, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
else:
    import _signal as signal  # without enum

_OUTPUT = 16 << 10
"""Bytes of a failed hook's complaint that are passed on."""


def run(name: str, hooks: Sequence[Hook], state: State) -> None:
    """Run hooks in order; raises SystemFailure naming the first that fails."""
    if not hooks:
        return
    data = msgspec.json.encode(state)
    for number, hook in enumerate(hooks):
        try:
            said, code = _run(hook, data)
        except OSError as err:
            raise SystemFailure(f"error running {name} hook #{number}: {hook.path}: {err}") from err
        if code != 0:
            raise SystemFailure(
                f"error running {name} hook #{number}: {hook.path}: exit status {code}, "
                f"output: {said.strip()}"
            )


def run_all(name: str, hooks: Sequence[Hook], state: State) -> list[str]:
    """Run hooks whose failure changes nothing; what the failed ones said."""
    failures = []
    for hook in hooks:
        try:
            run(name, (hook,), state)
        except SystemFailure as err:
            failures.append(str(err))
    return failures


def _run(hook: Hook, data: bytes) -> tuple[str, int]:
    """One hook: what it said and its exit status."""
    state = os.memfd_create("state", os.MFD_CLOEXEC)
    reader, writer = os.pipe()
    try:
        os.write(state, data)
        os.lseek(state, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            _become(hook, state, writer)
        os.close(writer)
        writer = -1
        return _wait(hook, pid, reader)
    finally:
        for fd in (state, reader, writer):
            if fd >= 0:
                os.close(fd)


def _become(hook: Hook, state: int, writer: int) -> None:
    """The hook's process, from fork to execve."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # above the three, so that none is overwritten before it has been copied
        for source, target in ((os.dup(state), 0), (os.dup(writer), 1), (writer, 2)):
            os.dup2(source, target, inheritable=True)
        process.close_range(3)
        args = list(hook.args) or [hook.path]
        env = dict(pair.partition("=")[::2] for pair in hook.env or ())
        os.execve(hook.path, args, os.environ if hook.env is None else env)
    except BaseException as err:
        with suppress(OSError):
            os.write(2, str(err).encode())
    finally:
        os._exit(127)


def _wait(hook: Hook, pid: int, reader: int) -> tuple[str, int]:
    pidfd = os.pidfd_open(pid)
    said = b""
    try:
        begin = time.monotonic()
        heard = [pidfd, reader]
        while True:
            left = hook.timeout and begin + hook.timeout - time.monotonic()
            ready = readable(*heard, timeout=left) if left is None or left > 0 else set()
            if not ready:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise TimeoutError(f"hook ran past specified timeout of {hook.timeout}.0s")
            if reader in ready:
                data = os.read(reader, 4096)
                said = (said + data)[:_OUTPUT]
                if not data:
                    heard.remove(reader)
                continue
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return said.decode(errors="replace"), status if status >= 0 else 128 - status
    finally:
        os.close(pidfd)
