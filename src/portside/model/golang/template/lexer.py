"""From a template's text to tokens.

A token's kind is one of: text, left, right, space, dot, field, variable, identifier,
number, char, string, raw, bool, nil, keyword, pipe, comma, declare, assign, open, close,
end. Positions count bytes from the start, as Go's error messages do.
"""

from __future__ import annotations

from portside.model.golang.template.errors import ParseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

KEYWORDS = frozenset(
    ("block", "break", "continue", "define", "else", "end", "if", "range", "template", "with")
)
_WHITE = " \t\r\n"
_SIGNS = {"|": "pipe", ",": "comma", "(": "open", ")": "close"}


class Token:
    """A piece of the text and where it stands."""

    __slots__ = ("kind", "line", "pos", "text")

    def __init__(self, kind: str, text: str, pos: int, line: int) -> None:
        self.kind, self.text, self.pos, self.line = kind, text, pos, line


class Lexer:
    """Iterates over the tokens of a text; raises ParseError."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self._at = 0
        self._depth = 0

    def _line(self, at: int) -> int:
        return 1 + self._text.count("\n", 0, at)

    def _error(self, message: str, at: int | None = None) -> ParseError:
        line = self._line(self._at if at is None else at)
        return ParseError(f"template: {self.name}:{line}: {message}")

    def _token(self, kind: str, start: int) -> Token:
        return Token(kind, self._text[start : self._at], start, self._line(start))

    def tokens(self) -> Iterator[Token]:
        text = self._text
        while True:
            start = self._at
            left = text.find("{{", start)
            end = len(text) if left < 0 else left
            trims = (
                left >= 0
                and text[left + 2 : left + 3] == "-"
                and text[left + 3 : left + 4] in ("", *_WHITE)
            )
            shown = text[start:end].rstrip(_WHITE) if trims else text[start:end]
            if shown:
                yield Token("text", shown, start, self._line(start))
            if left < 0:
                yield Token("end", "", len(text), self._line(len(text)))
                return
            self._at = left + (3 if trims else 2)
            yield from self._action(left)

    def _action(self, left: int) -> Iterator[Token]:
        """Tokens between the braces."""
        text = self._text
        inner = self._at
        while text[inner : inner + 1] in tuple(_WHITE) and inner < len(text):
            inner += 1
        if text.startswith("/*", inner):
            self._comment(inner)
            return
        yield Token("left", "{{", left, self._line(left))
        self._depth = 0
        while True:
            if self._right():
                if self._depth:
                    raise self._error("unclosed left paren")
                start = self._at
                self._skip_right()
                yield Token("right", "}}", start, self._line(start))
                return
            if self._at >= len(text):
                raise self._error("unclosed action")
            yield self._inside()

    def _comment(self, inner: int) -> None:
        end = self._text.find("*/", inner)
        if end < 0:
            raise self._error("unclosed comment")
        self._at = end + 2
        if not self._right():
            raise self._error("comment ends before closing delimiter")
        self._skip_right()

    def _right(self) -> bool:
        """At ``}}`` or at white space and ``-}}``."""
        text, at = self._text, self._at
        return text.startswith("}}", at) or (
            text[at : at + 1] in tuple(_WHITE) and text.startswith("-}}", at + 1)
        )

    def _skip_right(self) -> None:
        if self._text.startswith("}}", self._at):
            self._at += 2
            return
        self._at += 4
        while self._at < len(self._text) and self._text[self._at] in _WHITE:
            self._at += 1

    def _inside(self) -> Token:
        text, start = self._text, self._at
        character = text[start]
        if character in _WHITE:
            while self._at < len(text) and text[self._at] in _WHITE and not self._right():
                self._at += 1
            if self._at == start:
                self._at += 1
            return self._token("space", start)
        if character in _SIGNS:
            self._at += 1
            self._depth += {"(": 1, ")": -1}.get(character, 0)
            if self._depth < 0:
                raise self._error("unexpected right paren")
            return self._token(_SIGNS[character], start)
        if character == ":" and text[start + 1 : start + 2] == "=":
            self._at += 2
            return self._token("declare", start)
        if character == ":":
            raise self._error("expected :=")
        if character == "=":
            self._at += 1
            return self._token("assign", start)
        if character in "\"'":
            return self._quoted(character)
        if character == "`":
            return self._raw()
        if character == "$":
            return self._word("variable")
        if character == "." and not text[start + 1 : start + 2].isdigit():
            return self._word("field")
        if character.isdigit() or character in "+-.":
            return self._number()
        if character.isalpha() or character == "_":
            return self._word("identifier")
        if character.isascii() and character.isprintable():  # the parser says where it is wrong
            self._at += 1
            return self._token("other", start)
        raise self._error(f"unrecognized character in action: {_named(character)}")

    def _quoted(self, quote: str) -> Token:
        start = self._at
        self._at += 1
        while True:
            character = self._text[self._at : self._at + 1]
            if character in ("", "\n"):
                what = "quoted string" if quote == '"' else "character constant"
                raise self._error(f"unterminated {what}")
            self._at += 2 if character == "\\" else 1
            if character == quote:
                return self._token("string" if quote == '"' else "char", start)

    def _raw(self) -> Token:
        start = self._at
        end = self._text.find("`", start + 1)
        if end < 0:
            raise self._error("unterminated raw quoted string")
        self._at = end + 1
        return self._token("raw", start)

    def _word(self, kind: str) -> Token:
        start = self._at
        self._at += 1
        text = self._text
        while self._at < len(text) and (text[self._at].isalnum() or text[self._at] == "_"):
            self._at += 1
        after = text[self._at : self._at + 1]
        if after and after not in _WHITE and after not in ".,|:()=" and not self._right():
            raise self._error(f"bad character {_named(after)}")
        word = text[start : self._at]
        if kind == "field" and word == ".":
            kind = "dot"
        elif word in KEYWORDS:
            kind = "keyword"
        elif word in ("true", "false"):
            kind = "bool"
        elif word == "nil":
            kind = "nil"
        return self._token(kind, start)

    def _number(self) -> Token:
        start = self._at
        text = self._text
        self._at += 1
        while self._at < len(text) and (
            text[self._at].isalnum() or text[self._at] in "._"
            or (text[self._at] in "+-" and text[self._at - 1] in "eEpP")
        ):  # fmt: skip
            self._at += 1
        return self._token("number", start)


def _named(character: str) -> str:
    """``U+007D '}'``, as Go's %#U."""
    return f"U+{ord(character):04X} '{character}'"
