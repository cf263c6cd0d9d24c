"""From limits to files: version 1, version 2, hybrid; no kernel involved."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.kernel.cgroup.devices import (
    ANY,
    DEFAULT_DEVICES,
    RUNTIME_DEVICES,
    fold,
    rule_text,
    rules_of,
)
from portside.kernel.cgroup.layout import Hierarchy, Layout, parse
from portside.kernel.cgroup.plan import (
    blkio_to_io_weight,
    plan,
    shares_to_weight,
    swap_to_v2,
)
from portside.model import ociruntime as oci
from portside.model.errors import InvalidParameter, SystemFailure

ALL = frozenset({"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"})
V2 = Layout("v2", (), "/sys/fs/cgroup", ALL)
V1 = Layout(
    "v1",
    tuple(
        Hierarchy((name,), "", f"/sys/fs/cgroup/{name}")
        for name in ("memory", "cpu", "cpuset", "pids", "blkio", "devices", "freezer", "hugetlb")
    ),
)
BARE = Layout("v2", (), "/sys/fs/cgroup", frozenset())


def files(layout: Layout, resources: oci.Resources) -> dict[str, str]:
    return {write.file: write.value for write in plan(layout, resources)}


def test_memory_v1_names_both_limits_as_a_pair() -> None:
    memory = oci.Memory(limit=100, swap=200, reservation=50, swappiness=0, disable_oom_killer=True)
    writes = plan(V1, oci.Resources(memory=memory))
    assert [(w.file, w.value) for w in writes] == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "200"),
        ("memory.soft_limit_in_bytes", "50"),
        ("memory.oom_control", "1"),
        ("memory.swappiness", "0"),
    ]
    assert writes[0].swaps_with_next
    assert not writes[1].swaps_with_next


def test_memory_v2_limits_swap_alone() -> None:
    memory = oci.Memory(limit=100, swap=250, reservation=50)
    assert files(V2, oci.Resources(memory=memory)) == {
        "memory.swap.max": "150",
        "memory.max": "100",
        "memory.low": "50",
    }
    equal = oci.Memory(limit=100, swap=100)
    assert files(V2, oci.Resources(memory=equal))["memory.swap.max"] == "0"
    unlimited = oci.Memory(limit=-1)
    assert files(V2, oci.Resources(memory=unlimited)) == {
        "memory.swap.max": "max",
        "memory.max": "max",
    }


def test_kernel_memory_is_ignored() -> None:
    assert files(V1, oci.Resources(memory=oci.Memory(kernel=1 << 20))) == {}


def test_cpu_v1_and_v2() -> None:
    cpu = oci.CPU(shares=1024, quota=150_000, period=100_000, burst=1000, cpus="0-1", mems="0")
    assert files(V1, oci.Resources(cpu=cpu)) == {
        "cpu.shares": "1024",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "150000",
        "cpu.cfs_burst_us": "1000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
    }
    assert files(V2, oci.Resources(cpu=cpu)) == {
        "cpu.weight": "100",
        "cpu.max": "150000 100000",
        "cpu.max.burst": "1000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
    }
    assert files(V2, oci.Resources(cpu=oci.CPU(quota=-1))) == {"cpu.max": "max 100000"}
    assert files(V2, oci.Resources(cpu=oci.CPU(quota=5000))) == {"cpu.max": "5000 100000"}


def test_real_time_needs_version_1() -> None:
    realtime = oci.Resources(cpu=oci.CPU(realtime_runtime=1000, realtime_period=2000))
    assert files(V1, realtime) == {"cpu.rt_period_us": "2000", "cpu.rt_runtime_us": "1000"}
    with pytest.raises(InvalidParameter, match="real-time"):
        plan(V2, realtime)


@pytest.mark.parametrize(("limit", "value"), [(5, "5"), (0, "max"), (-1, "max")])
def test_pids(limit: int, value: str) -> None:
    for layout in (V1, V2):
        assert files(layout, oci.Resources(pids=oci.Pids(limit=limit))) == {"pids.max": value}


def test_block_io() -> None:
    io = oci.BlockIO(
        weight=500,
        weight_device=(oci.WeightDevice(8, 0, 300),),
        throttle_read_bps_device=(oci.ThrottleDevice(8, 16, 1048576),),
        throttle_write_iops_device=(oci.ThrottleDevice(8, 16, 7),),
    )
    old = files(V1, oci.Resources(block_io=io))
    assert old["blkio.throttle.read_bps_device"] == "8:16 1048576"
    assert old["blkio.throttle.write_iops_device"] == "8:16 7"
    new = [(w.file, w.value) for w in plan(V2, oci.Resources(block_io=io))]
    assert ("io.max", "8:16 rbps=1048576") in new
    assert ("io.max", "8:16 wiops=7") in new
    assert ("io.bfq.weight|io.weight", "500") in new


def test_huge_pages_bound_reservations_too() -> None:
    limits = oci.Resources(hugepage_limits=(oci.HugepageLimit("2MB", 4096),))
    assert files(V1, limits) == {
        "hugetlb.2MB.limit_in_bytes": "4096",
        "hugetlb.2MB.rsvd.limit_in_bytes": "4096",
    }
    assert files(V2, limits) == {"hugetlb.2MB.max": "4096", "hugetlb.2MB.rsvd.max": "4096"}
    with pytest.raises(InvalidParameter):
        plan(V2, oci.Resources(hugepage_limits=(oci.HugepageLimit("../x", 1),)))


def test_unified_values_go_through_and_are_checked() -> None:
    assert files(V2, oci.Resources(unified={"memory.high": "10"})) == {"memory.high": "10"}
    with pytest.raises(SystemFailure, match="controller 'memory' not available"):
        plan(BARE, oci.Resources(unified={"memory.high": "10"}))
    with pytest.raises(InvalidParameter, match="cgroup v2"):
        plan(V1, oci.Resources(unified={"memory.high": "10"}))
    for bad in ("", "../../x", "memory/high"):
        with pytest.raises(InvalidParameter):
            plan(V2, oci.Resources(unified={bad: "1"}))


def test_a_missing_controller_is_named() -> None:
    with pytest.raises(SystemFailure, match=r"memory\.max.*memory controller"):
        plan(BARE, oci.Resources(memory=oci.Memory(limit=1)))
    assert plan(BARE, oci.Resources()) == []


def test_hybrid_uses_the_hierarchy_that_has_the_controller() -> None:
    hybrid = Layout("hybrid", V1.hierarchies[:1], "/u", frozenset({"pids", "hugetlb"}))
    writes = plan(hybrid, oci.Resources(memory=oci.Memory(limit=1), pids=oci.Pids(limit=2)))
    assert [(w.controller, w.file) for w in writes] == [
        ("memory", "memory.limit_in_bytes"),
        ("unified", "pids.max"),
    ]


def test_weights_meet_the_documented_points() -> None:
    assert [shares_to_weight(n) for n in (0, 1, 2, 1024, 262_144, 10**9)] == [
        0,
        1,
        1,
        100,
        10_000,
        10_000,
    ]
    assert [blkio_to_io_weight(n) for n in (0, 10, 1000)] == [0, 1, 10_000]


@given(st.integers(2, 262_143))
def test_weights_never_fall_as_shares_rise(shares: int) -> None:
    low, high = shares_to_weight(shares), shares_to_weight(shares + 1)
    assert 1 <= low <= high <= 10_000
    assert isinstance(low, int) and not math.isnan(low)


def test_swap_conversion() -> None:
    assert swap_to_v2(300, 100) == 200
    assert swap_to_v2(-1, 100) == -1
    assert swap_to_v2(0, 100) == 0
    assert swap_to_v2(0, -1) == -1
    for swap, memory in ((100, 0), (100, -1), (50, 100)):
        with pytest.raises(InvalidParameter):
            swap_to_v2(swap, memory)


# -- layout ------------------------------------------------------------------------------

MOUNTINFO_HYBRID = """\
25 31 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 25 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 25 0:30 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
34 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct
35 25 0:32 / /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,memory
36 25 0:32 / /elsewhere rw - cgroup cgroup rw,memory
"""


def test_layout_is_read_from_mountinfo() -> None:
    layout = parse(MOUNTINFO_HYBRID, lambda mount: "pids hugetlb\n")
    assert layout.mode == "hybrid"
    assert [h.label for h in layout.hierarchies] == ["name=systemd", "cpu,cpuacct", "memory"]
    assert layout.v1("cpuacct") == "/sys/fs/cgroup/cpu,cpuacct"
    assert layout.v1("memory") == "/sys/fs/cgroup/with space"
    assert layout.has("pids") and layout.has("devices") and not layout.has("blkio")
    assert layout.mounts()[-1] == "/sys/fs/cgroup/unified"


def test_layout_of_version_2_alone_and_of_none() -> None:
    line = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    layout = parse(line, lambda mount: "cpu io")
    assert (layout.mode, layout.unified) == ("v2", "/sys/fs/cgroup")
    assert layout.has("blkio")
    with pytest.raises(SystemFailure, match="no control groups"):
        parse("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", lambda mount: "")


# -- devices -----------------------------------------------------------------------------


def test_the_default_list_denies_what_it_does_not_name() -> None:
    access = fold([*DEFAULT_DEVICES, *RUNTIME_DEVICES])
    assert not access.allow
    assert access.exceptions[("c", 1, 3)] == "rwm"
    assert access.exceptions[("c", ANY, ANY)] == "m"
    assert ("c", 10, 229) not in access.exceptions
    assert ("c", 1, 1) not in access.exceptions


def test_rules_apply_in_order() -> None:
    everything = (True, "a", ANY, ANY, "rwm")
    assert fold([*DEFAULT_DEVICES, everything]).unrestricted
    assert fold([everything, (False, "c", 1, 5, "w")]).exceptions == {("c", 1, 5): "w"}
    nothing = (False, "a", ANY, ANY, "rwm")
    once = [nothing, (True, "c", 1, 5, "rw"), (True, "c", 1, 5, "m"), (False, "c", 1, 5, "w")]
    assert fold(once).exceptions == {("c", 1, 5): "rm"}
    both = fold([nothing, (True, "a", 7, ANY, "r")])
    assert both.exceptions == {("b", 7, ANY): "r", ("c", 7, ANY): "r"}


def test_rule_texts() -> None:
    assert rule_text("c", 1, ANY, "rwm") == "c 1:* rwm"
    assert rules_of([oci.DeviceCgroup(True, "c", 1, None, "r")]) == [(True, "c", 1, ANY, "r")]
    for bad in (oci.DeviceCgroup(True, "x", 1, 1, "r"), oci.DeviceCgroup(True, "c", 1, 1, "rx")):
        with pytest.raises(InvalidParameter, match="invalid device rule"):
            rules_of([bad])
