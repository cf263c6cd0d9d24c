"""Reads one control group's files again and again, through descriptors that stay open.

A file is parsed only when its bytes differ from the last time. On version 1 and hybrid a group
is a directory in several hierarchies; version 2's pressure files are read where that hierarchy
is mounted beside them. Facts: Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import os
import re
import time
from array import array
from collections.abc import Callable

from portside.kernel.cgroup import Layout
from portside.monitor.samples import INDEX, LINK, PACKED, Details, Sample

Values = list[int]
_Texts = tuple[bytes, bytes, bytes, tuple[str, ...], bytes, tuple[bytes, bytes, bytes]]
Parse = Callable[[Values, bytes], None]
_SIZE = 16384
"""Bytes; more than any of these files has, save on machines with hundreds of processors."""
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Gone(Exception):
    """The group was removed."""


class _File:
    """One file: its path, its descriptor (or -1), its last content."""

    __slots__ = ("fd", "parse", "path", "text")

    def __init__(self, path: str, parse: Parse) -> None:
        self.path, self.parse, self.fd, self.text = path, parse, -1, b""


# -- parsers of single files ----------------------------------------------------------------


def _number(name: str) -> Parse:
    index = INDEX[name]

    def parse(values: Values, text: bytes) -> None:
        values[index] = int(text) if text[:1].isdigit() else 0

    return parse


def _keyed(names: dict[bytes, tuple[str, int]]) -> Parse:
    """Lines ``key number``: which keys become which values, times which factor."""
    wanted = {key: (INDEX[name], factor) for key, (name, factor) in names.items()}

    def parse(values: Values, text: bytes) -> None:
        for line in text.splitlines():
            key, _, number = line.partition(b" ")
            if key in wanted:
                index, factor = wanted[key]
                values[index] = int(number) * factor

    return parse


_STAT_V1 = {
    b"total_cache": "memory_cache",
    b"total_rss": "memory_rss",
    b"total_swap": "memory_swap",
    b"total_mapped_file": "memory_mapped_file",
    b"total_active_file": "memory_active_file",
    b"total_inactive_file": "memory_inactive_file",
    b"pgfault": "pgfault",
    b"pgmajfault": "pgmajfault",
    b"total_dirty": "memory_file_dirty",
    b"total_writeback": "memory_file_writeback",
    b"total_workingset_refault_file": "refault_file",
    b"total_workingset_refault_anon": "refault_anon",
}
_STAT_V2 = {
    b"file": "memory_cache",
    b"anon": "memory_rss",
    b"file_mapped": "memory_mapped_file",
    b"active_file": "memory_active_file",
    b"inactive_file": "memory_inactive_file",
    b"kernel": "memory_kernel",
    b"pgfault": "pgfault",
    b"pgmajfault": "pgmajfault",
    b"file_dirty": "memory_file_dirty",
    b"file_writeback": "memory_file_writeback",
    b"pgscan": "pgscan",
    b"pgsteal": "pgsteal",
    b"workingset_refault_file": "refault_file",
    b"workingset_refault_anon": "refault_anon",
}


def _memory_stat(names: dict[bytes, str]) -> Parse:
    """``memory.stat`` has 40 to 70 lines: one expression finds those that are wanted.

    The order of lines differs between kernels, so each line is an alternative.
    """
    expression = re.compile(rb"^(" + b"|".join(names) + rb") (\d+)$", re.MULTILINE)
    wanted = {key: INDEX[name] for key, name in names.items()}

    def parse(values: Values, text: bytes) -> None:
        for key, number in expression.findall(text):
            values[wanted[key]] = int(number)

    return parse


_STALLED = re.compile(rb"some avg10=(\d+)\.(\d\d)")


def _pressure(name: str) -> Parse:
    index = INDEX[name]

    def parse(values: Values, text: bytes) -> None:
        found = _STALLED.match(text)
        values[index] = int(found[1]) * 100 + int(found[2]) if found else 0

    return parse


_SUMS_V1 = re.compile(rb" (Read|Write) (\d+)$", re.MULTILINE)
_SUMS_V2 = re.compile(rb"(rbytes|wbytes|rios|wios)=(\d+)")
_IO_V2 = {
    b"rbytes": INDEX["read_bytes"], b"wbytes": INDEX["write_bytes"],
    b"rios": INDEX["reads"], b"wios": INDEX["writes"],
}  # fmt: skip


def _io_v1(read: str, write: str) -> Parse:
    indices = {b"Read": INDEX[read], b"Write": INDEX[write]}

    def parse(values: Values, text: bytes) -> None:
        for index in indices.values():
            values[index] = 0
        for operation, number in _SUMS_V1.findall(text):
            values[indices[operation]] += int(number)

    return parse


def _io_v2(values: Values, text: bytes) -> None:
    for index in _IO_V2.values():
        values[index] = 0
    for name, number in _SUMS_V2.findall(text):
        values[_IO_V2[name]] += int(number)


def _per_cpu(values: Values, text: bytes) -> None:
    values[INDEX["cpu_total"]] = sum(map(int, text.split()))


def _meminfo(values: Values, text: bytes) -> None:
    """The root of version 2 has no ``memory.current``: what is not free is in use."""
    found = dict(re.findall(rb"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    total, free = int(found.get(b"MemTotal", 0)), int(found.get(b"MemFree", 0))
    swap = int(found.get(b"SwapTotal", 0)) - int(found.get(b"SwapFree", 0))
    values[INDEX["memory_usage"]] = (total - free) * 1024
    values[INDEX["memory_swap"]] = swap * 1024


_CPU_STAT_V2 = _keyed({
    b"usage_usec": ("cpu_total", 1000), b"user_usec": ("cpu_user", 1000),
    b"system_usec": ("cpu_system", 1000), b"nr_periods": ("cfs_periods", 1),
    b"nr_throttled": ("cfs_throttled_periods", 1), b"throttled_usec": ("cfs_throttled_time", 1000),
    b"nr_bursts": ("cfs_burst_periods", 1), b"burst_usec": ("cfs_burst_time", 1000),
})  # fmt: skip
_CPU_STAT_V1 = _keyed({
    b"nr_periods": ("cfs_periods", 1), b"nr_throttled": ("cfs_throttled_periods", 1),
    b"throttled_time": ("cfs_throttled_time", 1), b"nr_bursts": ("cfs_burst_periods", 1),
    b"burst_time": ("cfs_burst_time", 1),
})  # fmt: skip
_TICKS = _keyed({b"user": ("cpu_user", _TICK), b"system": ("cpu_system", _TICK)})
_OOM_V1 = _keyed({b"oom_kill": ("oom_events", 1)})
_EVENTS_V2 = _keyed({
    b"oom_kill": ("oom_events", 1), b"high": ("memory_events_high", 1),
    b"max": ("memory_events_max", 1),
})  # fmt: skip


def _plan(layout: Layout, name: str) -> dict[str, _File]:
    """The files of a group, by our name for each."""
    found: dict[str, _File] = {}
    is_root = name == "/"
    inside = "" if is_root else name

    def add(key: str, mount: str, file: str, parse: Parse) -> None:
        if mount:
            found[key] = _File(f"{mount}{inside}/{file}", parse)

    unified = layout.unified
    has = layout.unified_controllers
    if mount := layout.v1("cpuacct"):
        add("per_cpu", mount, "cpuacct.usage_percpu", _per_cpu)
        add("cpu", mount, "cpuacct.stat", _TICKS)
    else:
        add("cpu", unified, "cpu.stat", _CPU_STAT_V2)
    if mount := layout.v1("memory"):
        add("memory", mount, "memory.usage_in_bytes", _number("memory_usage"))
        add("memory_max", mount, "memory.max_usage_in_bytes", _number("memory_max_usage"))
        add("memory_fail", mount, "memory.failcnt", _number("memory_failcnt"))
        add("memory_stat", mount, "memory.stat", _memory_stat(_STAT_V1))
        add("kernel", mount, "memory.kmem.usage_in_bytes", _number("memory_kernel"))
        add("oom", mount, "memory.oom_control", _OOM_V1)
    elif "memory" in has:
        if is_root:
            found["memory"] = _File("/proc/meminfo", _meminfo)
        else:
            add("memory", unified, "memory.current", _number("memory_usage"))
            add("memory_max", unified, "memory.peak", _number("memory_max_usage"))
            add("swap", unified, "memory.swap.current", _number("memory_swap"))
            add("oom", unified, "memory.events", _EVENTS_V2)
        add("memory_stat", unified, "memory.stat", _memory_stat(_STAT_V2))
    if "per_cpu" in found:
        add("cfs", layout.v1("cpu"), "cpu.stat", _CPU_STAT_V1)
    if mount := layout.v1("blkio"):
        service = "blkio.throttle.io_service_bytes_recursive"
        add("io", mount, service, _io_v1("read_bytes", "write_bytes"))
        serviced = "blkio.throttle.io_serviced_recursive"
        add("io_operations", mount, serviced, _io_v1("reads", "writes"))
    elif "io" in has:
        add("io", unified, "io.stat", _io_v2)
    if not is_root:
        mount = layout.v1("pids") or (unified if "pids" in has else "")
        add("threads", mount, "pids.current", _number("threads"))
    for kind in ("cpu", "memory", "io"):
        parse = _pressure(f"pressure_{kind}")
        if is_root:
            found[f"{kind}.pressure"] = _File(f"/proc/pressure/{kind}", parse)
        else:
            add(f"{kind}.pressure", unified, f"{kind}.pressure", parse)
    return found


_WORKING_SET = tuple(INDEX[f"memory_{name}"] for name in ("working_set", "usage", "inactive_file"))
_PRESSURE = tuple(INDEX[f"pressure_{kind}"] for kind in ("cpu", "memory", "io"))
_LINKS = INDEX["rx_bytes"]
_QUIET_MOST = 10
"""Every so many samples all files are read, although nothing ran: what the kernel writes back
for the group, and pressure, change then, too."""


class GroupReader:
    """One group. ``keep``: keep descriptors open between samples."""

    def __init__(self, layout: Layout, name: str, keep: bool = True) -> None:
        self.name = name
        self._files = _plan(layout, name)
        self._keep = keep
        self._values: Values = [0] * len(INDEX)
        self._packed = PACKED.pack(*self._values)
        self._per_cpu = b""
        self.quiet = 0
        """Samples in a row in which nothing ran; from the second on only the leading files,
        processor time and memory in use, are read."""
        self.link_names: tuple[str, ...] = ()
        self._links = b""
        self._texts = self._kept_texts()
        for key, file in list(self._files.items()):
            try:
                file.fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                del self._files[key]  # not in this kernel, or not in this hierarchy
            except OSError:
                del self._files[key]  # not readable, or pressure is switched off
        if not self._files:
            raise Gone(name)
        if not keep:
            self.close()
        first = ("per_cpu" if "per_cpu" in self._files else "cpu", "memory")
        self._leading = [(key, self._files[key]) for key in first if key in self._files]
        names = {key for key, _ in self._leading}
        self._following = [item for item in self._files.items() if item[0] not in names]

    @property
    def has(self) -> frozenset[str]:
        """Which kinds of files this group has."""
        return frozenset(self._files)

    @property
    def descriptors(self) -> int:
        return len(self._files) if self._keep else 0

    def close(self) -> None:
        for file in self._files.values():
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1

    def set_links(self, names: tuple[str, ...], counters: bytes) -> bool:
        """Counters of the group's interfaces; whether they differ from the last ones."""
        if counters == self._links and names == self.link_names:
            return False
        self.link_names, self._links = names, counters
        sums = [0] * 8
        for found in LINK.iter_unpack(counters):
            sums = [a + b for a, b in zip(sums, found, strict=True)]
        self._values[_LINKS : _LINKS + 8] = sums
        return True

    def read(
        self, details: Details, load: float, changed: bool = False, full: bool = False
    ) -> Sample:
        """One sample. ``changed``: something beside the files is new; ``full``: read all files
        whatever happened. Raises Gone."""
        ran = self._take(self._leading)
        stalled = self.quiet % _QUIET_MOST == 0 or self._stalled
        if ran or changed or full or stalled:
            changed = self._take(self._following) or ran or changed
        self.quiet = 0 if ran else self.quiet + 1
        if changed:
            values = self._values
            target, usage, inactive = _WORKING_SET
            values[target] = max(0, values[usage] - values[inactive])
            self._packed = PACKED.pack(*values)
            self._texts = self._kept_texts()
        return Sample(time.time_ns(), self._packed, *self._texts, details, load)

    @property
    def _stalled(self) -> bool:
        """Whether something waited lately: then the averages change while nothing runs."""
        return any(self._values[index] for index in _PRESSURE)

    def _take(self, files: list[tuple[str, _File]]) -> bool:
        """Read and parse; whether any file differs from the last time."""
        values, changed = self._values, False
        lost = ""
        for key, file in files:
            try:
                text = self._text(file)
            except FileNotFoundError:
                raise Gone(self.name) from None
            except OSError as err:
                if err.errno == 19:  # ENODEV: the directory was removed
                    raise Gone(self.name) from None
                lost = key  # EOPNOTSUPP: pressure was switched off
                continue
            if text != file.text:
                changed = True
                file.parse(values, text)
                file.text = text
                if key == "per_cpu":
                    self._per_cpu = array("q", map(int, text.split())).tobytes()
        if lost:
            self._drop(lost)
            files[:] = [item for item in files if item[0] != lost]
            return True
        return changed

    def _text(self, file: _File) -> bytes:
        if file.fd >= 0:
            return _whole(file.fd)
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _whole(fd)
        finally:
            os.close(fd)

    def _drop(self, key: str) -> None:
        file = self._files.pop(key)
        if file.fd >= 0:
            os.close(file.fd)

    def _last(self, key: str) -> bytes:
        file = self._files.get(key)
        return file.text if file is not None else b""

    def _kept_texts(self) -> _Texts:
        """The kernel's texts that a sample keeps; shared by samples between changes."""
        last = self._last
        pressure = (last("cpu.pressure"), last("memory.pressure"), last("io.pressure"))
        io = (last("io"), last("io_operations"))
        return (self._per_cpu, *io, self.link_names, self._links, pressure)


def _whole(fd: int) -> bytes:
    text = os.pread(fd, _SIZE, 0)
    if len(text) < 4096:
        return text
    offset = len(text)
    parts = [text]
    while more := os.pread(fd, _SIZE, offset):
        parts.append(more)
        offset += len(more)
    return b"".join(parts)
