"""``/metrics``: cAdvisor's names, labels and units, in Prometheus's text format or OpenMetrics.

The text is put together line by line: 200 containers have 20,000 lines, and a metrics library
would make an object of each.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator

from portside.monitor.cadvisor.container_json import (
    TCP_ADVANCED,
    device_name,
    environment_of,
    has_network,
    labels_of,
)
from portside.monitor.collector import Group
from portside.monitor.group_spec import UNLIMITED
from portside.monitor.machine_spec import MachineInfo, Node
from portside.monitor.samples import DISK_FIELDS, View, view
from portside.monitor.settings import Settings

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_UNSAFE = re.compile(r"[^a-zA-Z0-9_]")
_LARGEST = 1 << 62

Value = tuple[tuple[str, ...], float]
"""Values of the metric's own labels, and the number."""
Values = Callable[[Group, View], Iterable[Value]]
_GAUGE, _COUNTER = "gauge", "counter"
_SEEN = "container_last_seen"
"""Its value is the time of the scrape, so its time stamp is the scrape's, not the sample's."""


def escape(text: str) -> str:
    """A label's value as both formats write it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    """Counters of bytes are exact: integers stay integers."""
    return str(value) if isinstance(value, int) else repr(value)


class Metric:
    """One family. ``kind`` of cAdvisor's metrics decides whether it is shown."""

    __slots__ = ("help", "kind", "labels", "name", "type", "values")

    def __init__(
        self, kind: str, name: str, type: str, help: str, values: Values,
        labels: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.kind, self.name, self.type, self.help = kind, name, type, help
        self.values, self.labels = values, labels


def _one(name: str, factor: float = 0) -> Values:
    """A packed number; times ``factor`` if there is one."""

    def values(_group: Group, found: View) -> Iterable[Value]:
        value = found.values[name]
        return (((), value * factor if factor else value),)

    return values


def _cpu_usage(_group: Group, found: View) -> Iterable[Value]:
    if found.per_cpu:
        for cpu, value in enumerate(found.per_cpu):
            if value > 0:
                yield (f"cpu{cpu:02}",), value / 1e9
    elif found.values["cpu_total"]:
        yield ("total",), found.values["cpu_total"] / 1e9


def _quota(name: str, factor: float = 0) -> Values:
    """Only of groups with a quota."""
    inner = _one(name, factor)

    def values(group: Group, found: View) -> Iterable[Value]:
        return inner(group, found) if group.spec.quota else ()

    return values


def _schedstat(index: int, factor: float = 0) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        value = found.details.schedstat[index]
        return (((), value * factor if factor else value),)

    return values


def _tasks(_group: Group, found: View) -> Iterable[Value]:
    for state in ("sleeping", "running", "stopped", "uninterruptible", "iowaiting"):
        yield (state,), found.details.tasks.get(state.replace("iowaiting", "iowait"), 0)


def _failures(_group: Group, found: View) -> Iterable[Value]:
    for scope in ("container", "hierarchy"):
        for fault in ("pgfault", "pgmajfault"):
            yield (fault, scope), found.values[fault]


def _hugetlb(field: str) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        for size, use in found.details.hugetlb.items():
            yield (size,), getattr(use, field)

    return values


def _numa(_group: Group, found: View) -> Iterable[Value]:
    for kind, nodes in found.details.numa.items():
        scope = "hierarchy" if kind.startswith("total_") else "container"
        for node, pages in nodes.items():
            yield (kind.removeprefix("total_"), scope, str(node)), pages


def _filesystem(field: str) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        for use in found.details.filesystems:
            yield (use.device,), getattr(use, field)

    return values


def _disk(counters: str, operation: str) -> Values:
    """Of block devices, and of file systems whose device the group has no counters of."""
    at = DISK_FIELDS.index("reads_completed" if operation == "Read" else "writes_completed")

    def values(_group: Group, found: View) -> Iterable[Value]:
        seen = set()
        for disk in found.disks:
            device = device_name(disk.major, disk.minor)
            if device not in seen and (counts := getattr(disk, counters)):
                seen.add(device)
                yield (device,), counts.get(operation, 0)
        if counters == "operations":
            for use in found.details.filesystems:
                if use.device not in seen:
                    seen.add(use.device)
                    yield (use.device,), use.counters[at] if use.counters else 0

    return values


def _device(field: str) -> Values:
    """Counters of the machine's block devices; times in seconds."""
    at = DISK_FIELDS.index(field)

    def values(_group: Group, found: View) -> Iterable[Value]:
        for use in found.details.filesystems:
            if use.counters:
                value = use.counters[at]
                yield (use.device,), value / 1000 if "_time" in field else value

    return values


def _cost(name: str) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        for disk in found.disks:
            if f"cost.{name}" in disk.cost:
                yield (device_name(disk.major, disk.minor),), disk.cost[f"cost.{name}"] / 1e6

    return values


def _blkio(_group: Group, found: View) -> Iterable[Value]:
    for disk in found.disks:
        device = device_name(disk.major, disk.minor)
        for operation, value in disk.bytes.items():
            yield (device, str(disk.major), str(disk.minor), operation), value


def _link(field: str) -> Values:
    def values(group: Group, found: View) -> Iterable[Value]:
        if has_network(group):
            for link in found.links:
                yield (link.name,), getattr(link, field)

    return values


def _sockets(table: str) -> Values:
    def values(group: Group, found: View) -> Iterable[Value]:
        if has_network(group):
            for state, count in getattr(found.details, table).items():
                yield (state.lower(),), count

    return values


def _tcp_advanced(group: Group, found: View) -> Iterable[Value]:
    counters = found.details.tcp_advanced
    if has_network(group) and counters:
        for name in TCP_ADVANCED:
            yield (name.lower(),), counters.get(name, 0)


def _detail(field: str) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        return (((), max(0, getattr(found.details, field))),)

    return values


def _ulimits(_group: Group, found: View) -> Iterable[Value]:
    for limit in found.details.ulimits:
        yield (limit.name,), limit.soft


def _stalled(resource: str, kind: str) -> Values:
    def values(_group: Group, found: View) -> Iterable[Value]:
        pressure = found.pressure.get(resource)
        return (((), getattr(pressure, kind).total / 1e6 if pressure else 0),)

    return values


_HEALTH = {"healthy": 1, "": -1}


def _health(group: Group, _found: View) -> Iterable[Value]:
    return (((), _HEALTH.get(group.facts.health if group.facts else "", 0)),)


def _metrics() -> Iterator[Metric]:
    """All families, in cAdvisor's order and with its help."""
    yield Metric(
        "",
        _SEEN,
        _GAUGE,
        "Last time a container was seen by the exporter",
        lambda _g, _v: (((), int(time.time())),),
    )
    yield Metric(
        "", "container_health_state", _GAUGE, "The result of the container's health check", _health
    )
    for kind, name, type, help, values, *labels in (
        ("cpu", "container_cpu_user_seconds_total", _COUNTER,
         "Cumulative user cpu time consumed in seconds.", _one("cpu_user", 1e-9)),
        ("cpu", "container_cpu_system_seconds_total", _COUNTER,
         "Cumulative system cpu time consumed in seconds.", _one("cpu_system", 1e-9)),
        ("cpu", "container_cpu_usage_seconds_total", _COUNTER,
         "Cumulative cpu time consumed in seconds.", _cpu_usage, "cpu"),
        ("cpu", "container_cpu_cfs_periods_total", _COUNTER,
         "Number of elapsed enforcement period intervals.", _quota("cfs_periods")),
        ("cpu", "container_cpu_cfs_throttled_periods_total", _COUNTER,
         "Number of throttled period intervals.", _quota("cfs_throttled_periods")),
        ("cpu", "container_cpu_cfs_throttled_seconds_total", _COUNTER,
         "Total time duration the container has been throttled.",
         _quota("cfs_throttled_time", 1e-9)),
        ("cpu", "container_cpu_cfs_burst_periods_total", _COUNTER,
         "Number of periods when burst occurs.", _quota("cfs_burst_periods")),
        ("cpu", "container_cpu_cfs_burst_seconds_total", _COUNTER,
         "Total time duration the container has been bursted.", _quota("cfs_burst_time", 1e-9)),
        ("sched", "container_cpu_schedstat_run_seconds_total", _COUNTER,
         "Time duration the processes of the container have run on the CPU.",
         _schedstat(0, 1e-9)),
        ("sched", "container_cpu_schedstat_runqueue_seconds_total", _COUNTER,
         "Time duration processes of the container have been waiting on a runqueue.",
         _schedstat(1, 1e-9)),
        ("sched", "container_cpu_schedstat_run_periods_total", _COUNTER,
         "Number of times processes of the cgroup have run on the cpu", _schedstat(2)),
        ("cpuLoad", "container_cpu_load_average_10s", _GAUGE,
         "Value of container cpu load average over the last 10 seconds.",
         lambda _g, v: (((), int(v.load * 1000)),)),
        ("cpuLoad", "container_cpu_load_d_average_10s", _GAUGE,
         "Value of container cpu load.d average over the last 10 seconds.",
         lambda _g, v: (((), v.details.tasks.get("uninterruptible", 0) * 1000),)),
        ("cpuLoad", "container_tasks_state", _GAUGE, "Number of tasks in given state", _tasks,
         "state"),
        ("hugetlb", "container_hugetlb_failcnt", _COUNTER,
         "Number of hugepage usage hits limits", _hugetlb("failcnt"), "pagesize"),
        ("hugetlb", "container_hugetlb_usage_bytes", _GAUGE, "Current hugepage usage in bytes",
         _hugetlb("usage"), "pagesize"),
        ("hugetlb", "container_hugetlb_max_usage_bytes", _GAUGE,
         "Maximum hugepage usage recorded in bytes", _hugetlb("max_usage"), "pagesize"),
        ("memory", "container_memory_cache", _GAUGE, "Number of bytes of page cache memory.",
         _one("memory_cache")),
        ("memory", "container_memory_rss", _GAUGE, "Size of RSS in bytes.", _one("memory_rss")),
        ("memory", "container_memory_kernel_usage", _GAUGE,
         "Size of kernel memory allocated in bytes.", _one("memory_kernel")),
        ("memory", "container_memory_mapped_file", _GAUGE,
         "Size of memory mapped files in bytes.", _one("memory_mapped_file")),
        ("memory", "container_memory_swap", _GAUGE, "Container swap usage in bytes.",
         _one("memory_swap")),
        ("memory", "container_memory_failcnt", _COUNTER, "Number of memory usage hits limits",
         _one("memory_failcnt")),
        ("memory", "container_memory_usage_bytes", _GAUGE,
         "Current memory usage in bytes, including all memory regardless of when it was accessed",
         _one("memory_usage")),
        ("memory", "container_memory_max_usage_bytes", _GAUGE,
         "Maximum memory usage recorded in bytes", _one("memory_max_usage")),
        ("memory", "container_memory_working_set_bytes", _GAUGE, "Current working set in bytes.",
         _one("memory_working_set")),
        ("memory", "container_memory_total_active_file_bytes", _GAUGE,
         "Current total active file in bytes.", _one("memory_active_file")),
        ("memory", "container_memory_total_inactive_file_bytes", _GAUGE,
         "Current total inactive file in bytes.", _one("memory_inactive_file")),
        ("memory", "container_memory_failures_total", _COUNTER,
         "Cumulative count of memory allocation failures.", _failures, "failure_type", "scope"),
        ("memory", "container_memory_events_high_total", _COUNTER,
         "Cumulative count of memory.high throttle events for the container",
         _one("memory_events_high")),
        ("memory", "container_memory_events_max_total", _COUNTER,
         "Cumulative count of memory.max limit hit events for the container",
         _one("memory_events_max")),
        ("memory", "container_memory_file_dirty_bytes", _GAUGE,
         "Number of bytes of file cache that has been modified but not yet written back to disk.",
         _one("memory_file_dirty")),
        ("memory", "container_memory_file_writeback_bytes", _GAUGE,
         "Number of bytes of file cache that is currently being written back to disk.",
         _one("memory_file_writeback")),
        ("memory", "container_memory_pgscan_total", _COUNTER,
         "Cumulative number of pages scanned by the page reclaim algorithm.", _one("pgscan")),
        ("memory", "container_memory_pgsteal_total", _COUNTER,
         "Cumulative number of pages reclaimed by the page reclaim algorithm.", _one("pgsteal")),
        ("memory", "container_memory_workingset_refault_file_total", _COUNTER,
         "Cumulative number of refaults of previously evicted file pages.", _one("refault_file")),
        ("memory", "container_memory_workingset_refault_anon_total", _COUNTER,
         "Cumulative number of refaults of previously evicted anonymous pages.",
         _one("refault_anon")),
        ("cpuset", "container_memory_migrate", _GAUGE, "Memory migrate status.",
         _detail("memory_migrate")),
        ("memory_numa", "container_memory_numa_pages", _GAUGE,
         "Number of used pages per NUMA node", _numa, "type", "scope", "node"),
        ("disk", "container_fs_inodes_free", _GAUGE, "Number of available Inodes",
         _filesystem("inodes_free"), "device"),
        ("disk", "container_fs_inodes_total", _GAUGE, "Number of Inodes", _filesystem("inodes"),
         "device"),
        ("disk", "container_fs_limit_bytes", _GAUGE,
         "Number of bytes that can be consumed by the container on this filesystem.",
         _filesystem("capacity"), "device"),
        ("disk", "container_fs_usage_bytes", _GAUGE,
         "Number of bytes that are consumed by the container on this filesystem.",
         _filesystem("usage"), "device"),
        ("diskIO", "container_fs_reads_bytes_total", _COUNTER, "Cumulative count of bytes read",
         _disk("bytes", "Read"), "device"),
        ("diskIO", "container_fs_reads_total", _COUNTER, "Cumulative count of reads completed",
         _disk("operations", "Read"), "device"),
        ("diskIO", "container_fs_sector_reads_total", _COUNTER,
         "Cumulative count of sector reads completed", _device("sectors_read"), "device"),
        ("diskIO", "container_fs_reads_merged_total", _COUNTER,
         "Cumulative count of reads merged", _device("reads_merged"), "device"),
        ("diskIO", "container_fs_read_seconds_total", _COUNTER,
         "Cumulative count of seconds spent reading", _device("read_time"), "device"),
        ("diskIO", "container_fs_writes_bytes_total", _COUNTER,
         "Cumulative count of bytes written", _disk("bytes", "Write"), "device"),
        ("diskIO", "container_fs_writes_total", _COUNTER, "Cumulative count of writes completed",
         _disk("operations", "Write"), "device"),
        ("diskIO", "container_fs_sector_writes_total", _COUNTER,
         "Cumulative count of sector writes completed", _device("sectors_written"), "device"),
        ("diskIO", "container_fs_writes_merged_total", _COUNTER,
         "Cumulative count of writes merged", _device("writes_merged"), "device"),
        ("diskIO", "container_fs_write_seconds_total", _COUNTER,
         "Cumulative count of seconds spent writing", _device("write_time"), "device"),
        ("diskIO", "container_fs_io_current", _GAUGE,
         "Number of I/Os currently in progress", _device("io_in_progress"), "device"),
        ("diskIO", "container_fs_io_time_seconds_total", _COUNTER,
         "Cumulative count of seconds spent doing I/Os", _device("io_time"), "device"),
        ("diskIO", "container_fs_io_time_weighted_seconds_total", _COUNTER,
         "Cumulative weighted I/O time in seconds", _device("weighted_io_time"), "device"),
        ("diskIO", "container_fs_io_cost_usage_seconds_total", _COUNTER,
         "Cumulative IOCost usage in seconds", _cost("usage"), "device"),
        ("diskIO", "container_fs_io_cost_wait_seconds_total", _COUNTER,
         "Cumulative IOCost wait in seconds", _cost("wait"), "device"),
        ("diskIO", "container_fs_io_cost_indebt_seconds_total", _COUNTER,
         "Cumulative IOCost debt in seconds", _cost("indebt"), "device"),
        ("diskIO", "container_fs_io_cost_indelay_seconds_total", _COUNTER,
         "Cumulative IOCost delay in seconds", _cost("indelay"), "device"),
        ("diskIO", "container_blkio_device_usage_total", _COUNTER, "Blkio Device bytes usage",
         _blkio, "device", "major", "minor", "operation"),
        ("network", "container_network_receive_bytes_total", _COUNTER,
         "Cumulative count of bytes received", _link("rx_bytes"), "interface"),
        ("network", "container_network_receive_packets_total", _COUNTER,
         "Cumulative count of packets received", _link("rx_packets"), "interface"),
        ("network", "container_network_receive_packets_dropped_total", _COUNTER,
         "Cumulative count of packets dropped while receiving", _link("rx_dropped"), "interface"),
        ("network", "container_network_receive_errors_total", _COUNTER,
         "Cumulative count of errors encountered while receiving", _link("rx_errors"),
         "interface"),
        ("network", "container_network_transmit_bytes_total", _COUNTER,
         "Cumulative count of bytes transmitted", _link("tx_bytes"), "interface"),
        ("network", "container_network_transmit_packets_total", _COUNTER,
         "Cumulative count of packets transmitted", _link("tx_packets"), "interface"),
        ("network", "container_network_transmit_packets_dropped_total", _COUNTER,
         "Cumulative count of packets dropped while transmitting", _link("tx_dropped"),
         "interface"),
        ("network", "container_network_transmit_errors_total", _COUNTER,
         "Cumulative count of errors encountered while transmitting", _link("tx_errors"),
         "interface"),
        ("tcp", "container_network_tcp_usage_total", _GAUGE,
         "tcp connection usage statistic for container", _sockets("tcp"), "tcp_state"),
        ("tcp", "container_network_tcp6_usage_total", _GAUGE,
         "tcp6 connection usage statistic for container", _sockets("tcp6"), "tcp_state"),
        ("advtcp", "container_network_advance_tcp_stats_total", _GAUGE,
         "advance tcp connections statistic for container", _tcp_advanced, "tcp_state"),
        ("udp", "container_network_udp6_usage_total", _GAUGE,
         "udp6 connection usage statistic for container", _sockets("udp6"), "udp_state"),
        ("udp", "container_network_udp_usage_total", _GAUGE,
         "udp connection usage statistic for container", _sockets("udp"), "udp_state"),
        ("process", "container_processes", _GAUGE,
         "Number of processes running inside the container.", _detail("processes")),
        ("process", "container_file_descriptors", _GAUGE,
         "Number of open file descriptors for the container.", _detail("descriptors")),
        ("process", "container_sockets", _GAUGE, "Number of open sockets for the container.",
         _detail("sockets")),
        ("process", "container_threads_max", _GAUGE,
         "Maximum number of threads allowed inside the container, infinity if value is zero",
         _detail("threads_max")),
        ("process", "container_threads", _GAUGE, "Number of threads running inside the container",
         _one("threads")),
        ("process", "container_ulimits_soft", _GAUGE,
         "Soft ulimit values for the container root process. Unlimited if -1, except priority "
         "and nice", _ulimits, "ulimit"),
        ("oom_event", "container_oom_events_total", _COUNTER,
         "Count of out of memory events observed for the container", _one("oom_events")),
        ("pressure", "container_pressure_cpu_stalled_seconds_total", _COUNTER,
         "Total time duration no tasks in the container could make progress due to CPU "
         "congestion.", _stalled("cpu", "full")),
        ("pressure", "container_pressure_cpu_waiting_seconds_total", _COUNTER,
         "Total time duration tasks in the container have waited due to CPU congestion.",
         _stalled("cpu", "some")),
        ("pressure", "container_pressure_memory_stalled_seconds_total", _COUNTER,
         "Total time duration no tasks in the container could make progress due to memory "
         "congestion.", _stalled("memory", "full")),
        ("pressure", "container_pressure_memory_waiting_seconds_total", _COUNTER,
         "Total time duration tasks in the container have waited due to memory congestion.",
         _stalled("memory", "some")),
        ("pressure", "container_pressure_io_stalled_seconds_total", _COUNTER,
         "Total time duration no tasks in the container could make progress due to IO congestion.",
         _stalled("io", "full")),
        ("pressure", "container_pressure_io_waiting_seconds_total", _COUNTER,
         "Total time duration tasks in the container have waited due to IO congestion.",
         _stalled("io", "some")),
    ):  # fmt: skip
        yield Metric(kind, name, type, help, values, tuple(labels))


METRICS = tuple(_metrics())


def _memory_value(value: int) -> int:
    """cAdvisor writes no limit as 0."""
    return 0 if value > _LARGEST or value == UNLIMITED else value


def _spec_lines(group: Group) -> Iterator[tuple[str, str, int]]:
    """Name, help and value of what is not sampled."""
    spec, facts = group.spec, group.facts
    created = group.created_ns // 1_000_000_000
    started = facts.started_ns // 1_000_000_000 if facts and facts.started_ns else created
    yield ("container_creation_time_seconds",
           "Container creation time since unix epoch in seconds.", created)  # fmt: skip
    yield ("container_start_time_seconds",
           "Start time of the container since unix epoch in seconds.", started)  # fmt: skip
    if group.has & {"cpu", "per_cpu"}:
        yield "container_spec_cpu_period", "CPU period of the container.", spec.period
        if spec.quota:
            yield "container_spec_cpu_quota", "CPU quota of the container.", spec.quota
        yield "container_spec_cpu_shares", "CPU share of the container.", spec.shares
    if "memory" in group.has:
        yield ("container_spec_memory_limit_bytes", "Memory limit for the container.",
               _memory_value(spec.memory_limit))  # fmt: skip
        yield ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.",
               _memory_value(spec.swap_limit))  # fmt: skip
        yield ("container_spec_memory_reservation_limit_bytes",
               "Memory reservation limit for the container.",
               _memory_value(spec.reservation))  # fmt: skip


def label_text(pairs: Iterable[tuple[str, str]]) -> str:
    return ",".join(f'{name}="{escape(text)}"' for name, text in pairs)


def base_labels(groups: list[Group], settings: Settings) -> dict[str, str]:
    """The labels that each of a group's lines begins with, by the group's name.

    Every line has every label that any container has, empty where it has none, as cAdvisor does:
    a family's lines must not differ in their labels.
    """
    sets: dict[str, dict[str, str]] = {}
    names: dict[str, None] = {}
    for group in groups:
        found = {"id": group.name}
        if group.container:
            found["name"] = group.aliases[0]
        if group.facts is not None and group.facts.image:
            found["image"] = group.facts.image
        for prefix, pairs in (
            ("container_label_", labels_of(group, settings)),
            ("container_env_", environment_of(group, settings)),
        ):
            for name, text in pairs.items():
                found.setdefault(_UNSAFE.sub("_", prefix + name), text)
        names.update(dict.fromkeys(found))
        sets[group.name] = found
    order = sorted(names)
    return {
        group: label_text((name, found.get(name, "")) for name in order)
        for group, found in sets.items()
    }


class Exposition:
    """Puts the text together. ``open_metrics``: the newer format, with ``# EOF``."""

    def __init__(self, open_metrics: bool) -> None:
        self.open_metrics = open_metrics
        self.lines: list[str] = []

    def family(self, name: str, type: str, help: str) -> None:
        """Begin a family. OpenMetrics names counters without ``_total``; others that count
        are of no known type there."""
        shown, kind = name, type
        if self.open_metrics and type == _COUNTER:
            shown, kind = (name[:-6], type) if name.endswith("_total") else (name, "unknown")
        self.lines.append(f"# HELP {shown} {help}")
        self.lines.append(f"# TYPE {shown} {kind}")

    def line(self, name: str, labels: str, value: float, time_ns: int = 0) -> None:
        """One number. Times are milliseconds, or seconds in OpenMetrics."""
        inside = f"{{{labels}}}" if labels else ""
        stamp = ""
        if time_ns:
            milliseconds = time_ns // 1_000_000
            stamp = f" {milliseconds / 1000:.3f}" if self.open_metrics else f" {milliseconds}"
        self.lines.append(f"{name}{inside} {number(value)}{stamp}")

    def text(self) -> bytes:
        end = "\n# EOF\n" if self.open_metrics else "\n"
        return ("\n".join(self.lines) + end).encode()


def write_containers(out: Exposition, groups: list[Group], settings: Settings) -> None:
    """All families of containers and other groups."""
    base = base_labels(groups, settings)
    specs: dict[str, tuple[str, list[tuple[str, int]]]] = {}
    for group in groups:
        for name, help, limit in _spec_lines(group):
            specs.setdefault(name, (help, []))[1].append((base[group.name], limit))
    for name, (help, rows) in specs.items():
        out.family(name, _GAUGE, help)
        for labels, limit in rows:
            out.line(name, labels, limit)
    views = [
        (group, base[group.name], view(sample))
        for group in groups
        if (sample := group.history.last) is not None
    ]
    for metric in METRICS:
        if metric.kind and not settings.enabled(metric.kind):
            continue
        begun = False
        for group, labels, found in views:
            for own, value in metric.values(group, found):
                if not begun:
                    begun = True
                    out.family(metric.name, metric.type, metric.help)
                more = "," + label_text(zip(metric.labels, own, strict=True)) if own else ""
                stamp = found.time_ns if metric.name != _SEEN else time.time_ns()
                out.line(metric.name, labels + more, value, stamp)


def write_machine(out: Exposition, machine: MachineInfo, shows_topology: bool = True) -> None:
    """``machine_…``; ``shows_topology``: of each NUMA node and core, too."""
    base = label_text((
        ("boot_id", machine.boot_id), ("machine_id", machine.machine_id),
        ("system_uuid", machine.system_uuid),
    ))  # fmt: skip
    for name, help, value in (
        ("machine_cpu_cores", "Number of logical CPU cores.", machine.num_cores),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.",
         machine.num_physical_cores),
        ("machine_cpu_sockets", "Number of CPU sockets.", machine.num_sockets),
        ("machine_memory_bytes", "Amount of memory installed on the machine.",
         machine.memory_capacity),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.",
         machine.swap_capacity),
        ("machine_nvm_avg_power_budget_watts", "NVM power budget.", 0),
    ):  # fmt: skip
        out.family(name, _GAUGE, help)
        out.line(name, base, value)
    help = "NVM capacity value labeled by NVM mode (memory mode or app direct mode)."
    out.family("machine_nvm_capacity", _GAUGE, help)
    for mode in ("app_direct_mode", "memory_mode"):
        out.line("machine_nvm_capacity", f'{base},mode="{mode}"', 0)
    if shows_topology:
        _write_topology(out, machine.topology, base)
    out.family("machine_scrape_error", _GAUGE,
               "1 if there was an error while getting machine metrics, 0 otherwise.")  # fmt: skip
    out.line("machine_scrape_error", "", 0)


def _write_topology(out: Exposition, topology: list[Node], base: str) -> None:
    """NUMA nodes, cores and caches; caches that cores share have an empty ``core_id``."""

    def family(name: str, help: str, values: Iterable[tuple[dict[str, object], int]]) -> None:
        lines = [
            (f"{base},{label_text((key, str(text)) for key, text in own.items())}", value)
            for own, value in values
        ]
        if lines:
            out.family(name, _GAUGE, help)
        for labels, value in lines:
            out.line(name, labels, value)

    family(
        "machine_cpu_cache_capacity_bytes",
        "Cache size in bytes assigned to NUMA node and CPU core.",
        _cache_sizes(topology),
    )
    family(
        "machine_thread_siblings_count",
        "Number of CPU thread siblings.",
        (
            (
                {"node_id": node.node_id, "core_id": core.core_id, "thread_id": thread},
                len(core.thread_ids),
            )
            for node in topology
            for core in node.cores
            for thread in core.thread_ids
        ),
    )
    family(
        "machine_node_memory_capacity_bytes",
        "Amount of memory assigned to NUMA node.",
        (({"node_id": node.node_id}, node.memory) for node in topology),
    )
    family(
        "machine_node_hugepages_count",
        "Numer of hugepages assigned to NUMA node.",
        (
            ({"node_id": node.node_id, "page_size": pages.page_size}, pages.num_pages)
            for node in topology
            for pages in node.hugepages
        ),
    )
    family(
        "machine_node_distance", "Distance between NUMA node and target NUMA node.",
        (({"node_id": node.node_id, "target_node_id": other.node_id}, distance)
         for node in topology
         for other, distance in zip(topology, node.distances, strict=False)),
    )  # fmt: skip


def _cache_sizes(topology: list[Node]) -> Iterator[tuple[dict[str, object], int]]:
    seen = set()
    for node in topology:
        for core in node.cores:
            for cache in core.caches:
                owner = core.core_id if cache.level < _SHARED_LEVEL else ""
                key = (node.node_id, owner, cache.type, cache.level)
                if key not in seen:
                    seen.add(key)
                    yield {
                        "node_id": node.node_id, "core_id": owner, "type": cache.type,
                        "level": cache.level,
                    }, cache.size  # fmt: skip


_SHARED_LEVEL = 3
"""The level of caches from which on they belong to a node, not to a core."""
