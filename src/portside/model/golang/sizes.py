"""Numbers of bytes as docker/go-units reads and writes them."""

from __future__ import annotations

from portside.model.errors import InvalidText
from portside.model.golang.numbers import parse_float

_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_ENDS = "0123456789. "


def ram_bytes(text: str) -> int:
    """Bytes of ``512m``, ``1.5g``, ``64 MiB``: units are powers of 1024. Raises InvalidText."""
    return _parse(text, 1024)


def human_bytes(text: str) -> int:
    """Bytes of ``10k``, ``1.5MB``: units are powers of 1000. Raises InvalidText."""
    return _parse(text, 1000)


def _parse(text: str, base: int) -> int:
    end = max(map(text.rfind, _ENDS))
    if end < 0:
        raise InvalidText(f"invalid size: '{text}'")
    number, suffix = text[: end + 1], text[end + 1 :].lower()
    value = parse_float(number[:-1] if number.endswith(" ") else number)
    if value < 0:
        raise InvalidText(f"invalid size: '{text}'")
    unit = suffix[:1]
    if suffix in ("", "b"):
        factor = 1
    elif unit in _POWERS and suffix in (unit, unit + "b", unit + "ib"):
        factor = base ** _POWERS[unit]
    else:
        # go-units shows a suffix that is too long as it was typed.
        shown = text[end + 1 :] if len(suffix) > 3 else suffix
        raise InvalidText(f"invalid suffix: '{shown}'")
    result = int(value * factor)
    if result >= 1 << 63:
        raise InvalidText(f"invalid size: '{text}'")
    return result


def human_size(count: float, digits: int = 4) -> str:
    """Bytes in powers of 1000 with so many significant digits: ``1.234MB``."""
    return _scaled(float(count), 1000.0, _DECIMAL, digits)


def binary_size(count: float) -> str:
    """Bytes in powers of 1024: ``1.5GiB``."""
    return _scaled(float(count), 1024.0, _BINARY, 4)


def _scaled(value: float, base: float, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    while value >= base and unit < len(units) - 1:
        value /= base
        unit += 1
    return f"{value:.{digits}g}{units[unit]}"
