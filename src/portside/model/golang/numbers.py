"""``strconv.ParseInt``, ``ParseUint``, ``Atoi`` and ``ParseFloat``."""

from __future__ import annotations

from portside.model.errors import InvalidText
from portside.model.golang.quoting import quote

_PREFIXES = {"0x": 16, "0o": 8, "0b": 2}
_FLOAT = frozenset("0123456789.eE+-")


def parse_int(text: str, base: int = 10, bits: int = 64, name: str = "ParseInt") -> int:
    """A signed number of so many bits. Base 0 takes ``0x``, ``0o``, ``0b`` and underscores.

    ``name`` is the function that Docker calls at that place: its errors show it. Raises
    InvalidText.
    """
    negative = text.startswith("-")
    digits = text[1:] if text[:1] in ("+", "-") else text
    number = _magnitude(text, digits, base, name)
    number = -number if negative else number
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise InvalidText(f"strconv.{name}: parsing {quote(text)}: value out of range")
    return number


def parse_uint(text: str, base: int = 10, bits: int = 64) -> int:
    """An unsigned number of so many bits. Raises InvalidText."""
    number = _magnitude(text, text, base, "ParseUint")
    if number >= 1 << bits:
        raise InvalidText(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return number


def atoi(text: str) -> int:
    """A decimal number of 64 bits, as ``strconv.Atoi`` reads it. Raises InvalidText."""
    return parse_int(text, name="Atoi")


def parse_float(text: str) -> float:
    """A decimal floating-point number. Raises InvalidText.

    Hexadecimal ones, infinities and NaN, which Go reads too, are refused: no user means them.
    """
    try:
        if not _FLOAT.issuperset(text):
            raise ValueError
        number = float(text)
    except ValueError:
        raise InvalidText(f"strconv.ParseFloat: parsing {quote(text)}: invalid syntax") from None
    if number in (float("inf"), float("-inf")):
        raise InvalidText(f"strconv.ParseFloat: parsing {quote(text)}: value out of range")
    return number


def _magnitude(text: str, digits: str, base: int, name: str) -> int:
    try:
        if not digits.replace("_", "0").isalnum() or not digits.isascii() or len(digits) > 200:
            raise ValueError
        if digits.startswith("_"):
            raise ValueError
        if base == 0:
            base = _PREFIXES.get(digits[:2].lower(), 10)
            if base == 10 and digits[0] == "0" and len(digits) > 1:
                digits, base = "0o" + digits[1:].removeprefix("_"), 8
        elif "_" in digits or digits[:2].lower() in _PREFIXES:
            raise ValueError
        return int(digits, base)
    except ValueError:
        raise InvalidText(f"strconv.{name}: parsing {quote(text)}: invalid syntax") from None
