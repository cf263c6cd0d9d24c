"""Flags: one table of text a verb, for parsing, help and completion.

A table's line is what the help shows::

      -e, --env list        Set a variable of the environment

The word after the name is the kind of value; without one the flag is a switch. A line that
does not start with a dash continues the help before it. ``(default true)`` at the end
makes a switch that is on. The grammar of the command line is pflag's, which Docker uses.

The command, the engine, the registry and the runtime have their flags in such tables.
"""

from __future__ import annotations

from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Convert = Callable[[str, str], Any]

MANY = frozenset(("list", "strings", "map", "filter", "mount", "network", "ulimit", "gpu-request",
                  "pool-options", "runtime", "mapmap"))  # fmt: skip
"""Kinds of flags that may be repeated."""
_PLAIN = frozenset(("string", "list"))


class UsageError(PortsideError):
    """The command line is wrong: flags (exit status 125) or the number of arguments (1)."""

    def __init__(self, message: str, status: int = 125, unknown_flag: str = "") -> None:
        super().__init__(message)
        self.status, self.unknown_flag = status, unknown_flag


class ArgumentCount(UsageError):
    """Too few or too many arguments; ``several``: more than one may be given."""

    def __init__(self, message: str, several: bool) -> None:
        super().__init__(message, 1)
        self.several = several


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


_FLAG_INDENT = 6
"""Columns before a long flag without a short one; help begins further right."""


def read_table(text: str) -> list[Flag]:
    """The flags of a table: a line indented further than any flag continues the last help."""
    flags: list[Flag] = []
    for whole in text.splitlines():
        line = whole.strip()
        if line[:1] != "-" or len(whole) - len(whole.lstrip()) > _FLAG_INDENT:
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

    __slots__ = ("_convert", "_defaults", "_values")

    def __init__(self, flags: Sequence[Flag], convert: Convert | None = None) -> None:
        self._convert = convert
        self._values: dict[str, Any] = {}
        self._defaults = {
            flag.name: True for flag in flags if not flag.kind and "(default true)" in flag.help
        }

    def given(self, name: str) -> bool:
        """Whether the flag was on the command line."""
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

    def value(self, name: str) -> Any:
        """The value as its kind was converted; a list for a flag that may be repeated."""
        return self._values.get(name)

    def _value(self, kind: str, text: str) -> Any:
        if kind in _PLAIN:
            return text
        if kind == "":
            if text == "true":  # what a switch without a value is
                return True
            from portside.model.golang.booleans import parse_bool

            return parse_bool(text)
        return text if self._convert is None else self._convert(kind, text)

    def put(self, flag: Flag, text: str) -> None:
        """Take a value. Raises UsageError."""
        try:
            value = self._value(flag.kind, text)
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


def parse(
    flags: Sequence[Flag],
    words: Sequence[str],
    *,
    interspersed: bool = True,
    convert: Convert | None = None,
    single_dash: bool = False,
) -> tuple[Options, list[str]]:
    """Flags and arguments. ``interspersed``: flags may follow arguments.

    ``convert`` makes a value of a kind and a text, and raises ValueError; without it values are
    the text. ``single_dash``: one dash does for long names, and short ones stand alone, as in
    Go's package flag, which runc's command line is made of.

    Raises UsageError, HelpWanted.
    """
    options = Options(flags, convert)
    return options, read(flags, options, words, interspersed=interspersed, single_dash=single_dash)


def read(
    flags: Sequence[Flag],
    options: Options,
    words: Sequence[str],
    *,
    interspersed: bool = True,
    single_dash: bool = False,
) -> list[str]:
    """As :func:`parse`, into existing options; returns the arguments."""
    arguments: list[str] = []
    rest = list(words)
    rest.reverse()
    while rest:
        word = rest.pop()
        if word == "--":
            arguments += reversed(rest)
            break
        if single_dash and word[:1] == "-" and len(word) > 1:
            _single(flags, options, word, rest)
        elif word[:2] == "--":
            _long(flags, options, word, rest)
        elif word[:1] == "-" and len(word) > 1:
            _short(flags, options, word, rest)
        else:
            arguments.append(word)
            if not interspersed:
                arguments += reversed(rest)
                break
    return arguments


def _single(flags: Sequence[Flag], options: Options, word: str, rest: list[str]) -> None:
    """``-name value``, ``--name=value``, ``-n value``."""
    name = word.lstrip("-").partition("=")[0]
    for flag in flags:
        if name in (flag.name, flag.short):
            _long([flag], options, f"--{flag.name}{word.lstrip('-')[len(name) :]}", rest)
            return
    if name in ("help", "h"):
        raise HelpWanted
    raise UsageError(f"flag provided but not defined: {word.partition('=')[0]}")


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
