"""Limits as users give them: Docker's texts, errors and warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.kernel.cgroup.limits import check, parse_list, swap_default
from portside.kernel.cgroup.machine import Machine
from portside.model.container import HostConfig, Resources, ThrottleDevice, WeightDevice
from portside.model.errors import InvalidParameter

MIB = 1 << 20
FULL = Machine.everything(cpus=2)


@pytest.mark.parametrize(
    ("given_limits", "text"),
    [
        ({"memory": 4 * MIB}, "Minimum memory limit allowed is 6MB"),
        ({"memory": -5}, "Minimum memory limit allowed is 6MB"),
        ({"memory": 8 * MIB, "memory_swap": 7 * MIB}, "Minimum memoryswap limit should be larger"),
        ({"memory_swap": 8 * MIB}, "You should always set the Memory limit when using Memoryswap"),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        ({"memory_reservation": 1 * MIB}, "Minimum memory reservation allowed is 6MB"),
        (
            {"memory": 8 * MIB, "memory_reservation": 9 * MIB},
            "Minimum memory limit can not be less than memory reservation limit",
        ),
        (
            {"nano_cpus": 3_000_000_000},
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        ),
        ({"nano_cpus": -1}, "range of CPUs is from 0.01 to 2.00"),
        ({"nano_cpus": 1}, "range of CPUs is from 0.01 to 2.00"),
        (
            {"nano_cpus": 1_000_000_000, "cpu_period": 100_000},
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            {"nano_cpus": 1_000_000_000, "cpu_quota": 100_000},
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        ({"cpu_period": 900}, "CPU cfs period can not be less than 1ms"),
        ({"cpu_period": 1_000_001}, "or larger than 1s"),
        ({"cpu_quota": 999}, "CPU cfs quota can not be less than 1ms"),
        ({"cpu_shares": -1}, "value must be a positive integer"),
        (
            {"cpuset_cpus": "0-2"},
            "Requested CPUs are not available - requested 0-2, available: 0-1",
        ),
        ({"cpuset_cpus": "a"}, "Invalid value a for cpuset cpus"),
        ({"cpuset_cpus": "1-0"}, "Invalid value 1-0 for cpuset cpus"),
        ({"cpuset_cpus": "0-999999999"}, "Invalid value 0-999999999 for cpuset cpus"),
        ({"cpuset_mems": "1"}, "Requested memory nodes are not available"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"blkio_weight": 1001}, "Range of blkio weight is from 10 to 1000"),
        ({"blkio_weight_device": (WeightDevice(path="/x", weight=1),)}, "Range of blkio weight"),
        ({"io_maximum_iops": 5}, "invalid QoS settings"),
        ({"pids_limit": -5}, "invalid PIDs limit"),
        ({"cpu_realtime_runtime": 5, "cpu_realtime_period": 4}, "real-time runtime"),
    ],
)
def test_contradictions_are_refused_in_dockers_words(
    given_limits: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidParameter) as raised:
        check(Resources(**given_limits), FULL)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("flag", "given_limits", "left", "text"),
    [
        (
            "memory_limit",
            {"memory": 8 * MIB},
            {"memory": 0, "memory_swap": -1},
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
            "Limitation discarded.",
        ),
        (
            "swap_limit",
            {"memory": 8 * MIB, "memory_swap": 9 * MIB},
            {"memory": 8 * MIB, "memory_swap": -1},
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap.",
        ),
        (
            "memory_swappiness",
            {"memory_swappiness": 10},
            {"memory_swappiness": None},
            "Memory swappiness discarded.",
        ),
        (
            "oom_kill_disable",
            {"oom_kill_disable": True},
            {"oom_kill_disable": None},
            "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        ),
        ("pids_limit", {"pids_limit": 5}, {"pids_limit": None}, "PIDs limit discarded."),
        ("cpu_shares", {"cpu_shares": 5}, {"cpu_shares": 0}, "Shares discarded."),
        ("cpu_cfs", {"cpu_quota": 5000}, {"cpu_quota": 0}, "CPU period/quota discarded."),
        ("cpuset", {"cpuset_cpus": "0"}, {"cpuset_cpus": ""}, "Cpuset discarded."),
        ("blkio_weight", {"blkio_weight": 50}, {"blkio_weight": 0}, "Weight discarded."),
        (
            "blkio_read_bps",
            {"blkio_device_read_bps": (ThrottleDevice(path="/x", rate=1),)},
            {"blkio_device_read_bps": None},
            "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. "
            "Block I/O BPS read limit discarded.",
        ),
        (
            "blkio_write_iops",
            {"blkio_device_write_iops": (ThrottleDevice(path="/x", rate=1),)},
            {"blkio_device_write_iops": None},
            "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. "
            "Block I/O IOPS write limit discarded.",
        ),
    ],
)
def test_what_the_machine_lacks_is_dropped_with_a_warning(
    flag: str, given_limits: dict[str, Any], left: dict[str, Any], text: str
) -> None:
    lacking = replace(FULL, **{flag: False})
    limits = Resources(**given_limits)
    found, warnings = check(limits, lacking)
    assert {name: getattr(found, name) for name in left} == left
    assert len(warnings) == 1
    assert text in warnings[0]
    assert limits == Resources(**given_limits), "the request itself is changed"
    whole, none = check(Resources(**given_limits), FULL)
    assert whole == limits
    assert not [text for text in none if "does not support" in text]


def test_a_disabled_oom_killer_without_limit_is_warned_about() -> None:
    _, warnings = check(Resources(oom_kill_disable=True), FULL)
    assert warnings[0].startswith("OOM killer is disabled for the container, but no memory limit")
    assert check(Resources(oom_kill_disable=False), FULL)[1] == []


def test_kernel_memory_is_discarded_as_docker_does_today() -> None:
    found, warnings = check(Resources(kernel_memory=64 * MIB), replace(FULL, kernel_memory=False))
    assert found.kernel_memory == 0
    assert "kernel memory limit capabilities" in warnings[0]


def test_update_may_change_swap_alone() -> None:
    found, _ = check(Resources(memory_swap=8 * MIB), FULL, update=True)
    assert found.memory_swap == 8 * MIB


def test_missing_cfs_and_realtime_are_errors() -> None:
    with pytest.raises(InvalidParameter, match="NanoCPUs can not be set"):
        check(Resources(nano_cpus=10**9), replace(FULL, cpu_cfs=False))
    with pytest.raises(InvalidParameter, match="real-time scheduler"):
        check(Resources(cpu_realtime_runtime=1), replace(FULL, cpu_realtime=False))


def test_a_host_config_keeps_its_type() -> None:
    found, _ = check(HostConfig(memory=8 * MIB, privileged=True), FULL)
    assert isinstance(found, HostConfig)
    assert found.privileged


def test_swappiness_minus_one_means_unset() -> None:
    assert check(Resources(memory_swappiness=-1), FULL)[0].memory_swappiness is None


def test_swap_default() -> None:
    assert swap_default(10, 0) == 20
    assert swap_default(10, -1) == -1
    assert swap_default(0, 0) == 0


@given(st.sets(st.integers(0, 200), min_size=1))
def test_lists_are_read_as_they_are_written(numbers: set[int]) -> None:
    assert parse_list(",".join(str(n) for n in sorted(numbers))) == numbers


@given(st.text(max_size=20))
def test_wild_lists_are_numbers_or_an_error(text: str) -> None:
    try:
        found = parse_list(text)
    except ValueError:
        return
    assert all(0 <= number <= 8192 for number in found)


def test_info_warns_of_what_is_missing() -> None:
    assert FULL.warnings() == []
    assert replace(FULL, swap_limit=False).warnings() == ["WARNING: No swap limit support"]
    assert replace(FULL, blkio_read_bps=False).warnings() == [
        "WARNING: No io.max (read_bps) support"
    ]
    old = replace(FULL, blkio_read_bps=False, cgroup_version=1)
    assert old.warnings() == ["WARNING: No blkio throttle.read_bps_device support"]
