"""cAdvisor's JSON of groups and samples (``info/v1`` and ``info/v2`` of cAdvisor 0.60)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from portside.model.golang.timestamps import ZERO, format_rfc3339, rfc3339_or_never
from portside.monitor.collector import Group
from portside.monitor.group_spec import UNLIMITED
from portside.monitor.samples import (
    DISK_FIELDS,
    DiskCounters,
    FileSystemUse,
    Link,
    Pressure,
    Sample,
    View,
    view,
)
from portside.monitor.settings import Settings

Json = dict[str, Any]
_TCP = ("Established", "SynSent", "SynRecv", "FinWait1", "FinWait2", "TimeWait", "Close",
        "CloseWait", "LastAck", "Listen", "Closing")  # fmt: skip
_UDP = ("Listen", "Dropped", "RxQueued", "TxQueued")
TCP_ADVANCED = (
    "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn", "ActiveOpens", "PassiveOpens", "AttemptFails",
    "EstabResets", "CurrEstab", "InSegs", "OutSegs", "RetransSegs", "InErrs", "OutRsts",
    "InCsumErrors", "EmbryonicRsts", "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed",
    "PruneCalled", "RcvPruned", "OfoPruned", "OutOfWindowIcmps", "LockDroppedIcmps", "TW",
    "TWRecycled", "TWKilled", "TCPTimeWaitOverflow", "TCPTimeouts", "TCPSpuriousRTOs",
    "TCPLossProbes", "TCPLossProbeRecovery", "TCPRenoRecoveryFail", "TCPSackRecoveryFail",
    "TCPRenoFailures", "TCPSackFailures", "TCPLossFailures", "DelayedACKs", "DelayedACKLocked",
    "DelayedACKLost", "ListenOverflows", "ListenDrops", "TCPHPHits", "TCPPureAcks", "TCPHPAcks",
    "TCPRenoRecovery", "TCPSackRecovery", "TCPSACKReneging", "TCPFACKReorder", "TCPSACKReorder",
    "TCPRenoReorder", "TCPTSReorder", "TCPFullUndo", "TCPPartialUndo", "TCPDSACKUndo",
    "TCPLossUndo", "TCPFastRetrans", "TCPSlowStartRetrans", "TCPLostRetransmit",
    "TCPRetransFail", "TCPRcvCollapsed", "TCPDSACKOldSent", "TCPDSACKOfoSent", "TCPDSACKRecv",
    "TCPDSACKOfoRecv", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnMemory",
    "TCPAbortOnTimeout", "TCPAbortOnLinger", "TCPAbortFailed", "TCPMemoryPressures",
    "TCPMemoryPressuresChrono", "TCPSACKDiscard", "TCPDSACKIgnoredOld", "TCPDSACKIgnoredNoUndo",
    "TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure", "TCPSackShifted", "TCPSackMerged",
    "TCPSackShiftFallback", "TCPBacklogDrop", "PFMemallocDrop", "TCPMinTTLDrop",
    "TCPDeferAcceptDrop", "IPReversePathFilter", "TCPReqQFullDoCookies", "TCPReqQFullDrop",
    "TCPFastOpenActive", "TCPFastOpenActiveFail", "TCPFastOpenPassive",
    "TCPFastOpenPassiveFail", "TCPFastOpenListenOverflow", "TCPFastOpenCookieReqd",
    "TCPSynRetrans", "TCPOrigDataSent", "PAWSActive", "PAWSEstab",
)  # fmt: skip
"""cAdvisor's ``TcpAdvancedStat``, in its order. The kernel's names, of /proc/net/netstat."""


def aliases(group: Group) -> list[str]:
    return list(group.aliases)


def labels_of(group: Group, settings: Settings) -> dict[str, str]:
    """Labels of the container that are shown: all, or those that were chosen."""
    facts = group.facts
    if facts is None:
        return {}
    if settings.store_labels:
        return facts.labels
    return {name: text for name, text in facts.labels.items() if name in settings.labels}


def environment_of(group: Group, settings: Settings) -> dict[str, str]:
    """Variables whose names begin as chosen, in lower case as cAdvisor shows them."""
    if group.facts is None or not settings.environment:
        return {}
    return {
        name.lower(): text
        for name, text in group.facts.environment.items()
        if name.startswith(settings.environment)
    }


def has_network(group: Group) -> bool:
    if group.name == "/":
        return True
    return bool(group.container) and not (group.facts is not None and group.facts.shares_network)


def spec_json(group: Group, settings: Settings) -> Json:
    """``ContainerSpec`` of the API's version 1."""
    spec, facts = group.spec, group.facts
    cpu: Json = {"limit": spec.shares, "max_limit": 0}
    cpu |= {"mask": spec.cpus} if spec.cpus else {}
    cpu |= {"quota": spec.quota} if spec.quota else {}
    cpu |= {"period": spec.period} if spec.period else {}
    memory: Json = {}
    for name, value in (
        ("limit", spec.memory_limit), ("reservation", spec.reservation),
        ("swap_limit", spec.swap_limit),
    ):  # fmt: skip
        if value:
            memory[name] = value if value >= 0 else UNLIMITED
    found: Json = {
        "creation_time": rfc3339_or_never(group.created_ns),
        "start_time": rfc3339_or_never(facts.started_ns) if facts else ZERO,
        "has_cpu": bool(group.has & {"cpu", "per_cpu"}),
        "cpu": cpu,
        "has_memory": "memory" in group.has,
        "memory": memory,
        "has_hugetlb": bool(group.details.hugetlb),
        "has_network": has_network(group),
        "has_processes": "threads" in group.has or group.name == "/",
        "processes": {"limit": spec.pids_limit} if spec.pids_limit else {},
        "has_filesystem": group.name == "/" or bool(group.details.filesystems),
        "has_diskio": "io" in group.has,
        "has_custom_metrics": False,
    }
    if labels := labels_of(group, settings):
        found["labels"] = labels
    if environment := environment_of(group, settings):
        found["envs"] = environment
    if facts is not None and facts.image:
        found["image"] = facts.image
    return found


def spec_v2(group: Group, settings: Settings) -> Json:
    """``ContainerSpec`` of the API's version 2: with aliases, without quota and period."""
    found = spec_json(group, settings)
    for name in ("quota", "period"):
        found["cpu"].pop(name, None)
    if group.aliases:
        found["aliases"] = aliases(group)
        found["namespace"] = "docker"
    return found


def reference_json(group: Group) -> Json:
    found: Json = {"name": group.name}
    if group.container:
        found = {"id": group.container, "name": group.name, "aliases": aliases(group),
                 "namespace": "docker"}  # fmt: skip
    return found


def info_json(
    group: Group, samples: Iterable[Sample], below: Iterable[Group], settings: Settings
) -> Json:
    """``ContainerInfo`` of version 1."""
    found = reference_json(group)
    if children := [{"name": child.name} for child in below]:
        found["subcontainers"] = children
    found["spec"] = spec_json(group, settings)
    if stats := [stats_json(group, view(sample)) for sample in samples]:
        found["stats"] = stats
    return found


# -- one sample -----------------------------------------------------------------------------


def _pressure(found: Pressure | None) -> Json:
    """cAdvisor's totals are the kernel's microseconds, whatever its comment says."""
    found = found or Pressure()
    return {
        name: {
            "total": line.total, "avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300,
        }
        for name, line in (("full", found.full), ("some", found.some))
    }  # fmt: skip


def cpu_json(found: View) -> Json:
    values = found.values
    usage: Json = {"total": values["cpu_total"]}
    if found.per_cpu:
        usage["per_cpu_usage"] = found.per_cpu
    usage |= {"user": values["cpu_user"], "system": values["cpu_system"]}
    ran, waited, slices = found.details.schedstat
    return {
        "usage": usage,
        "cfs": {
            "periods": values["cfs_periods"],
            "throttled_periods": values["cfs_throttled_periods"],
            "throttled_time": values["cfs_throttled_time"],
            "bursts_periods": values["cfs_burst_periods"],
            "burst_time": values["cfs_burst_time"],
        },
        "schedstat": {"run_time": ran, "runqueue_time": waited, "run_periods": slices},
        "load_average": int(found.load * 1000),
        "load_d_average": found.details.tasks.get("uninterruptible", 0) * 1000,
        "psi": _pressure(found.pressure.get("cpu")),
    }


def memory_json(found: View) -> Json:
    values, numa = found.values, found.details.numa
    faults = {"pgfault": values["pgfault"], "pgmajfault": values["pgmajfault"]}

    def nodes(prefix: str) -> Json:
        return {
            kind: numa[prefix + kind]
            for kind in ("file", "anon", "unevictable")
            if numa.get(prefix + kind)
        }

    return {
        "usage": values["memory_usage"],
        "max_usage": values["memory_max_usage"],
        "cache": values["memory_cache"],
        "rss": values["memory_rss"],
        "swap": values["memory_swap"],
        "mapped_file": values["memory_mapped_file"],
        "working_set": values["memory_working_set"],
        "total_active_file": values["memory_active_file"],
        "total_inactive_file": values["memory_inactive_file"],
        "file_dirty": values["memory_file_dirty"],
        "file_writeback": values["memory_file_writeback"],
        "pgscan": values["pgscan"],
        "pgsteal": values["pgsteal"],
        "workingset_refault_file": values["refault_file"],
        "workingset_refault_anon": values["refault_anon"],
        "failcnt": values["memory_failcnt"],
        "kernel": values["memory_kernel"],
        "container_data": {**faults, "numa_stats": nodes("")},
        "hierarchical_data": {**faults, "numa_stats": nodes("total_")},
        "psi": _pressure(found.pressure.get("memory")),
        "events": {"high": values["memory_events_high"], "max": values["memory_events_max"]},
    }


def disk_io_json(found: View) -> Json:
    def rows(counters: str) -> list[Json]:
        return [
            {
                "device": device_name(disk.major, disk.minor),
                "major": disk.major,
                "minor": disk.minor,
                "stats": getattr(disk, counters),
            }
            for disk in found.disks
            if getattr(disk, counters)
        ]

    result: Json = {}
    for name, counters in (("io_service_bytes", "bytes"), ("io_serviced", "operations")):
        if entries := rows(counters):
            result[name] = entries
    for name in ("usage", "wait", "indebt", "indelay"):
        if entries := [_cost(disk, name) for disk in found.disks if f"cost.{name}" in disk.cost]:
            result[f"io_cost_{name}"] = entries
    result["psi"] = _pressure(found.pressure.get("io"))
    return result


def _cost(disk: DiskCounters, name: str) -> Json:
    return {
        "device": device_name(disk.major, disk.minor), "major": disk.major, "minor": disk.minor,
        "stats": {"Count": disk.cost[f"cost.{name}"]},
    }  # fmt: skip


_devices: dict[tuple[int, int], str] = {}


def device_name(major: int, minor: int) -> str:
    """``/dev/sda`` of a device number, by sysfs; empty when the kernel does not know it."""
    key = (major, minor)
    if key not in _devices:
        name = ""
        try:
            with open(f"/sys/dev/block/{major}:{minor}/uevent") as file:
                for line in file:
                    if line.startswith("DEVNAME="):
                        name = f"/dev/{line[8:].strip()}"
        except OSError:
            pass
        if len(_devices) > 4096:
            _devices.clear()
        _devices[key] = name
    return _devices[key]


def link_json(link: Link) -> Json:
    return {
        "name": link.name,
        "rx_bytes": link.rx_bytes, "rx_packets": link.rx_packets,
        "rx_errors": link.rx_errors, "rx_dropped": link.rx_dropped,
        "tx_bytes": link.tx_bytes, "tx_packets": link.tx_packets,
        "tx_errors": link.tx_errors, "tx_dropped": link.tx_dropped,
    }  # fmt: skip


def _sockets(found: View) -> Json:
    details = found.details
    return {
        "tcp": {name: details.tcp.get(name, 0) for name in _TCP},
        "tcp6": {name: details.tcp6.get(name, 0) for name in _TCP},
        "udp": {name: details.udp.get(name, 0) for name in _UDP},
        "udp6": {name: details.udp6.get(name, 0) for name in _UDP},
        "tcp_advanced": {name: details.tcp_advanced.get(name, 0) for name in TCP_ADVANCED},
    }


def network_json(found: View) -> Json:
    """Version 1: the first interface's counters beside all of them, as cAdvisor has it."""
    first = found.links[0] if found.links else Link("")
    result = link_json(first)
    if found.links:
        result["interfaces"] = [link_json(link) for link in found.links]
    return result | _sockets(found)


def network_v2(found: View) -> Json:
    result: Json = {}
    if found.links:
        result["interfaces"] = [link_json(link) for link in found.links]
    return result | _sockets(found)


def filesystem_json(use: FileSystemUse) -> Json:
    """The times of block devices are the machine's and are shown for its own group only."""
    return {
        "device": use.device, "type": use.type, "capacity": use.capacity, "usage": use.usage,
        "base_usage": use.base_usage, "available": use.available, "has_inodes": True,
        "inodes": use.inodes, "inodes_free": use.inodes_free, **disk_json(use),
    }  # fmt: skip


def disk_json(use: FileSystemUse) -> dict[str, int]:
    """The counters of a file system's block device; times in milliseconds."""
    return dict(zip(DISK_FIELDS, use.counters or (0,) * len(DISK_FIELDS), strict=True))


def inline_json(use: FileSystemUse) -> dict[str, int]:
    """The same in version 2: ``…_duration`` in nanoseconds, as Go's durations are."""
    if not use.counters:
        return {}
    return {
        name.replace("_time", "_duration"): value * 1_000_000 if "_time" in name else value
        for name, value in disk_json(use).items()
    }


def task_json(found: View) -> Json:
    tasks = found.details.tasks
    return {
        "nr_sleeping": tasks.get("sleeping", 0),
        "nr_running": tasks.get("running", 0),
        "nr_stopped": tasks.get("stopped", 0),
        "nr_uninterruptible": tasks.get("uninterruptible", 0),
        "nr_io_wait": tasks.get("iowait", 0),
    }


def processes_json(found: View) -> Json:
    details = found.details
    result: Json = {
        "process_count": details.processes,
        "fd_count": details.descriptors,
        "socket_count": details.sockets,
    }
    if found.values["threads"]:
        result["threads_current"] = found.values["threads"]
    if details.threads_max > 0:
        result["threads_max"] = details.threads_max
    if details.ulimits:
        result["ulimits"] = [
            {"name": limit.name, "soft_limit": limit.soft, "hard_limit": limit.hard}
            for limit in details.ulimits
        ]
    return result


def hugetlb_json(found: View) -> Json:
    return {
        size: {"usage": use.usage, "max_usage": use.max_usage, "failcnt": use.failcnt}
        for size, use in found.details.hugetlb.items()
    }


def stats_json(group: Group, found: View) -> Json:
    """``ContainerStats`` of version 1."""
    result: Json = {
        "timestamp": format_rfc3339(found.time_ns),
        "cpu": cpu_json(found),
        "diskio": disk_io_json(found),
        "memory": memory_json(found),
    }
    if found.details.hugetlb:
        result["hugetlb"] = hugetlb_json(found)
    if has_network(group):
        result["network"] = network_json(found)
    if found.details.filesystems:
        result["filesystem"] = [filesystem_json(use) for use in found.details.filesystems]
    result["task_stats"] = task_json(found)
    result["processes"] = processes_json(found)
    result["resctrl"] = {}
    result["cpuset"] = {"memory_migrate": found.details.memory_migrate}
    if found.values["oom_events"]:
        result["oom_events"] = found.values["oom_events"]
    result["health"] = {"status": group.facts.health if group.facts else ""}
    return result


def cpu_inst(before: View | None, found: View) -> Json | None:
    """``CpuInstStats``: nanocores between two samples; None for the first one."""
    if before is None or found.time_ns <= before.time_ns:
        return None
    seconds = (found.time_ns - before.time_ns) / 1e9

    def rate(name: str) -> int:
        return int(max(0, found.values[name] - before.values[name]) / seconds)

    usage: Json = {"total": rate("cpu_total"), "user": rate("cpu_user"),
                   "system": rate("cpu_system")}  # fmt: skip
    if found.per_cpu and len(before.per_cpu) == len(found.per_cpu):
        usage["per_cpu_usage"] = [
            int(max(0, now - old) / seconds)
            for old, now in zip(before.per_cpu, found.per_cpu, strict=True)
        ]
    return {"usage": usage}


def _entries(samples: Iterable[Sample]) -> Iterator[tuple[Json, View]]:
    """The first fields of every form of version 2, and the sample that the others come from."""
    before = None
    for sample in samples:
        found = view(sample)
        entry: Json = {"timestamp": format_rfc3339(found.time_ns), "cpu": cpu_json(found)}
        if instant := cpu_inst(before, found):
            entry["cpu_inst"] = instant
        yield entry, found
        before = found


def stats_v2(group: Group, samples: Iterable[Sample]) -> list[Json]:
    """``ContainerStats`` of version 2.1."""
    result = []
    for entry, found in _entries(samples):
        entry["diskio"] = disk_io_json(found)
        entry["memory"] = memory_json(found)
        if found.details.hugetlb:
            entry["hugetlb"] = hugetlb_json(found)
        if has_network(group):
            entry["network"] = network_v2(found)
        entry["processes"] = processes_json(found)
        if len(found.details.filesystems) == 1:
            use = found.details.filesystems[0]
            entry["filesystem"] = {
                "totalUsageBytes": use.usage, "baseUsageBytes": use.base_usage,
                "containter_inode_usage": use.inodes,
            }  # fmt: skip
        entry["load_stats"] = task_json(found)
        entry["resctrl"] = {}
        result.append(entry)
    return result


def stats_deprecated(group: Group, samples: Iterable[Sample]) -> list[Json]:
    """``DeprecatedContainerStats`` of version 2.0: all fields; ``has_…`` marks the valid ones."""
    result = []
    for entry, found in _entries(samples):
        entry |= {
            "has_cpu": bool(group.has & {"cpu", "per_cpu"}),
            "has_diskio": "io" in group.has,
            "diskio": disk_io_json(found),
            "has_memory": "memory" in group.has,
            "memory": memory_json(found),
            "has_hugetlb": bool(found.details.hugetlb),
            "has_network": has_network(group),
            "network": network_v2(found),
            "has_processes": True,
            "processes": processes_json(found),
            "has_filesystem": bool(found.details.filesystems),
            "has_load": False,
            "load_stats": task_json(found),
            "has_custom_metrics": False,
            "resctrl": {},
        }
        if found.details.filesystems:
            entry["filesystem"] = [filesystem_json(use) for use in found.details.filesystems]
        result.append(entry)
    return result


def machine_stats(samples: Iterable[Sample]) -> list[Json]:
    """``MachineStats`` of version 2.1."""
    result = []
    for entry, found in _entries(samples):
        entry["memory"] = memory_json(found)
        entry["network"] = network_v2(found)
        entry["filesystem"] = [
            {
                "device": use.device, "type": use.type, "capacity": use.capacity,
                "usage": use.usage, "available": use.available, "inodes_free": use.inodes_free,
                "inline": inline_json(use),
            }
            for use in found.details.filesystems
        ]  # fmt: skip
        entry["load_stats"] = task_json(found)
        result.append(entry)
    return result
