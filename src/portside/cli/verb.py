"""A verb: its names, usage, flags and the function that does it."""

from __future__ import annotations

from portside.flags.table import ArgumentCount, parse, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Flag, Options

    Handler = Callable[[Session, Options, list[str]], int | None]

VERBS: dict[str, Verb] = {}
"""The verbs of the modules imported so far, by each of their names."""


class Verb:
    """One verb. ``names`` holds its full names, the one shown first; ``ls`` for ``list`` too."""

    __slots__ = (
        "_flags", "_table", "about", "completes", "handler", "interspersed", "least", "most",
        "names", "usage",
    )  # fmt: skip

    def __init__(
        self,
        names: Sequence[str],
        usage: str,
        about: str,
        table: str,
        handler: Handler,
        arguments: tuple[int, int | None],
        interspersed: bool,
        completes: str,
    ) -> None:
        self.names, self.usage, self.about = tuple(names), usage, about
        self._table = table
        self._flags: list[Flag] | None = None if table else []
        self.handler = handler
        self.least, self.most = arguments
        self.interspersed, self.completes = interspersed, completes

    @property
    def flags(self) -> list[Flag]:
        if self._flags is None:
            self._flags = read_table(self._table)
        return self._flags

    def usage_of(self, program: str, called: str) -> str:
        """The usage with the names it was called by."""
        return f"{called} {self.usage}".rstrip().replace("{program}", program)

    def parse(self, words: Sequence[str], called: str) -> tuple[Options, list[str]]:
        """Flags and arguments; ``called`` is the whole command, for messages.

        Raises UsageError, HelpWanted.
        """
        options, arguments = parse(
            self.flags, words, interspersed=self.interspersed, convert=_convert
        )
        count = len(arguments)
        if count < self.least or (self.most is not None and count > self.most):
            raise ArgumentCount(f"'{called}' {self._wanted()}", self.most is None)
        return options, arguments

    def _wanted(self) -> str:
        if self.most == 0:
            return "accepts no arguments"
        if self.least == self.most:
            return f"requires {_count(self.least)}"
        if self.most is None:
            return f"requires at least {_count(self.least)}"
        if self.least == 0:
            return f"requires at most {_count(self.most)}"
        return f"requires at least {self.least} and at most {_count(self.most)}"


def _convert(kind: str, text: str) -> Any:
    from portside.cli import flag_values

    return flag_values.convert(kind, text)


def _count(number: int) -> str:
    return f"{number} argument" if number == 1 else f"{number} arguments"


def verb(
    *names: str,
    usage: str = "",
    about: str,
    flags: str = "",
    arguments: tuple[int, int | None] = (0, 0),
    interspersed: bool = True,
    completes: str = "",
) -> Callable[[Handler], Handler]:
    """Declare a verb. ``arguments``: how few and how many; ``completes``: what its arguments
    are, a word of ``portside.cli.complete``."""

    def declare(handler: Handler) -> Handler:
        made = Verb(names, usage, about, flags, handler, arguments, interspersed, completes)
        for name in names:
            VERBS[name] = made
        return handler

    return declare
