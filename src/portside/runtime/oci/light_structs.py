"""What ``portside-runtime`` needs of msgspec, for verbs whose time is their imports.

msgspec imports typing, re, enum, datetime and more: two or three times the start of the bare
interpreter, to read one file of a few kilobytes. Here are struct types, their JSON and the same
errors, out of the C halves of the standard library's ``json``. :func:`install` puts this module in
msgspec's place before anything else of ours is imported; everywhere else msgspec is what it is.
A test compares the two.

One difference: ``null`` for a list, text, number or object stands for its default, as in Go, whose
programs write it for what is empty.
"""

from __future__ import annotations

import sys

from portside.model import jsontext
from portside.model.errors import SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import GenericAlias, SimpleNamespace, UnionType
    from typing import Any

    Convert = Callable[[Any], Any]
else:  # as types has them
    GenericAlias, UnionType = type(list[int]), type(int | None)
    SimpleNamespace = type(sys.implementation)


class MsgspecError(Exception):
    """Base of the errors."""


class DecodeError(MsgspecError):
    """The text is not JSON."""


class ValidationError(DecodeError):
    """The JSON does not match the type; the message says where."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message, self.place = message, ""

    def below(self, place: str) -> ValidationError:
        """The same error, seen from one level above."""
        self.place = place + self.place
        return self

    def __str__(self) -> str:
        return f"{self.message} - at `${self.place}`" if self.place else self.message


class _Field:
    __slots__ = ("default", "factory", "name")

    def __init__(self, name: str, default: Any, factory: Callable[[], Any] | None) -> None:
        self.name, self.default, self.factory = name, default, factory


_REQUIRED = object()


def field(
    *, name: str = "", default: Any = _REQUIRED, default_factory: Callable[[], Any] | None = None
) -> Any:
    """As msgspec.field."""
    return _Field(name, default, default_factory)


def _camel(name: str) -> str:
    first, *others = name.strip("_").split("_")
    return first + "".join(word.capitalize() for word in others)


class _Meta(type):
    """Makes struct types: annotated names are fields, in the order of the bases first."""

    struct_given: dict[str, Any]
    _struct_options: dict[str, Any]
    _struct_fields: dict[str, _Field]

    def __new__(mcls, name: str, bases: tuple[type, ...], space: dict[str, Any],
                **given: Any) -> _Meta:  # fmt: skip
        if given.get("frozen"):
            space.setdefault("__hash__", lambda self: hash(tuple(self.__dict__.values())))
        made = super().__new__(mcls, name, bases, space)
        made.struct_given = given
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any],
                 **given: Any) -> None:  # fmt: skip
        super().__init__(name, bases, space)

    # Both are made when they are first needed: most types of a specification are not.

    @property
    def struct_options(cls) -> dict[str, Any]:
        found: dict[str, Any] | None = cls.__dict__.get("_struct_options")
        if found is None:
            found = {}
            for base in reversed(cls.__bases__):
                if isinstance(base, _Meta):
                    found |= base.struct_options
            found |= cls.struct_given
            cls._struct_options = found
        return found

    @property
    def struct_fields(cls) -> dict[str, _Field]:
        found: dict[str, _Field] | None = cls.__dict__.get("_struct_fields")
        if found is None:
            found = cls._struct_fields = _fields_of(cls)
        return found


def _fields_of(cls: _Meta) -> dict[str, _Field]:
    found: dict[str, _Field] = {}
    for base in reversed(cls.__bases__):
        if isinstance(base, _Meta):
            found |= base.struct_fields
    camel = cls.struct_options.get("rename") == "camel"
    for each in vars(cls).get("__annotations__", ()):
        value = cls.__dict__.get(each, _REQUIRED)
        if not isinstance(value, _Field):
            value = _Field("", value, None)
        if type(value.default) in (dict, list):
            value.factory = type(value.default)
        if not value.name:
            value.name = _camel(each) if camel else each
        found[each] = value
    return found


class Struct(metaclass=_Meta):
    """As msgspec.Struct: rename, omit_defaults, frozen and tag are understood."""

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = type(self).struct_fields
        named.update(zip(fields, values, strict=False))
        own = self.__dict__
        for name, one in fields.items():
            if name in named:
                own[name] = named.pop(name)
            elif one.factory is not None:
                own[name] = one.factory()
            elif one.default is _REQUIRED:
                raise TypeError(f"Missing required argument {name!r}")
            else:
                own[name] = one.default
        if named or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__}: unexpected arguments {list(named)}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


def replace(struct: Any, **changes: Any) -> Any:
    """As msgspec.structs.replace."""
    return type(struct)(**(struct.__dict__ | changes))


def to_builtins(value: Any) -> Any:
    """Structs as dictionaries by their wire names, all the way down."""
    if isinstance(value, Struct):
        kind = type(value)
        omits, tag = kind.struct_options.get("omit_defaults"), kind.struct_options.get("tag")
        found = {"type": kind.__name__} if tag else {}
        for name, one in kind.struct_fields.items():
            item = value.__dict__[name]
            if omits and (item is one.default or (one.factory is not None and not item)):
                continue
            found[one.name] = to_builtins(item)
        return found
    if isinstance(value, dict):
        return {key: to_builtins(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_builtins(item) for item in value]
    return value


def encode(value: Any) -> bytes:
    """As msgspec.json.encode."""
    return jsontext.dumps(to_builtins(value)).encode()


def decode(data: bytes | str, type: Any = None) -> Any:
    """As msgspec.json.decode. Raises DecodeError, ValidationError."""
    try:
        value = jsontext.loads(data if isinstance(data, str) else data.decode())
    except (SystemFailure, UnicodeDecodeError) as err:
        raise DecodeError(f"JSON is malformed: {err}") from None
    return value if type is None else _converter(type)(value)


# A type's converter is made when it is first needed: most parts of a specification are not there.

_NAMES = {dict: "object", list: "array", bool: "bool", str: "str", int: "int", float: "float"}
_converters: dict[Any, Convert] = {}


def _expected(wanted: str, value: Any) -> ValidationError:
    got = "null" if value is None else _NAMES.get(type(value), type(value).__name__)
    return ValidationError(f"Expected `{wanted}`, got `{got}`")


def _converter(kind: Any) -> Convert:
    found = _converters.get(kind)
    if found is None:
        found = _converters[kind] = _make(kind)
    return found


def _make(kind: Any) -> Convert:
    if isinstance(kind, UnionType):
        inner = [each for each in kind.__args__ if each is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"{kind}: a type or None is all that is understood here")
        convert = _converter(inner[0])
        return _or_null(convert)
    if isinstance(kind, GenericAlias):
        convert = _converter(kind.__args__[-1] if kind.__origin__ is dict else kind.__args__[0])
        return _dict_of(convert) if kind.__origin__ is dict else _list_of(convert, kind.__origin__)
    if isinstance(kind, _Meta):
        return _struct_of(kind)
    return _plain(kind)


def _or_null(convert: Convert) -> Convert:
    def convert_or_none(value: Any) -> Any:
        if value is None:
            return None
        try:
            return convert(value)
        except ValidationError as err:
            if not err.place:
                err.message = err.message.replace("`, got", " | null`, got", 1)
            raise

    return convert_or_none


def _plain(kind: Any) -> Convert:
    def convert(value: Any) -> Any:
        if kind is object or type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _expected(_NAMES[kind], value)

    return convert


def _list_of(convert: Convert, origin: Any) -> Convert:
    def convert_all(value: Any) -> Any:
        if type(value) is not list:
            raise _expected("array", value)
        found: list[Any] = []
        try:
            for item in value:
                found.append(convert(item))
        except ValidationError as err:
            raise err.below(f"[{len(found)}]") from None
        return origin(found)

    return convert_all


def _dict_of(convert: Convert) -> Convert:
    def convert_all(value: Any) -> Any:
        if type(value) is not dict:
            raise _expected("object", value)
        try:
            return {key: convert(item) for key, item in value.items()}
        except ValidationError as err:
            raise err.below("[...]") from None

    return convert_all


def _struct_of(kind: _Meta) -> Convert:
    space: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names = sys.modules[base.__module__].__dict__
        annotations = vars(base).get("__annotations__", {})
        space |= {name: (text, names) for name, text in annotations.items()}
    fields = kind.struct_fields
    by_wire = {one.name: (name, one) for name, one in fields.items()}
    known: dict[str, Convert] = {}

    def of(name: str) -> Convert:
        found = known.get(name)
        if found is None:
            text, names = space[name]
            found = known[name] = _converter(eval(text, names) if isinstance(text, str) else text)
        return found

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise _expected("object", value)
        given: dict[str, Any] = {}
        for key, item in value.items():
            if key not in by_wire:
                continue
            name, one = by_wire[key]
            if item is None and (one.factory or one.default is not _REQUIRED):
                continue
            try:
                given[name] = of(name)(item)
            except ValidationError as err:
                raise err.below(f".{key}") from None
        for name, one in fields.items():
            if name not in given and one.default is _REQUIRED and one.factory is None:
                raise ValidationError(f"Object missing required field `{one.name}`")
        return kind(**given)

    return convert


json = SimpleNamespace(encode=encode, decode=decode)
structs = SimpleNamespace(replace=replace)


def install() -> None:
    """Be msgspec for what is imported from now on."""
    sys.modules.setdefault("msgspec", sys.modules[__name__])
