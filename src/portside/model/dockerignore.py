""".dockerignore: which paths of a context are left out.

The rules of the Dockerfile reference (".dockerignore files"): one pattern a line, ``#``
comments, a leading ``/`` and ``.`` mean nothing, ``*`` and ``?`` within one component,
``**`` for any number of them, ``[…]`` and ``\\`` as in Go's filepath.Match, ``!`` takes what
an earlier line left out in again; the last line that matches decides. A pattern that matches
a directory matches everything beneath.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from portside.model.errors import InvalidParameter

MAX_PATTERNS = 10_000


def read_patterns(text: str) -> list[str]:
    """The patterns of an ignore file in one form: no comments, no leading slash."""
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines()):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        negated = pattern.startswith("!")
        pattern = pattern[1:].strip() if negated else pattern
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = "/" + pattern.lstrip("/") if pattern.startswith("/") else pattern
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        if negated and not pattern:
            raise InvalidParameter(f'illegal exclusion pattern on line {number + 1}: "!"')
        found.append(f"!{pattern}" if negated else pattern)
        if len(found) > MAX_PATTERNS:
            raise InvalidParameter(f".dockerignore has more than {MAX_PATTERNS} patterns")
    return found


class Ignore:
    """Compiled patterns; ask :meth:`excludes` for paths relative to the context's root."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """InvalidParameter for a malformed pattern."""
        self._rules: list[tuple[bool, re.Pattern[str], str]] = []
        for pattern in patterns:
            negated = pattern.startswith("!")
            bare = posixpath.normpath(pattern[1:] if negated else pattern)
            bare = bare.lstrip("/") or "."
            self._rules.append((negated, compile_pattern(bare), bare))
        self.has_exceptions = any(negated for negated, _, _ in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str) -> bool:
        """Whether ``path`` (``a/b``, without a leading slash) is left out."""
        excluded = False
        ways = _ways(path)
        for negated, rule, _ in self._rules:
            if negated == excluded and any(rule.fullmatch(way) for way in ways):
                excluded = not negated
        return excluded

    def prunes(self, directory: str) -> bool:
        """Whether nothing in an excluded directory can be taken in again: do not walk it."""
        if not self.excludes(directory):
            return False
        parts = directory.split("/")
        return not any(negated and _may_lead(bare, parts) for negated, _, bare in self._rules)


def _ways(path: str) -> list[str]:
    """The path and its parents."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _may_lead(pattern: str, parts: list[str]) -> bool:
    """Whether an exception can match something beneath the directory."""
    for wanted, part in zip(_components(pattern), parts, strict=False):
        if "**" in wanted:
            return True
        if not compile_pattern(wanted).fullmatch(part):
            return False
    return True


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""A character of a pattern: an escaped one, a class, or one as it is."""


def _components(pattern: str) -> list[str]:
    """The pattern cut at its slashes. An escaped one is a slash too; one in a class is not."""
    found = [""]
    for token in _TOKEN.findall(pattern):
        if token in ("/", "\\/"):
            found.append("")
        else:
            found[-1] += token
    return found


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression for whole paths; InvalidParameter when malformed."""
    found, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pattern[at : at + 1] == "*":
                at += 1
                if pattern[at : at + 1] == "/":
                    at += 1
                found += ".*" if at >= len(pattern) else "(?:.*/)?"
            else:
                found += "[^/]*"
        elif char == "?":
            found += "[^/]"
        elif char == "[":
            text, at = _class(pattern, at)
            found += text
        elif char == "\\":
            if at >= len(pattern):
                raise InvalidParameter(f"syntax error in pattern {pattern!r}: it ends in \\")
            found += re.escape(pattern[at])
            at += 1
        else:
            found += re.escape(char)
    try:
        return re.compile(found, re.DOTALL)
    except re.error:
        raise InvalidParameter(f"syntax error in pattern {pattern!r}") from None


def _class(pattern: str, at: int) -> tuple[str, int]:
    """A ``[…]`` of Go's path.Match as one of ``re``."""
    negated = pattern[at : at + 1] in ("^", "!")
    if negated and pattern[at] == "!":
        negated = False  # Go knows ^ only
    at += negated
    members = ""
    first = True
    while True:
        char = pattern[at : at + 1]
        if not char or char == "/":
            raise InvalidParameter(f"syntax error in pattern {pattern!r}: [ is not closed")
        if char == "]" and not first:
            break
        at += 1
        first = False
        if char == "\\":
            char = pattern[at : at + 1]
            if not char:
                raise InvalidParameter(f"syntax error in pattern {pattern!r}: it ends in \\")
            at += 1
        elif char == "-" and members:
            members += "-"
            continue
        members += re.escape(char)
    return f"[{'^/' if negated else ''}{members}]", at + 1
