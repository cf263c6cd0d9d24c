"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from portside.cli.explain import _amount
from portside.model.counted import counted


@pytest.mark.parametrize(
    ("number", "things", "text"),
    [
        (0, "layers", "0 layers"), (1, "layers", "1 layer"), (2, "layers", "2 layers"),
        (1, "processes", "1 process"), (1, "directories", "1 directory"), (1, "bytes", "1 byte"),
        (1, "images", "1 image"), (1, "tasks", "1 task"), (3, "processes", "3 processes"),
    ],
)  # fmt: skip
def test_a_count(number: int, things: str, text: str) -> None:
    assert counted(number, things) == text


def test_amounts_of_explain() -> None:
    assert _amount(1, "tasks") == "1 task"
    assert _amount(11_135_514, "nanoseconds") == "0.011 seconds"
    assert _amount(-1, "bytes") == "none"
