"""Sockets in the host's network for an engine that lives in a network namespace of its own.

An engine without root cannot enter the host's network namespace again. The keeper of its
namespaces (``daemon/keeper.py``) has never left it, and opens sockets there::

    engine ── "bind tcp 0.0.0.0 8080 128" ──► keeper
           ◄── "0" and the socket, or errno ──
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from portside.model.errors import SystemFailure

Bind = Callable[[str, str, int, int], socket.socket]
"""Protocol (tcp, udp), address, port, backlog; OSError as bind(2)."""


def request(keeper: socket.socket, *words: object) -> tuple[str, list[int]]:
    """Ask the keeper; its answer and descriptors. Raises SystemFailure when it is gone."""
    try:
        keeper.send(" ".join(map(str, words)).encode())
        data, fds, _, _ = socket.recv_fds(keeper, 4096, 8)
    except OSError as err:
        raise SystemFailure(f"the keeper of the engine's namespaces is gone: {err}") from err
    if not data:
        raise SystemFailure(
            "the keeper of the engine's namespaces has ended: start the engine again "
            "(containers continue): portside daemon stop; portside info"
        )
    return data.decode(), fds


def connect(path: str) -> socket.socket:
    """A conversation with the keeper that listens at ``path``. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class HostSockets:
    """The engine's side."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keeper: socket.socket | None = None

    def bind(self, protocol: str, address: str, port: int, backlog: int) -> socket.socket:
        """A bound socket of the host, non-blocking, and listening for TCP. Raises OSError."""
        for attempt in (1, 2):
            if self._keeper is None:
                self._keeper = connect(self._path)
            try:
                answer, fds = request(self._keeper, "bind", protocol, address, port, backlog)
                break
            except SystemFailure:
                self._keeper.close()
                self._keeper = None
                if attempt == 2:
                    raise
        if not fds:
            raise OSError(int(answer), os.strerror(int(answer)))
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock


def open_socket(protocol: str, address: str, port: int, backlog: int) -> socket.socket:
    """Open a socket in the current network namespace; the keeper calls it. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock
