"""Flags: one table of text a verb, for parsing, help and completion.

A table's line is what the help shows::

      -e, --env list        Set a variable of the environment

The word after the name is the kind of value; without one the flag is a switch. A line that
does not start with a dash goes on with the help before it. ``(default true)`` at the end
makes a switch that is on. The grammar of the command line is pflag's, which Docker uses.
"""

from __future__ import annotations

from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MANY = frozenset(("list", "strings", "map", "filter", "mount", "network", "ulimit", "gpu-request"))
"""Kinds that may be given several times."""
_PLAIN = frozenset(("string", "list"))


class UsageError(PortsideError):
    """The command line is wrong: flags (exit status 125) or the number of arguments (1)."""

    def __init__(self, message: str, status: int = 125, unknown_flag: str = "") -> None:
        super().__init__(message)
        self.status, self.unknown_flag = status, unknown_flag


_ALIAS = "hidden:alias "
"""Begins the help of a flag that is another's old name, which follows."""


class HelpWanted(Exception):
    """``--help`` was given; ``letter``: in its old form, ``-h``."""

    def __init__(self, letter: bool = False) -> None:
        super().__init__()
        self.letter = letter


class Flag:
    """One line of a table."""

    __slots__ = ("help", "kind", "name", "short")

    def __init__(self, name: str, short: str, kind: str, help: str) -> None:
        self.name, self.short, self.kind, self.help = name, short, kind, help

    @property
    def is_many(self) -> bool:
        return self.kind in MANY

    @property
    def shown(self) -> str:
        """As error messages name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


def read_table(text: str) -> list[Flag]:
    """The flags of a table."""
    flags: list[Flag] = []
    for line in text.splitlines():
        line = line.strip()
        if line[:1] != "-":
            if line and flags:
                flags[-1].help += "\n" + line
            continue
        left, _, help = line.partition("  ")
        short = ""
        if left[1] != "-":
            short, left = left[1], left[4:]
        name, _, kind = left[2:].partition(" ")
        flags.append(Flag(name, short, kind, help.strip()))
    return flags


class Options:
    """The flags of a command line, by long name."""

    __slots__ = ("_defaults", "_values")

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._values: dict[str, Any] = {}
        self._defaults = {
            flag.name: True for flag in flags if not flag.kind and "(default true)" in flag.help
        }

    def given(self, name: str) -> bool:
        """It was on the command line."""
        return name in self._values

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        return bool(self._defaults.get(name, False) if value is None else value)

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        return default if value is None else str(value)

    def number(self, name: str) -> int | None:
        value = self._values.get(name)
        return None if value is None else int(value)

    def many(self, name: str) -> list[Any]:
        """All values of a flag that may be repeated, converted by its kind."""
        return list(self._values.get(name, ()))

    def put(self, flag: Flag, text: str) -> None:
        """Take a value. Raises UsageError."""
        try:
            value = _convert(flag.kind, text)
        except ValueError as err:
            raise invalid(flag.shown, text, str(err)) from None
        if flag.is_many:
            several = value if flag.kind == "strings" else [value]
            self._values.setdefault(flag.name, []).extend(several)
        else:
            self._values[flag.name] = value


def invalid(shown: str, text: str, why: str) -> UsageError:
    """A flag's value is wrong; ``shown`` is the flag as in :attr:`Flag.shown`."""
    return UsageError(f'invalid argument "{text}" for "{shown}" flag: {why}')


def _convert(kind: str, text: str) -> Any:
    if kind in _PLAIN:
        return text
    if kind == "":
        from portside.model.golang.booleans import parse_bool

        return parse_bool(text)
    from portside.cli import flag_values

    return flag_values.convert(kind, text)


def parse(
    flags: Sequence[Flag], words: Sequence[str], *, interspersed: bool = True
) -> tuple[Options, list[str]]:
    """Flags and arguments. ``interspersed``: flags may follow arguments.

    Raises UsageError, HelpWanted.
    """
    options = Options(flags)
    arguments: list[str] = []
    rest = list(words)
    rest.reverse()
    while rest:
        word = rest.pop()
        if word == "--":
            arguments += reversed(rest)
            break
        if word[:2] == "--":
            _long(flags, options, word, rest)
        elif word[:1] == "-" and len(word) > 1:
            _short(flags, options, word, rest)
        else:
            arguments.append(word)
            if not interspersed:
                arguments += reversed(rest)
                break
    return options, arguments


def _long(flags: Sequence[Flag], options: Options, word: str, rest: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    if name == "help":
        raise HelpWanted
    for flag in flags:
        if flag.name == name:
            break
    else:
        raise UsageError(f"unknown flag: --{name}", unknown_flag=name)
    if flag.help.startswith(_ALIAS):
        name = flag.help.removeprefix(_ALIAS)
        flag = next(known for known in flags if known.name == name)
    if not equals:
        if not flag.kind:
            value = "true"
        elif rest:
            value = rest.pop()
        else:
            raise UsageError(f"flag needs an argument: {word}")
    options.put(flag, value)


def _short(flags: Sequence[Flag], options: Options, word: str, rest: list[str]) -> None:
    """``-it``, ``-e value``, ``-evalue``, ``-e=value``."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        for flag in flags:
            if flag.short == letter:
                break
        else:
            if letter == "h":
                raise HelpWanted(letter=True)
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            options.put(flag, letters[1:])
            return
        if not flag.kind:
            options.put(flag, "true")
            continue
        if not letters and not rest:
            raise UsageError(f"flag needs an argument: '{letter}' in {word}")
        options.put(flag, letters or rest.pop())
        return
