"""List and prune filters: their JSON, and what their values match.

One type for all services: a filter's name with its values. The rules are those of Docker's
``filters.Args``: values of one name are alternatives and all names must match, but every ``label``
must be there, and ``label!`` excludes an object that has all of the labels it gives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.timestamps import parse_moment

Filters = Mapping[str, Sequence[str]]

_TRUE, _FALSE = ("1", "true"), ("0", "false")


def parse(text: str) -> dict[str, list[str]]:
    """Filters in both JSON forms: a map of maps and the older map of lists.

    Raises InvalidParameter.
    """
    try:
        found = msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise InvalidParameter("invalid filter") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidParameter("invalid filter")
    return {name: _values(values) for name, values in found.items()}


def _values(values: object) -> list[str]:
    if values is None:
        return []
    if isinstance(values, dict) and all(isinstance(v, bool | None) for v in values.values()):
        return list(values)
    if isinstance(values, list) and all(isinstance(v, str | None) for v in values):
        return [value or "" for value in values]
    raise InvalidParameter("invalid filter")


def check(filters: Filters, known: Collection[str]) -> None:
    """InvalidParameter for the first filter that is not known."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean(filters: Filters, name: str) -> bool | None:
    """A true-or-false filter; None when it was not given. Raises InvalidParameter."""
    if name not in filters:
        return None
    values = filters[name]
    is_true, is_false = (any(v in words for v in values) for words in (_TRUE, _FALSE))
    if is_true == is_false:
        shown = f"{name}=[{' '.join(values)}]" if values else name
        raise InvalidParameter(f"invalid filter '{shown}'")
    return is_true


def strict_boolean(filters: Filters, name: str) -> bool | None:
    """As :func:`boolean`, in the words of the networks' filters: one value only."""
    values = filters.get(name, ())
    if not values:
        return None
    if len(values) > 1:
        raise InvalidParameter(f'got more than one value for filter key "{name}"')
    if values[0] not in _TRUE + _FALSE:
        raise InvalidParameter(
            f'invalid value for filter \'{name}\', must be "true" (or "1"), or "false" (or "0")'
        )
    return values[0] in _TRUE


def until(filters: Filters) -> int | None:
    """Nanoseconds since 1970 of prune's ``until``: a time, or a duration before now; None
    when it was not given. Raises InvalidParameter, also for several."""
    values = filters.get("until", ())
    if not values:
        return None
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    return parse_moment(values[0])


def earliest_until(filters: Filters) -> int | None:
    """As :func:`until`, of lists: of several moments, the earliest."""
    return min(map(parse_moment, filters.get("until", ())), default=None)


def labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """Whether all of ``label`` are there, and not all of ``label!``."""
    if not _has_all(labels or {}, filters.get("label", ())):
        return False
    unwanted = filters.get("label!", ())
    return not unwanted or not _has_all(labels or {}, unwanted)


def _has_all(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    for each in wanted:
        key, equals, value = each.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def is_one(filters: Filters, name: str, *texts: str) -> bool:
    """Whether a text is one of the filter's values, or the filter was not given."""
    values = filters.get(name, ())
    return not values or any(text in values for text in texts)


def has_pattern(filters: Filters, name: str, *texts: str) -> bool:
    """Whether a text equals a value, or holds what the value as a regular expression matches;
    True when the filter was not given."""
    values = filters.get(name, ())
    return not values or any(_found(value, text) for value in values for text in texts)


def _found(pattern: str, text: str) -> bool:
    if pattern == text:
        return True
    from portside.model.golang.regexps import search  # a list without patterns needs none

    try:
        return search(pattern, text)
    except InvalidText:
        return False
