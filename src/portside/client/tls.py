"""A TLS connection as a socket whose two directions end separately.

``ssl.SSLSocket`` cannot do that: after its ``shutdown`` it hands out what is still to come
as it was encrypted. An attached client ends the container's input and then waits for its
output, so the session is driven here (RFC 8446, section 6.1, allows the half-close).
"""

from __future__ import annotations

import ssl
from socket import MSG_PEEK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Any

_PIECE = 1 << 16
_RECORD = 1 << 14
"""Bytes of the largest TLS record."""


class TlsSocket:
    """The used part of the interface of ``socket.socket``. Raises OSError; ssl.SSLError is one."""

    def __init__(self, sock: socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._clear = b""
        """Decrypted, but not fetched."""
        self._unsent = b""
        """Encrypted, but not sent."""
        self._promised = 0
        """Bytes of the caller's that ``_unsent`` stands for."""
        self._ended = False
        self._shake_hands()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._take(self._sock.recv(_PIECE))
            except ssl.SSLError:
                self._flush()  # the alert says why to the engine
                raise
        self._flush()

    # -- sending ---------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._session.write(view) :]
            self._flush()

    def send(self, data: bytes) -> int:
        """As much as can be sent. After BlockingIOError call it with the same bytes again."""
        if not self._unsent:
            self._promised = self._session.write(data[:_RECORD])
            self._unsent = self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        return self._promised

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    # -- receiving -------------------------------------------------------------------------

    def recv(self, most: int, flags: int = 0) -> bytes:
        """The next bytes, b"" at the end. ``flags`` are given to recv(2)."""
        while not self._clear and not self._ended:
            self._decrypt()
            if not self._clear and not self._ended:
                self._take(self._sock.recv(_PIECE, flags & ~MSG_PEEK))
        found, self._clear = self._clear[:most], self._clear[most:]
        if flags & MSG_PEEK:
            self._clear = found + self._clear
        return found

    def _take(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _decrypt(self) -> None:
        pieces = []
        try:
            while piece := self._session.read(_PIECE):
                pieces.append(piece)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        self._clear += b"".join(pieces)

    def pending(self) -> int:
        """Bytes that can be had without waiting."""
        return len(self._clear)

    # -- the rest --------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """Nothing more is sent; what the engine still sends can be received."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # the engine has not ended its side, and need not
        self._flush()

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, value: bool) -> None:
        self._sock.setblocking(value)

    @property
    def family(self) -> int:
        return self._sock.family

    def getsockopt(self, *arguments: Any) -> Any:
        return self._sock.getsockopt(*arguments)

    def close(self) -> None:
        self._sock.close()
