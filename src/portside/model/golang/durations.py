"""``time.ParseDuration``, ``time.Duration.String`` and go-units' ``HumanDuration``."""

from __future__ import annotations

from portside.model.errors import InvalidText
from portside.model.golang.quoting import quote

MICROSECOND, MILLISECOND, SECOND = 10**3, 10**6, 10**9
MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
_UNITS = {
    "ns": 1, "us": MICROSECOND, "µs": MICROSECOND, "μs": MICROSECOND, "ms": MILLISECOND,
    "s": SECOND, "m": MINUTE, "h": HOUR,
}  # fmt: skip
"""Both Unicode characters for micro: U+00B5 and U+03BC."""
_MOST = 1 << 63
_DIGITS = "0123456789"


def parse_duration(text: str) -> int:
    """Nanoseconds of ``1h2m3.5s``, ``-5m`` or ``0``. Raises InvalidText in Go's words."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise _invalid(text)
    total = 0
    while rest:
        whole, fraction, rest = _number(text, rest)
        unit, rest = _unit(text, rest)
        total += int(whole or "0") * unit + _part(fraction, unit)
        if total > _MOST:
            raise _invalid(text)
    if text[0] == "-":
        return -total
    if total == _MOST:
        raise _invalid(text)
    return total


def _number(text: str, rest: str) -> tuple[str, str, str]:
    """The digits before and after the point, and what follows."""
    whole, rest = _digits(rest)
    fraction = ""
    if rest.startswith("."):
        fraction, rest = _digits(rest[1:])
    if (not whole and not fraction) or len(whole.lstrip("0")) > 19:
        raise _invalid(text)
    return whole.lstrip("0"), fraction, rest


def _part(fraction: str, unit: int) -> int:
    """Nanoseconds of a fraction of a unit, rounded as Go rounds them: in floating point."""
    value, scale = 0, 1.0
    for digit in fraction:
        longer = value * 10 + int(digit)
        if longer > _MOST:
            break
        value, scale = longer, scale * 10.0
    return int(value * (unit / scale))


def _digits(text: str) -> tuple[str, str]:
    rest = text.lstrip(_DIGITS)
    return text[: len(text) - len(rest)], rest


def _unit(text: str, rest: str) -> tuple[int, str]:
    end = next((at for at, char in enumerate(rest) if char == "." or char in _DIGITS), len(rest))
    word = rest[:end]
    if not word:
        raise InvalidText(f"time: missing unit in duration {quote(text)}")
    if word not in _UNITS:
        raise InvalidText(f"time: unknown unit {quote(word)} in duration {quote(text)}")
    return _UNITS[word], rest[end:]


def _invalid(text: str) -> InvalidText:
    return InvalidText(f"time: invalid duration {quote(text)}")


def format_duration(nanoseconds: int) -> str:
    """As Go prints a duration: ``1h2m3.5s``, ``1.5ms``, ``0s``."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if not rest:
        return "0s"
    if rest < SECOND:
        unit, name = next(
            (unit, name)
            for unit, name in ((MILLISECOND, "ms"), (MICROSECOND, "µs"), (1, "ns"))
            if rest >= unit
        )
        return f"{sign}{_decimal(rest, unit)}{name}"
    minutes, seconds = divmod(rest, MINUTE)
    hours, minutes = divmod(minutes, 60)
    shown = f"{_decimal(seconds, SECOND)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{shown}"
    return f"{sign}{minutes}m{shown}" if minutes else f"{sign}{shown}"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def human_duration(seconds: float) -> str:
    """``About a minute``, ``3 hours``: the words of ``ps`` and ``images``."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, span, word in ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"),
                              (17520, 720, "months")):  # fmt: skip
        if hours < limit:
            return f"{hours // span} {word}"
    return f"{int(seconds / 3600) // 24 // 365} years"
