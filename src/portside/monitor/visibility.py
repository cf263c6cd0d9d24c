"""What this process cannot see of the machine: without root the kernel keeps some things back."""

from __future__ import annotations

import os

from portside.monitor.collector import Collector


def unseen(collector: Collector) -> list[str]:
    """Sentences about what is missing, and what would show it; none for root."""
    found = []
    settings, engine = collector.settings, collector.engine
    if not os.path.exists(f"{settings.host_proc}/1/stat"):
        found.append("processes of other users: /proc is mounted with hidepid")
    elif not os.access(f"{settings.host_proc}/1/fd", os.R_OK):
        found.append(
            "open descriptors and sockets of other users' processes, which count as 0: "
            "needs root or CAP_SYS_PTRACE"
        )
    if not collector.reads_kernel_log:
        found.append(
            f"names of processes killed for lack of memory, and errors of the kernel: "
            f"{settings.kernel_log} needs root or CAP_SYSLOG"
        )
    root = f"{settings.host_root}{engine.root}"
    if collector.engine_reached and engine.root and not os.access(root, os.R_OK | os.X_OK):
        found.append(f"sizes of layers and volumes: {root} is not readable for this user")
    return found
