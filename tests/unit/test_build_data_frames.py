"""DATA frames of taken streams go past h2, whatever way the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portside.builder.wire.data_frames import DATA, END_STREAM, HEAD, PADDED, DataFrames

HEADERS = 0x1
WINDOW = 1 << 20
Frame = tuple[int, int, int, bytes]


class _Transport:
    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted = True


class _Connection:
    def __init__(self) -> None:
        self._transport = _Transport()


class _Protocol:
    """Stands for grpclib's: keeps what it was fed."""

    def __init__(self) -> None:
        self.connection = _Connection()
        self.fed = b""

    def data_received(self, data: bytes) -> None:
        self.fed += data


def _encode(frame: Frame) -> bytes:
    kind, flags, stream, body = frame
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _decode(data: bytes) -> list[Frame]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        stream = int.from_bytes(data[5:HEAD], "big")
        found.append((data[3], data[4], stream, data[HEAD : HEAD + size]))
        data = data[HEAD + size :]
    return found


frames = st.lists(
    st.tuples(
        st.sampled_from([DATA, HEADERS, 0x8]),
        st.sampled_from([0, END_STREAM, PADDED]),
        st.sampled_from([1, 3, 5]),
        st.binary(max_size=40),
    ),
    max_size=12,
)


@given(frames=frames, cuts=st.lists(st.integers(0, 600), max_size=12))
def test_each_frame_goes_where_it_belongs(frames: list[Frame], cuts: list[int]) -> None:
    protocol: Any = _Protocol()
    sut = DataFrames(protocol, WINDOW)
    got = {1: b"", 3: b""}
    for stream in got:
        sut.take(stream, lambda piece, stream=stream: got.update({stream: got[stream] + piece}))
    data = b"".join(map(_encode, frames))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for begin, end in pairwise(edges):
        protocol.data_received(data[begin:end])
    wanted: list[Frame] = []
    taken = {1: b"", 3: b""}
    for kind, flags, stream, body in frames:
        if kind == DATA and stream in taken and not flags & PADDED:
            taken[stream] += body
            if flags & END_STREAM:
                wanted.append((DATA, END_STREAM, stream, b""))
        else:
            wanted.append((kind, flags, stream, body))
    assert got == taken
    assert _decode(protocol.fed) == wanted


def test_windows_are_given_back_also_when_a_stream_is_released() -> None:
    protocol: Any = _Protocol()
    sut = DataFrames(protocol, WINDOW)
    sut.take(1, lambda piece: None)
    protocol.data_received(_encode((DATA, 0, 1, bytes(300))))
    sut.acknowledge(1, 100)
    sut.release(1)
    sent = [
        (stream, int.from_bytes(body, "big"))
        for kind, _, stream, body in _decode(protocol.connection._transport.written)
        if kind == 0x8
    ]
    assert sent == [(0, 100), (1, 100), (0, 200)]


def test_a_peer_that_ignores_the_window_is_cut_off() -> None:
    protocol: Any = _Protocol()
    sut = DataFrames(protocol, 1000)
    got = []
    sut.take(1, got.append)
    protocol.data_received(_encode((DATA, 0, 1, bytes(1000))))
    assert not protocol.connection._transport.aborted
    protocol.data_received(_encode((DATA, 0, 1, b"x")))
    assert protocol.connection._transport.aborted
    assert sum(map(len, got)) == 1000
