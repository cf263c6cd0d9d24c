"""HTTP/1.1 for one peer: a request at a time on a socket, bodies as they arrive.

Only what the Engine API uses: fixed and chunked bodies, bodies that end with the
connection, and ``Upgrade`` to a raw stream (RFC 9112).
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_PEEK

from portside.model.errors import SystemFailure, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from socket import socket
    from typing import Any

_MAX_HEAD = 1 << 20
_PIECE = 1 << 18
_UNTIL_CLOSE = -1
_CHUNKED = -2


class Response:
    """The head of an answer, and its body to be read once."""

    __slots__ = ("_connection", "_left", "headers", "reason", "status")

    def __init__(
        self, connection: Connection, status: int, reason: str, headers: dict[str, str]
    ) -> None:
        self._connection = connection
        self.status, self.reason, self.headers = status, reason, headers
        self._left = self._framing()

    def _framing(self) -> int:
        if self.status < 200 or self.status in (204, 304) or self._connection.method == "HEAD":
            return 0
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return _CHUNKED
        length = self.headers.get("content-length", "")
        return int(length) if length.isdecimal() else _UNTIL_CLOSE

    @property
    def buffered(self) -> bool:
        """A part of the body is buffered, so polling the socket may not return."""
        return bool(self._connection.buffer)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises Unavailable when it breaks off."""
        connection = self._connection
        if self._left == _CHUNKED:
            while size := connection.chunk_size():
                while size:
                    piece = connection.take(size)
                    size -= len(piece)
                    if not size:  # its line feed, too: ``buffered`` is about what follows
                        connection.line()
                    yield piece
            while connection.line():  # trailers
                pass
        elif self._left == _UNTIL_CLOSE:
            connection.usable = False
            while piece := connection.take_any():
                yield piece
        else:
            while self._left:
                piece = connection.take(self._left)
                self._left -= len(piece)
                yield piece
        self._left = 0

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def lines(self) -> Iterator[bytes]:
        """A body of one message a line, each as soon as it is complete."""
        rest = b""
        for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
        if rest.strip():
            yield rest

    def close(self) -> None:
        """Give the rest of the body up."""
        self._connection.close()

    def fileno(self) -> int:
        return self._connection.sock.fileno()


class Connection:
    """A socket with what has been read too much of it."""

    __slots__ = ("asked", "buffer", "host", "method", "sock", "usable")

    def __init__(self, sock: socket, host: str) -> None:
        self.sock, self.host = sock, host
        self.buffer = b""
        self.method = ""
        self.usable = True
        self.asked: Any = None
        """The arguments of the request under way, for who must send it again."""

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send a request; a body that is not bytes is sent in chunks.

        Raises Unavailable when the peer is gone. A peer that answers before it has read
        all (a refusal) is not an error: its answer can be read.
        """
        self.method = method
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        try:
            self.sock.sendall(head + body if isinstance(body, bytes) else head)
            if body is not None and not isinstance(body, bytes):
                for piece in body:
                    if piece:
                        self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.usable = False
        except OSError as err:
            raise Unavailable(f"cannot send to the engine: {err}") from err

    def response(self) -> Response:
        """The next answer's head."""
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > _MAX_HEAD:
                raise SystemFailure("the head of the engine's answer is too long")
            if not self._receive():
                self.usable = False
                raise Unavailable("the engine closed the connection before it answered")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        protocol, _, rest = first.partition(" ")
        code, _, reason = rest.partition(" ")
        if not protocol.startswith("HTTP/1") or not code.isdecimal():
            raise SystemFailure(f"this is not an HTTP server: {first[:80]!r}")
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        if code == "100":
            return self.response()
        if headers.get("connection", "").lower() == "close" or protocol == "HTTP/1.0":
            self.usable = False
        return Response(self, int(code), reason, headers)

    def steal(self) -> tuple[socket, bytes]:
        """The socket of an upgraded connection and the bytes already read; the caller owns it."""
        self.usable = False
        rest, self.buffer = self.buffer, b""
        return self.sock, rest

    def close(self) -> None:
        self.usable = False
        self.sock.close()

    def is_open(self) -> bool:
        """Fit for another request: the peer has not closed it while it was idle."""
        if not self.usable or self.buffer:
            return False
        try:
            self.sock.recv(1, MSG_PEEK | MSG_DONTWAIT)
            return False  # its end, or bytes without a request
        except BlockingIOError:
            return True
        except OSError:
            return False

    # -- reading ---------------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            piece = self.sock.recv(_PIECE)
        except ConnectionResetError:
            return False
        except OSError as err:
            raise Unavailable(f"cannot read from the engine: {err}") from err
        self.buffer = self.buffer + piece if self.buffer else piece
        return bool(piece)

    def take_any(self) -> bytes:
        """The next bytes, b"" at the end."""
        if not self.buffer:
            self._receive()
        piece, self.buffer = self.buffer, b""
        return piece

    def take(self, most: int) -> bytes:
        """One to ``most`` bytes."""
        if not self.buffer and not self._receive():
            self.usable = False
            raise Unavailable("the engine closed the connection in the middle of an answer")
        piece = self.buffer[:most]
        self.buffer = self.buffer[most:]
        return piece

    def line(self) -> bytes:
        """One line without its end."""
        while b"\n" not in self.buffer:
            if len(self.buffer) > _MAX_HEAD or not self._receive():
                self.usable = False
                raise Unavailable("the engine closed the connection in the middle of an answer")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def chunk_size(self) -> int:
        line = self.line().partition(b";")[0].strip()
        try:
            return int(line, 16)
        except ValueError:
            raise SystemFailure(f"bad chunk size {line!r} in the engine's answer") from None
