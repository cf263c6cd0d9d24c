"""The JSON document of a sample as cAdvisor's Redis, Kafka and stdout drivers write it."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from portside.model.golang.timestamps import format_rfc3339
from portside.monitor.cadvisor.container_json import labels_of, stats_json
from portside.monitor.collector import Group
from portside.monitor.samples import View
from portside.monitor.settings import Settings


def documents(found: Iterable[tuple[Group, View]], settings: Settings) -> list[bytes]:
    """One document for each sample."""
    machine = os.uname().nodename
    return [
        msgspec.json.encode(
            {
                "timestamp": format_rfc3339(view.time_ns), "machine_name": machine,
                "container_Name": group.shown, "container_Id": group.container,
                "container_labels": labels_of(group, settings),
                "container_stats": stats_json(group, view),
            }
        )
        for group, view in found
    ]  # fmt: skip
