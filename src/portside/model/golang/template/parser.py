"""From tokens to a tree. The grammar is text/template's; so are the errors."""

from __future__ import annotations

from portside.model.golang.template.errors import ParseError
from portside.model.golang.template.functions import FUNCTIONS
from portside.model.golang.template.lexer import Lexer, Token
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
            "\\": "\\", "'": "'", '"': '"'}  # fmt: skip
_OPERANDS = frozenset(
    ("dot", "field", "variable", "identifier", "number", "char", "string", "raw", "bool", "nil",
     "open")
)  # fmt: skip


class Parser:
    """Parses one text; ``definitions`` holds what ``define`` and ``block`` named."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.definitions: dict[str, list[Node]] = {}
        self._lexer = Lexer(name, text)
        self._tokens = self._lexer.tokens()
        self._back: list[Token] = []
        self._last = Token("text", "", 0, 1)
        self._variables = ["$"]
        self._ranges = 0

    def parse(self) -> list[Node]:
        """The whole template. Raises ParseError."""
        body, stop = self._list(top=True)
        if stop is not None:
            raise self._error(f"unexpected {{{{{stop.text}}}}}")
        return body

    # -- tokens ----------------------------------------------------------------------------

    def _next(self) -> Token:
        self._last = self._back.pop() if self._back else next(self._tokens)
        return self._last

    def _peek(self) -> Token:
        token = self._next()
        self._back.append(token)
        return token

    def _solid(self) -> Token:
        """The next token that is not a space."""
        token = self._next()
        while token.kind == "space":
            token = self._next()
        return token

    def _peek_solid(self) -> Token:
        token = self._solid()
        self._back.append(token)
        return token

    def _error(self, message: str) -> ParseError:
        return ParseError(f"template: {self.name}:{self._last.line}: {message}")

    def _unexpected(self, token: Token, context: str) -> ParseError:
        shown = {"end": "EOF", "right": '"}}"'}.get(token.kind, _quote(token.text))
        if token.kind == "keyword" or token.text == ".":
            shown = f"<{token.text}>"
        return self._error(f"unexpected {shown} in {context}")

    # -- lists and actions -----------------------------------------------------------------

    def _list(self, top: bool = False) -> tuple[list[Node], Token | None]:
        """Nodes up to ``{{end}}`` or ``{{else}}``, which is returned, or to the end."""
        found: list[Node] = []
        while True:
            token = self._next()
            if token.kind == "end":
                if not top:
                    raise self._error("unexpected EOF")
                return found, None
            if token.kind == "text":
                found.append(Text(token.pos, token.line, token.text))
                continue
            node = self._action(token, top)
            if isinstance(node, Token):
                return found, node
            if node is not None:
                found.append(node)

    def _action(self, left: Token, top: bool) -> Node | Token | None:
        token = self._solid()
        if token.kind != "keyword":
            self._back.append(token)
            pipe = self._pipeline("command", "right")
            return Action(left.pos, left.line, pipe)
        word = token.text
        if word in ("if", "with", "range"):
            return self._branch(token)
        if word == "end":
            self._close("end")
            return token
        if word == "else":
            if self._peek_solid().text not in ("if", "with"):
                self._close("else")
            return token
        if word in ("break", "continue"):
            if not self._ranges:
                raise self._error(f"{{{{{word}}}}} outside {{{{range}}}}")
            self._close(word)
            return Jump(token.pos, token.line, word)
        if word == "template":
            return self._call(token)
        return self._definition(token, top)

    def _close(self, context: str) -> None:
        token = self._solid()
        if token.kind != "right":
            raise self._unexpected(token, context)

    def _branch(self, token: Token) -> Branch:
        kind = token.text
        kept = len(self._variables)
        pipe = self._pipeline(kind, "right")
        if kind == "range":
            self._ranges += 1
        body, stop = self._list()
        if kind == "range":
            self._ranges -= 1
        otherwise: list[Node] = []
        if stop is not None and stop.text == "else":
            following = self._peek()
            if following.kind == "keyword" and following.text in ("if", "with"):
                if following.text != kind:
                    raise self._unexpected(self._next(), "else")
                otherwise = [self._branch(self._next())]
            else:
                otherwise, stop = self._list()
                if stop is not None and stop.text == "else":
                    raise self._error("expected end; found {{else}}")
        del self._variables[kept:]
        return Branch(token.pos, token.line, kind, pipe, body, otherwise)

    def _name(self, context: str) -> str:
        token = self._solid()
        if token.kind not in ("string", "raw"):
            raise self._unexpected(token, context)
        return str(self._unquote(token))

    def _call(self, token: Token) -> Call:
        name = self._name("template clause")
        token = self._last
        pipe = None
        if self._solid().kind != "right":
            self._back.append(self._last)
            pipe = self._pipeline("template clause", "right")
        return Call(token.pos, token.line, name, pipe)

    def _definition(self, token: Token, top: bool) -> Node | None:
        context = f"{token.text} clause"
        if token.text == "define" and not top:
            raise self._error("unexpected {{define}}")
        name = self._name(context)
        pipe = None
        if token.text == "block":
            pipe = self._pipeline(context, "right")
        else:
            self._close(context)
        kept, self._variables = self._variables, ["$"]
        body, stop = self._list()
        self._variables = kept
        if stop is None or stop.text != "end":
            raise self._error(f"unexpected {{{{else}}}} in {context}")
        self.definitions[name] = body
        return Call(token.pos, token.line, name, pipe) if token.text == "block" else None

    # -- pipelines -------------------------------------------------------------------------

    def _pipeline(self, context: str, end: str) -> Pipe:
        first = self._peek_solid()
        names, assigns = self._declarations(context)
        commands: list[Command] = []
        while True:
            token = self._solid()
            if token.kind == end:
                if not commands:
                    raise self._error(f"missing value for {context}")
                for number, command in enumerate(commands[1:], 2):
                    if isinstance(command.args[0], (Constant, Dot, Nil)):
                        raise self._error(f"non executable command in pipeline stage {number}")
                pipe = Pipe(first.pos, first.line, names, assigns, commands)
                pipe.in_range = context == "range"
                return pipe
            if token.kind not in _OPERANDS:
                raise self._unexpected(token, context)
            self._back.append(token)
            commands.append(self._command())

    def _declarations(self, context: str) -> tuple[list[str], bool]:
        """``$x :=``, ``$i, $v :=``, ``$x =``; nothing is taken when it is something else."""
        taken: list[Token] = []

        def take() -> Token:
            taken.append(self._next())
            return taken[-1]

        def give_back() -> None:
            while taken:
                self._back.append(taken.pop())

        names: list[str] = []
        token = take()
        while token.kind == "space":
            token = take()
        while token.kind == "variable":
            names.append(token.text)
            token = take()
            while token.kind == "space":
                token = take()
            if token.kind in ("declare", "assign"):
                assigns = token.kind == "assign"
                for name in names:
                    if assigns and name not in self._variables:
                        raise self._error(f'undefined variable "{name}"')
                if not assigns:
                    self._variables += names
                return names, assigns
            if token.kind != "comma" or context != "range" or len(names) > 1:
                break
            token = take()
            while token.kind == "space":
                token = take()
        give_back()
        return [], False

    def _command(self) -> Command:
        first = self._peek_solid()
        args: list[Node] = []
        while True:
            self._peek_solid()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._next()
            if token.kind == "space":
                following = self._peek_solid()
                if following.kind in ("right", "close", "pipe"):
                    continue_with = self._solid()
                    if continue_with.kind != "pipe":
                        self._back.append(continue_with)
                    else:
                        self._after_pipe()
                    break
                continue
            if token.kind in ("right", "close"):
                self._back.append(token)
                break
            if token.kind == "pipe":
                self._after_pipe()
                break
            raise self._unexpected(token, "operand")
        if not args:
            raise self._error("empty command")
        return Command(first.pos, first.line, args)

    def _after_pipe(self) -> None:
        if self._peek_solid().kind not in _OPERANDS:
            token = self._solid()
            if token.kind == "right":  # as in Go, a pipe may lead nowhere
                self._back.append(token)
                return
            raise self._unexpected(token, "command")

    def _operand(self) -> Node | None:
        node = self._term()
        if node is None:
            return None
        token = self._peek()
        if token.kind != "field":
            return node
        names = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        if isinstance(node, Field):
            return Field(token.pos, token.line, node.names + names)
        if isinstance(node, Variable):
            return Variable(token.pos, token.line, node.names + names)
        if isinstance(node, (Constant, Nil, Dot)):
            raise self._error(f"unexpected . after term {_quote(str(node))}")
        return Chain(token.pos, token.line, node, names)

    def _term(self) -> Node | None:
        token = self._solid()
        pos, line = token.pos, token.line
        if token.kind == "identifier":
            if token.text not in FUNCTIONS:
                raise self._error(f'function "{token.text}" not defined')
            return Identifier(pos, line, token.text)
        if token.kind == "dot":
            return Dot(pos, line)
        if token.kind == "nil":
            return Nil(pos, line)
        if token.kind == "field":
            return Field(pos, line, [token.text[1:]])
        if token.kind == "variable":
            if token.text not in self._variables:
                raise self._error(f'undefined variable "{token.text}"')
            return Variable(pos, line, [token.text])
        if token.kind == "bool":
            return Constant(pos, line, token.text == "true", token.text)
        if token.kind in ("number", "char"):
            return Constant(pos, line, self._number(token), token.text)
        if token.kind in ("string", "raw"):
            return Constant(pos, line, self._unquote(token), token.text)
        if token.kind == "open":
            return self._pipeline("parenthesized pipeline", "close")
        self._back.append(token)
        return None

    # -- constants -------------------------------------------------------------------------

    def _number(self, token: Token) -> Any:
        text = token.text
        if token.kind == "char":
            value = self._unquote(token)
            if len(value) != 1:
                raise self._error(f"malformed character constant: {text}")
            return ord(value)
        try:
            digits = text.lstrip("+-")
            sign = -1 if text[0] == "-" else 1
            if digits[:1] == "0" and digits.isdigit() and len(digits) > 1:
                return sign * int(digits, 8)
            return sign * int(digits, 0)
        except ValueError:
            pass
        try:
            number = float(text)
        except ValueError:
            raise self._error(f'bad number syntax: "{text}"') from None
        return int(number) if number.is_integer() and abs(number) < 2**53 else number

    def _unquote(self, token: Token) -> str:
        if token.kind == "raw":
            return token.text[1:-1]
        body = token.text[1:-1]
        if "\\" not in body:
            return body
        found, at = [], 0
        try:
            while at < len(body):
                if body[at] != "\\":
                    found.append(body[at])
                    at += 1
                    continue
                piece, at = _escape(body, at + 1)
                found.append(piece)
        except (IndexError, ValueError):
            raise self._error("invalid syntax") from None
        return "".join(found)


def _escape(body: str, at: int) -> tuple[str, int]:
    """One escape sequence of a Go string; raises ValueError or IndexError."""
    letter = body[at]
    if letter in _ESCAPES:
        return _ESCAPES[letter], at + 1
    length = {"x": 2, "u": 4, "U": 8}.get(letter)
    if length is not None:
        digits = body[at + 1 : at + 1 + length]
        if len(digits) != length:
            raise ValueError(letter)
        return chr(int(digits, 16)), at + 1 + length
    digits = body[at : at + 3]
    if len(digits) != 3:
        raise ValueError(letter)
    return chr(int(digits, 8)), at + 3


def _quote(text: str) -> str:
    from portside.model.golang.template.values import quoted

    return quoted(text)
