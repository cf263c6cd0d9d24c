"""Pieces of one size, however a stream was cut."""

from hypothesis import given
from hypothesis import strategies as st

from portside.store.whole_pieces import whole_pieces


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_the_same_bytes_are_cut_the_same_way(pieces: list[bytes], size: int) -> None:
    found = list(whole_pieces(pieces, size))
    whole = b"".join(pieces)
    assert found == [whole[at : at + size] for at in range(0, len(whole), size)]
