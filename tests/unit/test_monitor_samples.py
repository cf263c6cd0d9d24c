"""The monitor's samples, history, rules and encoders: pure logic."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.monitor import (
    filesystems,
    group_reader,
    group_tree,
    kernel_log,
    network_reader,
)
from portside.monitor.cadvisor import container_json, exposition
from portside.monitor.cadvisor.runtime_flags import carry
from portside.monitor.cadvisor.usage_summary import percentiles
from portside.monitor.collector import Group, Listeners
from portside.monitor.delivery_queue import DeliveryQueue, Rejected
from portside.monitor.early_warning import Alert, EarlyWarning, Reading, more_memory, rules_of
from portside.monitor.engine_watch import ContainerFacts, EngineEvent, EngineVersion
from portside.monitor.group_spec import UNLIMITED, GroupSpec
from portside.monitor.history import BUCKET, GroupHistory, Limits, chart
from portside.monitor.history_file import HistoryFile
from portside.monitor.live_events import Client
from portside.monitor.machine_spec import Cache, Core, Node, machine_info
from portside.monitor.program import bridge
from portside.monitor.samples import (
    INDEX,
    PACKED,
    SERIES,
    Details,
    FileSystemUse,
    Sample,
    disks,
    point,
    pressure,
    view,
)
from portside.monitor.settings import ALL_METRICS, Rule, made_of


def sample(time_s: float, **values: int) -> Sample:
    numbers = [0] * len(INDEX)
    for name, value in values.items():
        numbers[INDEX[name]] = value
    packed = PACKED.pack(*numbers)
    return Sample(int(time_s * 1e9), packed, b"", b"", b"", (), b"", (b"", b"", b""), Details())


# -- parsing what the kernel writes -----------------------------------------------------------


def test_io_of_both_versions() -> None:
    old = sample(1)
    text = b"8:0 Read 4096\n8:0 Write 512\n8:0 Discard 0\n8:0 Total 4608\nTotal 4608\n"
    operations = b"8:0 Read 2\n8:0 Write 1\nTotal 3\n"
    old = Sample(1, old.scalars, b"", text, operations, (), b"", (b"", b"", b""), Details())
    (disk,) = disks(old)
    assert (disk.major, disk.minor, disk.bytes["Read"], disk.operations["Write"]) == (8, 0, 4096, 1)
    new = b"254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0 cost.usage=7\n"
    found = Sample(1, old.scalars, b"", new, b"", (), b"", (b"", b"", b""), Details())
    (disk,) = disks(found)
    assert disk.bytes == {"Read": 10, "Write": 20, "Discard": 0, "Total": 30}
    assert disk.operations["Total"] == 3 and disk.cost == {"cost.usage": 7}


def test_pressure_with_one_line_and_two() -> None:
    both = (
        b"some avg10=1.50 avg60=2.00 avg300=3.00 total=42\n"
        b"full avg10=0.25 avg60=0 avg300=0 total=7\n"
    )
    found = pressure(both)
    assert (found.some.avg10, found.some.total, found.full.total) == (1.5, 42, 7)
    assert pressure(both.splitlines()[0]).full.total == 0


@settings(deadline=None)
@given(st.binary(max_size=400))
@example("¹,1;text".encode())  # a digit to str.isdigit, not to int
def test_hostile_text_of_files_is_no_error(text: bytes) -> None:
    values = [0] * len(INDEX)
    group_reader._memory_stat(group_reader._STAT_V1)(values, text)
    group_reader._io_v2(values, text)
    group_reader._pressure("pressure_cpu")(values, text)
    kernel_log.parse(text.decode(errors="replace"))
    filesystems.parse_mounts(text.decode(errors="replace"))


def test_memory_stat_takes_the_groups_below_into_account() -> None:
    values = [0] * len(INDEX)
    text = b"cache 1\nrss 2\ntotal_cache 30\ntotal_rss 40\ntotal_inactive_file 5\npgfault 9\n"
    group_reader._memory_stat(group_reader._STAT_V1)(values, text)
    assert [values[INDEX[n]] for n in ("memory_cache", "memory_rss", "pgfault")] == [30, 40, 9]


def test_links_leave_out_loopback_and_the_machines_ends_of_links() -> None:
    head = b"Inter-|   Receive\n face |bytes\n"
    row = b" 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n"
    text = head + b"    lo:" + row + b"  eth0:" + row + b"veth12:" + row
    names, counters = network_reader.parse_links(text, is_machine=True)
    assert names == ("eth0",) and len(counters) == 64
    assert network_reader.parse_links(text, is_machine=False)[0] == ("eth0", "veth12")


def test_oom_records_of_the_kernel() -> None:
    text = (
        "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,"
        "oom_memcg=/docker/a,task_memcg=/docker/a/b,task=my,prog,pid=77,uid=0\n"
    )
    found = kernel_log.parse(text)
    assert found == kernel_log.OomKill(
        "/docker/a/b", "/docker/a", 77, "my,prog", "CONSTRAINT_MEMCG"
    )
    assert kernel_log.parse("3,1,2,-;I/O error\n") == kernel_log.KernelError(3, "I/O error")
    assert kernel_log.parse("30,1,2,-;a daemon's line\n") is None


@pytest.mark.parametrize(
    "text",
    [
        "Memory cgroup out of memory: Killed process 7 (tail) total-vm:18064kB, anon-rss:15872kB",
        "Out of memory: Killed process 7 (tail) total-vm:18064kB, anon-rss:15872kB",
    ],
)
def test_an_oom_kill_is_no_error_of_the_kernel_too(text: str) -> None:
    assert kernel_log.parse(f"3,1,1,-;{text}") is None
    assert kernel_log.parse("3,1,1,-;EXT4-fs error (device vda)") is not None


def test_container_ids_in_the_paths_of_engines() -> None:
    identifier = "0123456789abcdef" * 4
    for path in (
        f"/docker/{identifier}", f"/system.slice/docker-{identifier}.scope",
        f"/portside-1234/{identifier}", f"/kubepods/besteffort/pod1/{identifier}",
    ):  # fmt: skip
        assert group_tree.container_id(path) == identifier
    assert group_tree.container_id(f"/docker/{identifier}/below") == ""


# -- history ----------------------------------------------------------------------------------


def test_points_are_rates_and_never_negative() -> None:
    before = sample(10, cpu_total=10**9, rx_bytes=100, cfs_periods=10, cfs_throttled_periods=0)
    after = sample(12, cpu_total=4 * 10**9, rx_bytes=50, cfs_periods=20, cfs_throttled_periods=5)
    found = dict(zip(SERIES, point(before, after), strict=True))
    assert (found["cpu"], found["net_rx"], found["throttled"]) == (1.5, 0, 0.5)


def test_history_is_bounded_and_keeps_means_and_maxima() -> None:
    history = GroupHistory(Limits(full=20, kept=120, most=50))
    start = 1_000_000 // BUCKET * BUCKET
    finished = []
    for second in range(600):
        made = history.add(sample(start + second, memory_usage=second % BUCKET))
        finished += [made] if made else []
    assert len(history.samples) <= 21
    kept = list(history.buckets(0))
    assert len(kept) <= 120 // BUCKET + 18
    memory = SERIES.index("memory")
    assert kept[1][1][memory] == 7 and kept[1][2][memory] == BUCKET - 1
    assert [bucket.start for bucket in finished[:2]] == [start, start + BUCKET]


def test_chart_bounds_its_points_and_has_gaps() -> None:
    history = GroupHistory(Limits())
    now = 2_000_000.0
    for second in (0, 1, 2, 8):
        history.add(sample(now - 9 + second, memory_usage=100 + second))
    found = chart("/x", history, now, 60, 10**9, ("memory",))
    assert len(found.times) == 60 and found.step == 1.0
    values = [value for value in found.series["memory"].mean if value is not None]
    assert values == [101, 102, 108]  # the first sample has no rate, and no point
    long = chart("/x", history, now, 3600, 100, ("memory",))
    assert len(long.times) == 100 and max(v or 0 for v in long.series["memory"].max) == 108


def test_history_on_disk_is_read_back_and_bounded(tmp_path: Path) -> None:
    store = HistoryFile(str(tmp_path / "h.db"), days=1, most_bytes=200_000)
    history = GroupHistory(Limits())
    start = int(time.time()) // BUCKET * BUCKET - 20_000
    for second in range(0, 18_000, 5):
        if bucket := history.add(sample(start + second, memory_usage=second)):
            for number in range(3):
                store.put(f"/group{number}", bucket)
    store.flush()
    assert store.size() <= 200_000 and store.lost == 0
    rows = store._read("/group1", 0, 2**40)
    assert rows and rows[-1][0] > rows[0][0] > start
    assert store._read("/unknown", 0, 2**40) == []
    store._database.close()


def test_damaged_history_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(b"this is no database" * 500)
    store = HistoryFile(str(path), 1, 1 << 20)
    store.flush()
    store._database.close()
    assert (tmp_path / "h.db.damaged").exists()


def test_history_makes_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="no such file or directory"):
        HistoryFile(str(tmp_path / "missing/h.db"), 1, 1 << 20)
    assert not (tmp_path / "missing").exists()


def test_a_bad_duration_names_its_setting() -> None:
    with pytest.raises(InvalidParameter, match="--max-interval: 'abc'"):
        made_of({"max_interval": "abc"})


# -- early warning ----------------------------------------------------------------------------


def warning(**overrides: Rule) -> tuple[EarlyWarning, list[Alert]]:
    collector: Any = SimpleNamespace(
        listeners=Listeners(),
        groups={},
        by_container={},
        facts={},
        engine=EngineVersion(root="/data/root"),
    )
    made = EarlyWarning(made_of({"rules": {}}), collector)
    made.rules = rules_of(overrides)
    told: list[Alert] = []
    made.listeners.append(told.append)
    return made, told


def group(name: str) -> Any:
    return SimpleNamespace(
        name=name, shown=name, command_name=name, facts=None, container="",
        history=GroupHistory(Limits()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("total", "is_total", "flags"),
    [
        (128 << 20, True, "-m 96m"),
        (64 << 20, True, "-m 96m --memory-swap 96m"),
        (80 << 20, True, "-m 96m --memory-swap 112m"),
        (UNLIMITED, True, "-m 96m"),
        (0, False, "-m 96m --memory-swap 96m"),
        (64 << 20, False, "-m 96m"),
        (UNLIMITED, False, "-m 96m"),
    ],
)
def test_the_advice_raises_the_limit_of_swap_where_it_has_to(
    total: int, is_total: bool, flags: str
) -> None:
    spec = GroupSpec(memory_limit=64 << 20, swap_limit=total, swap_is_total=is_total)
    assert more_memory(spec) == flags


def test_warnings_wait_for_the_name_and_else_use_the_id() -> None:
    made, told = warning(pids_near_limit=Rule(hold="0s"))
    found = Group.__new__(Group)
    found.name, found.container, found.facts = f"/docker/{'a' * 64}", "a" * 64, None
    found.spec, found.details = GroupSpec(pids_limit=10), Details()
    found.history = GroupHistory(Limits())
    busy = tuple(10.0 if name == "threads" else 0.0 for name in SERIES)
    for second in (1, 3, 7):
        found.history.add(sample(second))
        made.sampled(found, found.history.samples[-1], busy, None)
        assert len(told) == (second == 7)
    assert told[0].shown == "a" * 12
    assert told[0].advice == f"docker update --pids-limit 20 {'a' * 12}"


def test_a_value_around_the_threshold_gives_one_warning() -> None:
    made, told = warning(memory_near_limit=Rule(above=90, below=80, hold="10s"))
    for second in range(100):
        value = 92 if second % 2 else 89  # hovers: above 80 all the time
        value = 95 if second < 20 else value
        made._judge("memory_near_limit", group("/g"), Reading(value, f"{value} %"), second)
    assert [(alert.ended, alert.summary) for alert in told] == [(0.0, "92 %")]
    for second in range(100, 120):
        made._judge("memory_near_limit", group("/g"), Reading(50, ""), second)
    assert len(told) == 2 and told[1].ended == 110 and not made.firing
    assert told[1].summary == "92 %", "what was wrong, not how it is now"


@pytest.mark.parametrize(
    ("shares", "warns"),
    [
        ((92, 92, 92, 92), False),
        ((10, 40, 92, 92), True),
        ((92, 92, 92, 94), True),
        ((98, 98, 98, 98), True),
    ],
)
def test_memory_near_its_limit_warns_when_it_rises(shares: tuple[int, ...], warns: bool) -> None:
    made, told = warning(memory_near_limit=Rule(hold="20s"))
    found = group("/g")
    found.spec = GroupSpec(memory_limit=1000)
    for second in range(0, 40 * len(shares), 2):
        share = shares[second // 40]
        found.history.add(sample(1000 + second, memory_working_set=share * 10))
        made._judge("memory_near_limit", found, Reading(share, ""), 1000 + second)
    assert bool(told) == warns


def test_health_that_was_bad_before_warns_until_it_is_not() -> None:
    made, told = warning()
    states = (
        "running unhealthy", "running unhealthy", "exited unhealthy", "running starting",
        "running unhealthy", "running healthy",
    )  # fmt: skip
    for text in states:
        state, health = text.split()
        made.known(ContainerFacts(id="c", name="web", state=state, health=health))
    assert [alert.rule for alert in told] == ["unhealthy"] * 4
    assert [told[0] is told[1], told[2] is told[3], told[0] is told[2]] == [True, True, False]
    assert not made.firing


def test_a_container_that_loops_is_named_although_it_has_no_group() -> None:
    made, told = warning()
    made._collector.facts["c"] = ContainerFacts(id="c", name="web", image="shop")
    for second in range(5):
        happened = EngineEvent("container", "die", "c", {"name": "web", "exitCode": "3"}, second)
        made.engine_event(happened)
    assert [(alert.rule, alert.labels) for alert in told] == [
        ("restart_loop", {"image": "shop", "id": "c"})
    ]


def test_a_clock_that_is_set_warns_once_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = warning()
    machine = group("/")
    offset = [0.0]
    real = time.time
    monkeypatch.setattr("portside.monitor.early_warning.time.time", lambda: real() + offset[0])
    made._look_at_clock(machine, 0)
    for step in (0.4, 0.9, 60.0, -3600.0):  # slewing, then two times set
        offset[0] = step
        made._look_at_clock(machine, 1)
    (alert,) = told
    assert alert.rule == "clock_stepped" and "-3660.0 s" in alert.summary
    made.pass_time(1 + 301)
    assert alert.ended


@settings(deadline=None)
@given(st.data())
def test_what_is_called_calm_is_above_no_threshold(data: st.DataObject) -> None:
    """The quick look must never keep a warning back."""
    from portside.monitor import early_warning

    made, _ = warning()
    number = st.integers(0, 200)
    values = [float(data.draw(number)) / (100 if name == "throttled" else 1) for name in SERIES]
    spec = GroupSpec(
        quota=data.draw(st.sampled_from((0, 1000))), period=1000,
        memory_limit=data.draw(st.sampled_from((100, 200, UNLIMITED))),
        pids_limit=data.draw(st.sampled_from((0, 100))),
    )  # fmt: skip
    limit = data.draw(st.sampled_from((0, 100)))
    details = Details(descriptors_limit=limit, descriptors_highest=data.draw(number))
    found: Any = SimpleNamespace(
        name="/g", shown="g", command_name="g", facts=None, spec=spec, details=details,
        container=data.draw(st.sampled_from(("", "c"))),
    )  # fmt: skip
    point_of = tuple(values)
    above = [
        name
        for name, reading in early_warning._readings(found, point_of)
        if reading.value > made.rules[name].above
    ]
    calm = made._is_calm(found, point_of)
    assert not (calm and above)
    assert calm or above or not found.container, "a quick look that sees too much is slow"


MOUNTED = """\
21 1 254:0 / / rw - ext4 /dev/vda rw
22 21 0:30 / /run rw - tmpfs tmpfs rw
23 21 0:31 / /data\\040of\\134it rw - tmpfs tmpfs rw
24 23 0:32 / /data\\040of\\134it/overlay rw - overlay overlay rw
25 21 0:33 / /mnt rw - fuse.gocryptfs secret rw
26 21 0:34 / /sys/fs/cgroup rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("needed", "more"),
    [
        ("", []),
        ("/var/lib/portside", []),
        ("/data of\\it/root", ["/data of\\it"]),
        ("/data of\\it/overlay/root", ["/data of\\it/overlay"]),
        ("/mnt", ["/mnt"]),
        ("/mntx", []),
    ],
)
def test_the_file_system_of_the_data_root_counts_whatever_its_kind(
    needed: str, more: list[str]
) -> None:
    found = filesystems.parse_mounts(MOUNTED, needed=needed)
    assert [mount.mountpoint for mount in found] == sorted(["/", "/run", *more])


@pytest.mark.parametrize(
    ("place", "kind", "advice"),
    [
        ("/data", "ext4", "docker system prune; docker system df shows what takes the space"),
        ("/data", "tmpfs", "docker system prune, or mount -o remount,size=150m /data"),
        ("/a b", "ext4", "du -xhd1 '/a b' | sort -h  # what takes the space"),
        ("/run", "tmpfs", "mount -o remount,size=150m /run"),
    ],
)
def test_a_full_file_system_warns_with_what_makes_room(place: str, kind: str, advice: str) -> None:
    made, told = warning(disk_nearly_full=Rule(hold="0s"))
    machine: Any = SimpleNamespace(
        name="/", shown="/", command_name="/", facts=None, container="", spec=GroupSpec(),
        details=Details(),
    )  # fmt: skip
    for used in (50, 95, 87, 95, 50):
        use = FileSystemUse("x", kind, place, 100 << 20, used << 20, 100 - used << 20, 0, 0, 0, 0)
        rest = FileSystemUse("y", "ext4", "/data", 100 << 20, 1, 100 << 20, 0, 0, 0, 0)
        machine.details = Details(filesystems=(use, rest) if place != "/data" else (use,))
        made.sampled(machine, sample(1), (0.0,) * len(SERIES), None)
    begun, ended = told
    assert begun is ended and (begun.rule, begun.subject) == ("disk_nearly_full", place)
    assert begun.advice == advice and ended.ended


def test_a_short_peak_is_no_warning() -> None:
    made, told = warning()
    for second, value in enumerate([95, 95, 10, 95, 95, 10]):
        made._judge("memory_near_limit", group("/g"), Reading(value, ""), second)
    assert told == [] and made._states == {}


def test_rules_can_be_switched_off_and_checked() -> None:
    assert "oom_kill" not in rules_of({"oom_kill": Rule(enabled=False)})
    with pytest.raises(InvalidParameter, match="unknown rule 'memry'"):
        rules_of({"memry": Rule()})
    with pytest.raises(InvalidParameter, match="must not exceed"):
        rules_of({"pids_near_limit": Rule(above=50, below=60)})


# -- queues -----------------------------------------------------------------------------------


async def test_queue_repeats_drops_the_oldest_and_counts() -> None:
    taken: list[bytes] = []
    away = True

    async def send(batch: bytes) -> None:
        if away:
            raise OSError("away")
        if batch == b"bad":
            raise Rejected("no")
        taken.append(batch)

    queue = DeliveryQueue("test", send, most=3, bytes_most=1000)
    queue.start()
    for batch in (b"1", b"2", b"3", b"4", b"bad"):
        queue.put(batch)
    assert queue.waiting == 3 and queue.dropped == 2
    await asyncio.sleep(0.05)
    away = False
    for _ in range(100):
        await asyncio.sleep(0.05)
        if not queue.waiting:
            break
    assert taken == [b"3", b"4"] and queue.rejected == 1 and queue.failures >= 1
    await queue.stop()


async def test_slow_streams_lose_messages_and_report_it() -> None:
    client = Client(None)
    for number in range(700):
        client.put(b"event: x\ndata: %d\n\n" % number)
    found = await client.next(1)
    assert found.count(b"event: x") == 500 and b'{"messages":200}' in found


# -- metrics and flags ------------------------------------------------------------------------


def test_openmetrics_names_counters_without_total() -> None:
    out = exposition.Exposition(True)
    out.family("a_total", "counter", "A.")
    out.line("a_total", 'x="1"', 2, 1_500_000_000)
    out.family("container_memory_failcnt", "counter", "B.")
    text = out.text().decode()
    assert "# TYPE a counter\n" in text and 'a_total{x="1"} 2 1.500\n' in text
    assert "# TYPE container_memory_failcnt unknown\n" in text and text.endswith("# EOF\n")


@settings(deadline=None)
@given(st.text(max_size=50))
def test_label_values_are_escaped(text: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    out = exposition.Exposition(False)
    out.family("m", "gauge", "M.")
    out.line("m", exposition.label_text([("l", text)]), 1)
    if "\r" in text or any(ord(c) < 32 and c != "\n" for c in text) or not text.isprintable():
        assert "\n" not in exposition.escape(text)
        return
    (family,) = text_string_to_metric_families(out.text().decode())
    assert family.samples[0].labels["l"] == text


def test_percentiles() -> None:
    assert percentiles([])["present"] is False
    found = percentiles([float(n) for n in range(101)])
    assert (found["mean"], found["fifty"], found["ninety"], found["max"]) == (50, 50, 90, 100)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("-port=9000 -logtostderr --docker_only", {"listen": ":9000", "docker_only": True}),
        ("-listen_ip ::1 -port 80", {"listen": "[::1]:80"}),
        ("-v 4 -vmodule a=1 -housekeeping_interval 5s", {"interval": "5s"}),
        ("-max_housekeeping_interval=9s -allow_dynamic_housekeeping=false",
         {"max_interval": "9s", "dynamic": False}),
        ("-url_base_prefix=/c/ -prometheus_endpoint=/m", {"prefix": "/c", "metrics_path": "/m"}),
        ("-url_base_prefix=/", {"prefix": ""}),
        ("-storage_duration=10m", {"full": "10m"}),
        ("-store_container_labels=false -whitelisted_container_labels=a,b",
         {"store_labels": False, "labels": ["a", "b"]}),
        ("-whitelisted_container_labels=a", {}),
        ("-disable_metrics=", {"disabled": []}),
        ("-http_auth_file=f -http_auth_realm=r", {"htpasswd": "f", "realm": "r"}),
        ("-docker_only -raw_cgroup_prefix_whitelist=/system.slice,/user.slice",
         {"docker_only": True, "group_prefixes": ["/system.slice", "/user.slice"]}),
        ("-storage_driver=influxdb -storage_driver_host=db:8086 -storage_driver_user=u "
         "-storage_driver_password=p -storage_driver_secure -storage_driver_buffer_duration=30s",
         {"exporters": [{"kind": "influxdb", "url": "https://db:8086", "database": "cadvisor",
                         "user": "u", "password": "p", "interval": "30s"}]}),
        ("-storage_driver statsd -storage_driver_host h:1 -storage_driver_db x",
         {"exporters": [{"kind": "statsd", "url": "udp://h:1", "prefix": "x"}]}),
        ("-storage_driver=redis -storage_driver_host=h:2",
         {"exporters": [{"kind": "redis", "url": "redis://h:2", "database": "cadvisor"}]}),
        ("-storage_driver= -storage_driver_db=x", {}),
    ],
)  # fmt: skip
def test_flags_of_cadvisor_are_settings(words: str, values: dict[str, Any]) -> None:
    carried = carry(words.split())
    assert (carried.words, carried.values) == ([], values)
    made_of(carried.values)


def test_flags_of_cadvisor_without_an_effect_are_named() -> None:
    carried = carry(["-global_housekeeping_interval", "30s", "-event_storage_age_limit=default=1h"])
    assert not carried.values
    assert [note.split()[0] for note in carried.notes] == [
        "--global_housekeeping_interval", "--event_storage_age_limit",
    ]  # fmt: skip
    assert carry(["--listen", "127.0.0.1:1"]).words == ["--listen", "127.0.0.1:1"]
    assert carry(["-version"]).shows_version


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("-storage_driver=kafka", "-storage_driver=kafka is not supported: use --exporter otlp"),
        ("-storage_driver=nothing", 'unknown backend storage driver "nothing"'),
        ("-http_digest_file=f", "-http_digest_file is not supported: use --http_auth_file"),
        ("-docker_only=perhaps", 'invalid boolean value "perhaps" for -docker_only'),
        ("-housekeeping_interval", "flag needs an argument: -housekeeping_interval"),
        ("-enable_metrics=cpu,nothing", "unknown kind of metrics 'nothing'"),
    ],
)
def test_flags_of_cadvisor_that_would_be_missed_are_refused(words: str, text: str) -> None:
    with pytest.raises(PortsideError, match=re.escape(text)):
        carry(words.split())


def test_enabled_metrics_are_the_only_ones() -> None:
    disabled = carry(["-enable_metrics=cpu,memory", "-disable_metrics=cpu"]).values["disabled"]
    assert set(disabled) == ALL_METRICS - {"cpu", "memory"}


@pytest.mark.parametrize(
    "values",
    [
        {"interval": "0s"}, {"interval": "soon"}, {"disabled": ["nothing"]}, {"listn": ":80"},
        {"metrics_path": "metrics"}, {"exporters": [{"kind": "otlp"}]},
    ],
)  # fmt: skip
def test_bad_settings_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        made_of(values)


def test_view_of_a_sample_is_json() -> None:
    import msgspec

    found = json.loads(msgspec.json.encode(view(sample(1, cpu_total=5))))
    assert found["values"]["cpu_total"] == 5


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=60))
def test_buckets_of_groups_that_rest(steps: list[tuple[int, int]]) -> None:
    """Repeated points are added at once: the means are those of all points one by one."""
    history = GroupHistory(Limits())
    plain: dict[int, list[float]] = {}
    now, before, finished = 1_800_000_000.0, None, []
    for value, times in steps:
        made = sample(now, memory_usage=value)
        for _ in range(times):
            shown = Sample(int(now * 1e9), made.scalars, *(getattr(made, f) for f in FIELDS))
            if bucket := history.add(shown):
                finished.append(bucket)
            plain.setdefault(int(now // BUCKET * BUCKET), []).append(
                point(before, shown)[SERIES.index("memory")]
            )
            before, now = shown, now + 1
    for bucket in finished:
        values = plain[bucket.start]
        assert bucket.mean[SERIES.index("memory")] == pytest.approx(sum(values) / len(values))
        assert bucket.max[SERIES.index("memory")] == max(values)


FIELDS = Sample.__struct_fields__[2:]


def test_sockets_that_are_not_there_are_not_looked_for(tmp_path: Path) -> None:
    net = tmp_path / "net"
    net.mkdir()
    (net / "sockstat").write_bytes(
        b"sockets: used 9\nTCP: inuse 0 orphan 0 tw 0 alloc 17 mem 2\nUDP: inuse 3 mem 1\n"
    )
    (net / "sockstat6").write_bytes(b"TCP6: inuse 2\nUDP6: inuse 0\n")
    found = network_reader.sockets_in_use(str(tmp_path))
    assert found == {"tcp": 0, "tcp6": 2, "udp": 3, "udp6": 0}
    (net / "sockstat").write_bytes(b"TCP: inuse 0 orphan 0 tw 4 alloc 17 mem 2\n")
    (net / "sockstat6").write_bytes(b"TCP6: inuse 0\n")
    (net / "tcp6").write_bytes(b"")
    found = network_reader.sockets_in_use(str(tmp_path))
    assert found["tcp"] == 4 and found["tcp6"] == 1, "either kind may be what waits"


def test_large_tables_are_read_to_their_end(tmp_path: Path) -> None:
    line = b"  eth%d: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "dev").write_bytes(b"a\nb\n" + b"".join(line % n for n in range(5000)))
    names, _ = network_reader.parse_links(network_reader.link_table(str(tmp_path)), False)
    assert len(names) == 5000


V2_FILES = {
    "cgroup.controllers": "cpu io memory pids\n",
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 0\n",
    "memory.current": "4096\n", "memory.peak": "8192\n", "memory.swap.current": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "memory.stat": "anon 1024\nfile 2048\nfile_mapped 0\ninactive_file 1000\npgfault 7\n",
    "io.stat": "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n",
    "pids.current": "3\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}  # fmt: skip


def test_a_quiet_group_of_version_2(tmp_path: Path) -> None:
    """Where nothing runs, only processor time and memory are read, and all of it from time to
    time, when somebody asks for it, and while something waits."""
    from portside.kernel.cgroup.layout import parse
    from portside.monitor.samples import scalar

    inside = tmp_path / "g"
    inside.mkdir()
    for name, text in V2_FILES.items():
        (tmp_path / name).write_text(text)
        (inside / name).write_text(text)
    layout = parse(f"25 1 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw")
    reader = group_reader.GroupReader(layout, "/g")

    def read(full: bool = False) -> Sample:
        return reader.read(Details(), 0.0, full=full)

    def change(name: str, old: str, new: str) -> None:
        (inside / name).write_text(V2_FILES[name].replace(old, new))

    first = read()
    assert scalar(first, "cpu_total") == 5000 and scalar(first, "memory_working_set") == 3096
    assert scalar(first, "read_bytes") == 100 and scalar(first, "threads") == 3
    read()  # nothing ran for the first time: all is read once more
    change("io.stat", "wbytes=200", "wbytes=900")
    quiet = read()
    assert scalar(quiet, "write_bytes") == 200 and quiet.scalars is read().scalars
    assert scalar(read(full=True), "write_bytes") == 900
    change("io.stat", "wbytes=200", "wbytes=901")
    assert 901 in {scalar(read(), "write_bytes") for _ in range(12)}
    change("cpu.stat", "usage_usec 5", "usage_usec 6")
    change("pids.current", "3", "4")
    change("io.pressure", "avg10=0.00", "avg10=12.50")
    ran = read()
    assert scalar(ran, "cpu_total") == 6000 and scalar(ran, "threads") == 4
    assert scalar(ran, "pressure_io") == 1250
    for _ in range(5):
        read()
    change("io.pressure", "avg10=0.00", "avg10=20.00")
    assert scalar(read(), "pressure_io") == 2000, "what waits is watched"
    reader.close()


def test_what_the_engine_says_after_the_end_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    heard: list[object] = []
    listener = bridge(SimpleNamespace(forget=heard.append, reach=heard.append), loop)  # type: ignore[arg-type]
    listener.forgotten("one")
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    listener.forgotten("two")
    listener.reached(None, frozenset())
    assert heard == ["one"]


def test_the_monitor_needs_no_web_framework() -> None:
    """Exporters and webhooks import what they need; without them that is half the memory."""
    text = "import sys, portside.monitor.program; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    heavy = {"aiohttp", "redis", "sqlite3", "yaml"}
    assert "portside.monitor.program" in done.stdout.split()
    assert not heavy & set(done.stdout.split())


def test_counters_of_block_devices_are_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "diskstats").write_text(
        " 254       0 vda 3773105 493545 90750586 14522640 9039941 10584632 835887656 26682479 "
        "2 3765204 44733706 7106010 276\n   7       0 loop0 1 2\n"
    )
    counters = filesystems.disk_counters(str(tmp_path))
    assert list(counters) == [(254, 0)]
    use = FileSystemUse("/dev/vda", "ext4", "/", 1, 1, 1, major=254, counters=counters[254, 0])
    shown = container_json.filesystem_json(use)
    assert (shown["reads_merged"], shown["read_time"], shown["io_in_progress"]) == (
        493545, 14522640, 2,
    )  # fmt: skip
    assert container_json.inline_json(use)["io_duration"] == 3765204 * 1_000_000
    found = SimpleNamespace(details=Details(filesystems=(use,)))
    values = {
        metric.name: [*metric.values(group("/"), found)]  # type: ignore[arg-type]
        for metric in exposition.METRICS
        if metric.name.startswith("container_fs_") and "io_cost" not in metric.name
        and metric.name.endswith(("_seconds_total", "_current", "merged_total"))
    }  # fmt: skip
    assert values["container_fs_io_time_seconds_total"] == [(("/dev/vda",), 3765.204)]
    assert values["container_fs_writes_merged_total"] == [(("/dev/vda",), 10584632)]
    assert values["container_fs_io_current"] == [(("/dev/vda",), 2)]


def test_topology_of_the_machine_has_cadvisors_series() -> None:
    level1 = Cache(0, 32768, "Data", 1)
    shared = Cache(0, 1 << 25, "Unified", 3)
    cores = [Core(number, [number, number + 2], [level1, shared], 0) for number in (0, 1)]
    info = msgspec.structs.replace(
        machine_info(), topology=[Node(0, 1 << 30, [], cores, None, [10])]
    )
    out = exposition.Exposition(open_metrics=False)
    exposition.write_machine(out, info)
    text = out.text().decode()
    found = {line.rpartition(" ")[0].split("{")[0] for line in text.splitlines() if line[0] != "#"}
    assert found >= {"machine_thread_siblings_count", "machine_node_distance"}
    sizes = [line for line in text.splitlines() if line.startswith("machine_cpu_cache_capacity")]
    assert len(sizes) == 3
    assert 'core_id="",type="Unified",level="3"' in sizes[1]
