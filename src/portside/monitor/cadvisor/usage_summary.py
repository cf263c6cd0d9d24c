"""``summary``: percentiles of processor and memory use over a minute, an hour and a day."""

from __future__ import annotations

import math
import time
from typing import Any

from portside.model.golang.timestamps import format_rfc3339
from portside.monitor.collector import Group
from portside.monitor.samples import SERIES

_CPU, _MEMORY = SERIES.index("cpu"), SERIES.index("working_set")


def percentiles(values: list[float]) -> dict[str, Any]:
    """cAdvisor's ``Percentiles``; with ``present: false`` when there are no values."""
    if not values:
        return {"present": False, "mean": 0, "std": 0, "max": 0, "fifty": 0, "ninety": 0,
                "ninetyfive": 0, "count": 0}  # fmt: skip
    values = sorted(values)
    count = len(values)
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / count)

    def at(share: float) -> int:
        """Linear between the two nearest ranks."""
        place = share * (count - 1)
        low = int(place)
        high = min(low + 1, count - 1)
        return int(values[low] + (values[high] - values[low]) * (place - low))

    return {
        "present": True, "mean": int(mean), "std": int(deviation), "max": int(values[-1]),
        "fifty": at(0.5), "ninety": at(0.9), "ninetyfive": at(0.95), "count": count,
    }  # fmt: skip


def _usage(cpu: list[float], memory: list[float], covered: float, window: float) -> dict[str, Any]:
    return {
        "percent_complete": min(100, int(100 * covered / window)),
        "cpu": percentiles([value * 1000 for value in cpu]),
        "memory": percentiles(memory),
    }


def derived_stats(group: Group) -> dict[str, Any]:
    """Processor use in thousandths of a core, memory as working set in bytes."""
    now = time.time()
    history = group.history
    full = list(history.points(now - 60))
    buckets = list(history.buckets(now - 3600))
    age = now - buckets[0][0] if buckets else 0.0
    last = history.last_point
    minute_age = now - full[0][0] if full else 0.0
    hour = ([mean[_CPU] for _, mean, _ in buckets], [mean[_MEMORY] for _, mean, _ in buckets])
    return {
        "timestamp": format_rfc3339(history.last.time_ns if history.last else time.time_ns()),
        "latest_usage": {"cpu": int(last[_CPU] * 1000), "memory": int(last[_MEMORY])},
        "minute_usage": _usage(
            [point[_CPU] for _, point in full], [point[_MEMORY] for _, point in full],
            minute_age, 60,
        ),
        "hour_usage": _usage(*hour, age, 3600),
        "day_usage": _usage(*hour, age, 86400),
    }  # fmt: skip
