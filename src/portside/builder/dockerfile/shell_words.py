"""Words and variables as the Dockerfile reference defines them ("Environment replacement").

``$NAME``, ``${NAME}`` and the modifiers ``:-`` ``-`` ``:+`` ``+`` ``:?`` ``?`` ``#`` ``##``
``%`` ``%%`` ``/`` ``//``; quotes as in a shell; the escape character makes the next one plain.
Words in modifiers may hold variables in turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from portside.model.errors import InvalidParameter

MAX_DEPTH = 100
"""Levels of variables within modifiers (``${A:-${B}}``)."""
MAX_RESULT = 16 << 20
"""Characters of an expanded word; repeated expansion grows without bound otherwise."""
NO_CHARACTER = "\ufffd"
"""Where a message names the next character and the text ends, as in BuildKit's."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = frozenset("@*#?-$!0123456789")


@dataclass(slots=True)
class Expansion:
    """The result, and which variables were asked for."""

    words: list[str]
    text: str
    used: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)
    """Variables without a value, also where a modifier gives a default."""


def expand(
    text: str, variables: Mapping[str, str], escape: str = "\\", *, keep_unset: bool = False
) -> str:
    """``text`` with quotes removed and variables replaced; InvalidParameter says what is wrong.

    With ``keep_unset`` variables that have no value stay as they are written.
    """
    return process(text, variables, escape, keep_unset=keep_unset).text


def words(
    text: str, variables: Mapping[str, str], escape: str = "\\", *, keep_unset: bool = False
) -> list[str]:
    """``text`` expanded and split at blanks outside of quotes; blanks of a value split, too."""
    return process(text, variables, escape, keep_unset=keep_unset).words


def process(
    text: str, variables: Mapping[str, str], escape: str = "\\", *, keep_unset: bool = False,
    raw_quotes: bool = False,
) -> Expansion:  # fmt: skip
    scanner = _Scanner(text, variables, escape, keep_unset, raw_quotes)
    scanner.run("", 0)
    return Expansion(scanner.finish(), "".join(scanner.out), scanner.used, scanner.unset)


def split_raw(text: str, escape: str = "\\") -> list[str]:
    """Words as they are written, quotes and escapes kept (ENV, LABEL, here-documents)."""
    found: list[str] = []
    current, quote, at = "", "", 0
    begun = False
    while at < len(text):
        char = text[at]
        if not quote and char.isspace():
            if begun:
                found.append(current)
            current, begun = "", False
        else:
            begun = True
            current += char
            if char == escape and quote != "'" and at + 1 < len(text):
                at += 1
                current += text[at]
            elif quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
        at += 1
    if begun:
        found.append(current)
    return found


class _Scanner:
    """One pass over a text; recursion only for words within ``${…}``."""

    def __init__(
        self, text: str, variables: Mapping[str, str], escape: str, keep_unset: bool, raw: bool
    ) -> None:
        self.text, self.at = text, 0
        self.variables, self.escape = variables, escape
        self.keep_unset, self.raw = keep_unset, raw
        self.out: list[str] = []
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self._words: list[str] = []
        self._word: list[str] = []
        self._begun = False
        self._size = 0
        self._nested = 0

    # -- output --------------------------------------------------------------------------

    def _emit(self, text: str, *, split: bool) -> None:
        self._size += len(text)
        if self._size > MAX_RESULT:
            raise InvalidParameter(f"the expanded text is longer than {MAX_RESULT} characters")
        self.out.append(text)
        if not split:
            self._word.append(text)
            self._begun = True
            return
        for piece in re.split(r"(\s+)", text):
            if piece.isspace():
                self._end_word()
            elif piece:
                self._word.append(piece)
                self._begun = True

    def _end_word(self) -> None:
        if self._begun:
            self._words.append("".join(self._word))
        self._word, self._begun = [], False

    def finish(self) -> list[str]:
        self._end_word()
        return self._words

    # -- input ---------------------------------------------------------------------------

    def run(self, stop: str, depth: int) -> None:
        """Read up to ``stop`` (not taken) or the end."""
        if depth > MAX_DEPTH:
            raise InvalidParameter(f"variables are nested deeper than {MAX_DEPTH}")
        while self.at < len(self.text):
            char = self.text[self.at]
            if stop and char == stop:
                return
            if char == "'" and not self.raw:
                self._single()
            elif char == '"' and not self.raw:
                self._double(depth)
            elif char == "$":
                self._dollar(depth, split=True)
            elif char == self.escape:
                self._escaped()
            else:
                self.at += 1
                self._emit(char, split=True)

    def _escaped(self) -> None:
        self.at += 1
        if self.at >= len(self.text):
            if self.raw:
                self._emit(self.escape, split=False)
            return
        following = self.text[self.at]
        self.at += 1
        if self.raw and following not in (self.escape, "$"):
            following = self.escape + following
        self._emit(following, split=False)

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise InvalidParameter(
                "unexpected end of statement while looking for matching single-quote"
            )
        self._emit(self.text[self.at + 1 : end], split=False)
        self.at = end + 1

    def _double(self, depth: int) -> None:
        self.at += 1
        self._emit("", split=False)
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "$":
                self._dollar(depth, split=False)
                continue
            self.at += 1
            if char == self.escape and self.at < len(self.text):
                following = self.text[self.at]
                if following in ('"', "$", self.escape):
                    self.at += 1
                    char = following
            self._emit(char, split=False)
        raise InvalidParameter(
            "unexpected end of statement while looking for matching double-quote"
        )

    def _dollar(self, depth: int, *, split: bool) -> None:
        begin = self.at
        self.at += 1
        if self.text[self.at : self.at + 1] == "{":
            self.at += 1
            self._braced(begin, depth, split)
            return
        name = self._name()
        if not name:
            self._emit("$", split=False)
            return
        self._put(name, self._value(name), begin, split)

    def _name(self) -> str:
        match = _NAME.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            return match[0]
        char = self.text[self.at : self.at + 1]
        if char and char in _SPECIAL:
            self.at += 1
            return char
        return ""

    def _value(self, name: str) -> str | None:
        self.used.add(name)
        value = self.variables.get(name)
        if value is None:
            self.unset.add(name)
        return value

    def _put(self, name: str, value: str | None, begin: int, split: bool) -> None:
        if value is None and self.keep_unset:
            self._emit(self.text[begin : self.at], split=False)
            return
        self._emit(value or "", split=split)

    def _braced(self, begin: int, depth: int, split: bool) -> None:
        name = self._name()
        if not name:
            raise InvalidParameter("syntax error: bad substitution")
        char = self._take()
        if char == "}":
            self._put(name, self._value(name), begin, split)
            return
        value = self._value(name)
        if char == ":":
            operator = self._take()
            if operator not in ("-", "+", "?") or not operator:
                raise InvalidParameter(
                    f"unsupported modifier (:{operator or NO_CHARACTER}) in substitution"
                )
            is_set = bool(value)
        elif char in ("-", "+", "?") and char:
            operator, is_set = char, value is not None
        elif char in ("#", "%") and char:
            self._trim(char, name, value, begin, depth, split)
            return
        elif char == "/":
            self._replace(name, value, begin, depth, split)
            return
        else:
            raise InvalidParameter(f"unsupported modifier ({char or NO_CHARACTER}) in substitution")
        word = self._word_until("}", depth)
        self._expect_close()
        if value is None and self.keep_unset:
            self._put(name, None, begin, split)
            return
        self._choose(operator, name, value, word, is_set, split)

    def _choose(
        self, operator: str, name: str, value: str | None, word: str, is_set: bool, split: bool
    ) -> None:
        if operator == "-":
            self._emit(value or "" if is_set else word, split=split)
        elif operator == "+":
            self._emit(word if is_set else "", split=split)
        elif is_set:
            self._emit(value or "", split=split)
        else:
            raise InvalidParameter(f"{name}: {word or 'is not allowed to be unset'}")

    def _trim(
        self, char: str, name: str, value: str | None, begin: int, depth: int, split: bool
    ) -> None:
        greedy = self.text[self.at : self.at + 1] == char
        self.at += greedy
        pattern = self._word_until("}", depth, pattern=True)
        self._expect_close()
        if value is None:
            self._put(name, None, begin, split)
            return
        if char == "#":
            found = re.match(glob(pattern, greedy), value, re.DOTALL)
            value = value[found.end() :] if found else value
        else:
            value = _trim_end(value, glob(pattern, True), greedy)
        self._emit(value, split=split)

    def _replace(self, name: str, value: str | None, begin: int, depth: int, split: bool) -> None:
        every = self.text[self.at : self.at + 1] == "/"
        self.at += every
        pattern = self._word_until("/", depth, pattern=True)
        if self._take() != "/":
            raise InvalidParameter("syntax error: missing '/' in ${}")
        replacement = self._word_until("}", depth)
        self._expect_close()
        if value is None:
            self._put(name, None, begin, split)
            return
        compiled = re.compile(glob(pattern, True), re.DOTALL)
        value = compiled.sub(lambda _: replacement, value, 0 if every else 1)
        self._emit(value, split=split)

    def _word_until(self, stop: str, depth: int, *, pattern: bool = False) -> str:
        """The word up to ``stop``, expanded; in a pattern the escape character stays."""
        inner = _Scanner(self.text, self.variables, self.escape, self.keep_unset, self.raw)
        inner.at, inner._nested = self.at, depth + 1
        if pattern:
            inner.run_pattern(stop, depth + 1)
        else:
            inner.run(stop, depth + 1)
        self.at = inner.at
        self.used |= inner.used
        self.unset |= inner.unset
        return "".join(inner.out)

    def run_pattern(self, stop: str, depth: int) -> None:
        """As :meth:`run`, but escaped characters keep their escape, for the pattern's reader."""
        if depth > MAX_DEPTH:
            raise InvalidParameter(f"variables are nested deeper than {MAX_DEPTH}")
        while self.at < len(self.text) and self.text[self.at] != stop:
            char = self.text[self.at]
            if char == "$":
                self._dollar(depth, split=False)
            elif char == self.escape and self.at + 1 < len(self.text):
                self._emit("\\" + self.text[self.at + 1], split=False)
                self.at += 2
            elif char == "}":
                return
            else:
                self._emit(char, split=False)
                self.at += 1

    def _take(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        return char

    def _expect_close(self) -> None:
        if self._take() != "}":
            raise InvalidParameter("syntax error: missing '}'")


def glob(pattern: str, greedy: bool) -> str:
    """A shell pattern (``*``, ``?``, escapes) as a regular expression."""
    found, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            found += ".*" if greedy else ".*?"
        elif char == "?":
            found += "."
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            found += re.escape(pattern[at])
        else:
            found += re.escape(char)
        at += 1
    return found


def _trim_end(value: str, pattern: str, greedy: bool) -> str:
    """Without the longest or shortest ending that matches."""
    compiled = re.compile(pattern, re.DOTALL)
    starts = range(len(value) + 1) if greedy else range(len(value), -1, -1)
    for start in starts:
        if compiled.fullmatch(value, start):
            return value[:start]
    return value
