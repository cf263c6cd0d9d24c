"""Options and operands of one command, by tables; argparse would cost more than a start."""

from __future__ import annotations

from portside.model.errors import InvalidParameter


class Options:
    """What was given: flags, values (the last counts, or all of them), operands."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, list[str]] = {}
        self.operands: list[str] = []

    def get(self, name: str, default: str = "") -> str:
        return self.values[name][-1] if name in self.values else default

    def all(self, name: str) -> list[str]:
        return self.values.get(name, [])

    def has(self, name: str) -> bool:
        return name in self.flags or name in self.values

    def number(self, name: str) -> int | None:
        """An integer option, None when it is not given. Raises InvalidParameter."""
        text = self.get(name)
        if not text:
            return None
        try:
            return int(text, 0)
        except ValueError:
            raise InvalidParameter(f"invalid value {text!r} for option --{name}") from None

    def operand(self, what: str = "container id") -> str:
        """The first operand. Raises InvalidParameter when there is none."""
        if not self.operands or not self.operands[0]:
            raise InvalidParameter(f"{what} cannot be empty")
        return self.operands[0]


def parse(arguments: list[str], flags: str, values: str, short: str = "") -> Options:
    """Read options up to the first operand (``flags`` and ``values`` are names by spaces;
    ``short`` such as ``b=bundle``). Raises InvalidParameter for unknown ones."""
    known_flags, known_values = set(flags.split()), set(values.split())
    names = dict(pair.split("=") for pair in short.split())
    found = Options()
    left = list(arguments)
    while left and left[0].startswith("-") and left[0] != "-":
        given = left.pop(0)
        if given == "--":
            break
        name, equals, value = given.lstrip("-").partition("=")
        name = names.get(name, name)
        if name in known_flags:
            if not equals or value == "true":
                found.flags.add(name)
        elif name in known_values:
            if not equals:
                if not left:
                    raise InvalidParameter(f"option --{name} needs a value")
                value = left.pop(0)
            found.values.setdefault(name, []).append(value)
        else:
            raise InvalidParameter(f"flag provided but not defined: {given.partition('=')[0]}")
    found.operands = left
    return found
