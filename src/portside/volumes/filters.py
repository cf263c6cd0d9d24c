"""Filters of ``GET /volumes`` and ``POST /volumes/prune``."""

from __future__ import annotations

from collections.abc import Collection

from portside.model import filters as filtering
from portside.model.filters import Filters
from portside.model.volume import Volume

LIST = ("dangling", "driver", "label", "name")
PRUNE = ("label", "label!", "all")


def check(filters: Filters, known: Collection[str]) -> None:
    """InvalidParameter with Docker's words for an unknown filter."""
    filtering.check(filters, known)
    filtering.boolean(filters, "dangling")


def matches(volume: Volume, filters: Filters, *, used: bool) -> bool:
    """Whether a volume passes all filters of a list or a prune."""
    dangling = filtering.boolean(filters, "dangling")
    if dangling is not None and dangling == used:
        return False
    return (
        filtering.is_one(filters, "driver", volume.driver)
        and filtering.has_pattern(filters, "name", volume.name)
        and filtering.labels_match(filters, volume.labels)
    )
