"""Values of flags that are lists: ``type=local,dest=out`` (CSV, as buildx reads them)."""

from __future__ import annotations

from portside.cli.session import Failed
from portside.model.golang.csv_line import csv


def fields(text: str) -> list[str]:
    """The parts of a value. Raises Failed."""
    try:
        return csv(text)
    except ValueError as err:
        raise Failed(1, f"ERROR: {err}") from None


def pairs(parts: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` parts, keys in lower case. Raises Failed."""
    found = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise Failed(1, f"ERROR: invalid value {part}")
        found[key.strip().lower()] = value
    return found
