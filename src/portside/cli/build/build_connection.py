"""The client's end of a build's connection; frames in :mod:`portside.model.build_frames`."""

from __future__ import annotations

import array
import socket
import threading

from portside.model import build_frames as wire
from portside.model import jsontext
from portside.model.errors import PortsideError, SystemFailure, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from portside.client.client import Client

    Answer = Callable[["Channel"], None]


class RefusedAnswer(PortsideError):
    """A request of the engine cannot be fulfilled; the text says why."""


class Channel:
    """One request of the engine, and the data in both directions for it."""

    def __init__(self, connection: BuildConnection, number: int) -> None:
        self._connection, self.number = connection, number
        self._frames: list[tuple[bytes, bytes]] = []
        self._arrived = threading.Condition()

    def feed(self, kind: bytes, payload: bytes) -> None:
        with self._arrived:
            # the engine waits while nothing is read: its socket bounds what waits here
            while len(self._frames) >= 64:
                self._arrived.wait()
            self._frames.append((kind, payload))
            self._arrived.notify_all()

    def pieces(self) -> Iterator[bytes]:
        """The engine's data, until its end."""
        while True:
            with self._arrived:
                while not self._frames:
                    self._arrived.wait()
                kind, payload = self._frames.pop(0)
                self._arrived.notify_all()
            if kind != wire.DATA:
                return
            yield payload

    def send(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            for start in range(0, len(piece), wire.PIECE):
                self._connection.send(wire.DATA, self.number, piece[start : start + wire.PIECE])

    def end(self) -> None:
        self._connection.send(wire.END, self.number)

    def refuse(self, why: str) -> None:
        self._connection.send(wire.REFUSE, self.number, why.encode("utf-8", "surrogateescape"))

    def resize(self, rows: int, columns: int) -> None:
        payload = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
        self._connection.send(wire.RESIZE, self.number, payload)


def _closed(err: OSError) -> Unavailable:
    return Unavailable(f"the engine closed the connection: {err.strerror}")


class BuildConnection:
    """Sends the request, answers questions, and yields the engine's messages."""

    def __init__(
        self, client: Client, request: dict[str, Any], directories: list[int],
        answer: Callable[[dict[str, Any]], Answer],
    ) -> None:  # fmt: skip
        self._answer = answer
        self._channels: dict[int, Channel] = {}
        self._sending = threading.Lock()
        headers = {"Connection": "Upgrade", "Upgrade": wire.PROTOCOL,
                   "Content-Type": "application/json"}  # fmt: skip
        body = jsontext.dumps(request).encode("utf-8", "surrogateescape")
        response = client.request("POST", "/portside/build", None, body, headers)
        if response.status != 101:
            raise SystemFailure("this engine does not upgrade /portside/build")
        self._sock, self._rest = response._connection.steal()
        self._greet(directories)

    def _greet(self, directories: list[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", directories))
        try:
            self._sock.sendmsg([wire.frame(wire.HELLO, 0)], [rights] if directories else [])
        except OSError as err:  # not a BrokenPipeError, which is a closed standard output's
            raise _closed(err) from err

    def send(self, kind: bytes, channel: int, payload: bytes = b"") -> None:
        try:
            with self._sending:
                self._sock.sendall(wire.frame(kind, channel, payload))
        except OSError as err:
            raise _closed(err) from err

    def messages(self, timeout: float | None = None) -> Iterator[tuple[bytes, Any]]:
        """EVENT and RESULT with their values; with ``timeout``, an empty kind when nothing has
        come for that many seconds. Unavailable when the engine leaves before the result."""
        import select

        buffer = bytearray(self._rest)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            while (found := _take(buffer)) is not None:
                kind, number, payload = found
                if kind in (wire.EVENT, wire.RESULT):
                    yield kind, jsontext.loads(payload)
                    if kind == wire.RESULT:
                        return
                elif kind == wire.ASK:
                    self._asked(number, jsontext.loads(payload))
                elif (channel := self._channels.get(number)) is not None:
                    channel.feed(kind, payload)
            if timeout is not None and not poll.poll(timeout * 1000):
                yield b"", None
                continue
            try:
                piece = self._sock.recv(wire.PIECE)
            except OSError as err:
                raise Unavailable(f"cannot read from the engine: {err.strerror}") from err
            if not piece:
                raise Unavailable("the engine closed the connection in the middle of the build")
            buffer += piece

    def _asked(self, number: int, wanted: dict[str, Any]) -> None:
        channel = self._channels[number] = Channel(self, number)
        work = self._answer(wanted)
        threading.Thread(target=self._run, args=(channel, work), daemon=True).start()

    def _run(self, channel: Channel, work: Answer) -> None:
        try:
            try:
                work(channel)
            except RefusedAnswer as err:
                channel.refuse(str(err))
            except OSError as err:
                channel.refuse(f"{err.filename or ''}: {err.strerror}".lstrip(": "))
        except Unavailable:
            pass  # the main thread reports it
        finally:
            self._channels.pop(channel.number, None)

    def close(self) -> None:
        self._sock.close()


def _take(buffer: bytearray) -> tuple[bytes, int, bytes] | None:
    """The next whole frame: kind, channel, payload."""
    if len(buffer) < wire.HEAD:
        return None
    size, kind, number = wire.parse_head(bytes(buffer[: wire.HEAD]))
    if len(buffer) < wire.HEAD + size:
        return None
    payload = bytes(buffer[wire.HEAD : wire.HEAD + size])
    del buffer[: wire.HEAD + size]
    return kind, number, payload
