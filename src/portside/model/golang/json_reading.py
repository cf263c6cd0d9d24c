"""``encoding/json``: documents read as leniently as Go reads them.

Go takes null for the zero value of whatever is there, at any depth, and finds a struct's fields
whatever their case. What is read is settled first: given the exact names and without the nulls
that the type does not take. Types are looked at only as far as a document reaches, and once:
``msgspec.inspect`` takes 50 ms for the body of a create request.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from typing import Any, TypeVar

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang.quoting import quote_char

_T = TypeVar("_T")

_AT = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)")
_WHERE = {
    "object keys must be strings": "looking for beginning of object key string",
    "trailing comma in object": "looking for beginning of object key string",
    "expected ':'": "after object key",
    "expected ',' or '}'": "after object key:value pair",
    "expected ',' or ']'": "after array element",
}
_TRAILING = "unexpected content after JSON"
_WORDS = frozenset(("Cmd", "Entrypoint", "Shell"))
"""Fields of Docker's type StrSlice: one string stands for a list of one."""
_ZERO: dict[object, Any] = {str: "", int: 0, bool: False, float: 0.0, dict: {}, list: [], tuple: []}


def decode_body(data: bytes, kind: type[_T]) -> _T:
    """A request's body as ``kind``. Raises InvalidParameter in Docker's words."""
    try:
        return decode(data, kind)
    except TrailingContent:
        raise
    except InvalidParameter as err:
        raise InvalidParameter(f"invalid JSON: {err}") from None


def decode(data: bytes | str, kind: type[_T]) -> _T:
    """A document as ``kind``; null is an empty document.

    Raises InvalidParameter whose message says what is wrong, without saying of what document.
    """
    raw = parse(data)
    return convert({} if raw is None else raw, kind)


class TrailingContent(InvalidParameter):
    """Something follows the document; Docker words it apart from other faults."""


def parse(data: bytes | str) -> Any:
    """A document as plain values. Raises InvalidParameter in Go's words."""
    try:
        found = msgspec.json.decode(data)
    except RecursionError:
        raise InvalidParameter("exceeded max depth") from None
    except (msgspec.MsgspecError, UnicodeError) as err:
        why = why_not_json(err, data)
        kind = TrailingContent if why == _TRAILING else InvalidParameter
        raise kind(why) from None
    escape = b"\\u0000" if isinstance(data, bytes) else "\\u0000"
    if escape in data and _has_nul(found):  # type: ignore[operator]
        raise InvalidParameter("a string holds a NUL byte, which no name or path can hold")
    return found


def convert(raw: Any, kind: type[_T]) -> _T:
    """Plain values as ``kind``. Raises InvalidParameter."""
    try:
        return msgspec.convert(_settled(raw, kind), kind)
    except (msgspec.ValidationError, RecursionError) as err:
        raise InvalidParameter(str(err)) from None


def _settled(value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _settled(value, typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        kinds = typing.get_args(kind)
        if value is None and types.NoneType in kinds:
            return None
        return _settled(value, next(each for each in kinds if each is not types.NoneType))
    if value is None:
        return _zero(kind, origin)
    if isinstance(value, dict):
        if origin is dict:
            inner = typing.get_args(kind)[1]
            return {name: _settled(each, inner) for name, each in value.items()}
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return _struct(value, kind)
    if isinstance(value, list) and origin in (list, tuple):
        inner = typing.get_args(kind)
        if origin is list or inner[-1] is Ellipsis:
            return [_settled(each, inner[0]) for each in value]
    if kind is int and isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidParameter(f"the number {value:.6e} does not fit into 64 bits")
    return value


def _zero(kind: Any, origin: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {}
    return _ZERO.get(origin or kind)


def _struct(value: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Null is a field's absence; a name that fits but for its case is the field's."""
    fields = _fields(kind)
    found: dict[str, Any] = {}
    for name, each in value.items():
        known = fields.get(name) or fields.get(name.lower())
        if known is None or each is None:
            continue
        exact, attribute = known
        if exact in _WORDS and isinstance(each, str):
            each = [each]
        found[exact] = _settled(each, _field_type(kind, attribute))
    return found


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, str]]:
    """A field's name in JSON, exact and in lower case, to that name and the attribute's."""
    pairs = list(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    return {exact.lower(): (exact, name) for exact, name in pairs} | {
        exact: (exact, name) for exact, name in pairs
    }


@functools.cache
def _field_type(kind: type[msgspec.Struct], attribute: str) -> Any:
    for base in kind.__mro__:
        if attribute in (noted := inspect.get_annotations(base)):
            found = noted[attribute]
            if not isinstance(found, str):
                return found
            return eval(found, vars(sys.modules[base.__module__]))  # our own source's words
    return Any


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(name) or _has_nul(each) for name, each in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def why_not_json(error: Exception, data: bytes | str) -> str:
    """What msgspec says of ``data``, as the standard library of Go says it."""
    text = str(error)
    if "truncated" in text:
        return "unexpected EOF"
    match = _AT.fullmatch(text)
    if match is None:
        return text
    reason, place = match[1], int(match[2])
    if reason.startswith("trailing characters"):
        return _TRAILING
    encoded = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    found = encoded[place : place + 1].decode("latin-1")
    where = _WHERE.get(reason, "looking for beginning of value")
    return f"invalid character {quote_char(found)} {where}"
