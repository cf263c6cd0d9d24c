"""Costly values: processes, descriptors, sockets, file systems, NUMA nodes."""

from __future__ import annotations

import os
import time

from portside.kernel.cgroup import Layout
from portside.kernel.cgroup.files import keyed, number, read_or
from portside.kernel.cgroup.stats import page_sizes
from portside.monitor import filesystems, network_reader, process_reader
from portside.monitor.engine_watch import ContainerFacts
from portside.monitor.samples import Details, FileSystemUse, HugetlbUse
from portside.monitor.settings import Settings

_LAYER = 60.0
"""Seconds between two counts of a layer's files; a slow count is repeated 30 times as late."""

_SEEN = 5.0
_TABLES_FACTOR, _TABLES_LONGEST = 3000, 60.0
"""Tables of sockets are read again after this many times what reading took, in seconds at most:
9 ms a container and half a minute on a machine whose hash table has half a million places."""


class DetailsReader:
    """Reads :class:`Details` of one group after the other; used by one thread."""

    def __init__(self, layout: Layout, proc: str, settings: Settings) -> None:
        self._layout, self._proc, self._settings = layout, proc, settings
        self._rootfs = settings.host_root
        self._layers: dict[str, tuple[float, filesystems.DirectoryUse]] = {}
        self._seen: dict[str, list[int]] = {}
        self._seen_time = -_SEEN
        self._uppers: dict[tuple[str, int], str] = {}
        self._tables_due: dict[str, float] = {}

    def read(
        self,
        name: str,
        before: Details,
        facts: ContainerFacts | None,
        proc: str,
        mounts: list[filesystems.Mount],
    ) -> tuple[Details, str]:
        """Details now, and the directory of a process of the group (empty: none is seen)."""
        settings, is_root = self._settings, name == "/"
        pids = self.pids(name)
        opened = process_reader.look(self._proc, pids if not is_root else [])
        seen = f"{self._proc}/{pids[0]}" if pids and not is_root else ""
        if is_root:
            opened = self._machine_files(opened)
        network = proc or ("" if facts is not None else seen)
        sockets = self._sockets(name, before, network) if proc or is_root else before
        found = Details(
            time_ns=time.time_ns(),
            processes=opened.processes,
            descriptors=opened.descriptors,
            sockets=opened.sockets,
            threads_max=self._threads_max(name),
            descriptors_limit=opened.limit,
            descriptors_highest=opened.highest,
            ulimits=opened.ulimits,
            tasks=opened.tasks,
            schedstat=opened.schedstat,
            tcp=sockets.tcp,
            tcp6=sockets.tcp6,
            udp=sockets.udp,
            udp6=sockets.udp6,
            tcp_advanced=sockets.tcp_advanced,
            hugetlb=self._hugetlb(name) if settings.enabled("hugetlb") else {},
            numa=self._numa_pages(name) if settings.enabled("memory_numa") else {},
            filesystems=self._filesystems(name, facts, mounts),
            memory_migrate=self._migrate(name),
        )
        return found, seen

    def _sockets(self, name: str, before: Details, network: str) -> Details:
        """Sockets of the group's network by state. What took long is not repeated soon."""
        now = time.monotonic()
        key = f"{name} {network}"
        if now < self._tables_due.get(key, 0.0):
            return before
        settings, used = self._settings, network_reader.sockets_in_use(network)
        tables: dict[str, dict[str, int]] = {}
        for kind in ("tcp", "tcp6"):
            read = settings.enabled("tcp") and used[kind]
            none = network_reader.no_tcp() if settings.enabled("tcp") else {}
            tables[kind] = network_reader.tcp_states(network, kind) if read else none
        for kind in ("udp", "udp6"):
            read = settings.enabled("udp") and used[kind]
            none = network_reader.no_udp() if settings.enabled("udp") else {}
            tables[kind] = network_reader.udp_counters(network, kind) if read else none
        advanced = settings.enabled("advtcp")
        found = Details(
            tcp=tables["tcp"],
            tcp6=tables["tcp6"],
            udp=tables["udp"],
            udp6=tables["udp6"],
            tcp_advanced=network_reader.tcp_advanced(network) if advanced else {},
        )
        if len(self._tables_due) > 5000:
            self._tables_due = {k: due for k, due in self._tables_due.items() if due > now}
        took = time.monotonic() - now
        self._tables_due[key] = now + min(_TABLES_LONGEST, _TABLES_FACTOR * took)
        return found

    def pids(self, name: str) -> list[int]:
        """Processes of a group, without those of the groups below.

        Inside a container ``cgroup.procs`` shows processes of the monitor's own PID namespace
        only: there the groups of all processes of the host are looked through.
        """
        if self._proc != "/proc":
            return self._seen_pids().get(name.rpartition("/")[2], [])
        layout = self._layout
        mount = layout.v1("memory") or layout.v1("pids") or layout.unified
        return process_reader.pids_of(f"{mount}{'' if name == '/' else name}/cgroup.procs")

    def _seen_pids(self) -> dict[str, list[int]]:
        """Processes by the last part of their group's path: the kernel shows paths relative
        to the monitor's control group namespace. Looked through once in some seconds."""
        now = time.monotonic()
        if now - self._seen_time > _SEEN:
            found: dict[str, list[int]] = {}
            for name in os.listdir(self._proc):
                if name.isdigit():
                    first = read_or(f"{self._proc}/{name}/cgroup").partition("\n")[0]
                    found.setdefault(first.rpartition("/")[2], []).append(int(name))
            self._seen, self._seen_time = found, now
        return self._seen

    def _directory(self, controller: str, name: str) -> str:
        mount = self._layout.v1(controller) or self._layout.unified
        return f"{mount}{'' if name == '/' else name}"

    def _threads_max(self, name: str) -> int:
        if name == "/":
            return number(read_or("/proc/sys/kernel/threads-max"), 0)
        return number(read_or(f"{self._directory('pids', name)}/pids.max"), 0)

    def _machine_files(self, opened: process_reader.Opened) -> process_reader.Opened:
        """All open files of the machine (proc_sys_fs(5)), its sockets and threads."""
        words = read_or("/proc/sys/fs/file-nr").split()
        sockets = read_or(f"{self._proc}/net/sockstat").partition("used ")[2].split()
        running, _, total = (read_or("/proc/loadavg").split() or ["", "", "", "0/0"])[3].partition(
            "/"
        )
        return process_reader.Opened(
            processes=int(total or 0),
            descriptors=int(words[0]) if words else 0,
            sockets=int(sockets[0]) if sockets else 0,
            limit=min(int(words[2]), (1 << 62)) if len(words) > 2 else 0,
            highest=int(words[0]) if words else 0,
            tasks={"running": int(running or 0)},
        )

    def _hugetlb(self, name: str) -> dict[str, HugetlbUse]:
        if not self._layout.has("hugetlb"):
            return {}
        directory, old = self._directory("hugetlb", name), bool(self._layout.v1("hugetlb"))
        found = {}
        for size in page_sizes():
            prefix = f"{directory}/hugetlb.{size}"
            text = read_or(f"{prefix}.usage_in_bytes" if old else f"{prefix}.current")
            if not text:
                continue
            if old:
                highest = number(read_or(f"{prefix}.max_usage_in_bytes"), 0)
                failed = number(read_or(f"{prefix}.failcnt"), 0)
            else:
                highest, failed = 0, keyed(read_or(f"{prefix}.events")).get("max", 0)
            found[size] = HugetlbUse(number(text, 0), highest, failed)
        return found

    def _numa_pages(self, name: str) -> dict[str, dict[int, int]]:
        """Version 1 counts pages, version 2 bytes; the result is in pages, as cAdvisor has it."""
        text = read_or(f"{self._directory('memory', name)}/memory.numa_stat")
        old = bool(self._layout.v1("memory"))
        found: dict[str, dict[int, int]] = {}
        for line in text.splitlines():
            head, *nodes = line.split()
            kind = head.partition("=")[0].replace("hierarchical_", "total_")
            if kind.removeprefix("total_") not in ("file", "anon", "unevictable"):
                continue
            found[kind] = {
                int(node[1:]): int(count) // (1 if old else 4096)
                for node, _, count in (entry.partition("=") for entry in nodes)
                if node[1:].isdigit() and count.isdigit()
            }
        return found

    def _migrate(self, name: str) -> int:
        mount = self._layout.v1("cpuset")
        return number(read_or(f"{mount}{name}/cpuset.memory_migrate"), 0) if mount else 0

    # -- file systems ------------------------------------------------------------------------

    def _filesystems(
        self, name: str, facts: ContainerFacts | None, mounts: list[filesystems.Mount]
    ) -> tuple[FileSystemUse, ...]:
        if not self._settings.enabled("disk"):
            return ()
        if name == "/":
            disks = filesystems.disk_counters(self._proc)
            uses = (filesystems.use(mount, self._rootfs, disks) for mount in mounts)
            return tuple(use for use in uses if use is not None)
        upper = self._upper(facts) if facts is not None else ""
        if facts is None or not upper:
            return ()
        layer = self._count(upper)
        mount = filesystems.mount_of(upper, mounts, self._rootfs)
        whole = filesystems.use(mount, self._rootfs) if mount is not None else None
        if layer is None or whole is None:
            return ()
        volumes = sum(found.bytes for path in facts.volumes if (found := self._count(path)))
        return (
            FileSystemUse(
                whole.device, whole.type, whole.mountpoint, whole.capacity, layer.bytes + volumes,
                whole.available, layer.inodes, whole.inodes_free, layer.bytes, whole.major,
                whole.minor,
            ),
        )  # fmt: skip

    def _upper(self, facts: ContainerFacts) -> str:
        """The writable layer, as the engine says it or as it is mounted."""
        if facts.upper or not facts.pid:
            return facts.upper
        key = (facts.id, facts.pid)
        if key not in self._uppers:
            if len(self._uppers) > 5000:
                self._uppers.clear()
            self._uppers[key] = filesystems.layer_of(f"{self._proc}/{facts.pid}")
        return self._uppers[key]

    def _count(self, path: str) -> filesystems.DirectoryUse | None:
        """The files below a directory, counted again after some time."""
        now = time.monotonic()
        due, found = self._layers.get(path, (0.0, filesystems.DirectoryUse()))
        if now < due:
            return found
        if len(self._layers) > 5000:
            self._layers = {key: old for key, old in self._layers.items() if old[0] > now - 600}
        found = filesystems.directory_use(f"{self._rootfs}{path}")
        took = time.monotonic() - now
        self._layers[path] = (now + max(_LAYER, 30 * took), found)
        return found
