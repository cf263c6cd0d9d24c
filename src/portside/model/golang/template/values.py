"""Go's view of plain values: truth, kinds, comparison, and how fmt writes them.

JSON's objects are ``GoMap`` or ``GoStruct``, since Go prints and looks them up differently;
a bare dict is a map whose keys must exist.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class GoMap(dict):  # type: ignore[type-arg]
    """A map: prints as ``map[a:b]``; a missing key prints ``<no value>``."""


class NilMap(GoMap):
    """A map that was never made: null in JSON."""


class NilList(list):  # type: ignore[type-arg]
    """A list that was never made: null in JSON."""


class PortMap(GoMap):
    """A map whose keys are ports, not strings: ``index`` with a string does not fit."""


class GoTime(str):
    """A time as JSON has it, which prints as Go prints times."""

    __slots__ = ()

    def shown(self) -> str:
        head, dot, rest = self.partition(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        zone = self[len(head) + len(dot) + len(digits) :] if dot else head[19:]
        fraction = f".{digits.rstrip('0')}" if digits.rstrip("0") else ""
        offset = "+0000 UTC" if zone == "Z" else f"{zone.replace(':', '')} {zone.replace(':', '')}"
        return f"{head[:10]} {head[11:19]}{fraction} {offset}"


class GoStruct(dict):  # type: ignore[type-arg]
    """A struct: prints as ``{a b}``; a missing field is an error.

    ``hidden`` fields are found but not printed, ``absent`` ones are not in JSON; ``kind`` is
    the type's name in errors.
    """

    hidden: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    kind = ""


class Missing:
    """The value of a missing key."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING = Missing()


class Method:
    """A field that takes arguments."""

    __slots__ = ("arity", "call")

    def __init__(self, call: Callable[..., Any], arity: int) -> None:
        self.call, self.arity = call, arity


class Row:
    """One line of a listing: fields computed when a template asks for them."""

    __slots__ = ("_fields", "_item", "_methods", "kind")

    def __init__(
        self,
        kind: str,
        item: Any,
        fields: Mapping[str, Callable[[Any], Any]],
        methods: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.kind, self._item, self._fields = kind, item, fields
        self._methods = methods or {}

    def field(self, name: str) -> Any:
        """A field's value. Raises KeyError."""
        if name in self._methods:
            method, item = self._methods[name], self._item
            return Method(lambda argument: method(item, argument), 1)
        return self._fields[name](self._item)

    def plain(self) -> dict[str, Any]:
        """All fields, sorted by name as Docker prints them in JSON."""
        return {name: self._fields[name](self._item) for name in sorted(self._fields)}


# -- truth, kinds, comparison ------------------------------------------------------------------


def is_true(value: Any) -> bool:
    """Truth of a value for ``if``: zero, empty, nil and no value are false; structs are true."""
    if isinstance(value, (GoStruct, Row)):
        return True
    if value is None or value is MISSING:
        return False
    return bool(value)


def type_name(value: Any) -> str:
    """The type's name as Go's %T prints it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (list, tuple)):
        strings = value and all(isinstance(item, str) for item in value)
        return "[]string" if strings else "[]interface {}"
    if isinstance(value, Row):
        return value.kind
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, GoStruct):
        return value.kind or "struct"
    return "map[string]interface {}"


def basic_kind(value: Any) -> str:
    """bool, int, float or string; raises ValueError for what cannot be compared."""
    name = type_name(value)
    if name in ("bool", "int", "string"):
        return name
    if name == "float64":
        return "float"
    raise ValueError("non-comparable type " + f"{go_text(value)}: {name}")


def equal(first: Any, second: Any) -> bool:
    """``eq``. Raises ValueError for values of different kinds."""
    if first is None or second is None:
        return first is second
    if basic_kind(first) != basic_kind(second):
        raise ValueError("incompatible types for comparison")
    return bool(first == second)


def less(first: Any, second: Any) -> bool:
    """``lt``. Raises ValueError."""
    if basic_kind(first) != basic_kind(second):
        raise ValueError("incompatible types for comparison")
    if isinstance(first, bool):
        raise ValueError("invalid type for comparison")
    return bool(first < second)


# -- how fmt writes them -----------------------------------------------------------------------


def go_text(value: Any) -> str:
    """fmt's ``%v``."""
    if isinstance(value, str):
        return value.shown() if isinstance(value, GoTime) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, float):
        return go_float(value)
    if isinstance(value, GoStruct):
        shown = (item for name, item in value.items() if name not in value.hidden)
        return "{" + " ".join(go_text(item) for item in shown) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(go_text(item) for item in value) + "]"
    if isinstance(value, Row):
        return go_text(GoStruct(value.plain()))
    return str(value)


def go_float(value: float) -> str:
    """The shortest text that reads back the same; exponents below -4 and from 21 on."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if exponent:
        power = int(exponent)
    else:
        power = len(str(int(abs(value)))) - 1 if abs(value) >= 1 or not value else -1
    if value and (power < -4 or power >= 21):
        sign = "+" if power >= 0 else "-"
        return f"{mantissa.removesuffix('.0')}e{sign}{abs(power):02d}"
    if exponent:
        text = f"{value:.{max(0, -power + len(mantissa))}f}".rstrip("0").rstrip(".")
        return text if power < 0 else str(int(value))
    return text.removesuffix(".0")


def quoted(text: str) -> str:
    """Go's %q: a string literal in double quotes."""
    names = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
             "\v": "\\v", "\\": "\\\\", '"': '\\"'}  # fmt: skip
    found = []
    for character in text:
        code = ord(character)
        if character in names:
            found.append(names[character])
        elif character.isprintable():
            found.append(character)
        elif code < 0x80:
            found.append(f"\\x{code:02x}")
        else:
            found.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(found) + '"'
