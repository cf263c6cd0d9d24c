"""Output of running containers, each read by a thread."""

from __future__ import annotations

import threading

from portside.cli.compose.log_lines import LogPrinter
from portside.client.client import path_of
from portside.client.framed_lines import Lines
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.client.http import Response
    from portside.compose.engine_pool import EnginePool
    from portside.compose.observed import Container

_PIECE = 1 << 16


class LogStreams:
    """Reads the output of containers to a printer."""

    def __init__(self, pool: EnginePool, printer: LogPrinter) -> None:
        self._pool, self._printer = pool, printer
        self._threads: dict[str, threading.Thread] = {}

    def attach(self, container: Container) -> None:
        """Follow a container from now on, also before it starts."""
        path = path_of("containers", container.id)
        with self._pool.client() as client:
            tty = client.get(f"{path}/json")["Config"]["Tty"]
            query = {"stream": True, "stdout": True, "stderr": True}
            hijacked = client.hijack(f"{path}/attach", query)
        framed = hijacked.is_framed if hijacked.is_framed is not None else not tty

        def read() -> None:
            lines = Lines(framed)
            data = hijacked.rest
            while True:
                for text, is_error in lines.feed(data):
                    self._printer.line(container.short_name, text, is_error)
                try:
                    data = hijacked.sock.recv(_PIECE)
                except OSError:
                    data = b""
                if not data:
                    break
            for text, is_error in lines.end():
                self._printer.line(container.short_name, text, is_error)
            hijacked.sock.close()

        self._start(container.id, read)

    def follow(self, container: Container, query: dict[str, Any]) -> None:
        """Follow a container's log."""
        client = self._pool._connect()
        response, framed = open_log(client, container.id, {**query, "follow": True})

        def read() -> None:
            lines = Lines(framed)
            try:
                for piece in response.pieces():
                    for text, _ in lines.feed(piece):
                        self._printer.line(container.short_name, text)
            except PortsideError:
                pass
            for text, _ in lines.end():
                self._printer.line(container.short_name, text)
            response.close()

        self._start(container.id, read)

    def _start(self, identifier: str, read: Any) -> None:
        thread = threading.Thread(target=read, daemon=True)
        self._threads[identifier] = thread
        thread.start()

    def drain(self, identifier: str, seconds: float = 2) -> None:
        """Wait until a container's last output was shown; not longer than ``seconds``."""
        thread = self._threads.get(identifier)
        if thread is not None:
            thread.join(seconds)

    def drain_all(self) -> None:
        """Wait for the end of all."""
        for thread in list(self._threads.values()):
            thread.join()


def open_log(client: Any, identifier: str, query: dict[str, Any]) -> tuple[Response, bool]:
    """A container's log, and whether it is framed."""
    path = path_of("containers", identifier)
    tty = client.get(f"{path}/json")["Config"]["Tty"]
    query = {"stdout": True, "stderr": True, **query}
    return client.request("GET", f"{path}/logs", query), not tty
