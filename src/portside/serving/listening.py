"""Listening TCP sockets, one for each address that a text names."""

from __future__ import annotations

import errno
import socket

from portside.model.errors import InvalidParameter

_BACKLOG = 1024


def address(text: str, setting: str = "http.addr") -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``[V6]:PORT``; raises InvalidParameter naming ``setting``."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidParameter(f"{setting}: {text!r} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def tcp(text: str, setting: str = "http.addr") -> list[socket.socket]:
    """One socket for each address of the host; without a host, for IPv4 and for IPv6.

    Raises InvalidParameter, or OSError naming the address.
    """
    host, port = address(text, setting)
    flags = socket.AI_PASSIVE
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as err:
        raise InvalidParameter(f"{setting}: {text!r}: {err.strerror}") from err
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
        sock.bind(name)  # type: ignore[arg-type]  # as from getaddrinfo
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
