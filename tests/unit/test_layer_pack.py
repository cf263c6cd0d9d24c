"""gzip layers: any reader gets the plain bytes back, and noise costs nothing but its size."""

from __future__ import annotations

import gzip
import io
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.store.decompress import plain
from portside.store.layer_pack import compressor, pack
from portside.store.whole_pieces import PIECE


def _packed(pieces: list[bytes]) -> bytes:
    state = compressor("gzip", None)
    return b"".join(map(state.compress, pieces)) + state.flush()


@given(kinds=st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), max_size=6))
def test_readers_get_the_plain_bytes(kinds: list[tuple[bool, int]]) -> None:
    made = random.Random(7)
    pieces = [made.randbytes(size) if noise else b"a" * size for noise, size in kinds]
    blob = _packed(pieces)
    data = b"".join(pieces)
    assert gzip.decompress(blob) == data
    if data:
        assert b"".join(plain(io.BytesIO(blob))) == data
    noise = sum(size for is_noise, size in kinds if is_noise)
    assert len(blob) < noise + (len(data) - noise) // 50 + 64 * len(kinds) + 64 + noise // 1000


def test_a_small_layer_starts_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda it: (started.append(it), start(it))[1])
    data = b"x" * 10_240
    packed = pack(lambda out: os.write(out, data), str(tmp_path / "a"), "gzip")
    assert len(started) == 1
    assert gzip.decompress((tmp_path / "a").read_bytes()) == data
    assert packed.plain_size == len(data)


def test_the_same_tar_is_the_same_blob_however_it_is_written(tmp_path: Path) -> None:
    made = random.Random(3)
    data = made.randbytes(PIECE) + b"x" * PIECE * 2 + made.randbytes(PIECE + 5)

    def write(size: int, out: int) -> None:
        for at in range(0, len(data), size):
            os.write(out, data[at : at + size])

    first = pack(lambda out: write(1000, out), str(tmp_path / "a"), "gzip")
    second = pack(lambda out: write(60_000, out), str(tmp_path / "b"), "gzip")
    assert first == second
    assert gzip.decompress((tmp_path / "a").read_bytes()) == data
