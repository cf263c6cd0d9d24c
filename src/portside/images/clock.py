"""Moments as images write them: RFC 3339 with nanoseconds, in UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:?\d\d)?"
)


def now() -> str:
    """This moment, such as ``2024-05-01T12:00:00.123456789Z``."""
    return text(time.time_ns())


def text(nanoseconds: int) -> str:
    """A moment (nanoseconds since the epoch) as RFC 3339, as short as Go writes it."""
    seconds, rest = divmod(nanoseconds, 10**9)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{whole}{fraction}Z"


def parse(moment: str | None) -> int | None:
    """Nanoseconds since the epoch, or None when it is no moment."""
    match = _RFC3339.fullmatch(moment or "")
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z", "z") else zone
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{offset}")
        return int(whole.timestamp()) * 10**9 + int((fraction or "0").ljust(9, "0"))
    except (ValueError, OverflowError):
        return None


def seconds(moment: str | None) -> int:
    """Seconds since the epoch; 0 when it is no moment."""
    found = parse(moment)
    return 0 if found is None else found // 10**9
