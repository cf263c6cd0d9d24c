"""Times as users write them, for ``--since`` and ``--until``."""

from __future__ import annotations

import time

from portside.cli import flag_values
from portside.model.errors import InvalidParameter

_FORMS = (
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S",
)  # fmt: skip


def engine_time(text: str, flag: str = "") -> str | None:
    """``seconds.nanoseconds`` of a time stamp or of a duration before now.

    Raises InvalidParameter.
    """
    if not text:
        return None
    try:
        ago = flag_values.duration(text)
    except ValueError:
        pass
    else:
        return _text(time.time_ns() - ago)
    if text.replace(".", "", 1).isdigit() and not text.startswith("."):
        return text
    stamp = _stamp(text)
    if stamp is None:
        where = f'invalid value for "{flag}": ' if flag else ""
        raise InvalidParameter(f'{where}failed to parse value as time or duration: "{text}"')
    return _text(stamp)


def _text(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def _stamp(text: str) -> int | None:
    """Nanoseconds of RFC 3339, whole or cut short; without a zone it is the local one.
    None for what is no time."""
    from datetime import datetime

    body, fraction = text, 0
    head, dot, rest = text.partition(".")
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        body, fraction = head + rest[len(digits) :], int(f"{digits[:9]:0<9}" or 0)
    zoned = body.endswith("Z") or body[-6:-5] in ("+", "-")
    try:
        if zoned:
            return int(datetime.fromisoformat(body.replace("Z", "+00:00")).timestamp()) * 10**9 + (
                fraction
            )
    except ValueError:
        pass
    for form in _FORMS:
        try:
            return int(time.mktime(time.strptime(body, form))) * 10**9 + fraction
        except ValueError:
            continue
    return None
