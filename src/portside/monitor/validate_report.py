"""``/validate``: what of this machine the monitor can see, and what to do about the rest."""

from __future__ import annotations

import os

from portside.monitor.monitor_context import Monitor
from portside.monitor.visibility import unseen


def report(monitor: Monitor) -> str:
    """The report as text."""
    collector, settings = monitor.collector, monitor.settings
    layout = collector.layout
    controllers = sorted(
        {name for hierarchy in layout.hierarchies for name in hierarchy.controllers}
        | layout.unified_controllers
    )
    lacking = [name for name in ("cpuacct", "memory", "blkio", "pids") if not layout.has(name)]
    engine = collector.engine
    reached = (
        f"[Supported, recommended]\n\t{engine.version} (API {engine.api}), data in {engine.root}\n"
        if collector.engine_reached
        else "[Unknown]\n\tno engine answers: containers have no names, images and labels here\n"
        "\t(start one, or name its socket with --engine)\n"
    )
    root = settings.host_root or "/"
    missing = unseen(collector)
    return "\n".join((
        f"Kernel version: [Supported, recommended]\n\t{monitor.kernel}\n",
        f"Cgroup setup: [{'Supported, recommended' if not lacking else 'Unsupported'}]\n"
        f"\t{layout.mode}; controllers: {' '.join(controllers)}\n"
        + (f"\tnot available: {' '.join(lacking)}\n" if lacking else ""),
        "Cgroup mount setup: [Supported, recommended]\n"
        + "".join(f"\t{mount}\n" for mount in layout.mounts()),
        f"Docker version: {reached}",
        f"Pressure (PSI): [{_state(os.path.exists('/proc/pressure/cpu'))}]\n",
        f"Processes: [{_state(os.path.exists(f'{settings.host_proc}/1/stat'))}]\n"
        f"\tread from {settings.host_proc}; root of the machine: {root}\n",
        f"Block devices: [{_state(os.path.isdir('/sys/block'))}]\n",
        f"Permissions: [Supported, {'but not ' if missing else ''}recommended]\n"
        + "".join(f"\tnot seen: {sentence}\n" for sentence in missing),
        f"Groups: {len(collector.groups)}, of which containers: {len(collector.by_container)}\n",
    ))  # fmt: skip


def _state(there: bool) -> str:
    return "Supported, recommended" if there else "Unsupported"
