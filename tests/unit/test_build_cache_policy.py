"""The bounds of the build cache: BuildKit's policy keys and their arithmetic."""

from typing import Any

import pytest

from portside.builder.cache.pruning import DAY, PruneRule, parse_policy
from portside.builder.solver.cache_records import CACHE_MOUNT, CacheRecord
from portside.model.errors import InvalidParameter

GB = 1 << 30


def names(
    rule: PruneRule, record: CacheRecord, *, shared: bool = False, busy: bool = False
) -> bool:
    return rule.names(record, 100 * DAY, is_shared=lambda _: shared, is_busy=lambda _: busy)


@pytest.mark.parametrize(
    ("rule", "total", "free", "kept"),
    [
        ({}, 10, 5, 0),
        ({"max_used": 6}, 10, 5, 6),
        ({"reserved": 4}, 10, 5, 4),
        ({"max_used": 6, "reserved": 8}, 10, 5, 8),
        ({"min_free": 7}, 10, 5, 8),
        ({"min_free": 7, "max_used": 5}, 10, 5, 5),
        ({"min_free": 30, "reserved": 3}, 10, 5, 3),
        ({"min_free": 2}, 10, 5, 10),
    ],
)
def test_what_a_rule_keeps(rule: dict[str, int], total: int, free: int, kept: int) -> None:
    assert PruneRule(**rule).keep(total, free) == kept  # type: ignore[arg-type]


def test_what_a_rule_names() -> None:
    record = CacheRecord(id="abcdef", description="d", parents=("p",), used=99 * DAY)
    assert names(PruneRule(), record) and not names(PruneRule(), record, shared=True)
    assert names(PruneRule(all=True), record, shared=True)
    assert not names(PruneRule(unused_for=2 * DAY), record)
    assert names(PruneRule(unused_for=DAY / 2), record)
    assert not names(PruneRule(until=98 * DAY), record)
    for filters, named in [
        ({"id": ["bcd"]}, True), ({"id": ["x"]}, False), ({"parent": ["p"]}, True),
        ({"type": ["regular"]}, True), ({"type": ["exec.cachemount"]}, False),
        ({"description": ["d"]}, True), ({"inuse": ["true"]}, False), ({"private": []}, True),
        ({"shared": []}, False), ({"immutable": ["true"]}, True), ({"mutable": []}, False),
    ]:  # fmt: skip
        assert names(PruneRule(filters=filters), record) is named, filters
    mount = CacheRecord(id="m", type=CACHE_MOUNT, used=1)
    assert names(PruneRule(filters={"mutable": []}), mount)


def test_keys_of_daemon_json() -> None:
    (first, _, _, last) = parse_policy({}, 5 * GB).rules
    assert last.max_used == 5 * GB and last.all and first.unused_for == 2 * DAY
    (*_, last) = parse_policy({"gc": {"defaultKeepStorage": "20GB"}}, 5 * GB).rules
    assert (last.reserved, last.max_used) == (20 * GB, 0)
    (*_, last) = parse_policy({"gc": {"defaultMaxUsedSpace": "20%"}}, 5 * GB).rules
    assert last.max_used == 10 * GB
    assert parse_policy({"gc": {"enabled": False}}, GB).rules == ()
    policy = [
        {"filter": ["unused-for=48h", "type==exec.cachemount"], "keepStorage": "512MB"},
        {"all": True, "maxUsedSpace": 7, "minFreeSpace": "1GB"},
    ]
    one, two = parse_policy({"gc": {"policy": policy}}, GB).rules
    assert (one.unused_for, one.filters, one.reserved) == (
        2 * DAY, {"type": ["exec.cachemount"]}, 512 << 20,
    )  # fmt: skip
    assert (two.all, two.max_used, two.min_free) == (True, 7, GB)


@pytest.mark.parametrize(
    "gc",
    [
        [], {"what": 1}, {"enabled": "yes"}, {"policy": {}}, {"policy": [1]},
        {"policy": [{"filter": ["color=red"]}]}, {"policy": [{"keep": 1}]},
        {"defaultKeepStorage": "much"}, {"defaultMaxUsedSpace": -1},
    ],
)  # fmt: skip
def test_malformed_keys_are_named(gc: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"builder\.gc"):
        parse_policy({"gc": gc}, GB)
