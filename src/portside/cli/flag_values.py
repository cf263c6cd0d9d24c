"""Flags' values by kind: sizes, durations, numbers, filters, limits; Docker's errors."""

from __future__ import annotations

from portside.model.golang.csv_line import csv
from portside.model.golang.durations import parse_duration
from portside.model.golang.numbers import parse_int, parse_uint
from portside.model.golang.sizes import ram_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ULIMITS = frozenset(
    ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
     "nproc", "rss", "rtprio", "rttime", "sigpending", "stack")
)  # fmt: skip


def convert(kind: str, text: str) -> Any:
    """A value of a kind. Raises ValueError with what is wrong."""
    function = _KINDS.get(kind)
    return text if function is None else function(text)


def memory_swap(text: str) -> int:
    return -1 if text == "-1" else ram_bytes(text)


def decimal(text: str) -> int:
    """Billionths of ``1.5``, as ``--cpus`` is given. At most nine digits after the point."""
    try:
        if "_" in text:
            raise ValueError
        whole, point, fraction = text.partition(".")
        if "/" in text:
            above, _, below = text.partition("/")
            return int(above) * 10**9 // int(below)
        if point and not fraction.isdecimal() and fraction:
            raise ValueError
        value = float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    if fraction.isdecimal() or not point:
        sign = -1 if text[:1] == "-" else 1
        digits = whole.lstrip("+-") or "0"
        if digits.isdecimal():
            return sign * (int(digits) * 10**9 + int((fraction + "0" * 9)[:9]))
    return int(value * 10**9)


def filter_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not text.strip():
        return "", ""
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` or ``NAME``."""
    name, _, value = text.partition("=")
    return name, value


def strings(text: str) -> list[str]:
    """Values between commas, quoted ones as in CSV."""
    return [] if not text else csv(text)


def ulimit(text: str) -> dict[str, Any]:
    """``nofile=1024:2048`` as the API's Ulimit."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = limits.partition(":")
    soft = parse_int(soft_text)
    hard = parse_int(hard_text) if colon else soft
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: "
                         f"{soft} > {hard}")  # fmt: skip
    return {"Name": name, "Hard": hard, "Soft": soft}


def _mount(text: str) -> dict[str, Any]:
    from portside.cli.mount_flags import parse_mount

    return parse_mount(text)


def _network(text: str) -> dict[str, Any]:
    from portside.cli.network_flags import parse_network

    return parse_network(text)


def _gpus(text: str) -> dict[str, Any]:
    from portside.cli.device_flags import parse_gpus

    return parse_gpus(text)


_KINDS: dict[str, Callable[[str], Any]] = {
    "int": lambda text: parse_int(text, 0),
    "uint": lambda text: parse_uint(text, 0),
    "uint16": lambda text: parse_uint(text, 0, 16),
    "bytes": ram_bytes,
    "swap": memory_swap,
    "duration": parse_duration,
    "decimal": decimal,
    "filter": filter_pair,
    "map": pair,
    "strings": strings,
    "ulimit": ulimit,
    "mount": _mount,
    "network": _network,
    "gpu-request": _gpus,
}
