"""From text to logical lines: directives, comments, continuation, here-documents.

The rules come from the Dockerfile reference ("Format", "Parser directives",
"Here-Documents"). A logical line knows for each of its characters where it came from.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property

from portside.builder.dockerfile import shell_words
from portside.builder.dockerfile.diagnostics import DockerfileError, Span
from portside.model.errors import InvalidParameter

MAX_BYTES = 4 << 20
"""Bytes of a Dockerfile; BuildKit refuses larger ones, too."""
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)")
_OPEN = re.compile(r"\d*<<")
DIRECTIVES = ("syntax", "escape", "check")
_WITH_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: ``name`` ends it, ``expand`` when the name was not quoted."""

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int = 0


@dataclass(frozen=True)
class LogicalLine:
    """One instruction's text, continuation lines joined."""

    text: str
    span: Span
    pieces: tuple[tuple[int, int, int], ...]
    """(offset in ``text``, line, column) of each physical line's first character."""
    comments: tuple[str, ...] = ()
    """Comment lines right before it."""
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: Span | None = None

    def at(self, offset: int) -> Span:
        """The place of one character of the text, to the end of the line."""
        index = bisect_right(self._offsets, offset) - 1
        start, line, column = self.pieces[max(index, 0)]
        return Span(line, self.span.end_line, column + offset - start)

    @cached_property
    def _offsets(self) -> list[int]:
        return [piece[0] for piece in self.pieces]


@dataclass(slots=True)
class SourceText:
    """A Dockerfile taken apart into logical lines."""

    source: str
    lines: list[LogicalLine] = field(default_factory=list)
    directives: dict[str, str] = field(default_factory=dict)
    places: dict[str, Span] = field(default_factory=dict)
    escape: str = "\\"


def read(data: bytes | str, file: str = "") -> SourceText:
    """Split a Dockerfile; DockerfileError for bad directives and here-documents without an end."""
    if len(data) > MAX_BYTES:
        raise DockerfileError(f"the file is larger than {MAX_BYTES} bytes", Span(1, 1))
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    text = text.removeprefix("\ufeff")
    found = SourceText(text)
    try:
        _Reader(found).run()
    except DockerfileError as err:
        raise err.within(file, text) from None
    return found


class _Reader:
    def __init__(self, found: SourceText) -> None:
        self._found = found
        self._lines = found.source.split("\n")
        if not self._lines[-1]:
            self._lines.pop()  # the last line's end begins no other
        self._at = 0
        self._comments: list[str] = []

    def run(self) -> None:
        self._at = self._read_directives()
        escape = re.escape(self._found.escape)
        self._continued = re.compile(rf"(?:(?<!{escape}){escape})[ \t]*$")
        while self._at < len(self._lines):
            self._logical()

    def _read_directives(self) -> int:
        """Directives stand before everything else; an unknown one is a comment, which ends them."""
        found = self._found
        number = 0
        for number, line in enumerate(self._lines):
            match = _DIRECTIVE.fullmatch(line.strip())
            name = match[1].lower() if match else ""
            if match is None or name not in DIRECTIVES:
                return number
            span = Span(number + 1, number + 1)
            if name in found.directives:
                raise DockerfileError(
                    f"only one {name} parser directive can be used", span, parsing=False,
                    located=False,
                )  # fmt: skip
            if name == "escape":
                if match[2] not in ("\\", "`"):
                    raise DockerfileError(
                        f"invalid escape token '{match[2]}' does not match ` or \\", span,
                        parsing=False, located=False,
                    )  # fmt: skip
                found.escape = match[2]
            found.directives[name], found.places[name] = match[2], span
        return number + 1

    def _logical(self) -> None:
        raw = self._lines[self._at].rstrip("\r")
        first = self._at + 1
        self._at += 1
        stripped = raw.lstrip()
        if stripped.startswith("#"):
            self._comments.append(stripped[1:].strip())
            return
        comments, self._comments = tuple(self._comments), []
        text, more = self._part(stripped)
        if not text and not more:
            return
        parts, pieces = [text], [(0, first, len(raw) - len(stripped) + 1)]
        length, has_empty = len(text), False
        while more and self._at < len(self._lines):
            raw = self._lines[self._at].rstrip("\r")
            self._at += 1
            stripped = raw.strip()
            if stripped.startswith("#"):
                continue
            if not stripped:
                has_empty = True
                continue
            text, more = self._part(raw)
            pieces.append((length, self._at, 1))
            parts.append(text)
            length += len(text)
        joined = "".join(parts)
        if not joined.strip():
            return
        last = self._at
        empty = Span(last, last) if has_empty else None
        heredocs = self._heredocs(joined, Span(first, last))
        span = Span(first, self._at, pieces[0][2])
        self._found.lines.append(
            LogicalLine(joined, span, tuple(pieces), comments, heredocs, empty)
        )

    def _part(self, line: str) -> tuple[str, bool]:
        """The line without its continuation mark, and whether it had one."""
        match = self._continued.search(line)
        return (line[: match.start()], True) if match else (line.rstrip("\r"), False)

    def _heredocs(self, text: str, span: Span) -> tuple[Heredoc, ...]:
        if "<<" not in text:
            return ()
        word, rest = ([*text.split(None, 1), ""])[:2]
        if word.upper() == "ONBUILD":
            word, rest = ([*rest.split(None, 1), "", ""])[:2]
        if word.upper() not in _WITH_HEREDOCS or rest.lstrip().startswith("["):
            return ()
        return tuple(self._body(mark, span) for mark in marks(rest, self._found.escape))

    def _body(self, mark: Heredoc, span: Span) -> Heredoc:
        taken: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            bare = line.lstrip("\t") if mark.chomp else line
            self._at += 1
            if bare.rstrip("\r") == mark.name:
                content = "".join(f"{each}\n" for each in taken)
                return Heredoc(mark.name, content, mark.expand, mark.chomp, mark.fd)
            taken.append(bare.rstrip("\r") if line.endswith("\r") else bare)
        raise DockerfileError(
            f"unterminated heredoc: no line {mark.name!r} follows",
            Span(span.line, self._at, span.column), parsing=False,
        )  # fmt: skip


def marks(text: str, escape: str) -> list[Heredoc]:
    """The here-documents that an instruction's text begins, without their content."""
    try:
        found = shell_words.split_raw(text, escape)
    except InvalidParameter:
        return []  # quotes that do not end; the shell will say so
    joined: list[str] = []
    for word in found:
        if joined and _OPEN.fullmatch(joined[-1]):
            joined[-1] += word  # blanks may stand before the name
        else:
            joined.append(word)
    return [heredoc for word in joined if (heredoc := mark_of(word, escape)) is not None]


def mark_of(word: str, escape: str) -> Heredoc | None:
    """``<<NAME``, ``<<-NAME``, ``3<<"NAME"``: a here-document, or None."""
    match = _HEREDOC.fullmatch(word)
    name = match[3].lstrip() if match is not None else ""
    if match is None or not name:
        return None
    try:
        names = shell_words.words(name, {}, escape, keep_unset=True)
    except InvalidParameter:
        return None
    if len(names) != 1 or not names[0]:
        return None
    expand = names[0] == name
    return Heredoc(names[0], "", expand, bool(match[2]), int(match[1] or 0))
