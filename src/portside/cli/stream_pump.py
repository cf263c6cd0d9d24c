"""Moves bytes between the caller and a container until the stream ends.

One ``poll`` over the stream, standard input and signals. Output goes out as it comes;
input is read only when the last piece has been sent, so that neither side can block the
other: a container that does not read its input still has its output shown.
"""

from __future__ import annotations

import os
import select

from portside.cli.caller_terminal import KeyWatch
from portside.client.framed_lines import Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.cli.signal_fd import Signals
    from portside.client.client import Hijacked

_PIECE = 1 << 17
_SHUT_WR = 1
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write everything, also to a non-blocking descriptor."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            waiter = select.poll()
            waiter.register(fd, select.POLLOUT)
            waiter.poll()


class Pump:
    """One attached stream."""

    def __init__(
        self,
        stream: Hijacked,
        *,
        framed: bool,
        stdin: bool = False,
        detach_keys: bytes = b"",
        signals: Signals | None = None,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        self._sock = stream.sock
        self._frames = Frames() if framed else None
        self._rest = stream.rest
        self._stdin = stdin
        self._keys = KeyWatch(detach_keys)
        self._signals, self._on_signal = signals, on_signal
        self._pending = b""
        self.detached = False
        """The keys were typed: the container continues without us."""

    def run(self) -> None:
        """Until the stream ends or the caller detaches."""
        self._output(self._rest)
        poll = select.poll()
        stream = self._sock.fileno()
        poll.register(stream, select.POLLIN)
        if self._signals is not None:
            poll.register(self._signals.fd, select.POLLIN)
        if self._stdin:
            poll.register(0, select.POLLIN)
        while not self.detached:
            for fd, events in poll.poll():
                if fd == stream:
                    if events & select.POLLOUT:
                        self._send()
                    if events & _READABLE and not self._receive():
                        return
                elif fd == 0:
                    self._input()
                elif self._signals is not None:
                    self._caught()
            self._watch(poll, stream)

    def _watch(self, poll: select.poll, stream: int) -> None:
        """Read input only when nothing is waiting to be sent."""
        poll.modify(stream, select.POLLIN | (select.POLLOUT if self._pending else 0))
        if self._stdin and not self._pending:
            poll.register(0, select.POLLIN)
        else:
            try:
                poll.unregister(0)
            except KeyError:
                pass

    def _output(self, data: bytes) -> None:
        if self._frames is not None:
            for fd, piece in self._frames.feed(data):
                write_all(fd, piece)
        else:
            write_all(1, data)

    def _receive(self) -> bool:
        """Show the received output; False at the end."""
        pending = getattr(self._sock, "pending", None)  # TLS may hold bytes that poll does not see
        while True:
            try:
                data = self._sock.recv(_PIECE)
            except ConnectionResetError:
                return False
            self._output(data)
            if not data or pending is None or not pending():
                return bool(data)

    def _input(self) -> None:
        try:
            data = os.read(0, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # the terminal was closed
            data = b""
        if not data:
            self._stdin = False
            self._end_input()
            return
        self._pending = self._keys.feed(data)
        self.detached = self._keys.found
        self._send()

    def _send(self) -> None:
        if not self._pending:
            return
        self._sock.setblocking(False)
        try:
            self._pending = self._pending[self._sock.send(self._pending) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):  # the container has closed its input
            self._pending = b""
            self._stdin = False
        finally:
            self._sock.setblocking(True)

    def _end_input(self) -> None:
        try:
            self._sock.shutdown(_SHUT_WR)
        except OSError:
            pass

    def _caught(self) -> None:
        if self._signals is None or self._on_signal is None:
            return
        for number in self._signals.take():
            self._on_signal(number)
