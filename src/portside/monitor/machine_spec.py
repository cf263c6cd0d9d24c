"""The machine's properties: cAdvisor's ``MachineInfo``, with its JSON names."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import msgspec

from portside.monitor import filesystems


class HugePages(msgspec.Struct, frozen=True):
    page_size: int
    """KiB."""
    num_pages: int


class Cache(msgspec.Struct, frozen=True):
    id: int
    size: int
    type: str
    level: int


class Core(msgspec.Struct, frozen=True):
    core_id: int
    thread_ids: list[int]
    caches: list[Cache]
    socket_id: int
    uncore_caches: list[Cache] | None = None


class Node(msgspec.Struct, frozen=True):
    node_id: int
    memory: int
    hugepages: list[HugePages]
    cores: list[Core]
    caches: list[Cache] | None
    distances: list[int]


class FilesystemInfo(msgspec.Struct, frozen=True):
    device: str
    capacity: int
    type: str
    inodes: int
    has_inodes: bool = True


class DiskInfo(msgspec.Struct, frozen=True):
    name: str
    major: int
    minor: int
    size: int
    scheduler: str


class NetInfo(msgspec.Struct, frozen=True):
    name: str
    mac_address: str
    speed: int
    mtu: int


class Nvm(msgspec.Struct, frozen=True):
    memory_mode_capacity: int = 0
    app_direct_mode_capacity: int = msgspec.field(name="app direct_mode_capacity", default=0)
    avg_power_budget: int = 0


class MachineInfo(msgspec.Struct, frozen=True):
    timestamp: str
    vendor_id: str
    num_cores: int
    num_physical_cores: int
    num_sockets: int
    cpu_frequency_khz: int
    memory_capacity: int
    swap_capacity: int
    memory_by_type: dict[str, dict[str, int]]
    nvm: Nvm
    hugepages: list[HugePages]
    machine_id: str
    system_uuid: str
    boot_id: str
    filesystems: list[FilesystemInfo]
    disk_map: dict[str, DiskInfo]
    network_devices: list[NetInfo]
    topology: list[Node]
    cloud_provider: str = "Unknown"
    instance_type: str = "Unknown"
    instance_id: str = "None"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.lstrip("-").isdigit() else 0


def machine_info(rootfs: str = "", sys: str = "/sys", proc: str = "/proc") -> MachineInfo:
    """Read the machine's properties; takes some milliseconds."""
    rootfs = rootfs.rstrip("/")
    cpuinfo = _text(f"{proc}/cpuinfo")
    machine_id = _text(f"{rootfs}/etc/machine-id") or _text(f"{rootfs}/var/lib/dbus/machine-id")
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(f"{proc}/meminfo"), re.MULTILINE))
    topology = _topology(sys)
    cores = [core for node in topology for core in node.cores]
    uses = [(m, filesystems.use(m, rootfs)) for m in filesystems.mounts(proc, rootfs)]
    return MachineInfo(
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        vendor_id=_cpu_field(cpuinfo, "vendor_id"),
        num_cores=os.cpu_count() or 1,
        num_physical_cores=len({(core.socket_id, core.core_id) for core in cores}) or 1,
        num_sockets=len({core.socket_id for core in cores}) or 1,
        cpu_frequency_khz=_frequency(sys, cpuinfo),
        memory_capacity=int(memory.get("MemTotal", 0)) * 1024,
        swap_capacity=int(memory.get("SwapTotal", 0)) * 1024,
        memory_by_type={},
        nvm=Nvm(),
        hugepages=_huge_pages(f"{sys}/kernel/mm/hugepages"),
        machine_id=machine_id,
        system_uuid=_text(f"{sys}/class/dmi/id/product_uuid")
        or _text(f"{proc}/device-tree/vm,uuid").rstrip("\0")
        or machine_id,
        boot_id=_text(f"{proc}/sys/kernel/random/boot_id"),
        filesystems=[
            FilesystemInfo(use.device, use.capacity, use.type, use.inodes)
            for _, use in uses
            if use is not None
        ],
        disk_map=_disks(sys),
        network_devices=_networks(sys),
        topology=topology,
    )


def _cpu_field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _frequency(sys: str, cpuinfo: str) -> int:
    highest = _number(f"{sys}/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    shown = _cpu_field(cpuinfo, "cpu MHz")
    return highest or int(float(shown or 0) * 1000)


def _huge_pages(directory: str) -> list[HugePages]:
    found = []
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    for name in names:
        size = re.fullmatch(r"hugepages-(\d+)kB", name)
        if size:
            found.append(HugePages(int(size[1]), _number(f"{directory}/{name}/nr_hugepages")))
    return found


def _numbered(directory: str, prefix: str) -> list[int]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(
        int(name[len(prefix) :])
        for name in names
        if name.startswith(prefix) and name[len(prefix) :].isdigit()
    )


def _topology(sys: str) -> list[Node]:
    nodes = f"{sys}/devices/system/node"
    numbers = _numbered(nodes, "node")
    if not numbers:
        cpus = _numbered(f"{sys}/devices/system/cpu", "cpu")
        return [Node(0, 0, [], _cores(sys, cpus), None, [])]
    found = []
    for number in numbers:
        base = f"{nodes}/node{number}"
        total = re.search(r"MemTotal:\s+(\d+) kB", _text(f"{base}/meminfo"))
        cpus = _numbered(base, "cpu")
        found.append(
            Node(
                number,
                int(total[1]) * 1024 if total else 0,
                _huge_pages(f"{base}/hugepages"),
                _cores(sys, cpus),
                None,
                [int(word) for word in _text(f"{base}/distance").split()],
            )
        )
    return found


def _cores(sys: str, cpus: list[int]) -> list[Core]:
    threads: dict[tuple[int, int], list[int]] = {}
    for cpu in cpus:
        base = f"{sys}/devices/system/cpu/cpu{cpu}/topology"
        key = (_number(f"{base}/physical_package_id"), _number(f"{base}/core_id"))
        threads.setdefault(key, []).append(cpu)
    return [
        Core(core, members, _caches(sys, members[0]), socket)
        for (socket, core), members in sorted(threads.items())
    ]


_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _caches(sys: str, cpu: int) -> list[Cache]:
    base = f"{sys}/devices/system/cpu/cpu{cpu}/cache"
    found = []
    for number in _numbered(base, "index"):
        size = _text(f"{base}/index{number}/size")
        unit = _UNITS.get(size[-1:], 1)
        digits = size.rstrip("KMG")
        if digits.isdigit():
            kind = _text(f"{base}/index{number}/type")
            level = _number(f"{base}/index{number}/level")
            found.append(
                Cache(_number(f"{base}/index{number}/id"), int(digits) * unit, kind, level)
            )
    return found


def _disks(sys: str) -> dict[str, DiskInfo]:
    found = {}
    try:
        names = sorted(os.listdir(f"{sys}/block"))
    except OSError:
        return {}
    for name in names:
        if name.startswith(("loop", "ram", "sr")):
            continue
        device = _text(f"{sys}/block/{name}/dev")
        major, _, minor = device.partition(":")
        chosen = re.search(r"\[(\w[\w-]*)\]", _text(f"{sys}/block/{name}/queue/scheduler"))
        if minor.isdigit():
            size = _number(f"{sys}/block/{name}/size") * 512
            scheduler = chosen[1] if chosen else "none"
            found[device] = DiskInfo(name, int(major), int(minor), size, scheduler)
    return found


def _networks(sys: str) -> list[NetInfo]:
    found = []
    try:
        names = sorted(os.listdir(f"{sys}/class/net"))
    except OSError:
        return []
    for name in names:
        if name == "lo" or name.startswith(("veth", "docker")):
            continue
        base = f"{sys}/class/net/{name}"
        found.append(
            NetInfo(
                name, _text(f"{base}/address"), _number(f"{base}/speed"), _number(f"{base}/mtu")
            )
        )
    return found
