"""The fork server and its job processes; see ``store/worker_pool.py`` for the picture."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from portside.store import archive_worker as _archiving  # noqa: F401  (imported before the forks)
from portside.store import overlay_changes as _changes  # noqa: F401
from portside.store.worker_pool import Failure, Job

MAX_FDS = 32
IMPORT = b"import "
"""Begins a message that names a module which jobs to come will need."""


def main(control_fd: int) -> None:
    """Serve until the engine closes its end."""
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the jobs
    os.umask(0o077)  # jobs whose files have modes of their own clear it
    gc.collect()
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 256, MAX_FDS)
        if not message:
            return
        if message.startswith(IMPORT):
            import_module(message[len(IMPORT) :].decode())
            gc.freeze()
            continue
        if os.fork() == 0:
            control.close()
            _job(fds)
        for fd in fds:
            os.close(fd)


def _job(fds: list[int]) -> None:
    """One job in its own process; never returns."""
    code = 1
    job = None
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        link = socket.socket(fileno=fds[0])
        kind, body = _receive(link)
        _die_at_hangup(fds[0])
        try:
            job = msgspec.json.decode(body, type=_job_type(kind))
            result = job.run(fds[1:], _reporter(link))
            _send(link, "result", msgspec.json.encode(result))
        except BaseException as err:
            _send(link, "error", msgspec.json.encode(Failure.of(err, job)))
            if os.environ.get("PORTSIDE_DEBUG"):
                sys.excepthook(type(err), err, err.__traceback__)
        code = 0
    except OSError:
        pass  # the engine went away
    finally:
        os._exit(code)


def _job_type(kind: str) -> type[Job]:
    module, _, name = kind.partition(":")
    found: type[Job] = getattr(import_module(module), name)
    return found


def _die_at_hangup(fd: int) -> None:
    """Be killed (SIGIO's default action) as soon as the peer closes or shuts down."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC)
    with socket.socket(fileno=os.dup(fd)) as link:
        link.setblocking(True)
        try:  # hung up before the signal was asked for?
            if link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                os._exit(1)
        except BlockingIOError:
            pass


def _reporter(link: socket.socket) -> Callable[[int], None]:
    def report(number: int) -> None:
        _send(link, "progress", b"%d" % number)

    return report


def _send(link: socket.socket, kind: str, body: bytes) -> None:
    name = kind.encode()
    link.sendall(struct.pack(">B", len(name)) + name + struct.pack(">I", len(body)) + body)


def _receive(link: socket.socket) -> tuple[str, bytes]:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece: Any = link.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("the engine went away")
            data += piece
        return data

    kind = exactly(exactly(1)[0]).decode()
    return kind, exactly(int.from_bytes(exactly(4), "big"))
