"""One line of comma-separated values, as Go's ``encoding/csv`` reads it."""

from __future__ import annotations


def csv(text: str) -> list[str]:
    """The fields of one line of comma-separated values (RFC 4180)."""
    if '"' not in text:
        return text.split(",")
    import csv as standard

    try:
        return next(standard.reader([text], strict=True))
    except standard.Error as err:
        raise ValueError(f"parse error: {err}") from None
