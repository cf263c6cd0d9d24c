"""Runs a template over a value."""

from __future__ import annotations

from portside.model.golang.template.errors import ExecError
from portside.model.golang.template.functions import FUNCTIONS, LAZY
from portside.model.golang.template.nodes import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Identifier,
    Jump,
    Nil,
    Node,
    Pipe,
    Text,
    Variable,
)
from portside.model.golang.template.parser import Parser
from portside.model.golang.template.values import (
    MISSING,
    GoMap,
    GoStruct,
    Method,
    Row,
    go_text,
    is_true,
    type_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from portside.model.golang.template.functions import Function

_MOST_DEPTH = 1000
"""Of templates that call themselves."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template; ``functions`` take the place of those of the same name.

    Raises ParseError.
    """

    def __init__(
        self, text: str, name: str = "", functions: Mapping[str, Function] | None = None
    ) -> None:
        self.name = name
        self.functions = {**FUNCTIONS, **functions} if functions else FUNCTIONS
        self._text = text
        parser = Parser(name, text)
        self.body = parser.parse()
        self.definitions = parser.definitions

    def render(self, value: Any) -> str:
        """The template's text for a value. Raises ExecError."""
        return self.try_render(value)[0] or ""

    def try_render(self, value: Any, partial: bool = False) -> tuple[str, ExecError | None]:
        """The text; with ``partial`` also what was made before an error, and the error."""
        run = _Run(self, value)
        try:
            run.walk(value, self.body)
        except ExecError as err:
            if not partial:
                raise
            return "".join(run.out), err
        return "".join(run.out), None

    def place(self, node: Node) -> str:
        """``NAME:LINE:COLUMN`` as Go counts: lines from 1, columns of bytes from 0."""
        before = self._text[: node.pos]
        column = len(before[before.rfind("\n") + 1 :].encode())
        return f"{self.name}:{before.count(chr(10)) + 1}:{column}"


class _Run:
    """One execution: the output and the variables in scope."""

    def __init__(self, template: Template, value: Any) -> None:
        self.template = template
        self.out: list[str] = []
        self._variables: list[tuple[str, Any]] = [("$", value)]
        self._depth = 0

    def _error(self, node: Node, message: str) -> ExecError:
        name = self.template.name
        return ExecError(
            f'template: {self.template.place(node)}: executing "{name}" at <{node}>: {message}'
        )

    # -- statements ------------------------------------------------------------------------

    def walk(self, dot: Any, nodes: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.out.append(node.text)
            elif isinstance(node, Action):
                value = self._pipe(dot, node.pipe)
                if not node.pipe.names:
                    self.out.append(self._shown(value))
            elif isinstance(node, Branch):
                self._branch(dot, node)
            elif isinstance(node, Jump):
                raise _Break if node.kind == "break" else _Continue
            elif isinstance(node, Call):
                self._template(dot, node)

    def _shown(self, value: Any) -> str:
        return go_text(value) if value is not MISSING else "<no value>"

    def _branch(self, dot: Any, node: Branch) -> None:
        mark = len(self._variables)
        if node.kind == "range":
            self._range(dot, node)
        else:
            value = self._pipe(dot, node.pipe)
            if is_true(value):
                self.walk(value if node.kind == "with" else dot, node.body)
            else:
                self.walk(dot, node.otherwise)
        del self._variables[mark:]

    def _range(self, dot: Any, node: Branch) -> None:
        mark = len(self._variables)
        value = self._pipe(dot, node.pipe)
        names = node.pipe.names
        ran = False
        for key, item in self._items(node, value):
            ran = True
            inner = len(self._variables)
            for name, bound in zip(names, (key, item) if len(names) == 2 else (item,),
                                   strict=False):  # fmt: skip
                if node.pipe.assigns:
                    self._assign(name, bound)
                else:
                    self._variables.append((name, bound))
            try:
                self.walk(item, node.body)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del self._variables[inner:]
        if not ran:
            self.walk(dot, node.otherwise)
        del self._variables[mark:]

    def _items(self, node: Branch, value: Any) -> Iterable[tuple[Any, Any]]:
        if value is None or value is MISSING:
            return ()
        if isinstance(value, (list, tuple)):
            return enumerate(value)
        if isinstance(value, dict) and not isinstance(value, GoStruct):
            return [(key, value[key]) for key in sorted(value)]
        if isinstance(value, int) and not isinstance(value, bool):
            return [(number, number) for number in range(max(0, value))]
        last = node.pipe.commands[-1]
        place = last.args[0] if len(last.args) == 1 else last
        raise self._error(place, f"range can't iterate over {go_text(value)}")

    def _template(self, dot: Any, node: Call) -> None:
        body = self.template.definitions.get(node.name)
        if body is None:
            raise ExecError(
                f'template: {self.template.place(node)}: executing "{self.template.name}" at '
                f'<{{{{template "{node.name}"}}}}>: template "{node.name}" not defined'
            )
        if self._depth >= _MOST_DEPTH // 10:
            raise ExecError(
                f"template: {self.template.place(node)}: exceeded maximum template depth "
                f"({_MOST_DEPTH // 10})"
            )
        value = self._pipe(dot, node.pipe) if node.pipe is not None else MISSING
        kept, self._variables = self._variables, [("$", value)]
        self._depth += 1
        self.walk(value, body)
        self._depth -= 1
        self._variables = kept

    # -- variables -------------------------------------------------------------------------

    def _assign(self, name: str, value: Any) -> None:
        for at in range(len(self._variables) - 1, -1, -1):
            if self._variables[at][0] == name:
                self._variables[at] = (name, value)
                return

    def _lookup(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        return MISSING

    # -- expressions -----------------------------------------------------------------------

    def _pipe(self, dot: Any, pipe: Pipe) -> Any:
        value: Any = _NOTHING
        for command in pipe.commands:
            value = self._command(dot, command, value)
        if pipe.names and not pipe.in_range:
            if pipe.assigns:
                self._assign(pipe.names[0], value)
            else:
                self._variables.append((pipe.names[0], value))
        return value

    def _command(self, dot: Any, command: Command, final: Any) -> Any:
        first, *args = command.args
        if isinstance(first, Identifier):
            return self._function(dot, first.name, command, args, final)
        if isinstance(first, Field):
            return self._fields(dot, first, dot, first.names, args, final)
        if isinstance(first, Variable):
            value = self._lookup(first.names[0])
            return self._fields(dot, first, value, first.names[1:], args, final)
        if isinstance(first, Chain):
            value = self._operand(dot, first.node)
            return self._fields(dot, first, value, first.names, args, final)
        if isinstance(first, Nil):
            raise self._error(first, "nil is not a command")
        if args or final is not _NOTHING:
            raise self._error(first, f"can't give argument to non-function {first}")
        return self._operand(dot, first)

    def _operand(self, dot: Any, node: Node) -> Any:
        """The value of an argument."""
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Nil):
            return None
        if isinstance(node, Pipe):
            return self._pipe(dot, node)
        if isinstance(node, Field):
            return self._fields(dot, node, dot, node.names, [], _NOTHING)
        if isinstance(node, Variable):
            value = self._lookup(node.names[0])
            return self._fields(dot, node, value, node.names[1:], [], _NOTHING)
        if isinstance(node, Chain):
            value = self._operand(dot, node.node)
            return self._fields(dot, node, value, node.names, [], _NOTHING)
        if isinstance(node, Identifier):
            return self._function(dot, node.name, node, [], _NOTHING)
        raise self._error(node, "can't handle it")

    def _fields(
        self, dot: Any, node: Node, value: Any, names: list[str], args: list[Node], final: Any
    ) -> Any:
        """``value.A.B``; arguments belong to the last name."""
        if not names and (args or final is not _NOTHING):
            raise self._error(node, f"can't give argument to non-function {node}")
        for number, name in enumerate(names):
            receiver, value = value, self._field(node, value, name)
            is_last = number == len(names) - 1
            count = len(args) + (final is not _NOTHING) if is_last else 0
            if isinstance(value, Method):
                if count != value.arity:
                    raise self._error(
                        node,
                        f"wrong number of args for {name}: want {value.arity} got {count}",
                    )
                given = [self._operand(dot, arg) for arg in args]
                value = value.call(*given, *(() if final is _NOTHING else (final,)))
            elif count:
                what = "wrong number of args for {0}: want 0 got {1}"
                if isinstance(receiver, GoStruct):
                    what = "{0} has arguments but cannot be invoked as function"
                elif isinstance(receiver, dict):
                    what = "{0} is not a method but has arguments"
                raise self._error(node, what.format(name, count))
        return value

    def _field(self, node: Node, value: Any, name: str) -> Any:
        if isinstance(value, Row):
            try:
                return value.field(name)
            except KeyError:
                raise self._error(
                    node, f"can't evaluate field {name} in type {value.kind}"
                ) from None
        if isinstance(value, GoMap):
            return value.get(name, MISSING)
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if isinstance(value, GoStruct) and (known := _json_name(name)) in value:
                return value[known]
            if isinstance(value, GoStruct) and value.kind:
                raise self._error(node, f"can't evaluate field {name} in type {value.kind}")
            raise self._error(node, f'map has no entry for key "{name}"')
        if value is MISSING:
            return MISSING
        if value is None:
            raise self._error(node, f'nil data; no entry for key "{name}"')
        kind = type_name(value)
        raise self._error(node, f"can't evaluate field {name} in type {kind}")

    def _function(self, dot: Any, name: str, node: Node, args: list[Node], final: Any) -> Any:
        function = self.template.functions[name]
        count = len(args) + (final is not _NOTHING)
        called = node.args[0] if isinstance(node, Command) else node
        if function.most is None and count < function.least:
            raise self._error(
                called,
                f"wrong number of args for {name}: want at least {function.least} got {count}",
            )
        if function.most is not None and not function.least <= count <= function.most:
            raise self._error(
                called, f"wrong number of args for {name}: want {function.most} got {count}"
            )
        if name in LAZY:
            return self._lazy(dot, name, args, final)
        values = []
        for number, arg in enumerate(args):
            value = self._operand(dot, arg)
            values.append(self._fit(arg, function.kinds, number, value))
        if final is not _NOTHING:
            values.append(self._fit(node, function.kinds, len(args), final))
        try:
            return function.call(*values)
        except ValueError as err:
            raise self._error(node, f"error calling {name}: {err}") from None

    def _lazy(self, dot: Any, name: str, args: list[Node], final: Any) -> Any:
        value: Any = None
        for arg in args:
            value = self._operand(dot, arg)
            if is_true(value) == (name == "or"):
                return value
        return final if final is not _NOTHING else value

    def _fit(self, node: Node, kinds: str, number: int, value: Any) -> Any:
        """An argument of the kind the function takes."""
        kind = kinds[min(number, len(kinds) - 1)]
        wanted = {"s": "string", "i": "int", "l": "[]string"}.get(kind)
        if wanted is None:
            return value
        if kind == "l":
            if value is None or value is MISSING:
                return []
            if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
                return value
        elif kind == "s":
            if isinstance(value, str):
                return value
            if value is MISSING:
                raise self._error(node, "invalid value; expected string")
        elif isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(node, Constant):
            raise self._error(
                node, f"expected {'integer' if kind == 'i' else wanted}; found {node}"
            )
        raise self._error(node, f"wrong type for value; expected {wanted}; got {type_name(value)}")


def _json_name(name: str) -> str:
    """JSON's name of a field by Go's: ``ID`` is ``Id``, ``MediaType`` is ``mediaType``."""
    if name == "ID":
        return "Id"
    if name.startswith(("CPU", "DNS")):
        return name[0] + name[1:3].lower() + name[3:]
    return {"NanoCPUs": "NanoCpus"}.get(name, name[:1].lower() + name[1:])


_NOTHING = object()
"""No value comes from the command before."""
