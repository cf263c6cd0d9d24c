"""Points in time: RFC 3339, and what users give as ``--since``, ``--until`` and ``until=``.

A point in time is an integer, nanoseconds since 1970 in UTC. The layouts and the words for what
is wrong are those of Go's ``time`` package; which layout is used when, Docker's.
"""

from __future__ import annotations

import time

from portside.model.errors import InvalidText
from portside.model.golang.durations import parse_duration
from portside.model.golang.numbers import parse_int
from portside.model.golang.quoting import quote

SECOND = 10**9
ZERO = "0001-01-01T00:00:00Z"
"""How Go writes a time that was never set."""
ZERO_SECONDS = -62135596800
"""Go's zero time in seconds since 1970."""

_LOCAL = "2006-01-02T15:04:05"
_ELEMENTS = ("2006", "01", "02", "15", "04", "05", ".999999999", "Z07:00")
_RANGES = {"01": ("month", 1, 12), "15": ("hour", 0, 23), "04": ("minute", 0, 59),
           "05": ("second", 0, 59)}  # fmt: skip
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def format_rfc3339(nanoseconds: int) -> str:
    """RFC 3339 in UTC, as short as Go's ``RFC3339Nano``."""
    seconds, rest = divmod(nanoseconds, SECOND)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{whole:0>19}{fraction}Z"


def rfc3339_or_never(nanoseconds: int) -> str:
    """As :func:`format_rfc3339`; 0 is Go's zero time."""
    return format_rfc3339(nanoseconds) if nanoseconds else ZERO


def now_rfc3339() -> str:
    """This moment, such as ``2024-05-01T12:00:00.123456789Z``."""
    return format_rfc3339(time.time_ns())


def parse_rfc3339(text: str) -> int:
    """Nanoseconds of RFC 3339 with or without a fraction. Raises InvalidText in Go's words."""
    return _parse(text, "2006-01-02T15:04:05Z07:00")


def rfc3339_or_zero(text: str | None) -> int:
    """Nanoseconds of a time in a document that may lack it or hold anything; 0 if it does."""
    try:
        return parse_rfc3339(text) if text else 0
    except InvalidText:
        return 0


def parse_unix(text: str) -> int:
    """Nanoseconds of ``SECONDS`` or ``SECONDS.FRACTION``. Raises InvalidText."""
    whole, point, fraction = text.partition(".")
    seconds = parse_int(whole)
    if not point:
        return seconds * SECOND
    parse_int(fraction)
    return seconds * SECOND + int(int(fraction) * 10.0 ** (9 - len(fraction)))


def parse_moment(text: str, now: int | None = None) -> int:
    """Nanoseconds of what a user gave: a Go duration before now, RFC 3339, whole or cut short,
    or Unix seconds. Without a zone, it is local time with the zone's present offset.

    Raises InvalidText in Docker's words.
    """
    now = time.time_ns() if now is None else now
    if text != "0":
        try:
            return now - parse_duration(text)
        except InvalidText:
            pass
    local = not set("zZ+").intersection(text) and text.count("-") != 3
    layout = _layout(text, local)
    try:
        return _parse(text, layout, time.localtime(now // SECOND).tm_gmtoff if local else 0)
    except InvalidText:
        if "-" in text:
            raise
    try:
        return parse_unix(text)
    except InvalidText:
        raise InvalidText(f"failed to parse value as time or duration: {quote(text)}") from None


def _layout(text: str, local: bool) -> str:
    zone = "" if local else "Z07:00"
    if "." in text:
        return f"{_LOCAL}.999999999{zone}"
    if "T" not in text:
        return f"2006-01-02{zone}"
    colons = text.count(":")
    if not local and colons and not set("zZ").intersection(text):
        colons -= 1  # the zone's own
    return {0: "2006-01-02T15", 1: "2006-01-02T15:04"}.get(colons, _LOCAL) + zone


def _parse(text: str, layout: str, offset: int = 0) -> int:
    """Nanoseconds of a time in a layout; ``offset`` is that of a layout without a zone."""
    found = {"2006": 0, "01": 1, "02": 1, "15": 0, "04": 0, "05": 0, "nanoseconds": 0}
    rest, form = text, layout
    while form:
        element = next((each for each in _ELEMENTS if form.startswith(each)), "")
        if not element:
            if not rest.startswith(form[0]):
                raise _unfit(text, layout, rest, form[0])
            rest, form = rest[1:], form[1:]
            continue
        form = form[len(element) :]
        if element == "Z07:00":
            offset, rest = _zone(text, layout, rest)
        elif element == ".999999999":
            found["nanoseconds"], rest = _fraction(rest)
        else:
            found[element], rest = _number(text, layout, rest, element)
            if element == "05" and not form.startswith("."):
                found["nanoseconds"], rest = _fraction(rest)  # taken also where not laid out
    if rest:
        raise InvalidText(f"parsing time {quote(text)}: extra text: {quote(rest)}")
    year, month, day = found["2006"], found["01"], found["02"]
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _MONTH_DAYS[month - 1] + leap:
        raise InvalidText(f"parsing time {quote(text)}: day out of range")
    seconds = _days(year, month, day) * 86400 + found["15"] * 3600 + found["04"] * 60 + found["05"]
    return (seconds - offset) * SECOND + found["nanoseconds"]


def _number(text: str, layout: str, rest: str, element: str) -> tuple[int, str]:
    width = len(element)
    if element == "15" and not rest[1:2].isdecimal():
        width = 1  # an hour alone may have one digit
    digits = rest[:width]
    if len(digits) < width or not (digits.isascii() and digits.isdecimal()):
        raise _unfit(text, layout, rest, element)
    number = int(digits)
    if element in _RANGES:
        name, least, most = _RANGES[element]
        if not least <= number <= most:
            raise InvalidText(f"parsing time {quote(text)}: {name} out of range")
    return number, rest[width:]


def _fraction(rest: str) -> tuple[int, str]:
    """Nanoseconds after a point or a comma, if there are any; digits beyond nine are dropped."""
    after = rest[1:].lstrip("0123456789")
    digits = rest[1 : len(rest) - len(after)]
    if rest[:1] not in (".", ",") or not digits:
        return 0, rest
    return int(f"{digits[:9]:0<9}"), after


def _zone(text: str, layout: str, rest: str) -> tuple[int, str]:
    """Seconds east of UTC."""
    if rest.startswith("Z"):
        return 0, rest[1:]
    sign, hours, colon, minutes = rest[:1], rest[1:3], rest[3:4], rest[4:6]
    digits = hours + minutes
    if sign not in ("+", "-") or colon != ":" or len(digits) != 4 or not digits.isdecimal():
        raise _unfit(text, layout, rest, "Z07:00")
    if int(hours) > 24:
        raise InvalidText(f"parsing time {quote(text)}: time zone offset hour out of range")
    if int(minutes) > 60:
        raise InvalidText(f"parsing time {quote(text)}: time zone offset minute out of range")
    offset = int(hours) * 3600 + int(minutes) * 60
    return -offset if sign == "-" else offset, rest[6:]


def _unfit(text: str, layout: str, rest: str, element: str) -> InvalidText:
    return InvalidText(
        f"parsing time {quote(text)} as {quote(layout)}: cannot parse {quote(rest)} "
        f"as {quote(element)}"
    )


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date of the Gregorian calendar, year 0 included."""
    year -= month <= 2  # years begin in March, so that the leap day is the last
    century = year // 400
    of_year = (153 * (month + (9 if month <= 2 else -3)) + 2) // 5 + day - 1
    within = year - century * 400
    return century * 146097 + within * 365 + within // 4 - within // 100 + of_year - 719468


def local_time(stamp: float) -> str:
    """Go's default form of a time, given in seconds since 1970, in the local zone:
    ``2024-01-02 15:04:05 +0100 CET``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(stamp))
