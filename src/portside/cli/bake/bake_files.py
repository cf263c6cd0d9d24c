"""Bake files as definitions: variables, functions, groups and targets, each attribute an
expression that is evaluated when it is asked for."""

from __future__ import annotations

from portside.cli.bake import hcl_expressions as hcl
from portside.cli.bake.hcl_expressions import Evaluator, HclError
from portside.cli.bake.hcl_functions import FUNCTIONS
from portside.cli.session import Failed
from portside.model import jsontext
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Expression = Callable[[Evaluator], Any]
    Body = dict[str, Expression]


class Source:
    """A file's text, for messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def failed(self, err: HclError) -> Failed:
        """The error with its place and lines."""
        if not err.line:
            return Failed(1, f"ERROR: {self.name}: {err}")
        lines = self.text.split("\n")
        shown = [f"{self.name}:{err.line}", "-" * 20]
        for number in range(max(1, err.line - 2), min(len(lines), err.line + 2) + 1):
            mark = ">>>" if number == err.line else "   "
            shown.append(f"{number:4} | {mark} {lines[number - 1]}")
        shown += ["-" * 20, f"ERROR: {self.name}:{err.line},{err.column}: {err}"]
        return Failed(1, "\n".join(shown))


class Block:
    """A variable, a target or another block: its attributes, and blocks within it."""

    def __init__(self, source: Source, body: Body, blocks: dict[str, list[Block]]) -> None:
        self.source, self.body, self.blocks = source, body, blocks


class Definitions:
    """The definitions of all files. Raises Failed with the place of an error."""

    def __init__(self, environment: dict[str, str], builtin: dict[str, Any]) -> None:
        self._environment = environment
        self._values: dict[str, Any] = dict(builtin)
        self._busy: set[str] = set()
        self.variables: dict[str, Block] = {}
        self._globals: dict[str, tuple[Source, Expression]] = {}
        self.groups: dict[str, list[Block]] = {}
        self.targets: dict[str, list[Block]] = {}
        self._functions: dict[str, Callable[..., Any]] = dict(FUNCTIONS)
        self.evaluator = Evaluator(self._look_up, self._functions)

    # -- reading -------------------------------------------------------------------------

    def add_hcl(self, name: str, text: str) -> None:
        source = Source(name, text)
        try:
            top = _hcl_block(source, hcl.parts(hcl.parse(text))[0])
        except HclError as err:
            raise source.failed(err) from None
        self._add(top)

    def add_json(self, name: str, text: str) -> None:
        try:
            document = jsontext.loads(text)
        except (ValueError, PortsideError) as err:
            raise Failed(1, f"ERROR: {name}: {err}") from None
        if not isinstance(document, dict):
            raise Failed(1, f"ERROR: {name}: the file is not a JSON object")
        source = Source(name, text)
        found: dict[str, list[Block]] = {}
        body: Body = {}
        for key, value in document.items():
            if key in ("variable", "group", "target", "function") and isinstance(value, dict):
                found[key] = [_json_block(source, label, item)
                              for label, item in value.items()]  # fmt: skip
            else:
                body[key] = _json_expression(value)
        self._add(Block(source, body, found))

    def add_target(self, name: str, values: dict[str, Any]) -> None:
        """A target whose values are known, of a Compose file."""
        body = {key: _constant(value) for key, value in values.items()}
        self.targets.setdefault(name, []).append(Block(Source(name, ""), body, {}))

    def add_group(self, name: str, targets: list[str]) -> None:
        block = Block(Source(name, ""), {"targets": _constant(targets)}, {})
        self.groups.setdefault(name, []).append(block)

    def _add(self, top: Block) -> None:
        for key, expression in top.body.items():
            self._globals[key] = (top.source, expression)
        for kind, blocks in top.blocks.items():
            for block in blocks:
                label = block.body.pop("#label", _constant(""))
                name = str(label(self.evaluator))
                if kind == "variable":
                    self.variables[name] = block
                elif kind == "function":
                    self._functions[name] = self._function(block)
                elif kind in ("group", "target"):
                    known = self.groups if kind == "group" else self.targets
                    known.setdefault(name, []).append(block)
                else:
                    raise Failed(1, f"ERROR: {top.source.name}: Unsupported block type; Blocks of "
                                    f'type "{kind}" are not expected here.')  # fmt: skip

    def _function(self, block: Block) -> Callable[..., Any]:
        """A function of the file; its parameters are bare words."""
        names = [word.strip() for word in block.body["params"](_Words())]
        rest = block.body["variadic_params"](_Words()) if "variadic_params" in block.body else ""

        def call(*values: Any) -> Any:
            if len(values) < len(names) or (len(values) > len(names) and not rest):
                raise ValueError(f"{len(names)} arguments are expected")
            given = dict(zip(names, values, strict=False))
            if rest:
                given[rest] = list(values[len(names) :])
            return block.body["result"](self.evaluator.within(given))

        return call

    # -- values --------------------------------------------------------------------------

    def _look_up(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        if name in ("target", "group"):
            return _Blocks(self, self.targets if name == "target" else self.groups)
        if name not in self.variables and name not in self._globals:
            raise KeyError(name)
        if name in self._busy:
            raise HclError(f"variable cycle not allowed for {name}")
        self._busy.add(name)
        try:
            value = self._values[name] = self._of(name)
        finally:
            self._busy.discard(name)
        return value

    def _of(self, name: str) -> Any:
        """A variable's value: the environment's before the file's."""
        if name in self.variables:
            block = self.variables[name]
            default = None
            if "default" in block.body:
                default = self.evaluated(block, block.body["default"])
        else:
            source, expression = self._globals[name]
            default = self.evaluated(Block(source, {}, {}), expression)
        if name not in self._environment:
            return default
        return _converted(name, self._environment[name], default, self.type_of(name))

    def type_of(self, name: str) -> str:
        """The declared type; empty for none."""
        block = self.variables.get(name)
        return str(block.body["type"](_Words())) if block and "type" in block.body else ""

    def evaluated(self, block: Block, expression: Expression, **names: Any) -> Any:
        """An expression's value. Raises Failed."""
        try:
            return expression(self.evaluator.within(names))
        except HclError as err:
            raise block.source.failed(err) from None

    def check_variables(self) -> None:
        """The variables' own conditions. Raises Failed."""
        for name, block in self.variables.items():
            try:
                self._look_up(name)
            except HclError as err:
                raise block.source.failed(err) from None
            for rule in block.blocks.get("validation", ()):
                if not hcl.truth(self.evaluated(block, rule.body["condition"])):
                    message = self.evaluated(block, rule.body["error_message"])
                    raise Failed(1, f"ERROR: {block.source.name}: Validation failed; {message}")

    def variable(self, name: str) -> Any:
        return self._look_up(name)


class _Blocks:
    """``target.NAME.ATTRIBUTE`` within an expression."""

    def __init__(self, definitions: Definitions, known: dict[str, list[Block]]) -> None:
        self._definitions, self._known = definitions, known

    def __getitem__(self, name: str) -> Any:
        definitions, blocks = self._definitions, self._known[name]

        class Attributes:
            def __getitem__(self, key: str) -> Any:
                for block in reversed(blocks):
                    if key in block.body:
                        return definitions.evaluated(block, block.body[key])
                raise KeyError(key)

        return Attributes()


class _Words(Evaluator):
    """Takes identifiers as words: names of parameters and types."""

    def __init__(self) -> None:
        super().__init__(lambda name: name, {})

    def _function_call(self, node: Any) -> Any:
        return hcl.word(node)


def _constant(value: Any) -> Expression:
    return lambda _: value


def _hcl_block(source: Source, body: Any) -> Block:
    found: Body = {}
    blocks: dict[str, list[Block]] = {}
    for part in hcl.parts(body):
        if part.data == "attribute":
            key, value = hcl.parts(part)
            if hcl.word(key) in found:
                raise HclError(f'Attribute redefined; The argument "{hcl.word(key)}" was already '
                               "set.", part)  # fmt: skip
            found[hcl.word(key)] = _node_expression(value)
        elif part.data == "block":
            kind, *labels, inner = hcl.parts(part)
            block = _hcl_block(source, inner)
            if labels:
                block.body["#label"] = _constant(hcl.word(labels[0]).strip('"'))
            blocks.setdefault(hcl.word(kind), []).append(block)
    return Block(source, found, blocks)


def _node_expression(node: Any) -> Expression:
    return lambda evaluator: evaluator.value(node)


def _json_block(source: Source, label: str, item: Any) -> Block:
    if not isinstance(item, dict):
        raise Failed(1, f"ERROR: {source.name}: {label}: an object is expected")
    inner: dict[str, list[Block]] = {}
    body = {key: _json_expression(value) for key, value in item.items() if key != "validation"}
    rules = item.get("validation")
    for rule in rules if isinstance(rules, list) else [rules] if rules else ():
        inner.setdefault("validation", []).append(_json_block(source, "validation", rule))
    body["#label"] = _constant(label)
    return Block(source, body, inner)


def _json_expression(value: Any) -> Expression:
    def evaluate(evaluator: Evaluator) -> Any:
        if isinstance(value, str):
            return value if isinstance(evaluator, _Words) else evaluator.embedded(value)
        if isinstance(value, list):
            return [_json_expression(item)(evaluator) for item in value]
        if isinstance(value, dict):
            return {key: _json_expression(item)(evaluator) for key, item in value.items()}
        return value

    return evaluate


def _converted(name: str, text: str, default: Any, kind: str) -> Any:
    """The environment's text as the type of the default, or the declared one. HclError."""
    if not kind and isinstance(default, list | dict):
        raise HclError(
            f"Invalid value; unsupported type for variable {name}: declare it with type = …"
        )
    if kind.startswith(("list", "set", "tuple")):
        from portside.model.golang.csv_line import csv

        return csv(text) if text else []
    if kind.startswith(("map", "object")):
        return jsontext.loads(text)
    if kind == "bool" or isinstance(default, bool):
        if text.lower() in ("1", "t", "true"):
            return True
        if text.lower() in ("0", "f", "false"):
            return False
        raise HclError(f"Invalid value; failed to parse {name} as bool: {text!r}")
    if kind == "number" or isinstance(default, int | float):
        try:
            return hcl.fixed(float(text))
        except ValueError:
            raise HclError(
                f"Invalid value; failed to parse {name} as number: strconv.ParseFloat: parsing "
                f'"{text}": invalid syntax'
            ) from None
    return text
