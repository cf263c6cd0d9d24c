"""A process's standard streams in the monitor: read once, given to many.

::

    process ──pipe or pty──► Output ──► log
                               ├──────► Attached socket 1   (8-byte frames, or raw)
                               └──────► Attached socket 2
    Attached sockets ──► Input ──► process

A reader that falls behind is given room for some output; past that reading from the
process pauses until it has caught up (as Docker does), and one that has stood still for
long while others read is let go, so that it blocks nobody for good.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress

from portside.runtime.logs import LogWriter
from portside.runtime.messages import Streams
from portside.runtime.poller import Poller

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
CHUNK = 64 << 10
ROOM = 4 << 20
"""Bytes kept for an attached reader before the process is made to wait."""
LINGER = 10.0
"""Seconds that a client has to end its side once it has received the end of output."""
STALLED = 30.0
"""Seconds after which a reader that takes nothing no longer holds up the others."""
_NUMBERS = {"stdout": 1, "stderr": 2}


class Attached:
    """One attached socket: what it still has to be sent, and what it types."""

    def __init__(self, sock: socket.socket, streams: Streams, owner: Channel) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.streams = streams
        self._owner = owner
        self._pending = bytearray()
        self._ended = False
        self._held = b""
        self._moved = time.monotonic()
        self.reading = streams.stdin
        self._watch()

    @property
    def full(self) -> bool:
        return len(self._pending) > ROOM

    @property
    def idle(self) -> float:
        """Seconds since it took something."""
        return time.monotonic() - self._moved

    @property
    def stalled(self) -> bool:
        return self.full and self.idle > STALLED

    def _watch(self) -> None:
        if self.sock.fileno() < 0:
            return
        events = select.EPOLLRDHUP if not self.reading else READ | select.EPOLLRDHUP
        if self.streams.stdin and not self.reading:
            events = 0
        if self._pending:
            events |= WRITE
        self._owner.poller.set(self.sock.fileno(), events, self._event)

    def give(self, stream: str, data: bytes) -> None:
        """Queue output that this socket asked for."""
        wanted = self.streams.stdout if stream == "stdout" else self.streams.stderr
        if not wanted or self.sock.fileno() < 0:
            return
        if not self.streams.raw:
            self._pending += struct.pack(">BxxxL", _NUMBERS[stream], len(data))
        self._pending += data
        self._flush()

    def mark_end(self, stream: str) -> None:
        """Queue the frame that says that one stream has ended, for a socket that asked for it."""
        if self.streams.marks_end and not self.streams.raw:
            self.give(stream, b"")

    def _flush(self) -> None:
        try:
            while self._pending:
                sent = self.sock.send(self._pending[: 1 << 18])
                del self._pending[:sent]
                self._moved = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._ended and not self._pending:
            self._linger()
        else:
            self._watch()

    def _linger(self) -> None:
        """All has been sent: say so, and drop what the client still sends until it has read
        the end (closing with bytes unread would be ECONNRESET, which takes the end from it)."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self._owner.poller.set(self.sock.fileno(), READ, self._drop)
        self._owner.poller.after(LINGER, self, self.close)

    def _drop(self, events: int) -> None:
        try:
            while self.sock.recv(CHUNK):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def pause(self, paused: bool) -> None:
        """Stop or resume reading what it types."""
        if self.streams.stdin and self.reading == paused and self.sock.fileno() >= 0:
            self.reading = not paused
            self._watch()

    def _event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
            self._owner.drained()
        if self.sock.fileno() >= 0 and self.reading and events & (READ | select.EPOLLRDHUP):
            self._read()
        elif self.sock.fileno() >= 0 and events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()
        elif self.sock.fileno() >= 0 and not self.streams.stdin and events & select.EPOLLRDHUP:
            # it will say no more, and had nothing to say; it may continue to read
            self._owner.poller.set(self.sock.fileno(), WRITE if self._pending else 0, self._event)

    def _read(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self._typed(data)
            return
        self.reading = False
        asked = self.streams
        self.streams = Streams(
            False, asked.stdout, asked.stderr, asked.raw, marks_end=asked.marks_end
        )
        self._owner.input_ended()
        if self.sock.fileno() >= 0:
            self._owner.poller.set(self.sock.fileno(), WRITE if self._pending else 0, self._event)

    def _typed(self, data: bytes) -> None:
        """Pass input on, but for the detach keys, which end the attachment.

        What may be their beginning is held back until the next byte decides.
        """
        keys = self.streams.detach_keys
        if not keys:
            self._owner.typed(data)
            return
        data = self._held + data
        end = data.find(keys)
        if end >= 0:
            if end:
                self._owner.typed(data[:end])
            self._owner.detached(self)
            self.finish()
            return
        held = next(n for n in range(len(keys) - 1, -1, -1) if data.endswith(keys[:n]))
        self._held = data[len(data) - held :]
        if len(data) > held:
            self._owner.typed(data[: len(data) - held])

    def finish(self) -> None:
        """No more output comes: close once all has been sent."""
        if not self._ended:
            self._ended = True
            self._flush()

    def close(self) -> None:
        self._owner.poller.forget(self)
        if self.sock.fileno() >= 0:
            self._owner.poller.drop(self.sock.fileno())
            self.sock.close()
            self._pending.clear()
            self._owner.detached(self)


class Channel:
    """All streams of one process."""

    def __init__(self, poller: Poller, log: LogWriter, *, stdin_once: bool = True) -> None:
        self.poller = poller
        self._log = log
        self._stdin_once = stdin_once
        self._outputs: dict[int, str] = {}
        self._stdin = -1
        self.terminal = -1
        self._typed = bytearray()
        self._ends_after_typed = False
        self.attached: list[Attached] = []
        self._paused = self._finished = False

    def use_pipes(self, stdin: int, stdout: int, stderr: int) -> None:
        """The monitor's ends of three pipes; -1 for none."""
        self._stdin = stdin
        for fd, name in ((stdout, "stdout"), (stderr, "stderr")):
            if fd >= 0:
                self._open_output(fd, name)
        if stdin >= 0:
            os.set_blocking(stdin, False)

    def use_terminal(self, leader: int) -> None:
        """The leading side of a pseudoterminal, both input and output."""
        self.terminal = self._stdin = leader
        self._open_output(leader, "stdout")

    def _open_output(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self._outputs[fd] = name
        self._watch(fd)

    def _watch(self, fd: int) -> None:
        events = 0 if self._paused else READ
        if fd == self.terminal and self._typed:
            events |= WRITE
        self.poller.set(fd, events, lambda got: self._output_event(fd, got))

    def _output_event(self, fd: int, events: int) -> None:
        if events & WRITE:
            self._write_typed()
        if fd in self._outputs and events & ~WRITE:
            self._read(fd)

    def _read(self, fd: int) -> bool:
        """Take what is there; False at the end of the stream or when there is nothing."""
        name = self._outputs[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last follower of the pseudoterminal is closed
            data = b""
        if not data:
            self._close_output(fd)
            return False
        self._log.write(name, data)
        for attached in list(self.attached):
            attached.give(name, data)
        self._balance()
        return True

    def _close_output(self, fd: int) -> None:
        name = self._outputs.pop(fd, None)
        if name is None:
            return
        self.poller.drop(fd)
        if fd != self.terminal:
            os.close(fd)
        for attached in list(self.attached):
            attached.mark_end(name)

    def _balance(self) -> None:
        """Make the process wait while a reader is far behind; let stalled readers go."""
        full = [attached for attached in self.attached if attached.full]
        if full and len(self.attached) > 1:
            for attached in [a for a in full if a.stalled]:
                attached.close()
        paused = self._log.full or any(attached.full for attached in self.attached)
        if paused != self._paused:
            self._paused = paused
            for fd in self._outputs:
                self._watch(fd)

    def drained(self) -> None:
        if self._paused:
            self._balance()

    def detached(self, attached: Attached) -> None:
        if attached in self.attached:
            self.attached.remove(attached)
        self.drained()

    # input

    def attach(self, sock: socket.socket, streams: Streams) -> None:
        attached = Attached(sock, streams, self)
        self.attached.append(attached)
        if self._finished:  # it came too late: it reads the end at once
            attached.finish()

    def typed(self, data: bytes) -> None:
        """Input from an attached socket."""
        if self._stdin < 0:
            return
        self._typed += data
        self._write_typed()

    def _write_typed(self) -> None:
        try:
            while self._typed:
                written = os.write(self._stdin, self._typed[:CHUNK])
                del self._typed[:written]
        except BlockingIOError:
            pass
        except OSError:
            self._typed.clear()
            self.close_stdin()
        self._after_typing()

    def _after_typing(self) -> None:
        for attached in list(self.attached):
            attached.pause(len(self._typed) > CHUNK)
        if self._stdin < 0:
            return
        if self._stdin == self.terminal:
            if self.terminal in self._outputs:
                self._watch(self.terminal)
        elif self._typed:
            self.poller.set(self._stdin, WRITE, lambda _: self._write_typed())
        else:
            self.poller.drop(self._stdin)
            if self._ends_after_typed:
                self.close_stdin()

    def input_ended(self) -> None:
        """An attached socket's input is at its end."""
        if not self._stdin_once or self.terminal >= 0:
            return
        if self._typed:
            self._ends_after_typed = True
        else:
            self.close_stdin()

    def close_stdin(self) -> None:
        if self._stdin >= 0 and self._stdin != self.terminal:
            self.poller.drop(self._stdin)
            os.close(self._stdin)
        if self._stdin != self.terminal:
            self._stdin = -1

    # end

    def drain(self) -> None:
        """The process is gone: take what is left of its output."""
        for fd in list(self._outputs):
            while fd in self._outputs and self._read(fd):
                pass
            self._close_output(fd)
        self._log.finish()

    def finish(self) -> None:
        """Take what is left, then end every attached socket."""
        self._finished = True
        self.drain()
        self.close_stdin()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = self._stdin = -1
        for attached in list(self.attached):
            attached.finish()
