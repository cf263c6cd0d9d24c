"""Places in a Dockerfile, and errors that show the lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from portside.model.errors import InvalidParameter, PortsideError

CONTEXT_LINES = 2
"""Lines shown before and after the ones an error is about."""


class Span(NamedTuple):
    """From the first to the last line of something; both count from 1, columns too."""

    line: int
    end_line: int
    column: int = 1


class DockerfileError(InvalidParameter):
    """A Dockerfile is wrong. ``str()`` is the message; :meth:`snippet` shows the lines."""

    def __init__(
        self, message: str, span: Span, *, parsing: bool = True, located: bool = True
    ) -> None:
        """Without ``parsing`` the message names no line; without ``located`` clients show none:
        the error is about the file as a whole."""
        prefix = f"dockerfile parse error on line {span.line}: " if parsing else ""
        super().__init__(prefix + message)
        self.reason, self.span = message, span
        self.parsing, self.located = parsing, located
        self.file = ""
        self.source = ""

    def within(self, file: str, source: str) -> DockerfileError:
        """Name the file the error is in; the innermost caller wins. Returns the same error."""
        if not self.source:
            self.file, self.source = file, source
        return self

    @property
    def position(self) -> str:
        """``Dockerfile:3:5``."""
        return f"{self.file or 'Dockerfile'}:{self.span.line}:{self.span.column}"

    def snippet(self) -> str:
        """The file's name and the lines around the error; the wrong lines are marked."""
        return snippet(self.file or "Dockerfile", self.source, self.span)


_PLACE = "dockerfile_span"
_FINDINGS = "dockerfile_findings"


def note_findings(err: PortsideError, findings: Iterable[Any]) -> None:
    """Keep what the build checks (``lint.Warned``) had found before an error."""
    setattr(err, _FINDINGS, tuple(findings))


def findings_of(err: BaseException) -> tuple[Any, ...]:
    """What the build checks had found before an error."""
    return tuple(getattr(err, _FINDINGS, ()))


def placed(err: PortsideError, span: Span) -> PortsideError:
    """An error of another kind, with the lines that it is about."""
    setattr(err, _PLACE, span)
    return err


def place_of(err: BaseException) -> Span | None:
    """Where in the Dockerfile an error is from, if that is known."""
    if isinstance(err, DockerfileError):
        return err.span if err.located else None
    found = getattr(err, _PLACE, None)
    return found if isinstance(found, Span) else None


def snippet(file: str, source: str, span: Span) -> str:
    """Lines around ``span`` with their numbers, as BuildKit's clients print them."""
    lines = source.split("\n")
    first = max(1, span.line - CONTEXT_LINES)
    last = min(len(lines), span.end_line + CONTEXT_LINES)
    rule = "-" * 20
    shown = [f"{file}:{span.line}", rule]
    for number in range(first, last + 1):
        mark = ">>>" if span.line <= number <= span.end_line else "   "
        shown.append(f"{number:4} | {mark} {lines[number - 1].rstrip()}".rstrip())
    return "\n".join([*shown, rule]) + "\n"


def nearest(word: str, known: Iterable[str], *, cased: bool = False) -> str:
    """The known word that was probably meant: at most two edits away; else empty, also where the
    word is known. The first of several wins. These are BuildKit's rules."""
    wanted = word if cased else word.lower()
    best, distance = "", 3
    for option in known:
        candidate = option if cased else option.lower()
        if candidate == wanted:
            return ""
        found = edits(wanted, candidate, distance)
        if found < distance:
            best, distance = option, found
    return best


def did_you_mean(word: str, known: Iterable[str], *, cased: bool = False, prefix: str = "") -> str:
    """`` (did you mean X?)``, or nothing."""
    found = nearest(word, known, cased=cased)
    return f" (did you mean {prefix}{found}?)" if found else ""


def edits(one: Sequence[str], other: Sequence[str], limit: int) -> int:
    """Levenshtein distance, or ``limit`` when the distance is at least that."""
    if abs(len(one) - len(other)) >= limit:
        return limit
    row = list(range(len(other) + 1))
    for i, char in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            cost = min(row[j] + 1, row[j - 1] + 1, previous + (char != wanted))
            previous, row[j] = row[j], cost
        if min(row) >= limit:
            return limit
    return min(row[-1], limit)
