"""HTTP/1.1 request parsing (RFC 9112), strict where leniency lets requests be smuggled."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from portside.model.errors import InvalidParameter

MAX_HEAD = 1 << 20
"""Bytes of the largest request head; Go's servers have the same bound."""
MAX_HEADERS = 256
_MAX_CHUNK_LINE = 1024
_MAX_TRAILER = 16 << 10

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})[^&;]{0,2}")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")


class ProtocolError(InvalidParameter):
    """Not HTTP/1.1, or beyond our limits; the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Head:
    """A request's head. Header names are lower case; repeated ones are joined with commas."""

    method: str
    target: str
    path: str
    """Percent-decoded."""
    query: str
    """Still encoded."""
    minor: int
    """0 for HTTP/1.0, 1 for HTTP/1.1."""
    headers: dict[str, str]
    length: int | None = 0
    """Bytes of the body; None when it is chunked."""
    upgrade: str = ""
    """The protocol the client offers to switch to, in lower case."""
    keep_alive: bool = True
    expects_continue: bool = False
    extra: dict[str, object] = field(default_factory=dict)


def parse_head(data: bytes) -> Head:
    """Parse a request's head, given without the empty line that ends it.

    Lines may end with a line feed alone (RFC 9112, section 2.2): people type requests.
    """
    first, *lines = data.replace(b"\r\n", b"\n").split(b"\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise ProtocolError(400, "malformed HTTP request")
    if len(lines) > MAX_HEADERS:
        raise ProtocolError(431, "too many request headers")
    method, target, minor = match[1].decode(), match[2].decode(errors="replace"), int(match[3])
    headers = _parse_headers(lines)
    path, _, query = _origin_form(target).partition("?")
    if "%" in path and (bad := find_bad_escape(path)):
        raise ProtocolError(400, f'invalid URL escape "{bad}"')
    head = Head(method, target, unquote(path), query, minor, headers)
    _frame(head)
    return head


def make_head(method: str, target: str, headers: dict[str, str]) -> Head:
    """The head of a request in HTTP/2, whose body is framed by the protocol itself.

    ``length`` is what the client says, or None.
    """
    path, _, query = _origin_form(target).partition("?")
    if bad := find_bad_escape(path):
        raise ProtocolError(400, f'invalid URL escape "{bad}"')
    length = headers.get("content-length", "")
    if length and not _LENGTH.fullmatch(length):
        raise ProtocolError(400, "bad Content-Length")
    head = Head(method, target, unquote(path), query, 1, headers)
    head.length = int(length) if length else None
    return head


def find_bad_escape(text: str) -> str:
    """The first ``%`` in a URL that is not followed by two hexadecimal digits, and what is."""
    match = _BAD_ESCAPE.search(text)
    return match[0] if match else ""


def end_of_head(data: bytearray) -> tuple[int, int]:
    """Where a head ends and what follows it begins; -1 when it is not complete."""
    end = data.find(b"\n\r\n")
    bare = data.find(b"\n\n")
    if bare >= 0 and not 0 <= end < bare:
        return bare, bare + 2
    return end, end + 3


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or _BAD_VALUE.search(value):
            raise ProtocolError(400, "malformed HTTP header")
        key, text = name.decode().lower(), value.strip(b" \t").decode("latin-1")
        if key in headers:
            if key in ("content-length", "host", "transfer-encoding"):
                raise ProtocolError(400, f"repeated {key} header")
            text = f"{headers[key]}, {text}"
        headers[key] = text
    return headers


def _origin_form(target: str) -> str:
    """The path and query of a target (also when a proxy's absolute form was sent)."""
    if target.startswith("/"):
        return target
    scheme, found, rest = target.partition("://")
    if found and scheme in ("http", "https"):
        return "/" + rest.partition("/")[2]
    if target == "*":
        return "/*"
    raise ProtocolError(400, "malformed request target")


def _frame(head: Head) -> None:
    """How long the body is and what becomes of the connection (RFC 9112, section 6)."""
    headers = head.headers
    if head.minor and "host" not in headers:
        raise ProtocolError(400, "missing required Host header")
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or not head.minor:
            raise ProtocolError(400, "both Transfer-Encoding and Content-Length, or HTTP/1.0")
        if coding.lower() != "chunked":
            raise ProtocolError(501, "unsupported transfer encoding")
        head.length = None
    elif length is not None:
        if not _LENGTH.fullmatch(length):
            raise ProtocolError(400, "bad Content-Length")
        head.length = int(length)
    options = headers.get("connection", "").lower()
    if head.minor:
        head.keep_alive = "close" not in options
    else:
        head.keep_alive = "keep-alive" in options
    if "upgrade" in options:
        head.upgrade = headers.get("upgrade", "").lower()
    expects = headers.get("expect", "")
    if expects:
        if expects.lower() != "100-continue":
            raise ProtocolError(417, "unsupported Expect header")
        head.expects_continue = True


class BodyParser:
    """Cuts one body out of the bytes of a connection.

    ``feed`` takes the connection's buffer, removes what belongs to the body and returns the
    content; ``done`` reports that the body is complete.
    """

    __slots__ = ("_chunked", "_left", "_state", "_trailer", "done")

    def __init__(self, length: int | None) -> None:
        self._chunked = length is None
        self._left = length or 0
        self._state = "size"
        self._trailer = 0
        self.done = length == 0

    def feed(self, buffer: bytearray) -> bytes:
        if self.done:
            return b""
        if self._chunked:
            return b"".join(self._chunks(buffer))
        taken = bytes(buffer[: self._left])
        del buffer[: len(taken)]
        self._left -= len(taken)
        self.done = self._left == 0
        return taken

    def _chunks(self, buffer: bytearray) -> list[bytes]:
        found: list[bytes] = []
        while not self.done:
            if self._state == "data":
                taken = bytes(buffer[: self._left])
                if not taken:
                    break
                del buffer[: len(taken)]
                self._left -= len(taken)
                found.append(taken)
                if not self._left:
                    self._state = "end"
                continue
            line = self._line(buffer)
            if line is None:
                break
            self._take(line)
        return found

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > _MAX_CHUNK_LINE:
                raise ProtocolError(400, "malformed chunked encoding")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _take(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise ProtocolError(400, "malformed chunked encoding")
            self._state = "size"
        elif self._state == "size":
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None or len(line) > _MAX_CHUNK_LINE:
                raise ProtocolError(400, "invalid byte in chunk length")
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
        else:
            self._trailer += len(line)
            if self._trailer > _MAX_TRAILER:
                raise ProtocolError(400, "trailer too large")
            self.done = not line
