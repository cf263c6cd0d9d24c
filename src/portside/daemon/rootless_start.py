"""``portside daemon`` of a user: find or make the namespaces, become root in there, continue.

The process stays the same, so service managers, signals and ``NOTIFY_SOCKET`` work as with
root; what is new is executed afresh, with ``PORTSIDE_ROOTLESS`` set to the user's ID.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from portside.daemon import keeper, user_scope
from portside.engine.options import DaemonOptions
from portside.kernel import host_sockets, process
from portside.model.errors import SystemFailure
from portside.model.paths import ROOTLESS_VARIABLE

_MAIN = f"{__file__.rpartition('/daemon/')[0]}/__main__.py"
_KEEPER = "PORTSIDE_KEEPER"
"""The descriptor of the conversation with the keeper, over the execution."""


def enter(options: DaemonOptions, arguments: Sequence[str]) -> None:
    """Continue as the engine of this user; returns only by raising SystemFailure."""
    exec_root = Path(options.exec_root)
    own_directory(exec_root)
    places = keeper.Places(exec_root)
    user = os.geteuid()
    user_scope.enter()
    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        try:
            sock = host_sockets.connect(str(places.socket))
        except OSError:
            _start_keeper(places)
            sock = host_sockets.connect(str(places.socket))
        _, fds = host_sockets.request(sock, "join")
    finally:
        os.close(lock)
    # The engine's life is this conversation's: the keeper sees its end as the engine's.
    sock.set_inheritable(True)
    keeper.join(fds)
    environment = os.environ | {ROOTLESS_VARIABLE: str(user), _KEEPER: str(sock.fileno())}
    # The file, which finds its packages in every kind of installation: a module's name is known
    # in a virtual environment only.
    command = [sys.executable, "-I", _MAIN, "daemon", *arguments]
    os.execve(sys.executable, command, environment)


def adopt() -> None:
    """After the execution: nobody but this process holds the conversation with the keeper."""
    fd = os.environ.pop(_KEEPER, "")
    if fd:
        os.set_inheritable(int(fd), False)


def own_directory(path: Path) -> None:
    """Make a directory of ours, 0700 with its parents; SystemFailure when somebody else has it."""
    mask = os.umask(0o077)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise SystemFailure(f"cannot make {path}: {err.strerror}") from err
    finally:
        os.umask(mask)
    for one in (path, path.parent):
        found = one.lstat()
        shared = one == path.parent and found.st_uid == 0
        if found.st_uid != os.geteuid() and not shared:
            raise SystemFailure(f"{one} belongs to another user: set XDG_RUNTIME_DIR")


def _start_keeper(places: keeper.Places) -> None:
    """Fork it, and wait until the namespaces are there."""
    heard, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.fork() == 0:  # its parent is not the engine, which would have to wait for it
                process.close_all_but([ready])
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)
                os.close(null)
                keeper.run(places, 2, ready)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(ready)
    message = b""
    while data := os.read(heard, 4096):
        message += data
    os.close(heard)
    if message != b"ok":
        raise SystemFailure(message.decode() or "the keeper of the namespaces has ended")
    text = places.warning.read_text().strip()
    if text:
        print(f"portside: WARNING: {text}", file=sys.stderr, flush=True)
