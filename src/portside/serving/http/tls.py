"""TLS on a server's connection, with half-closes.

asyncio's own TLS ends the whole connection when the client closes its writing side, but a
client of ``attach`` does that to end the container's input and then waits for its output
(RFC 8446, section 6.1, allows it). So the session is driven here, between the plain
transport and the protocol that speaks HTTP.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast

HANDSHAKE_TIMEOUT = 15.0
"""Seconds in which a client must complete the handshake."""
_PIECE = 256 << 10
_PLAIN_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""The text of Go's servers, which clients recognize."""


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """A protocol to the plain transport, and a transport to the HTTP protocol."""

    def __init__(self, inner: asyncio.Protocol, context: ssl.SSLContext) -> None:
        super().__init__()
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw: asyncio.Transport | None = None
        self._ready = False
        self._paused = False
        self._ended = False
        """The client has closed its writing side."""
        self._timer: asyncio.TimerHandle | None = None

    # -- the plain transport's callbacks -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._raw = None
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)  # also when the handshake has failed

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        self._advance()

    def eof_received(self) -> bool:
        self._incoming.write_eof()
        self._advance()
        return True

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # -- the session -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Whatever the bytes so far allow: the handshake, then data, then the end."""
        try:
            if not self._ready and not self._shake_hands():
                return
            self._read()
        except ssl.SSLError as err:
            if err.reason == "HTTP_REQUEST" and self._raw is not None:
                self._raw.write(_PLAIN_HTTP)
                self._raw.close()
                return
            self._flush()  # the alert says why to the client
            self.abort()

    def _shake_hands(self) -> bool:
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._flush()
        self._ready = True
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_made(self)
        return True

    def _read(self) -> None:
        while not self._paused and not self._ended and self._raw is not None:
            try:
                data = self._session.read(_PIECE)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            if data:
                self._inner.data_received(data)
                continue
            self._ended = True
            if not self._inner.eof_received():
                self.close()
        self._flush()

    def _flush(self) -> None:
        if self._raw is not None and self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # -- the HTTP protocol's transport ---------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._raw is None or not data:
            return
        view = memoryview(data)
        while view:
            written = self._session.write(view)
            view = view[written:]
        self._flush()

    def close(self) -> None:
        """Say goodbye; what was written is sent first."""
        if self._raw is None:
            return
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # the client's own goodbye is not waited for
        self._flush()
        self._raw.close()

    def write_eof(self) -> None:
        """Send no more, and continue to read (RFC 8446, section 6.1)."""
        if self._raw is None or self._raw.is_closing():
            return
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # the client's close_notify arrives later
        self._flush()
        self._raw.write_eof()

    def abort(self) -> None:
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw is None or self._raw.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        if self._raw is not None and not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._raw is not None and not self._raw.is_closing():
            self._raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._advance)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._session
        return self._raw.get_extra_info(name, default) if self._raw is not None else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner
