"""Calls to the engine from several threads: each call borrows a client of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from portside.client.errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.client.client import Client, Query


class EnginePool:
    """Clients of one engine. ``connect`` makes another one."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._idle: deque[Client] = deque()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for the caller alone."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._connect()
        try:
            yield client
        finally:
            self._idle.append(client)

    def get(self, path: str, query: Query | None = None) -> Any:
        with self.client() as client:
            return client.get(path, query)

    def post(self, path: str, query: Query | None = None, body: Any = None,
             headers: Mapping[str, str] | None = None) -> Any:  # fmt: skip
        with self.client() as client:
            return client.post(path, query, body, headers)

    def put(self, path: str, query: Query | None, body: bytes) -> None:
        """Send bytes, a tar archive."""
        with self.client() as client:
            headers = {"Content-Type": "application/x-tar"}
            response = client.request("PUT", path, query, body, headers)
            response.read()
            client.release(response)

    def delete(self, path: str, query: Query | None = None) -> Any:
        with self.client() as client:
            return client.delete(path, query)

    def get_all(self, requests: Sequence[tuple[str, Query | None]]) -> list[Any]:
        """The answers of several GETs, sent at the same time; None for 404."""
        found: list[Any] = []
        with self.client() as client:
            begun = [client.begin("GET", path, query) for path, query in requests]
            failure: Refused | None = None
            for connection in begun:
                try:
                    found.append(client._value(client.accepted(connection)))
                except Refused as err:
                    found.append(None)
                    if not err.is_not_found:
                        failure = failure or err
            if failure is not None:
                raise failure
        return found
