"""Times and durations as Docker writes them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from portside.model.containerstate import NEVER
from portside.model.errors import InvalidParameter


def rfc3339(nanoseconds: int) -> str:
    """RFC 3339 with up to nine digits of fraction; 0 is Go's zero time."""
    if not nanoseconds:
        return NEVER
    second, fraction = divmod(nanoseconds, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def human(seconds: float) -> str:
    """``About a minute``, ``3 hours``: Docker's words for a span of time."""
    seconds = int(seconds)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def moment(text: str) -> int:
    """Nanoseconds of a moment: a Unix time, RFC 3339, or a Go duration before now."""
    match = re.fullmatch(r"(-?[0-9]+)(?:\.([0-9]{1,9}))?", text)
    if match:
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    spans = re.findall(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s|us|ns)", text)
    if spans and "".join(a + b for a, b in spans) == text:
        units = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
        return time.time_ns() - int(sum(float(a) * units[b] for a, b in spans) * 1e9)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidParameter(f"invalid time: {text!r}") from None
    return int(found.astimezone().timestamp() * 10**9)
