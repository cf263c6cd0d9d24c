"""Wording of messages: numbers of things, amounts, warnings."""

from __future__ import annotations

import pytest

from portside.cli.explain import _amount
from portside.containers.validation import _not_the_kernels
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


def test_a_missing_control_group_is_not_the_kernels_fault() -> None:
    text = "Your kernel does not support swap or the cgroup is not mounted. Limitation discarded."
    assert _not_the_kernels(text) == (
        "Not delegated to this user's engine: swap. Limitation discarded."
    )


def test_amounts_of_explain() -> None:
    assert _amount(1, "tasks") == "1 task"
    assert _amount(11_135_514, "nanoseconds") == "0.011 seconds"
    assert _amount(-1, "bytes") == "none"
