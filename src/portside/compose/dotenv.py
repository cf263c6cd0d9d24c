"""``.env`` and ``env_file``: lines of ``NAME=value`` (Compose Specification, "Env_file").

Unquoted and double-quoted values have their variables replaced, single-quoted ones are taken as
they are. A comment begins at ``#`` after a blank. Quoted values may span lines. A name alone takes
its value from the environment, or stays without one. ``export`` before a name is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from portside.compose.compose_errors import InvalidFile, Position
from portside.compose.interpolation import (
    InvalidTemplate,
    Lookup,
    MissingVariable,
    TooLarge,
    substitute,
)
from portside.compose.yaml_source import MAX_BYTES

_NAME = re.compile(r"[A-Za-z0-9_.\-\[\]]+")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "a": "\a", "b": "\b", "v": "\v",
            "\\": "\\", '"': '"', "$": "$$"}  # fmt: skip


def read(path: str, lookup: Lookup, raw: bool = False) -> dict[str, str | None]:
    """The variables of a file; with ``raw`` values are taken as they are written.

    Raises FileNotFoundError and InvalidFile.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InvalidFile(f"the file is larger than {MAX_BYTES} bytes", Position(path, 1, 1))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise InvalidFile(f"not UTF-8 text: {err.reason}", Position(path, 1, 1)) from None
    if raw:
        return dict(_raw_lines(text))
    return parse(text, lookup, path)


def _raw_lines(text: str) -> Iterator[tuple[str, str | None]]:
    """``format: raw``: as ``docker run --env-file`` reads it."""
    for line in text.splitlines():
        line = line.lstrip()
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            yield (name, value) if equals else (name, os.environ.get(name))


def parse(text: str, lookup: Lookup, file: str = ".env") -> dict[str, str | None]:
    """The variables of a text. Later lines see the earlier ones. Raises InvalidFile."""
    found: dict[str, str | None] = {}
    left = MAX_BYTES

    def look(name: str) -> str | None:
        outside = lookup(name)
        return outside if outside is not None else found.get(name)

    reader = _Reader(text.replace("\r\n", "\n"), file)
    while reader.skip_to_statement():
        line = reader.line
        name, has_value = reader.name()
        if not has_value:
            found[name] = lookup(name)
            continue
        value, expands = reader.value()
        if expands:
            try:
                value = substitute(value, look)
                left -= len(value)
                if left < 0:
                    raise TooLarge
            except InvalidTemplate as err:
                raise reader.error(f"invalid template: {err}", line) from None
            except (MissingVariable, TooLarge) as err:
                raise reader.error(str(err), line) from None
        found[name] = value
    return found


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._index = 0

    @property
    def line(self) -> int:
        return self._text.count("\n", 0, self._index) + 1

    def error(self, message: str, line: int | None = None) -> InvalidFile:
        return InvalidFile(message, Position(self._file, line or self.line, 1))

    def skip_to_statement(self) -> bool:
        """Step over blank lines and comments; False at the end."""
        while self._index < len(self._text):
            char = self._text[self._index]
            if char == "#":
                end = self._text.find("\n", self._index)
                self._index = len(self._text) if end < 0 else end
            elif char.isspace():
                self._index += 1
            else:
                return True
        return False

    def name(self) -> tuple[str, bool]:
        """A name, and whether a value follows."""
        rest_start = self._index
        if re.match(r"export[ \t]+", self._text[rest_start : rest_start + 16]):
            self._index += 6
            while self._text[self._index : self._index + 1] in (" ", "\t"):
                self._index += 1
        match = _NAME.match(self._text, self._index)
        if match is None:
            end = self._text.find("\n", self._index)
            shown = self._text[self._index : end if end >= 0 else None]
            raise self.error(
                f'unexpected character "{shown[:1]}" in variable name near "{shown[:60]}"'
            )
        self._index = match.end()
        while self._text[self._index : self._index + 1] in (" ", "\t"):
            self._index += 1
        following = self._text[self._index : self._index + 1]
        if following in ("=", ":"):
            self._index += 1
            return match[0], True
        if following in ("", "\n", "#"):
            return match[0], False
        if self._text[match.end() : self._index]:
            raise self.error(f'the name of a variable cannot contain a blank, after "{match[0]}"')
        raise self.error(f'unexpected character "{following}" in variable name "{match[0]}"')

    def value(self) -> tuple[str, bool]:
        """A value, and whether variables in it are replaced."""
        while self._text[self._index : self._index + 1] in (" ", "\t"):
            self._index += 1
        quote = self._text[self._index : self._index + 1]
        if quote in ("'", '"'):
            return self._quoted(quote), quote == '"'
        end = self._text.find("\n", self._index)
        end = len(self._text) if end < 0 else end
        value = self._text[self._index : end]
        self._index = end
        comment = re.search(r"(^|[ \t])#", value)
        if comment:
            value = value[: comment.start()]
        return value.strip(), True

    def _quoted(self, quote: str) -> str:
        start = self._index
        index = start + 1
        out: list[str] = []
        while index < len(self._text):
            char = self._text[index]
            if char == "\\" and index + 1 < len(self._text):
                following = self._text[index + 1]
                if quote == '"':
                    out.append(_ESCAPES.get(following, "\\" + following))
                else:
                    out.append(following if following == quote else "\\" + following)
                index += 2
            elif char == quote:
                self._index = index + 1
                self._end_of_line()
                return "".join(out)
            else:
                out.append(char)
                index += 1
        shown = self._text[start : self._text.find("\n", start)]
        raise self.error(f"unterminated quoted value {shown[:60]}")

    def _end_of_line(self) -> None:
        end = self._text.find("\n", self._index)
        rest = self._text[self._index : end if end >= 0 else None]
        if rest.strip() and not rest.lstrip().startswith("#"):
            raise self.error(f'unexpected text "{rest.strip()[:40]}" after a quoted value')
        self._index = len(self._text) if end < 0 else end
