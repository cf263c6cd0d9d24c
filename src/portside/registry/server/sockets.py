"""The sockets a registry listens on, opened before the server itself is imported."""

from __future__ import annotations

import socket
import stat
from contextlib import suppress
from pathlib import Path

from portside.registry.server.config import Settings
from portside.serving.listening import tcp

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
                listening.served += tcp(settings.http.addr)
            if settings.http.debug.addr:
                listening.watched += tcp(settings.http.debug.addr)
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
