"""StatsD gauges, as many in a datagram as fit a usual MTU."""

from __future__ import annotations

import re
from collections.abc import Iterable

from portside.monitor.collector import Group
from portside.monitor.exporters.influxdb_lines import _VALUES
from portside.monitor.samples import View

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MOST = 1432
"""Bytes of a datagram: an Ethernet frame without headers."""


def datagrams(found: Iterable[tuple[Group, View]], prefix: str) -> list[bytes]:
    """``PREFIX.CONTAINER.NAME:VALUE|g``; a dot in a name would be another level."""
    result: list[bytes] = []
    pending = b""
    for group, view in found:
        name = _UNSAFE.sub("_", group.shown.strip("/")) or "machine"
        base = f"{prefix}.{name}" if prefix else name
        for measurement, key in _VALUES.items():
            line = f"{base}.{measurement}:{view.values[key]}|g".encode()
            if pending and len(pending) + 1 + len(line) > _MOST:
                result.append(pending)
                pending = b""
            pending = pending + b"\n" + line if pending else line
    return [*result, pending] if pending else result
