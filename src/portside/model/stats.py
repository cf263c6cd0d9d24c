"""``GET /containers/{id}/stats`` with Docker's wire names."""

from __future__ import annotations

import msgspec

NEVER = "0001-01-01T00:00:00Z"
UNLIMITED = 2**64 - 1
"""How Docker writes a limit that is not there on cgroup v2."""


class _Wire(msgspec.Struct, kw_only=True):
    pass


class _Sparse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Zeros are left out, as Go's ``omitempty`` does."""


class BlkioEntry(_Wire):
    major: int
    minor: int
    op: str
    value: int


class BlkioStats(_Wire):
    """Only the first two are filled: the others belonged to a scheduler that is gone."""

    io_service_bytes_recursive: list[BlkioEntry] | None = None
    io_serviced_recursive: list[BlkioEntry] | None = None
    io_queue_recursive: list[BlkioEntry] | None = None
    io_service_time_recursive: list[BlkioEntry] | None = None
    io_wait_time_recursive: list[BlkioEntry] | None = None
    io_merged_recursive: list[BlkioEntry] | None = None
    io_time_recursive: list[BlkioEntry] | None = None
    sectors_recursive: list[BlkioEntry] | None = None


class CpuUsage(_Wire):
    """Nanoseconds."""

    total_usage: int = 0
    percpu_usage: list[int] | msgspec.UnsetType = msgspec.UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class ThrottlingData(_Wire):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class CpuStats(_Wire):
    cpu_usage: CpuUsage = msgspec.field(default_factory=CpuUsage)
    system_cpu_usage: int | msgspec.UnsetType = msgspec.UNSET
    online_cpus: int | msgspec.UnsetType = msgspec.UNSET
    throttling_data: ThrottlingData = msgspec.field(default_factory=ThrottlingData)


class MemoryStats(_Sparse):
    """Bytes."""

    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] = {}
    failcnt: int = 0
    limit: int = 0


class PidsStats(_Sparse):
    current: int = 0
    limit: int = 0


class NetworkStats(_Wire):
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class StatsResponse(_Wire):
    name: str = ""
    id: str = ""
    read: str = NEVER
    preread: str = NEVER
    pids_stats: PidsStats = msgspec.field(default_factory=PidsStats)
    blkio_stats: BlkioStats = msgspec.field(default_factory=BlkioStats)
    num_procs: int = 0
    storage_stats: dict[str, int] = {}
    cpu_stats: CpuStats = msgspec.field(default_factory=CpuStats)
    precpu_stats: CpuStats = msgspec.field(default_factory=CpuStats)
    memory_stats: MemoryStats = msgspec.field(default_factory=MemoryStats)
    networks: dict[str, NetworkStats] | msgspec.UnsetType = msgspec.UNSET
    os_type: str | msgspec.UnsetType = msgspec.UNSET
    """API 1.52 on."""
