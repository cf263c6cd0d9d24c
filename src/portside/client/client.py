"""Calls of the Engine API: paths and values in, values and streams out."""

from __future__ import annotations

from portside.client.errors import Refused
from portside.client.http import Connection, Response
from portside.model import jsontext
from portside.model.errors import InvalidParameter, SystemFailure, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from socket import socket
    from typing import Any, TypeAlias

    from portside.client.endpoint import Endpoint

    Query: TypeAlias = Mapping[str, str | int | bool | list[str] | None]

VERSION = "1.51"
"""The API version spoken, unless the engine is older."""
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str, also: bytes = b"") -> str:
    """Percent-encode (RFC 3986) all but the unreserved characters and those in ``also``."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _SAFE or byte in also else f"%{byte:02X}" for byte in data)


def path_of(*parts: str) -> str:
    """A path of these segments; a name may hold slashes and colons (images' do).

    Raises InvalidParameter for a name that is empty: it would be another path.
    """
    if not all(parts):
        raise InvalidParameter(f"invalid {parts[0].removesuffix('s')} name or ID: value is empty")
    return "".join("/" + quote(part, b"/:@") for part in parts)


def query_text(query: Query | None) -> str:
    """``?a=b&c=1``; None is left out, True is 1, False 0, a list is repeated for each member."""
    found = []
    for name, value in (query or {}).items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                text = str(int(item)) if isinstance(item, bool) else str(item)
                found.append(f"{name}={quote(text)}")
    return "?" + "&".join(found) if found else ""


def filters_text(filters: Mapping[str, Iterable[str]]) -> str | None:
    """Docker's JSON of filters, None when there are none."""
    if not filters:
        return None
    return jsontext.dumps({name: dict.fromkeys(values, True) for name, values in
                           filters.items()})  # fmt: skip


class Hijacked:
    """A connection that became a raw stream in both directions."""

    __slots__ = ("is_framed", "rest", "sock")

    def __init__(self, sock: socket, rest: bytes, is_framed: bool | None) -> None:
        self.sock, self.rest = sock, rest
        self.is_framed = is_framed
        """Output comes in frames with 8-byte heads; None: the engine does not report it."""


class Client:
    """Calls to one engine. Connections are kept and used again; not for several threads."""

    def __init__(
        self, endpoint: Endpoint, version: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.endpoint = endpoint
        self.version = version or VERSION
        self._fixed = bool(version)
        self._headers = {"User-Agent": "portside", **(headers or {})}
        self._idle: list[Connection] = []

    # -- values ----------------------------------------------------------------------------

    def get(self, path: str, query: Query | None = None) -> Any:
        return self._value(self.request("GET", path, query))

    def post(
        self,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """POST a JSON value (or none); the JSON value of the answer, or None."""
        return self._value(self.request("POST", path, query, body, headers))

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self._value(self.request("DELETE", path, query))

    def _value(self, response: Response) -> Any:
        data = response.read()
        self.release(response)
        return jsontext.loads(data) if data.strip() else None

    def messages(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """The JSON messages of a stream, one by one as they arrive."""
        for line in self.request(method, path, query, body, headers).lines():
            yield jsontext.loads(line)

    # -- requests --------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The head of a good answer; read its body, then :meth:`release` or close it.

        ``body`` is bytes or an iterator of bytes, which go out as they are, else a JSON
        value. Raises Refused for an error status, NotRunning, Unavailable.
        """
        return self.accepted(self.begin(method, path, query, body, headers))

    def begin(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Connection:
        """Send a request; :meth:`accepted` returns its answer.

        For requests in flight at the same time, and for iterators as bodies with an engine
        of unknown version (which cannot be sent twice).
        """
        lines = dict(self._headers)
        data: bytes | Iterable[bytes] | None = None
        if body is not None:
            data = body
            if isinstance(body, (dict, list, str)):
                lines["Content-Type"] = "application/json"
                data = jsontext.dumps(body).encode("utf-8", "surrogateescape")
            elif not isinstance(body, bytes):
                self.negotiate()
        if headers:
            lines.update(headers)
        target = f"/v{self.version}{path}{query_text(query)}"
        connection = self._connection()
        connection.send(method, target, lines, data)
        connection.asked = (method, path, query, body, headers)
        return connection

    def accepted(self, connection: Connection) -> Response:
        """The head of the answer to what :meth:`begin` sent. Raises Refused, Unavailable."""
        response = self._answer(connection)
        if response.status < 400:
            return response
        if response.status == 400 and self._is_older(response):
            response.read()
            self.version, self._fixed = response.headers["api-version"], True
            connection.close()
            return self.request(*connection.asked)
        raise self._refusal(response)

    def _answer(self, connection: Connection) -> Response:
        try:
            return connection.response()
        except Unavailable as err:
            raise Unavailable(f"{err}{self.endpoint.advice}") from err

    def _is_older(self, response: Response) -> bool:
        """The engine refused our API version and supports an older one."""
        theirs = response.headers.get("api-version", "")
        return not self._fixed and theirs != "" and _number(theirs) < _number(self.version)

    def _refusal(self, response: Response) -> Refused:
        data = response.read()
        try:
            message = str(jsontext.loads(data)["message"])
        except (SystemFailure, KeyError, TypeError):
            message = data.decode(errors="replace").strip() or response.reason
        self.release(response)
        if response.status >= 500:
            message = message.rstrip("\n") + _age(response.headers.get("server", ""))
        exit_status = response.headers.get("portside-exit-status", "")
        return Refused(response.status, message.rstrip("\n"), int(exit_status or 0))

    def negotiate(self) -> None:
        """Learn the engine's version before a request that cannot be sent twice."""
        if self._fixed:
            return
        connection = self._connection()
        connection.send("HEAD", "/_ping", self._headers)
        response = self._answer(connection)
        theirs = response.headers.get("api-version", "")
        if theirs and _number(theirs) < _number(self.version):
            self.version = theirs
        self._fixed = True
        self.release(response)

    def hijack(self, path: str, query: Query | None = None, body: Any = None) -> Hijacked:
        """POST and take the connection over (``Upgrade: tcp``)."""
        return self.hijacked(self.begin_hijack(path, query, body))

    def begin_hijack(self, path: str, query: Query | None = None, body: Any = None) -> Connection:
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        return self.begin("POST", path, query, body, upgrade)

    def hijacked(self, connection: Connection) -> Hijacked:
        """The stream of :meth:`begin_hijack`."""
        response = self.accepted(connection)
        kind = response.headers.get("content-type", "")
        framed = None
        if kind.endswith(("raw-stream", "multiplexed-stream")) and self._says_framing:
            framed = kind.endswith("multiplexed-stream")
        sock, rest = response._connection.steal()
        return Hijacked(sock, rest, framed)

    @property
    def _says_framing(self) -> bool:
        """Since API 1.42 the content type says whether a stream is framed."""
        return _number(self.version) >= (1, 42)

    # -- connections -----------------------------------------------------------------------

    def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()
        return Connection(self.endpoint.connect(), self.endpoint.host_header)

    def connect(self) -> None:
        """Return a ready connection. Raises NotRunning, Unavailable."""
        self._idle.append(self._connection())

    def release(self, response: Response) -> None:
        """The body has been read: the connection may serve the next request."""
        connection = response._connection
        if connection.usable and not connection.buffer:
            self._idle.append(connection)
        else:
            connection.close()


def _age(server: str) -> str:
    """A line for the error of an engine that runs an older source than this command's.

    Files that the engine reads later may no longer match.
    """
    name, _, theirs = server.partition(" ")[0].partition("+")
    if not name.startswith("Portside/") or not theirs:
        return ""
    from portside.model import build_info

    own = build_info.commit()
    if not own or own == theirs:
        return ""
    return (
        f"\nThe engine runs another version (commit {theirs}, this command is {own}): "
        "portside daemon restart"
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


__all__ = ["Client", "Hijacked", "Query", "Unavailable", "filters_text", "path_of", "quote"]
