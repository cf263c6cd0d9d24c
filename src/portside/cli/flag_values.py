"""Flags' values by kind: sizes, durations, numbers, filters, limits; Docker's errors."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIZES = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_NANOSECONDS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9,
    "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
ULIMITS = frozenset(
    ("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
     "nproc", "rss", "rtprio", "rttime", "sigpending", "stack")
)  # fmt: skip


def convert(kind: str, text: str) -> Any:
    """A value of a kind. Raises ValueError with what is wrong."""
    function = _KINDS.get(kind)
    return text if function is None else function(text)


def integer(text: str, least: int = -(2**63), most: int = 2**63 - 1, what: str = "Int") -> int:
    """As Go's strconv reads it with base 0, within bounds."""
    digits = text[1:] if text[:1] in "+-" and what == "Int" else text
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 10)
    if base == 10 and digits[:1] == "0" and len(digits) > 1:
        digits, base = "0o" + digits[1:], 8
    try:
        if not digits[:1].isdigit():
            raise ValueError
        number = int(digits, base) * (-1 if text[0] == "-" else 1)
    except ValueError:
        raise ValueError(f'strconv.Parse{what}: parsing "{text}": invalid syntax') from None
    if not least <= number <= most:
        raise ValueError(f'strconv.Parse{what}: parsing "{text}": value out of range')
    return number


def size(text: str) -> int:
    """Bytes of ``512m``, ``1.5g``, ``64MiB``, ``-1``: units are powers of 1024."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip().lower()
    if unit not in ("", "b"):
        unit = unit.removesuffix("ib") if unit.endswith("ib") else unit.removesuffix("b")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    if value < 0:
        raise ValueError(f"invalid size: '{text}'")
    if unit not in _SIZES or value != value or "_" in number:
        raise ValueError(f"invalid suffix: '{text[len(number) :].strip().lower()}'")
    return int(value * 1024 ** _SIZES[unit])


def memory_swap(text: str) -> int:
    return -1 if text == "-1" else size(text)


def duration(text: str) -> int:
    """Nanoseconds of Go's ``1h2m3.5s``."""
    rest = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total = 0.0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        if not number or number == "." or number.count(".") > 1:
            raise ValueError(f'time: invalid duration "{text}"')
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        for known in sorted(_NANOSECONDS, key=len, reverse=True):
            if unit.startswith(known):
                unit = known
                break
        if not unit:
            if rest:
                raise ValueError(f'time: unknown unit "{rest}" in duration "{text}"')
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _NANOSECONDS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _NANOSECONDS[unit]
        rest = rest[len(unit) :]
    return round(-total if text[0] == "-" else total)


def decimal(text: str) -> int:
    """Billionths of ``1.5``, as ``--cpus`` is given. At most nine digits after the point."""
    try:
        if "_" in text:
            raise ValueError
        whole, point, fraction = text.partition(".")
        if "/" in text:
            above, _, below = text.partition("/")
            return int(above) * 10**9 // int(below)
        if point and not fraction.isdigit() and fraction:
            raise ValueError
        value = float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    if fraction.isdigit() or not point:
        sign = -1 if text[:1] == "-" else 1
        digits = whole.lstrip("+-") or "0"
        if digits.isdigit():
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


def csv(text: str) -> list[str]:
    """The fields of one line of comma-separated values (RFC 4180)."""
    if '"' not in text:
        return text.split(",")
    import csv as standard

    try:
        return next(standard.reader([text], strict=True))
    except standard.Error as err:
        raise ValueError(f"parse error: {err}") from None


def ulimit(text: str) -> dict[str, Any]:
    """``nofile=1024:2048`` as the API's Ulimit."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = limits.partition(":")
    soft = integer(soft_text)
    hard = integer(hard_text) if colon else soft
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
    "int": integer,
    "uint": lambda text: integer(text, 0, 2**64 - 1, "Uint"),
    "uint16": lambda text: integer(text, 0, 2**16 - 1, "Uint"),
    "bytes": size,
    "swap": memory_swap,
    "duration": duration,
    "decimal": decimal,
    "filter": filter_pair,
    "map": pair,
    "strings": strings,
    "ulimit": ulimit,
    "mount": _mount,
    "network": _network,
    "gpu-request": _gpus,
}
