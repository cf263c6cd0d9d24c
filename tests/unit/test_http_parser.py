"""The HTTP parser: what is accepted, what is refused, and that no cut of the bytes matters."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.serving.http.parser import BodyParser, ProtocolError, end_of_head, parse_head
from portside.serving.http.websocket import FrameReader, unmask


def head(*lines: str) -> bytes:
    return "\r\n".join(lines).encode()


def test_a_plain_request() -> None:
    found = parse_head(head("GET /v1.51/images/a%2Fb/json?x=1&y HTTP/1.1", "Host: d", "X-A:  b "))
    assert (found.method, found.path, found.query) == ("GET", "/v1.51/images/a/b/json", "x=1&y")
    assert found.headers["x-a"] == "b"
    assert (found.length, found.keep_alive, found.upgrade) == (0, True, "")


def test_absolute_targets_and_upgrades() -> None:
    found = parse_head(
        head("POST http://docker/exec/1/start HTTP/1.1", "Host: d", "Connection: Upgrade",
             "Upgrade: tcp", "Content-Length: 3")
    )  # fmt: skip
    assert (found.path, found.upgrade, found.length) == ("/exec/1/start", "tcp", 3)


def test_lines_may_end_with_a_line_feed_alone() -> None:
    for typed in (b"GET /a HTTP/1.1\nHost: d\n\nrest", b"GET /a HTTP/1.1\r\nHost: d\r\n\r\nrest"):
        end, after = end_of_head(bytearray(typed))
        assert typed[after:] == b"rest"
        found = parse_head(typed[:end].strip(b"\r\n"))
        assert (found.path, found.headers) == ("/a", {"host": "d"})
    assert end_of_head(bytearray(b"GET / HTTP/1.1\r\nHost: d\r\n"))[0] < 0


def test_bytes_of_a_path_are_utf8() -> None:
    assert parse_head(head("GET /ü/%C3%BC HTTP/1.1", "Host: d")).path == "/ü/ü"


def test_keep_alive_by_version() -> None:
    assert not parse_head(head("GET / HTTP/1.0")).keep_alive
    assert parse_head(head("GET / HTTP/1.0", "Connection: keep-alive")).keep_alive
    assert not parse_head(head("GET / HTTP/1.1", "Host: d", "Connection: close")).keep_alive


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET / HTTP/1.1"], 400),
        (["GET / HTTP/2.0", "Host: d"], 400),
        (["get / HTTP/1.1", "Host: d"], 400),
        (["GET  / HTTP/1.1", "Host: d"], 400),
        (["GET nowhere HTTP/1.1", "Host: d"], 400),
        (["GET /a%zz HTTP/1.1", "Host: d"], 400),
        (["GET /a% HTTP/1.1", "Host: d"], 400),
        (["GET / HTTP/1.1", "Host: d", "Host: e"], 400),
        (["GET / HTTP/1.1", "Host : d"], 400),
        (["GET / HTTP/1.1", "Host: d", " folded: x"], 400),
        (["GET / HTTP/1.1", "Host: d", "A: \0"], 400),
        (["POST / HTTP/1.1", "Host: d", "Content-Length: -1"], 400),
        (["POST / HTTP/1.1", "Host: d", "Content-Length: +5"], 400),
        (["POST / HTTP/1.1", "Host: d", "Content-Length: 1", "Content-Length: 2"], 400),
        (["POST / HTTP/1.1", "Host: d", "Content-Length: 1", "Transfer-Encoding: chunked"], 400),
        (["POST / HTTP/1.1", "Host: d", "Transfer-Encoding: gzip, chunked"], 501),
        (["POST / HTTP/1.0", "Transfer-Encoding: chunked"], 400),
        (["GET / HTTP/1.1", "Host: d", "Expect: magic"], 417),
        (["GET / HTTP/1.1", "Host: d", *["A: b"] * 300], 431),
    ],
)
def test_refused_heads(lines: list[str], status: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_head(head(*lines))
    assert caught.value.status == status


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_a_protocol_error(data: bytes) -> None:
    try:
        parse_head(data)
    except ProtocolError:
        pass


def feed_in_pieces(parser: BodyParser, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The content and what is left over, with the bytes arriving in pieces."""
    buffer, found = bytearray(), b""
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        buffer += data[start:end]
        found += parser.feed(buffer)
    return found, bytes(buffer)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(0, 600)))
def test_chunked_bodies_in_any_pieces(chunks: list[bytes], cuts: list[int]) -> None:
    data = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(c), c) for c in chunks)
    data += b"0\r\nTrailer: x\r\n\r\n"
    parser = BodyParser(None)
    found, left = feed_in_pieces(parser, data + b"NEXT", cuts)
    assert (found, left, parser.done) == (b"".join(chunks), b"NEXT", True)


@given(st.binary(max_size=100), st.lists(st.integers(0, 100)))
def test_bodies_of_known_length(body: bytes, cuts: list[int]) -> None:
    parser = BodyParser(len(body))
    found, left = feed_in_pieces(parser, body + b"NEXT", cuts)
    assert (found, parser.done) == (body, True)
    assert left == b"NEXT"


@pytest.mark.parametrize(
    "data", [b"x\r\n", b"-1\r\n", b"5\r\nabcdeX\r\n", b"1" * 20 + b"\r\n", b"a" * 2000, b"0x5\r\n"]
)
def test_malformed_chunks(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        BodyParser(None).feed(bytearray(data))


def masked(opcode: int, payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + mask + unmask(payload, mask)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 8, 9]), st.binary(max_size=300)), max_size=5),
    st.binary(min_size=4, max_size=4),
    st.integers(1, 50),
)
def test_websocket_frames_in_any_pieces(
    frames: list[tuple[int, bytes]], mask: bytes, step: int
) -> None:
    data = b"".join(masked(opcode, payload, mask) for opcode, payload in frames)
    reader, found = FrameReader(), []
    for start in range(0, len(data), step):
        found += reader.feed(data[start : start + step])
    assert found == frames


def test_unmasked_frames_are_refused() -> None:
    with pytest.raises(ValueError):
        FrameReader().feed(b"\x82\x01a")
