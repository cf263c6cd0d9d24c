"""``strconv.ParseBool``."""

from __future__ import annotations

from portside.model.errors import InvalidText
from portside.model.golang.quoting import quote

_VALUES = {
    "1": True, "t": True, "T": True, "TRUE": True, "true": True, "True": True,
    "0": False, "f": False, "F": False, "FALSE": False, "false": False, "False": False,
}  # fmt: skip


def parse_bool(text: str) -> bool:
    """True or False of Go's twelve words. Raises InvalidText."""
    value = _VALUES.get(text)
    if value is None:
        raise InvalidText(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")
    return value
