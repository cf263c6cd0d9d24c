"""The order in which Go's yaml.v3 prints the keys of a map: numbers inside them by their value,
letters after everything else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cmp_to_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")

_EASY = re.compile(r"[a-z-]*")
"""Keys of these characters are in the order of their characters."""


def ordered(items: Iterable[tuple[str, _T]]) -> list[tuple[str, _T]]:
    """Pairs in the order of their keys."""
    pairs = list(items)
    if all(_EASY.fullmatch(key) for key, _ in pairs):
        return sorted(pairs, key=lambda pair: pair[0])
    compared = cmp_to_key(_compare)
    return sorted(pairs, key=lambda pair: compared(pair[0]))


def _compare(first: str, second: str) -> int:
    if first == second:
        return 0
    return -1 if _is_less(first, second) else 1


def _is_less(first: str, second: str) -> bool:
    after_digit = False
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one == other:
            after_digit = one.isdigit()
            continue
        if one.isalpha() and other.isalpha():
            return one < other
        if one.isalpha() or other.isalpha():
            return one.isalpha() if after_digit else other.isalpha()
        return _number_is_less(first, second, index)
    return len(first) < len(second)


def _number_is_less(first: str, second: str, index: int) -> bool:
    """Of two keys that differ first at ``index``, where neither has a letter."""
    start = 0
    if "0" in (first[index], second[index]):
        before = index - 1
        while before >= 0 and first[before].isdigit():
            if first[before] != "0":
                start = 1
                break
            before -= 1
    (one, one_end), (other, other_end) = _number(first, index, start), _number(second, index, start)
    if one != other:
        return one < other
    if one_end != other_end:
        return one_end < other_end
    return first[index] < second[index]


def _number(text: str, index: int, value: int) -> tuple[int, int]:
    while index < len(text) and text[index].isdecimal():
        value = value * 10 + int(text[index])
        index += 1
    return value, index
