"""What is told of a step's output, by size and by speed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portside.builder.solver.log_clip import CLASSIC, LogClip, LogLimits

KIB = 1 << 10


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_reported_once_for_each_gap() -> None:
    clock = _Clock()
    clip = LogClip(LogLimits(), clock)
    assert clip(b"a" * 150 * KIB) == b"a" * 150 * KIB
    message = b"\n[output clipped, log limit 200KiB/s reached]\n"
    assert clip(b"b" * 100 * KIB) == b"b" * 50 * KIB + message
    assert clip(b"c" * KIB) == b""
    clock.now += 1.5
    assert clip(b"d" * KIB) == b"d" * KIB
    assert clip(b"e" * 200 * KIB).endswith(message)


def test_two_mebibytes_are_reported_in_all() -> None:
    clock = _Clock()
    clip = LogClip(LogLimits(), clock)
    told = b""
    for _ in range(100):
        clock.now += 1
        told += clip(b"x" * 100 * KIB)
    message = b"\n[output clipped, log limit 2MiB reached]\n"
    assert told.count(b"clipped") == 1
    assert told.endswith(message)
    assert told.count(b"x") == 2 << 20


def test_limits_of_the_environment() -> None:
    limits = LogLimits.of_environment({"BUILDKIT_STEP_LOG_MAX_SIZE": "10",
                                       "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"})  # fmt: skip
    assert LogClip(limits)(b"0123456789ab") == (
        b"0123456789\n[output clipped, log limit 10B reached]\n"
    )
    assert LogLimits.of_environment({"BUILDKIT_STEP_LOG_MAX_SIZE": "much"}) == LogLimits()
    unlimited = LogClip(LogLimits(-1, -1))
    assert all(unlimited(b"x" * (1 << 20)) == b"x" * (1 << 20) for _ in range(4))


@given(sizes=st.lists(st.integers(0, 3 << 20), max_size=30), steps=st.floats(0, 3))
def test_what_is_reported_is_bounded(sizes: list[int], steps: float) -> None:
    clock = _Clock()
    clip = LogClip(CLASSIC, clock)
    told = 0
    for size in sizes:
        clock.now += steps
        told += len(clip(bytes(size)))
    assert told <= CLASSIC.size + 100
    assert told >= min(sum(sizes), CLASSIC.size)
