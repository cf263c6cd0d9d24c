"""The sockets a registry listens on, opened before the server itself is imported."""

from __future__ import annotations

import errno
import socket
import stat
from contextlib import suppress
from pathlib import Path

from portside.model.errors import InvalidParameter
from portside.registry.server.config import Settings

_BACKLOG = 1024


class Listening:
    """Listening sockets: ``served`` for the registry, ``watched`` for ``http.debug.addr``."""

    def __init__(self) -> None:
        self.served: list[socket.socket] = []
        self.watched: list[socket.socket] = []
        self._path = ""

    @classmethod
    def of(cls, settings: Settings) -> Listening:
        """Listen as the settings say; raises InvalidParameter, or OSError naming the address."""
        listening = cls()
        try:
            if settings.http.net == "unix":
                listening.served.append(_unix(settings.http.addr))
                listening._path = settings.http.addr
            else:
                listening.served += _tcp(settings.http.addr)
            if settings.http.debug.addr:
                listening.watched += _tcp(settings.http.debug.addr)
        except BaseException:
            listening.close()
            raise
        return listening

    def close(self) -> None:
        for sock in (*self.served, *self.watched):
            sock.close()
        if self._path:
            with suppress(OSError):
                Path(self._path).unlink()


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``[V6]:PORT``; raises InvalidParameter."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidParameter(f"http.addr: {text!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def _tcp(text: str) -> list[socket.socket]:
    """One socket for each address of the host; without a host, for IPv4 and for IPv6."""
    host, port = address(text)
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as err:
        raise InvalidParameter(f"http.addr: {text!r}: {err.strerror}") from err
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, name in dict.fromkeys(found):
            if family == socket.AF_INET6 and not host and not socket.has_ipv6:
                continue
            try:
                sockets.append(_listen(family, name))
            except OSError as err:
                if err.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(found) > 1:
                    continue  # IPv6 is off
                raise OSError(err.errno, f"cannot listen on {text}: {err.strerror}") from err
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {text}: no such address")
    return sockets


def _listen(family: socket.AddressFamily, name: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)  # type: ignore[arg-type]  # as getaddrinfo gave it
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix(path: str) -> socket.socket:
    """A socket in the file system; one that nobody listens on any more is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(Path(path).lstat().st_mode) and sock.connect_ex(path) != 0:
                Path(path).unlink()
        sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        sock.listen(_BACKLOG)
    except OSError as err:
        sock.close()
        raise OSError(err.errno, f"cannot listen on {path}: {err.strerror}") from err
    return sock
