"""The kinds of values of Compose attributes: their checks, meaning and printed form.

A ``Kind`` decodes a value as it was written into a plain typed one (bytes and nanoseconds are
``int``, a list of ``NAME=value`` is a dict) and encodes it again in the canonical form that
``config`` prints. ``spec.py`` puts kinds together to the tables of the specification.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Callable, Iterable

from portside.compose.compose_errors import InvalidFile
from portside.compose.key_order import ordered
from portside.compose.merge import shown
from portside.compose.yaml_source import Path, position, text_of
from portside.model.errors import InvalidParameter
from portside.model.golang.durations import format_duration, parse_duration
from portside.model.golang.sizes import ram_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Here:
    """The tree that is decoded, and where in it; makes errors with positions."""

    __slots__ = ("path", "tree")

    def __init__(self, tree: Any, path: Path = ()) -> None:
        self.tree = tree
        self.path = path

    def at(self, key: str | int) -> Here:
        name = f"[{key}]" if isinstance(key, int) else key
        return Here(self.tree, (*self.path, name))

    def error(self, message: str) -> InvalidFile:
        return InvalidFile(message, position(self.tree, self.path), text_of(self.path))


class Kind:
    """A value of any kind: kept as it is."""

    always_json = False
    """Go's structs print an empty value of this kind in JSON, where others are left out."""

    def decode(self, value: Any, here: Here) -> Any:
        """The typed value. Raises InvalidFile."""
        return value

    def is_zero(self, value: Any) -> bool:
        """Is it the value that an attribute has when it is not given?"""
        return value is None or value == "" or value == {} or value == []

    def encode(self, value: Any, json: bool) -> Any:
        """The value as ``config`` prints it, in JSON or in YAML."""
        return value


def name_of(value: Any) -> str:
    """The kind of a value, for messages."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else names.get(type(value), "a value")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that the specification does not have."""
    import difflib

    close = difflib.get_close_matches(key, list(known), 1, 0.6)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"additional properties '{key}' not allowed{hint}"


class Text(Kind):
    """A string; with ``numbers`` also a number, which becomes one."""

    def __init__(
        self, numbers: bool = False, one_of: tuple[str, ...] = (), pattern: str = "",
        booleans: bool = False,
    ) -> None:  # fmt: skip
        self._numbers, self._booleans = numbers, booleans
        self._one_of, self._pattern = one_of, pattern

    def decode(self, value: Any, here: Here) -> str:
        if isinstance(value, bool):
            if not self._booleans:
                raise here.error("must be a string")
            return shown(value)
        if isinstance(value, (int, float)) and self._numbers:
            return shown(value)
        if not isinstance(value, str):
            raise here.error("must be a string")
        if self._one_of and value not in self._one_of:
            raise here.error(f"must be one of {', '.join(map(repr, self._one_of))}, not {value!r}")
        if self._pattern and not re.search(self._pattern, value):
            raise here.error(f"{value!r} does not match pattern {self._pattern!r}")
        return value


class Integer(Kind):
    """A whole number, also as a string; with ``pointer``, 0 is distinguished from not given."""

    def __init__(
        self, least: int | None = None, most: int | None = None, pointer: bool = False
    ) -> None:
        self._least, self._most, self._pointer = least, most, pointer

    def decode(self, value: Any, here: Here) -> int:
        if isinstance(value, str):
            try:
                value = int(value, 10)
            except ValueError:
                raise here.error(f"must be a number, not {value!r}") from None
        if isinstance(value, float) and value == int(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise here.error("must be a whole number")
        if self._least is not None and value < self._least:
            raise here.error(f"must be greater than or equal to {self._least}")
        if self._most is not None and value > self._most:
            raise here.error(f"must be less than or equal to {self._most}")
        return value

    def is_zero(self, value: Any) -> bool:
        return value is None if self._pointer else not value


class Float32(Kind):
    """A number in single precision, as Go keeps it; ``whole``: fractions are text only."""

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole

    def decode(self, value: Any, here: Here) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise here.error("must be a number")
        if self._whole and isinstance(value, float):
            raise here.error("must be a whole number or a string")
        try:
            return float(value)
        except ValueError:
            raise here.error(f"must be a number, not {value!r}") from None

    def is_zero(self, value: Any) -> bool:
        return not value

    def encode(self, value: Any, json: bool) -> Any:
        return _shortest32(value)


def _shortest32(value: float) -> float | int:
    """The shortest decimal that is the same number in single precision."""
    wanted = struct.pack("f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == wanted:
            return int(short) if short == int(short) else short
    return value


class Flag(Kind):
    """A boolean, also as a string; with ``pointer``, false is distinguished from not given."""

    def __init__(self, pointer: bool = False, default: bool = False) -> None:
        self._pointer, self._default = pointer, default

    def decode(self, value: Any, here: Here) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            lower = value.lower()
            if lower in ("true", "y", "yes", "on"):
                return True
            if lower in ("false", "n", "no", "off"):
                return False
            raise here.error(f"invalid boolean: {value}")
        raise here.error("must be a boolean")

    def is_zero(self, value: Any) -> bool:
        return value is None if self._pointer else bool(value) == self._default


class Bytes(Kind):
    """A size in bytes: a number, or a text such as ``1.5g``."""

    def decode(self, value: Any, here: Here) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise here.error("must be a size, such as 512m")
        if isinstance(value, (int, float)):
            return int(value)
        if re.fullmatch(r"[-+]?\d+", value):
            return int(value)
        try:
            return ram_bytes(value)
        except InvalidParameter as err:
            raise here.error(str(err)) from None

    def is_zero(self, value: Any) -> bool:
        return not value

    def encode(self, value: Any, json: bool) -> Any:
        return str(value)


_LONG = re.compile(r"([0-9.]+)([wd])")


class Duration(Kind):
    """A duration in nanoseconds, written ``1m30s``; days and weeks (``1d``, ``2w``) work too."""

    def __init__(self, pointer: bool = True) -> None:
        self._pointer = pointer

    def decode(self, value: Any, here: Here) -> int:
        if not isinstance(value, str):
            raise here.error("must be a string")
        return duration(value, here)

    def is_zero(self, value: Any) -> bool:
        return value is None if self._pointer else not value

    def encode(self, value: Any, json: bool) -> Any:
        return format_duration(value)


def duration(text: str, here: Here) -> int:
    """Nanoseconds of a duration with weeks and days. Raises InvalidFile."""
    total, rest = 0, text
    while match := _LONG.match(rest):
        try:
            total += int(float(match[1]) * 3600 * (168 if match[2] == "w" else 24) * 10**9)
        except ValueError:
            break
        rest = rest[match.end() :]
    try:
        return total + (parse_duration(rest) if rest or not total else 0)
    except InvalidParameter:
        raise here.error(f'time: invalid duration "{text}"') from None


class ListOf(Kind):
    """A sequence; with ``single``, one item may stand alone."""

    def __init__(self, item: Kind, single: bool = False, unique: bool = False) -> None:
        self.item, self._single, self._unique = item, single, unique

    def decode(self, value: Any, here: Here) -> list[Any]:
        if self._single and isinstance(value, str):
            return [self.item.decode(value, here)]
        if not isinstance(value, list):
            raise here.error("must be a list")
        found = [self.item.decode(item, here.at(index)) for index, item in enumerate(value)]
        if self._unique:
            for index, item in enumerate(found):
                if item in found[:index]:
                    raise here.error(f"items at {found.index(item)} and {index} are equal")
        return found

    def encode(self, value: Any, json: bool) -> Any:
        return [self.item.encode(item, json) for item in value]


class MapOf(Kind):
    """A mapping with keys of the user's; ``nulls`` allows entries without a value."""

    def __init__(self, item: Kind, nulls: bool = False, keys: str = "") -> None:
        self.item, self._nulls, self._keys = item, nulls, re.compile(keys or r".*", re.S)

    def decode(self, value: Any, here: Here) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise here.error("must be a mapping")
        found: dict[str, Any] = {}
        for key, item in value.items():
            if not self._keys.fullmatch(key):
                raise here.at(key).error(f"additional properties '{key}' not allowed")
            if item is None and self._nulls:
                found[key] = None
            else:
                found[key] = self.item.decode(item, here.at(key))
        return found

    def encode(self, value: Any, json: bool) -> Any:
        return {
            key: None if item is None else self.item.encode(item, json)
            for key, item in _in_order(value, json)
        }


def _in_order(value: dict[str, Any], json: bool) -> list[tuple[str, Any]]:
    """The entries of a map as Go prints them in JSON or YAML."""
    return sorted(value.items()) if json else ordered(value.items())


class Struct(Kind):
    """A mapping with the specification's keys, in the order in which they are printed."""

    def __init__(
        self,
        fields: dict[str, Kind],
        required: tuple[str, ...] = (),
        short: Callable[[Any, Here], Any] | None = None,
        nullable: bool = False,
        pointer: bool = True,
        extensions: bool = True,
        json_names: dict[str, str] | None = None,
    ) -> None:
        self.fields, self._required, self._short = fields, required, short
        self._nullable, self._pointer, self._extensions = nullable, pointer, extensions
        self._json_names = json_names or {}
        self.always_json = not pointer
        self._order = {key: index for index, key in enumerate(fields)}
        self._always = [key for key, kind in fields.items() if kind.always_json]

    def decode(self, value: Any, here: Here) -> dict[str, Any]:
        if value is None and self._nullable:
            return {}
        if self._short is not None and not isinstance(value, dict):
            value = self._short(value, here)
        if not isinstance(value, dict):
            raise here.error("must be a mapping")
        found: dict[str, Any] = {}
        for key, item in value.items():
            kind = self.fields.get(key)
            if kind is not None:
                if item is not None or isinstance(kind, Command):
                    found[key] = kind.decode(item, here.at(key))
                elif not getattr(kind, "_nullable", False) and not _may_be_null(kind):
                    raise here.at(key).error(f"must be {_wanted(kind)}")
            elif self._extensions and key.startswith("x-"):
                found[key] = item
            else:
                raise here.at(key).error(unknown_key(key, self.fields))
        for name in self._required:
            if name not in found:
                raise here.error(f"missing property '{name}'")
        return found

    def is_zero(self, value: Any) -> bool:
        if self._pointer:
            return value is None
        return not value or all(
            key in self.fields and self.fields[key].is_zero(item) for key, item in value.items()
        )

    def encode(self, value: Any, json: bool) -> Any:
        found: dict[str, Any] = {}
        keys = [key for key in value if key in self._order]
        if json:
            keys += [key for key in self._always if key not in value]
        for key in sorted(keys, key=self._order.__getitem__):
            kind, item = self.fields[key], value.get(key)
            name = self._json_names.get(key, key) if json else key
            if json and kind.always_json:
                found[name] = kind.encode(item, json) if item is not None else kind_empty(kind)
            elif item is not None and not kind.is_zero(item):
                found[name] = kind.encode(item, json)
        more = {} if json else {key: item for key, item in value.items() if key not in self._order}
        if more:
            found.update(_in_order(more, json))
        return found


def kind_empty(kind: Kind) -> Any:
    """Go's JSON of a value of this kind that was not given."""
    return kind.encode({}, True) if isinstance(kind, Struct) else None


def _may_be_null(kind: Kind) -> bool:
    return isinstance(kind, (ListOf, MapOf, Pairs, Hosts)) or type(kind) is Kind


def _wanted(kind: Kind) -> str:
    if isinstance(kind, Struct):
        return "a mapping"
    return "a boolean" if isinstance(kind, Flag) else "a string or a number"


class Command(Kind):
    """A command: a string that is split as a shell splits it, or a list."""

    always_json = True

    def decode(self, value: Any, here: Here) -> list[str] | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                return shlex.split(value)
            except ValueError as err:
                raise here.error(f"invalid command line string: {err}") from None
        if not isinstance(value, list):
            raise here.error("must be a string or a list")
        return [Text().decode(item, here.at(index)) for index, item in enumerate(value)]

    def is_zero(self, value: Any) -> bool:
        return value is None


class HealthTest(Kind):
    """``test`` of a health check: a string is a command for the shell."""

    def decode(self, value: Any, here: Here) -> list[str]:
        if isinstance(value, str):
            return ["CMD-SHELL", value]
        if not isinstance(value, list):
            raise here.error("must be a string or a list")
        return [Text().decode(item, here.at(index)) for index, item in enumerate(value)]


class Pairs(Kind):
    """``NAME: value`` or ``NAME=value`` items; ``empty`` keeps names without a value as null."""

    def __init__(self, empty: bool = False) -> None:
        self._empty = empty

    def decode(self, value: Any, here: Here) -> dict[str, str | None]:
        if isinstance(value, dict):
            return {key: self._one(item, here.at(key)) for key, item in value.items()}
        if not isinstance(value, list):
            raise here.error("must be a mapping or a list")
        found: dict[str, str | None] = {}
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise here.at(index).error("must be a string")
            name, equals, text = item.partition("=")
            if self._empty and name[-1:].isspace():
                raise here.at(index).error(
                    f"environment variable {name} is declared with a trailing space"
                )
            found[name] = text if equals else self._one(None, here)
        return found

    def _one(self, value: Any, here: Here) -> str | None:
        if value is None:
            return None if self._empty else ""
        if isinstance(value, (dict, list)):
            raise here.error(f"must be a string, a number, a boolean or null, not {name_of(value)}")
        return shown(value)

    def encode(self, value: Any, json: bool) -> Any:
        return dict(_in_order(value, json))


class Hosts(Kind):
    """``extra_hosts``: addresses by name."""

    def decode(self, value: Any, here: Here) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if isinstance(value, dict):
            for name, item in value.items():
                addresses = item if isinstance(item, list) else [item]
                found[name] = [shown("" if text is None else text) for text in addresses]
        elif isinstance(value, list):
            for index, item in enumerate(value):
                text = Text().decode(item, here.at(index))
                name, separator, listed = _cut(text)
                if not separator:
                    raise here.at(index).error(f"invalid additional host, missing IP: {text}")
                found.setdefault(name, []).extend(listed.split(","))
        else:
            raise here.error("must be a mapping or a list")
        for name, texts in found.items():
            if not name or ":" in name or "=" in name:
                raise here.error(f"bad host name '{name}'")
            found[name] = [
                text[1:-1] if len(text) > 2 and text[0] == "[" and text[-1] == "]" else text
                for text in texts
            ]
        return found

    def encode(self, value: Any, json: bool) -> Any:
        return sorted(f"{name}={text}" for name, texts in value.items() for text in texts)


def _cut(text: str) -> tuple[str, str, str]:
    return text.partition("=") if "=" in text else text.partition(":")


class FileMode(Kind):
    """Permission bits, written in octal."""

    def decode(self, value: Any, here: Here) -> int:
        if isinstance(value, str):
            try:
                return int(value, 8)
            except ValueError:
                raise here.error(f"must be an octal number, not {value!r}") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise here.error("must be a number")
        return value

    def is_zero(self, value: Any) -> bool:
        return value is None

    def encode(self, value: Any, json: bool) -> Any:
        return f"0{value:o}"


class Ulimit(Kind):
    """A limit: one number, or ``soft`` and ``hard``."""

    def decode(self, value: Any, here: Here) -> Any:
        number = Integer()
        if not isinstance(value, dict):
            return number.decode(value, here)
        for key in value:
            if key not in ("soft", "hard") and not key.startswith("x-"):
                raise here.at(key).error(unknown_key(key, ("soft", "hard")))
        for key in ("soft", "hard"):
            if key not in value:
                raise here.error(f"missing property '{key}'")
        return {key: number.decode(value[key], here.at(key)) for key in ("soft", "hard")}

    def encode(self, value: Any, json: bool) -> Any:
        if json and isinstance(value, dict):
            return {key: item for key, item in value.items() if item}
        if value == 0:  # Go leaves zeros out of JSON, and takes the number for not given
            return {} if json else {"soft": 0, "hard": 0}
        return value


class DeviceCount(Kind):
    """A number of devices, or ``all`` (-1)."""

    def decode(self, value: Any, here: Here) -> int:
        if isinstance(value, str) and value.lower() == "all":
            return -1
        try:
            return int(value)
        except (TypeError, ValueError):
            raise here.error(
                f"invalid value \"{value}\", the only value allowed is 'all' or a number"
            ) from None

    def is_zero(self, value: Any) -> bool:
        return not value


class MultiOptions(Kind):
    """Options of a provider: each has one value or several."""

    def decode(self, value: Any, here: Here) -> dict[str, list[str]]:
        if not isinstance(value, dict):
            raise here.error("must be a mapping")
        return {
            key: [shown(one) for one in (item if isinstance(item, list) else [item])]
            for key, item in value.items()
        }

    def encode(self, value: Any, json: bool) -> Any:
        return dict(_in_order(value, json))


class Ssh(Kind):
    """Agents and keys for a build: paths by name, printed ``NAME=PATH``."""

    def decode(self, value: Any, here: Here) -> dict[str, str]:
        if not isinstance(value, dict):
            raise here.error("must be a mapping or a list")
        return {key: "" if item is None else shown(item) for key, item in value.items()}

    def encode(self, value: Any, json: bool) -> Any:
        return [f"{key}={item}" if item else key for key, item in sorted(value.items())]


class External(Kind):
    """``external``: a boolean; the mapping with ``name`` is the old form."""

    def decode(self, value: Any, here: Here) -> bool:
        return True if isinstance(value, dict) else Flag().decode(value, here)

    def is_zero(self, value: Any) -> bool:
        return not value
