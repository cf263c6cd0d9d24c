"""Starts an engine in the background when none runs, and waits until it is ready.

The engine reports readiness by sd_notify(3) to a socket of ours; the kernel reports its end
on a pidfd. So there is nothing to poll. Of several commands at the same moment one
starts the engine; the others wait for its lock and find it running.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys

from portside.client.errors import NotRunning
from portside.model.errors import Unavailable
from portside.model.paths import DEFAULT_EXEC_ROOT, DEFAULT_LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.client.endpoint import Endpoint

LOG = DEFAULT_LOG
_READY = b"READY=1"
_MAIN = f"{__file__.rpartition('/cli/')[0]}/__main__.py"


def start_engine(endpoint: Endpoint, why: str = "no engine is running: starting one") -> None:
    """Have an engine at the default address; ``why`` is printed when one is started. Raises
    Unavailable with the end of its log."""
    if os.geteuid():
        from portside.cli import rootless_checks

        rootless_checks.check(DEFAULT_EXEC_ROOT, os.path.dirname(LOG))
    else:
        os.makedirs(DEFAULT_EXEC_ROOT, mode=0o711, exist_ok=True)
    lock = os.open(f"{DEFAULT_EXEC_ROOT}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            endpoint.connect().close()
        except NotRunning:
            if not _is_service(why):
                _start(why)
    finally:
        os.close(lock)


def _is_service(why: str) -> bool:
    """Where the engine is installed as a service, start that: a user's has control groups, and
    root's does not end with a login session."""
    from portside.cli import engine_unit

    if not engine_unit.is_installed():
        return False
    sys.stderr.write(f"portside: {why} as the service {engine_unit.NAME} "
                     "(end it with 'portside daemon stop')\n")  # fmt: skip
    sys.stderr.flush()
    engine_unit.start()
    return True


def _start(why: str) -> None:
    import _socket

    ready = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        address = _bind(ready)
        sys.stderr.write(f"portside: {why} in the background "
                         f"(log: {LOG}; end it with 'portside daemon stop')\n")  # fmt: skip
        sys.stderr.flush()
        size = _log_size()
        pid = os.fork()
        if pid == 0:
            _become_daemon(address)
        _wait(ready, pid, size)
    finally:
        ready.close()
        if address.startswith("/"):
            os.unlink(address)


def _bind(ready: object) -> str:
    """Where the engine is to report its readiness, as in ``NOTIFY_SOCKET``.

    Without root it will be in a network namespace of its own, where abstract names of ours are
    not known (unix(7)).
    """
    if os.geteuid():
        address = f"{DEFAULT_EXEC_ROOT}/ready-{os.getpid()}"
        ready.bind(address)  # type: ignore[attr-defined]
        return address
    ready.bind("")  # type: ignore[attr-defined]  # a name of the kernel's choice
    return "@" + ready.getsockname()[1:].decode()  # type: ignore[attr-defined,no-any-return]


def _wait(ready: object, pid: int, size: int) -> None:
    """Until the engine is ready or has ended."""
    fd = ready.fileno()  # type: ignore[attr-defined]  # _socket.socket has it
    process = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(process, select.POLLIN)
    try:
        while True:
            events = dict(poll.poll())
            if fd in events:
                if os.read(fd, 256).startswith(_READY):
                    return
            elif process in events:
                how = _ended(os.waitpid(pid, 0)[1])
                text = _log_tail(size)
                _log(f"portside: the engine {how} before it was ready")
                raise Unavailable(f"the engine did not start: it {how}:\n{text}")
    finally:
        os.close(process)


def _become_daemon(address: str) -> None:
    """In the child: a session of its own, no descriptor but the log, and the daemon."""
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 256)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DOCKER_", "PORTSIDE_", "LISTEN_"))
        }
        environment["NOTIFY_SOCKET"] = address
        command = [sys.executable, "-I", _MAIN, "daemon"]
        os.execve(sys.executable, command, environment)
    except BaseException as err:
        os.write(2, f"portside: cannot start the engine: {err}\n".encode())
    finally:
        os._exit(1)


def _ended(status: int) -> str:
    """How a process ended, by its wait status."""
    import signal

    if not os.WIFSIGNALED(status):
        return f"ended with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was ended by {name} ({signal.strsignal(number)})"


def _log(line: str) -> None:
    """Add a line to the engine's log, which the next reader of it finds."""
    try:
        with open(LOG, "ab") as file:
            file.write(f"{line}\n".encode())
    except OSError:
        pass  # it is on the terminal


def _log_size() -> int:
    try:
        return os.stat(LOG).st_size
    except OSError:
        return 0


def _log_tail(start: int) -> str:
    """The end of what the engine has logged since."""
    try:
        with open(LOG, "rb") as file:
            file.seek(start)
            text = file.read(1 << 20).decode(errors="replace").strip()
    except OSError:
        text = ""
    return "\n".join(text.splitlines()[-20:]) or f"see {LOG}"
