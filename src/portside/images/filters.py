"""Docker's filters on images: which are known, and what they mean."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence

from portside.images import clock
from portside.model.errors import InvalidParameter
from portside.model.reference import Reference

Filters = Mapping[str, Sequence[str]]

_DURATION = re.compile(r"([-+]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
_UNITS |= {"m": 60 * 10**9, "h": 3600 * 10**9}


def check(filters: Filters, known: Collection[str]) -> None:
    """InvalidParameter for a filter that is not known."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean(filters: Filters, name: str) -> bool | None:
    """A true-or-false filter; None when it was not given."""
    values = {value.lower() for value in filters.get(name, ())}
    if not values:
        return None
    if values <= {"1", "true"}:
        return True
    if values <= {"0", "false"}:
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")


def single_moment(filters: Filters, name: str) -> int | None:
    """A moment (nanoseconds since the epoch) given as time, or as a duration before now."""
    values = filters.get(name, ())
    if not values:
        return None
    if len(values) > 1:
        raise InvalidParameter(f"more than one {name} filter specified")
    return moment(values[0])


def moment(text: str) -> int:
    """Nanoseconds since the epoch from ``24h``, Unix seconds or RFC 3339 (and its prefixes)."""
    if _DURATION.fullmatch(text):
        sign = -1 if text.startswith("-") else 1
        length = sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
        return time.time_ns() - sign * int(length)
    if re.fullmatch(r"\d+(?:\.\d{1,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 10**9 + int((fraction or "0").ljust(9, "0"))
    for rest in ("", ":00", ":00:00", "T00:00:00"):
        found = clock.parse(_completed(text, rest))
        if found is not None:
            return found
    raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')


def _completed(text: str, rest: str) -> str:
    zone = re.search(r"([Zz]|[+-]\d\d:\d\d)$", text) if "T" in text else None
    cut = zone.start() if zone else len(text)
    return text[:cut] + rest + text[cut:]


def labels_match(filters: Filters, labels: Mapping[str, str]) -> bool:
    """``label`` (all must be there) and ``label!`` (none may be)."""
    if not all(_has_label(labels, wanted) for wanted in filters.get("label", ())):
        return False
    return not any(_has_label(labels, unwanted) for unwanted in filters.get("label!", ()))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def reference_matches(pattern: str, reference: Reference) -> bool:
    """Whether the familiar reference or its name fits a shell pattern (``/`` is special)."""
    expression = _expression(pattern)
    return any(expression.fullmatch(t) for t in (reference.familiar, reference.familiar_name))


def _expression(pattern: str) -> re.Pattern[str]:
    made, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            made += re.escape(pattern[at])
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise InvalidParameter(f"invalid reference filter {pattern!r}: syntax error")
            inner = pattern[at + 1 : end].replace("[", r"\[")
            made += f"[{inner}]"
            at = end
        else:
            made += re.escape(char)
        at += 1
    try:
        return re.compile(made)
    except re.error as err:
        raise InvalidParameter(f"invalid reference filter {pattern!r}: {err}") from err
