"""Variables in Compose files: ``$NAME``, ``${NAME}`` and the forms with a modifier.

    ${NAME:-text}  ${NAME-text}    text when NAME is unset (with the colon: or empty)
    ${NAME:+text}  ${NAME+text}    text when NAME is set (with the colon: and not empty)
    ${NAME:?text}  ${NAME?text}    an error with that text when NAME is unset (or empty)
    $$                             a dollar sign

The text after a modifier may contain variables itself (Compose Specification, interpolation).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from portside.compose.compose_errors import InvalidFile
from portside.compose.yaml_source import MAX_BYTES, Map, Path, Seq, position, text_of
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Lookup = Callable[[str], "str | None"]
Warn = Callable[[str], None]

_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_MODIFIER = re.compile(r":?[-+?]")
MAX_NESTING = 50


class InvalidTemplate(PortsideError):
    """A dollar sign that starts no variable."""


class MissingVariable(PortsideError):
    """A required variable has no value; the message names it."""


class TooLarge(PortsideError):
    """Variables that name other ones several times multiply: their text exceeds MAX_BYTES."""

    def __init__(self) -> None:
        super().__init__(f"with its variables replaced the text is larger than {MAX_BYTES} bytes")


def substitute(template: str, lookup: Lookup, warn: Warn | None = None, depth: int = 0) -> str:
    """The text with its variables replaced. Raises InvalidTemplate, MissingVariable and
    TooLarge."""
    if "$" not in template:
        return template
    if depth > MAX_NESTING:
        raise InvalidTemplate(template)
    out: list[str] = []
    index, left = 0, MAX_BYTES - len(template)
    while True:
        dollar = template.find("$", index)
        if dollar < 0:
            out.append(template[index:])
            return "".join(out)
        out.append(template[index:dollar])
        index = dollar + 1
        following = template[index : index + 1]
        if following == "$":
            out.append("$")
            index += 1
        elif following == "{":
            end = _closing(template, index)
            out.append(_braced(template, template[index + 1 : end], lookup, warn, depth))
            left -= len(out[-1])
            index = end + 1
        elif match := _NAME.match(template, index):
            out.append(_value(match[0], lookup, warn))
            left -= len(out[-1])
            index = match.end()
        else:
            # a dollar before anything else is text, as "cost: 5$ each"
            out.append("$")
        if left < 0:
            raise TooLarge


def _closing(template: str, start: int) -> int:
    """The index of the brace that closes the one at ``start``."""
    level = 0
    for index in range(start, len(template)):
        char = template[index]
        if char == "{":
            level += 1
        elif char == "}":
            level -= 1
            if level == 0:
                return index
    raise InvalidTemplate(template)


def _braced(template: str, inner: str, lookup: Lookup, warn: Warn | None, depth: int) -> str:
    match = _NAME.match(inner)
    if match is None:
        raise InvalidTemplate(template)
    name, rest = match[0], inner[match.end() :]
    if not rest:
        return _value(name, lookup, warn)
    modifier = _MODIFIER.match(rest)
    if modifier is None:
        raise InvalidTemplate(template)
    operator, text = modifier[0], rest[modifier.end() :]
    # as docker compose does, also where the text is not used: its warnings and errors come
    text = substitute(text, lookup, warn, depth + 1)
    value = lookup(name)
    present = value is not None and (value != "" or ":" not in operator)
    if operator[-1] == "-":
        return (value or "") if present else text
    if operator[-1] == "+":
        return text if present else (value or "")
    if present:
        return value or ""
    raise MissingVariable(
        f"required variable {name} is missing a value" + (f": {text}" if text else "")
    )


def _value(name: str, lookup: Lookup, warn: Warn | None) -> str:
    value = lookup(name)
    if value is None:
        if warn is not None:
            warn(f'The "{name}" variable is not set. Defaulting to a blank string.')
        return ""
    return value


def interpolate(tree: Any, lookup: Lookup, warn: Warn | None = None) -> None:
    """Replace the variables of all values below a tree, in place.

    Raises InvalidFile with the position of the value that has the fault.
    """
    _Interpolation(tree, lookup, warn).walk(tree, ())


class _Interpolation:
    """The replacement of the variables of one tree, whose texts share one limit of size."""

    def __init__(self, top: Any, lookup: Lookup, warn: Warn | None) -> None:
        self._top, self._lookup, self._warn = top, lookup, warn
        self._left = MAX_BYTES

    def walk(self, value: Any, path: Path) -> None:
        """Replace below a value. Raises InvalidFile."""
        if isinstance(value, Map):
            for key, item in value.items():
                if isinstance(item, str):
                    if "$" in item:
                        value[key] = self._replaced(item, (*path, key))
                elif isinstance(item, (Map, Seq)):
                    self.walk(item, (*path, key))
        elif isinstance(value, Seq):
            for index, item in enumerate(value):
                if isinstance(item, str):
                    if "$" in item:
                        value[index] = self._replaced(item, (*path, f"[{index}]"))
                elif isinstance(item, (Map, Seq)):
                    self.walk(item, (*path, f"[{index}]"))

    def _replaced(self, text: str, path: Path) -> str:
        try:
            found = substitute(text, self._lookup, self._warn)
            self._left -= len(found)
            if self._left < 0:
                raise TooLarge
            return found
        except InvalidTemplate as err:
            shown = text_of(path)
            raise InvalidFile(
                f"invalid interpolation format for {shown}.\n"
                f"You may need to escape any $ with another $.\n{err}", position(self._top, path)
            ) from None  # fmt: skip
        except (MissingVariable, TooLarge) as err:
            raise InvalidFile(f"error while interpolating {text_of(path)}: {err}",
                              position(self._top, path)) from None  # fmt: skip


def variables(tree: Any) -> dict[str, dict[str, Any]]:
    """The variables that a tree uses: for each its default, presence value, whether required."""
    found: dict[str, dict[str, Any]] = {}
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += reversed(list(value.values()))
        elif isinstance(value, list):
            stack += reversed(value)
        elif isinstance(value, str) and "$" in value:
            _collect(value, found, 0)
    return found


def _collect(template: str, found: dict[str, dict[str, Any]], depth: int) -> None:
    index = 0
    while depth <= MAX_NESTING and (index := template.find("$", index)) >= 0:
        index += 1
        following = template[index : index + 1]
        if following == "$":
            index += 1
        elif following == "{":
            try:
                end = _closing(template, index)
            except InvalidTemplate:
                return
            _collect_braced(template[index + 1 : end], found, depth)
            index = end + 1
        elif match := _NAME.match(template, index):
            _note(found, match[0])


def _collect_braced(inner: str, found: dict[str, dict[str, Any]], depth: int) -> None:
    match = _NAME.match(inner)
    if match is None:
        return
    rest = inner[match.end() :]
    modifier = _MODIFIER.match(rest)
    entry = _note(found, match[0])
    if modifier is None:
        return
    text = rest[modifier.end() :]
    if modifier[0][-1] == "-":
        entry["default"] = text
    elif modifier[0][-1] == "+":
        entry["presence"] = text
    else:
        entry["required"] = True
    _collect(text, found, depth + 1)


def _note(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return found.setdefault(name, {"default": "", "presence": "", "required": False})
