"""The tree of a template. ``str(node)`` is the node's text, as error messages quote it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Node:
    """``pos`` and ``line`` say where it stands."""

    __slots__ = ("line", "pos")

    def __init__(self, pos: int, line: int) -> None:
        self.pos, self.line = pos, line


class Text(Node):
    __slots__ = ("text",)

    def __init__(self, pos: int, line: int, text: str) -> None:
        super().__init__(pos, line)
        self.text = text


class Dot(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "."


class Nil(Node):
    __slots__ = ()

    def __str__(self) -> str:
        return "nil"


class Constant(Node):
    """A number, string or bool; ``shown`` is its text."""

    __slots__ = ("shown", "value")

    def __init__(self, pos: int, line: int, value: Any, shown: str) -> None:
        super().__init__(pos, line)
        self.value, self.shown = value, shown

    def __str__(self) -> str:
        return self.shown


class Field(Node):
    """``.A.B``."""

    __slots__ = ("names",)

    def __init__(self, pos: int, line: int, names: list[str]) -> None:
        super().__init__(pos, line)
        self.names = names

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


class Variable(Node):
    """``$x.A.B``; the first name is the variable's."""

    __slots__ = ("names",)

    def __init__(self, pos: int, line: int, names: list[str]) -> None:
        super().__init__(pos, line)
        self.names = names

    def __str__(self) -> str:
        return ".".join(self.names)


class Chain(Node):
    """``(pipeline).A.B``."""

    __slots__ = ("names", "node")

    def __init__(self, pos: int, line: int, node: Node, names: list[str]) -> None:
        super().__init__(pos, line)
        self.node, self.names = node, names

    def __str__(self) -> str:
        inner = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return inner + "".join(f".{name}" for name in self.names)


class Identifier(Node):
    """The name of a function."""

    __slots__ = ("name",)

    def __init__(self, pos: int, line: int, name: str) -> None:
        super().__init__(pos, line)
        self.name = name

    def __str__(self) -> str:
        return self.name


class Command(Node):
    """An operand, or a function with its arguments."""

    __slots__ = ("args",)

    def __init__(self, pos: int, line: int, args: list[Node]) -> None:
        super().__init__(pos, line)
        self.args = args

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


class Pipe(Node):
    """Commands, each given the value before it; perhaps kept in variables."""

    __slots__ = ("assigns", "commands", "in_range", "names")

    def __init__(
        self, pos: int, line: int, names: list[str], assigns: bool, commands: list[Command]
    ) -> None:
        super().__init__(pos, line)
        self.names, self.assigns, self.commands = names, assigns, commands
        self.in_range = False
        """Of ``range``, which binds the names for each element."""

    def __str__(self) -> str:
        left = ", ".join(self.names)
        sign = " = " if self.assigns else " := "
        return (left + sign if left else "") + " | ".join(map(str, self.commands))


class Action(Node):
    __slots__ = ("pipe",)

    def __init__(self, pos: int, line: int, pipe: Pipe) -> None:
        super().__init__(pos, line)
        self.pipe = pipe


class Branch(Node):
    """``if``, ``with`` or ``range``."""

    __slots__ = ("body", "kind", "otherwise", "pipe")

    def __init__(
        self, pos: int, line: int, kind: str, pipe: Pipe, body: list[Node], otherwise: list[Node]
    ) -> None:
        super().__init__(pos, line)
        self.kind, self.pipe, self.body, self.otherwise = kind, pipe, body, otherwise


class Jump(Node):
    """``break`` or ``continue``."""

    __slots__ = ("kind",)

    def __init__(self, pos: int, line: int, kind: str) -> None:
        super().__init__(pos, line)
        self.kind = kind


class Call(Node):
    """``{{template "name" pipeline}}``."""

    __slots__ = ("name", "pipe")

    def __init__(self, pos: int, line: int, name: str, pipe: Pipe | None) -> None:
        super().__init__(pos, line)
        self.name, self.pipe = name, pipe
