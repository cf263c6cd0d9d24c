"""Sizes and times as Docker writes them."""

from __future__ import annotations

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def _scaled(value: float, base: float, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    while value >= base and unit < len(units) - 1:
        value /= base
        unit += 1
    return f"{go_g(value, digits)}{units[unit]}"


def go_g(value: float, digits: int) -> str:
    """Go's ``%.4g``, which is C's."""
    return f"{value:.{digits}g}"


def human_size(count: float, digits: int = 4) -> str:
    """Bytes in powers of 1000: ``1.234MB``."""
    return _scaled(float(count), 1000.0, _DECIMAL, digits)


def binary_size(count: float) -> str:
    """Bytes in powers of 1024: ``1.5GiB``."""
    return _scaled(float(count), 1024.0, _BINARY, 4)


def human_duration(seconds: float) -> str:
    """``About a minute``, ``3 hours``, as in ``ps``."""
    if seconds < 1:
        return "Less than a second"
    whole = int(seconds)
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    minutes = whole // _MINUTE
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(whole / _HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for days, word in ((14, "days"), (60, "weeks"), (730, "months")):
        if hours < days * 24:
            return f"{hours // {'days': 24, 'weeks': 168, 'months': 720}[word]} {word}"
    return f"{int(whole / _HOUR / 24 / 365)} years"


def ago(stamp: float) -> str:
    """``2 hours ago``, of seconds since 1970; ``N/A`` for Go's zero time."""
    return f"{human_duration(time.time() - stamp)} ago" if stamp > -62135596800 else "N/A"


def parse_rfc3339(text: str) -> float:
    """Seconds since 1970; fractions beyond microseconds are cut."""
    from datetime import datetime

    head, dot, rest = text.partition(".")
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        text = f"{head}.{digits[:6]:0<6}{rest[len(digits) :]}"
    if text.startswith("0001-01-01"):
        return -62135596800.0
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def local_time(stamp: float) -> str:
    """Go's default: ``2024-01-02 15:04:05 +0100 CET``."""
    parts = time.localtime(stamp)
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", parts)
