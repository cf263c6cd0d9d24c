"""Go's ``fmt.Sprintf``, ``Sprint`` and ``Sprintln`` for plain values."""

from __future__ import annotations

from portside.model.golang.template.values import go_text, quoted, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_DIGITS = "0123456789"
_LIMIT = 1_000_000
"""fmt refuses wider fields and greater precisions."""


class _Spec:
    """One directive: flags, width, precision."""

    __slots__ = ("flags", "precision", "width")

    def __init__(self) -> None:
        self.flags = ""
        self.width: int | None = None
        self.precision: int | None = None


def sprintf(format: str, args: Sequence[Any]) -> str:
    """``printf``; wrong verbs and numbers of arguments show as fmt shows them."""
    found: list[str] = []
    at, used = 0, 0
    while at < len(format):
        percent = format.find("%", at)
        if percent < 0:
            found.append(format[at:])
            break
        found.append(format[at:percent])
        spec, at, used = _directive(format, percent + 1, args, used)
        if at >= len(format):
            found.append("%!(NOVERB)")
            break
        verb = format[at]
        at += 1
        if verb == "%":
            found.append("%")
        elif used >= len(args):
            found.append(f"%!{verb}(MISSING)")
        else:
            found.append(_formatted(spec, verb, args[used]))
            used += 1
    if used < len(args):
        extra = ", ".join(f"{type_name(arg)}={go_text(arg)}" for arg in args[used:])
        found.append(f"%!(EXTRA {extra})")
    return "".join(found)


def _directive(format: str, at: int, args: Sequence[Any], used: int) -> tuple[_Spec, int, int]:
    """Flags, width and precision after a percent sign."""
    spec = _Spec()
    while at < len(format) and format[at] in "+-# 0":
        spec.flags += format[at]
        at += 1
    spec.width, at, used = _number(format, at, args, used)
    if spec.width is not None and spec.width < 0:
        spec.flags, spec.width = spec.flags + "-", -spec.width
    if at < len(format) and format[at] == ".":
        precision, at, used = _number(format, at + 1, args, used)
        spec.precision = precision if precision is not None and precision > 0 else 0
    return spec, at, used


def _number(format: str, at: int, args: Sequence[Any], used: int) -> tuple[int | None, int, int]:
    if at < len(format) and format[at] == "*":
        value = args[used] if used < len(args) else None
        number = value if isinstance(value, int) and abs(value) <= _LIMIT else None
        return number, at + 1, used + 1
    start = at
    while at < len(format) and format[at] in _DIGITS:
        at += 1
    if at == start:
        return None, at, used
    return min(int(format[start:at]), _LIMIT), at, used


def _formatted(spec: _Spec, verb: str, value: Any) -> str:
    """One value by one verb."""
    if verb == "T":
        return _padded(spec, type_name(value))
    if verb == "v":
        return _default(spec, value)
    if isinstance(value, bool):
        text = go_text(value) if verb == "t" else None
    elif isinstance(value, int):
        text = _integer(spec, verb, value)
    elif isinstance(value, float):
        text = _float(spec, verb, value)
    elif isinstance(value, str):
        text = _string(spec, verb, value)
    elif isinstance(value, (list, tuple)):
        return "[" + " ".join(_formatted(spec, verb, item) for item in value) + "]"
    elif isinstance(value, dict):
        inner = " ".join(f"{key}:{_formatted(spec, verb, value[key])}" for key in sorted(value))
        return f"map[{inner}]"
    elif verb == "s":
        text = f"%!s({go_text(value)})"
    else:
        text = None
    if text is None:
        return f"%!{verb}({type_name(value)}={go_text(value)})"
    return _padded(spec, text, numeric=isinstance(value, (int, float)))


def _default(spec: _Spec, value: Any) -> str:
    if "#" in spec.flags:
        return _padded(spec, quoted(value) if isinstance(value, str) else go_text(value))
    if isinstance(value, str) and spec.precision is not None:
        value = value[: spec.precision]
    if isinstance(value, int) and not isinstance(value, bool):
        return _padded(spec, _integer(spec, "d", value) or "", numeric=True)
    if isinstance(value, float) and spec.precision is not None:
        return _padded(spec, _float(spec, "g", value) or "", numeric=True)
    return _padded(spec, go_text(value), numeric=isinstance(value, float))


def _signed(spec: _Spec, digits: str, negative: bool) -> str:
    if negative:
        return f"-{digits}"
    return f"+{digits}" if "+" in spec.flags else f" {digits}" if " " in spec.flags else digits


def _integer(spec: _Spec, verb: str, value: int) -> str | None:
    sharp = "#" in spec.flags
    size = abs(value)
    if verb == "c":
        return chr(value) if 0 <= value < 0x110000 else "\ufffd"
    if verb == "q":
        return f"'{chr(value)}'" if 0 <= value < 0x110000 else "'\ufffd'"
    if verb == "U":
        text = f"U+{size:04X}"
        return f"{text} '{chr(value)}'" if sharp and 0 <= value < 0x110000 else text
    if verb in "eEfFgG":
        return None
    kinds = {"d": ("d", ""), "b": ("b", "0b"), "o": ("o", "0"), "O": ("o", "0o"),
             "x": ("x", "0x"), "X": ("X", "0X")}  # fmt: skip
    if verb not in kinds:
        return None
    code, prefix = kinds[verb]
    digits = format(size, code)
    if spec.precision is not None:
        digits = digits.rjust(spec.precision, "0")
    if verb == "O" or (sharp and prefix):
        digits = prefix + digits
    return _signed(spec, digits, value < 0)


def _float(spec: _Spec, verb: str, value: float) -> str | None:
    if verb not in "eEfFgG":
        return None
    if verb in "gG" and spec.precision is None:
        text = go_text(abs(value))
    else:
        precision = 6 if spec.precision is None else spec.precision
        text = format(abs(value), f".{precision}{verb.lower()}")
    text = text.upper() if verb in "EG" else text
    return _signed(spec, text, value < 0)


def _string(spec: _Spec, verb: str, value: str) -> str | None:
    if spec.precision is not None and verb in "sq":
        value = value[: spec.precision]
    if verb == "s":
        return value
    if verb == "q":
        raw = "#" in spec.flags and "`" not in value and value.isprintable()
        return f"`{value}`" if raw else quoted(value)
    if verb in "xX":
        separator = " " if " " in spec.flags else ""
        text = separator.join(f"{byte:02x}" for byte in value.encode())
        return text.upper() if verb == "X" else text
    return None


def _padded(spec: _Spec, text: str, numeric: bool = False) -> str:
    if spec.width is None or len(text) >= spec.width:
        return text
    if "-" in spec.flags:
        return text.ljust(spec.width)
    if "0" in spec.flags and ((numeric and spec.precision is None) or not numeric):
        sign = text[:1] if numeric and text[:1] in "+- " else ""
        return sign + text[len(sign) :].rjust(spec.width - len(sign), "0")
    return text.rjust(spec.width)


def sprint(args: Sequence[Any]) -> str:
    """Spaces go between values of which neither is a string."""
    found: list[str] = []
    for number, arg in enumerate(args):
        if number and not isinstance(arg, str) and not isinstance(args[number - 1], str):
            found.append(" ")
        found.append(go_text(arg))
    return "".join(found)


def sprintln(args: Sequence[Any]) -> str:
    return " ".join(map(go_text, args)) + "\n"
