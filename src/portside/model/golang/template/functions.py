"""Functions of templates: text/template's own and Docker's.

Each raises ValueError with Go's text when its arguments do not fit.
"""

from __future__ import annotations

from portside.model import jsontext
from portside.model.golang.template.printf import sprint, sprintf, sprintln
from portside.model.golang.template.values import (
    MISSING,
    GoMap,
    GoStruct,
    NilList,
    NilMap,
    PortMap,
    Row,
    equal,
    go_text,
    is_true,
    less,
    type_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Function:
    """``least`` and ``most`` are numbers of arguments; ``kinds`` what each must be: s for
    string, i for int, l for a list of strings, a for any (the last holds for the rest)."""

    __slots__ = ("call", "kinds", "least", "most")

    def __init__(self, call: Callable[..., Any], kinds: str, least: int, most: int | None) -> None:
        self.call, self.kinds, self.least, self.most = call, kinds, least, most


# -- Docker's ----------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """``json``: compact, in the order of the document."""
    if isinstance(value, Row):
        return escape_html(jsontext.dumps(value.plain()))
    return jsontext.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """What Go's encoder sees: maps sorted, what was never made null, empty parts left out."""
    if value is MISSING or isinstance(value, (NilMap, NilList)):
        return None
    if isinstance(value, GoStruct):
        left_out = value.hidden | value.absent
        return {name: _plain(item) for name, item in value.items() if name not in left_out}
    if isinstance(value, GoMap):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def escape_html(text: str) -> str:
    """As Go's json.Marshal writes what browsers might take for markup."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _title(text: str) -> str:
    found, before = [], " "
    for character in text:
        starts = not (before.isalnum() or before == "_" or before > "\x7f")
        found.append(character.upper() if starts else character)
        before = character
    return "".join(found)


def _truncate(text: str, length: int) -> str:
    if length < 0:
        raise ValueError(f"runtime error: slice bounds out of range [:{length}]")
    return text[:length]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


# -- text/template's ---------------------------------------------------------------------------


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or value is MISSING:
            raise ValueError("index of untyped nil")
        if isinstance(value, (list, tuple, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise ValueError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise ValueError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        elif isinstance(value, dict) and not isinstance(value, GoStruct):
            if isinstance(value, PortMap) and isinstance(key, str):
                raise ValueError("value has type string; should be nat.Port")
            if not isinstance(key, str):
                raise ValueError(f"value has type {type_name(key)}; should be string")
            value = value.get(key, _zero_of(value))
        else:
            raise ValueError(f"can't index item of type {type_name(value)}")
    return value


def _zero_of(value: dict[str, Any]) -> Any:
    """The zero value of a map's members; a map of strings is the usual one."""
    strings = isinstance(value, GoMap) and all(isinstance(item, str) for item in value.values())
    return "" if strings else MISSING


def _slice(value: Any, *bounds: Any) -> Any:
    if value is None or value is MISSING:
        raise ValueError("slice of untyped nil")
    if not isinstance(value, (list, tuple, str)):
        raise ValueError(f"can't slice item of type {type_name(value)}")
    if len(bounds) > (2 if isinstance(value, str) else 3):
        raise ValueError(
            "cannot 3-index slice a string" if isinstance(value, str)
            else f"too many slice indexes: {len(bounds)}"
        )  # fmt: skip
    for bound in bounds:
        if isinstance(bound, bool) or not isinstance(bound, int):
            raise ValueError(f"cannot index slice/array with type {type_name(bound)}")
        if not 0 <= bound <= len(value):
            raise ValueError(f"index out of range: {bound}")
    low, high = bounds[0] if bounds else 0, bounds[1] if len(bounds) > 1 else len(value)
    if low > high:
        raise ValueError(f"invalid slice index: {low} > {high}")
    return value[low:high]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, tuple, dict)) and not isinstance(value, GoStruct):
        return len(value)
    if value is None or value is MISSING:
        raise ValueError("len of nil pointer")
    raise ValueError(f"len of type {type_name(value)}")


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(equal(first, other) for other in others)


def _html(*args: Any) -> str:
    text = sprint(args)
    for character, name in (("&", "&amp;"), ("'", "&#39;"), ('"', "&#34;"), ("<", "&lt;"),
                            (">", "&gt;"), ("\0", "\ufffd")):  # fmt: skip
        text = text.replace(character, name)
    return text


def _js(*args: Any) -> str:
    found = []
    names = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E",
             "&": "\\u0026", "=": "\\u003D"}  # fmt: skip
    for character in sprint(args):
        if character in names:
            found.append(names[character])
        elif character.isprintable():
            found.append(character)
        else:
            found.append(f"\\u{ord(character):04X}")
    return "".join(found)


def _urlquery(*args: Any) -> str:
    from urllib.parse import quote_plus  # 8 ms, for a function that is hardly ever called

    return quote_plus(sprint(args), errors="surrogateescape")


def _call(value: Any, *args: Any) -> Any:
    raise ValueError(f"non-function {go_text(value)} of type {type_name(value)}")


FUNCTIONS: dict[str, Function] = {
    "json": Function(to_json, "a", 1, 1),
    "split": Function(lambda text, separator: text.split(separator) if separator else
                      list(text), "ss", 2, 2),
    "join": Function(lambda items, separator: separator.join(items or ()), "ls", 2, 2),
    "title": Function(_title, "s", 1, 1),
    "lower": Function(str.lower, "s", 1, 1),
    "upper": Function(str.upper, "s", 1, 1),
    "pad": Function(_pad, "sii", 3, 3),
    "truncate": Function(_truncate, "si", 2, 2),
    "and": Function(lambda *args: args[-1], "a", 1, None),
    "or": Function(lambda *args: args[-1], "a", 1, None),
    "not": Function(lambda value: not is_true(value), "a", 1, 1),
    "eq": Function(_eq, "a", 1, None),
    "ne": Function(lambda first, second: not equal(first, second), "a", 2, 2),
    "lt": Function(less, "a", 2, 2),
    "le": Function(lambda first, second: less(first, second) or equal(first, second), "a", 2, 2),
    "gt": Function(lambda first, second: not less(first, second) and not equal(first, second),
                   "a", 2, 2),
    "ge": Function(lambda first, second: not less(first, second), "a", 2, 2),
    "len": Function(_len, "a", 1, 1),
    "index": Function(_index, "a", 1, None),
    "slice": Function(_slice, "a", 1, None),
    "print": Function(lambda *args: sprint(args), "a", 0, None),
    "printf": Function(lambda format, *args: sprintf(format, args), "sa", 1, None),
    "println": Function(lambda *args: sprintln(args), "a", 0, None),
    "html": Function(_html, "a", 0, None),
    "js": Function(_js, "a", 0, None),
    "urlquery": Function(_urlquery, "a", 0, None),
    "call": Function(_call, "a", 1, None),
}  # fmt: skip
LAZY = ("and", "or")
"""They look at no more arguments than they need."""
