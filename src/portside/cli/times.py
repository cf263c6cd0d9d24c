"""Times as users write them for ``--since`` and ``--until``, and as they are shown."""

from __future__ import annotations

import time

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.durations import human_duration
from portside.model.golang.timestamps import ZERO_SECONDS, parse_moment, parse_rfc3339


def engine_time(text: str, flag: str = "") -> str | None:
    """``seconds.nanoseconds`` of a time stamp or of a duration before now.

    Raises InvalidParameter.
    """
    if not text:
        return None
    try:
        moment = parse_moment(text)
    except InvalidText as err:
        where = f'invalid value for "{flag}": ' if flag else ""
        raise InvalidParameter(f"{where}{err}") from None
    if text.isascii() and text.replace(".", "", 1).isdecimal():
        return text  # seconds since 1970 go out as they were written
    return f"{moment // 10**9}.{moment % 10**9:09d}"


def seconds_of(text: str) -> float:
    """Seconds since 1970 of RFC 3339, fractions included. Raises InvalidText."""
    return parse_rfc3339(text) / 10**9


def ago(stamp: float) -> str:
    """``2 hours ago``, of seconds since 1970; ``N/A`` for Go's zero time."""
    return f"{human_duration(time.time() - stamp)} ago" if stamp > ZERO_SECONDS else "N/A"
