"""DATA frames of chosen streams go past h2: files of a gigabyte come in pieces of 16 KiB.

h2 takes about 200 µs for each frame; here one is a slice of what was read. Frame heads are the
only thing looked at (RFC 9113, section 4.1): DATA of a stream that was taken goes to its receiver,
everything else to h2 as it came. Both directions of flow control of a taken stream are ours
(section 5.2): its bytes count in windows that h2 knows nothing of, and that are given back by
frames of our own once the bytes were passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DATA, WINDOW_UPDATE = 0x0, 0x8
END_STREAM, PADDED = 0x1, 0x8
HEAD = 9
"""Bytes of a frame's head."""

Receiver = Callable[[memoryview], None]


class DataFrames:
    """Sits between a transport and grpclib's protocol of one connection."""

    def __init__(self, protocol: Any, window: int) -> None:
        """``window``: bytes that a peer may send on one stream before they are acknowledged."""
        self._window = window
        self._next: Callable[[bytes], None] = protocol.data_received
        self._transport: Callable[[], Any] = lambda: protocol.connection._transport
        self._taken: dict[int, Receiver] = {}
        self._open: dict[int, int] = {}
        """Bytes of taken streams that were not acknowledged yet."""
        self._head = b""
        """The beginning of a frame's head."""
        self._left = 0
        """Bytes of the current frame that are still to come."""
        self._stream = 0
        """The taken stream that the current frame belongs to; 0 when it is h2's."""
        self._ends = False
        protocol.data_received = self.data_received

    def take(self, stream: int, receiver: Receiver) -> None:
        """From now on ``receiver`` gets the stream's data."""
        self._taken[stream] = receiver
        self._open[stream] = 0

    def release(self, stream: int) -> None:
        """What still comes is h2's; the connection's window is whole again."""
        self._taken.pop(stream, None)
        left = self._open.pop(stream, 0)
        if left:
            self._write(_update(0, left))

    def acknowledge(self, stream: int, size: int) -> None:
        """The peer may send as many bytes more."""
        if stream in self._open:
            self._open[stream] -= size
            self._write(_update(0, size) + _update(stream, size))

    def data_received(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        view, at, end = memoryview(data), 0, len(data)
        begin = 0  # of what h2 has not seen
        while at < end:
            if not self._left:
                if end - at < HEAD:
                    self._pass(data, begin, at)
                    self._head = data[at:]
                    return
                size = int.from_bytes(view[at : at + 3], "big")
                kind, flags = view[at + 3], view[at + 4]
                stream = int.from_bytes(view[at + 5 : at + HEAD], "big") & 0x7FFFFFFF
                self._left = size
                if kind == DATA and not flags & PADDED and stream in self._taken:
                    self._pass(data, begin, at)
                    self._stream, self._ends = stream, bool(flags & END_STREAM)
                    begin = at + HEAD
                at += HEAD
            size = min(self._left, end - at)
            at += size
            self._left -= size
            if self._stream:
                if size:
                    self._give(self._stream, view[begin:at])
                begin = at
                if not self._left:
                    self._end_frame()
        self._pass(data, begin, at)

    def _end_frame(self) -> None:
        stream, self._stream = self._stream, 0
        if self._ends:
            self._next(_frame(DATA, END_STREAM, stream, b""))

    def _pass(self, data: bytes, begin: int, end: int) -> None:
        if begin < end:
            self._next(data if end - begin == len(data) else data[begin:end])

    def _give(self, stream: int, piece: memoryview) -> None:
        receiver = self._taken.get(stream)
        if receiver is None:  # released inside a frame
            self._write(_update(0, len(piece)))
            return
        self._open[stream] += len(piece)
        if self._open[stream] > self._window:
            self._transport().abort()  # more than the window: FLOW_CONTROL_ERROR
            return
        receiver(piece)

    def _write(self, data: bytes) -> None:
        try:
            transport = self._transport()
        except AttributeError:  # grpclib drops it when it closes
            return
        if not transport.is_closing():
            transport.write(data)


def _update(stream: int, size: int) -> bytes:
    return _frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body
