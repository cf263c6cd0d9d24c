"""List and prune filters, in Docker's meaning."""

from __future__ import annotations

import time

import pytest

from portside.model import filters
from portside.model.errors import InvalidParameter

LABELS = {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({}, True), ({"label": ["a"]}, True), ({"label": ["a=1"]}, True),
        ({"label": ["a=2"]}, False),
        ({"label": ["a", "b=2"]}, True), ({"label": ["a", "c"]}, False), ({"label!": ["c"]}, True),
        ({"label!": ["a"]}, False), ({"label!": ["a=2"]}, True),
        ({"label!": ["a", "c"]}, True),  # excluded only by all of them
        ({"label!": ["a", "b"]}, False), ({"label": ["a"], "label!": ["b=3"]}, True),
        ({"label!": []}, True), ({"label": ["a="]}, False),
    ],
)  # fmt: skip
def test_labels(wanted: dict[str, list[str]], matches: bool) -> None:
    assert filters.labels_match(wanted, LABELS) is matches


def test_no_labels() -> None:
    assert not filters.labels_match({"label": ["a"]}, None)
    assert filters.labels_match({"label!": ["a"]}, None)


@pytest.mark.parametrize(
    ("values", "found"),
    [(["1"], True), (["true"], True), (["0"], False), (["false"], False), (["1", "true"], True)],
)
def test_booleans(values: list[str], found: bool) -> None:
    assert filters.boolean({"dangling": values}, "dangling") is found


@pytest.mark.parametrize(
    ("values", "shown"),
    [(["True"], "dangling=[True]"), (["t"], "dangling=[t]"), ([], "dangling"),
     (["1", "false"], "dangling=[1 false]")],
)  # fmt: skip
def test_no_booleans(values: list[str], shown: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        filters.boolean({"dangling": values}, "dangling")
    assert str(raised.value) == f"invalid filter '{shown}'"


def test_absent_booleans() -> None:
    assert filters.boolean({}, "dangling") is None
    assert filters.strict_boolean({}, "dangling") is None


def test_booleans_of_networks() -> None:
    assert filters.strict_boolean({"dangling": ["1"]}, "dangling") is True
    with pytest.raises(InvalidParameter, match='got more than one value for filter key "dangling"'):
        filters.strict_boolean({"dangling": ["1", "true"]}, "dangling")
    with pytest.raises(InvalidParameter, match="invalid value for filter 'dangling', must be"):
        filters.strict_boolean({"dangling": ["True"]}, "dangling")


def test_until(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filters.until({}) is None
    assert filters.until({"until": ["1700000000"]}) == 1_700_000_000 * 10**9
    before = time.time_ns()
    found = filters.until({"until": ["100ms"]})
    assert found is not None and before - 10**8 <= found <= time.time_ns()
    with pytest.raises(InvalidParameter, match="more than one until filter specified"):
        filters.until({"until": ["1h", "2h"]})
    assert filters.earliest_until({"until": ["1700000000", "1600000000"]}) == 1_600_000_000 * 10**9
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert filters.until({"until": ["1970-01-01T01:00:00"]}) == 0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_values_are_alternatives() -> None:
    assert filters.is_one({}, "driver", "bridge")
    assert filters.is_one({"driver": ["a", "bridge"]}, "driver", "bridge")
    assert not filters.is_one({"driver": ["a"]}, "driver", "bridge")
    assert filters.has_pattern({"name": ["^we.$"]}, "name", "web")
    assert filters.has_pattern({"name": ["we"]}, "name", "/web", "web")
    assert not filters.has_pattern({"name": ["^x"]}, "name", "web")
    assert filters.has_pattern({"name": ["a["]}, "name", "a[")
    assert not filters.has_pattern({"name": ["a["]}, "name", "xa[")


def test_deep_filters_are_refused() -> None:
    for text in ("[" * 200_000, '{"a":' * 200_000, "\udcff"):
        with pytest.raises(InvalidParameter, match="invalid filter"):
            filters.parse(text)


def test_unknown_filters() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'foo'"):
        filters.check({"foo": ["x"]}, {"bar"})
