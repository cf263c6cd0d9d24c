"""Filters of ``GET /volumes`` and ``POST /volumes/prune``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from portside.model.errors import InvalidParameter
from portside.model.volume import Volume

Filters = Mapping[str, Sequence[str]]
LIST = ("dangling", "driver", "label", "name")
PRUNE = ("label", "label!", "all")


def check(filters: Filters, known: Collection[str]) -> None:
    """InvalidParameter with Docker's words for an unknown filter."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")
    truth(filters, "dangling")


def truth(filters: Filters, name: str) -> bool | None:
    """A boolean filter's value; None when it was not given."""
    values = filters.get(name, ())
    if not values:
        return None
    if all(value.lower() in ("1", "true") for value in values):
        return True
    if all(value.lower() in ("0", "false") for value in values):
        return False
    raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")


def matches(volume: Volume, filters: Filters, *, used: bool) -> bool:
    """Whether a volume passes all filters of a list or a prune."""
    dangling = truth(filters, "dangling")
    if dangling is not None and dangling == used:
        return False
    drivers = filters.get("driver", ())
    if drivers and volume.driver not in drivers:
        return False
    names = filters.get("name", ())
    if names and not any(_like(volume.name, name) for name in names):
        return False
    labels = volume.labels or {}
    if not all(_labelled(labels, wanted) for wanted in filters.get("label", ())):
        return False
    unwanted = filters.get("label!", ())
    return not (unwanted and all(_labelled(labels, each) for each in unwanted))


def _labelled(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _like(name: str, wanted: str) -> bool:
    """As Docker: a regular expression found anywhere, or the plain text."""
    try:
        return re.search(wanted, name) is not None
    except re.error:
        return wanted in name
