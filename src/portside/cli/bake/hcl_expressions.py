"""Values of HCL expressions. The parser is python-hcl2, which gives a tree of tokens; this walks
it (HCL Native Syntax Specification, hashicorp/hcl)."""

from __future__ import annotations

import re

from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from lark import Token, Tree

    Scope = Callable[[str], Any]
    Functions = Mapping[str, Callable[..., Any]]

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


class HclError(InvalidParameter):
    """A fault of a file; ``line`` and ``column`` begin with 1."""

    def __init__(self, text: str, node: Any = None) -> None:
        super().__init__(text)
        token = next(_tokens(node), None) if node is not None else None
        self.line = getattr(token, "line", 0) or 0
        self.column = getattr(token, "column", 0) or 0


def parse(text: str) -> Tree[Token]:
    """The tree of a file. HclError."""
    import hcl2
    from lark.exceptions import UnexpectedInput

    try:
        found: Tree[Token] = hcl2.parses_to_tree(text + "\n")
    except UnexpectedInput as err:
        fault = HclError("Invalid expression or block; the parser did not expect this")
        fault.line, fault.column = err.line, err.column
        raise fault from None
    return found


def _tokens(node: Any) -> Iterator[Any]:
    if not hasattr(node, "children"):
        yield node
        return
    for child in node.children:
        yield from _tokens(child)


def parts(node: Any) -> list[Any]:
    """Children without line ends, comments and punctuation."""
    return [child for child in node.children
            if hasattr(child, "children") and child.data != "new_line_or_comment"]  # fmt: skip


def word(node: Any) -> str:
    return "".join(str(token) for token in _tokens(node)).strip()


def fixed(value: Any) -> Any:
    """Numbers without a fraction as integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text_of(value: Any, node: Any = None) -> str:
    """A value within a template. HclError for what has no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, str):
        return value
    if value is None:
        raise HclError("Invalid template interpolation value; The expression result is null. "
                       "Cannot include a null value in a string template.", node)  # fmt: skip
    raise HclError("Invalid template interpolation value; Cannot include the given value in a "
                   "string template: string required.", node)  # fmt: skip


def number_text(value: float) -> str:
    value = fixed(value)
    return str(value) if isinstance(value, int) else f"{value:.15g}"


class Evaluator:
    """Evaluates expressions of one file. ``scope`` gives a variable by name and raises KeyError."""

    def __init__(self, scope: Scope, functions: Functions) -> None:
        self._scope, self._functions = scope, functions

    def within(self, names: Mapping[str, Any]) -> Evaluator:
        """The same with more variables."""
        outer = self._scope

        def look(name: str) -> Any:
            return names[name] if name in names else outer(name)

        return Evaluator(look, self._functions)

    def value(self, node: Any) -> Any:
        """HclError."""
        return getattr(self, f"_{node.data}", self._unknown)(node)

    def _unknown(self, node: Any) -> Any:
        raise HclError(f"{str(node.data).replace('_', ' ')} is not supported here", node)

    def _expr_term(self, node: Any) -> Any:
        return self.value(parts(node)[0])

    def _int_lit(self, node: Any) -> Any:
        return int(word(node))

    def _float_lit(self, node: Any) -> Any:
        return fixed(float(word(node)))

    def _literal_value(self, node: Any) -> Any:
        return {"true": True, "false": False, "null": None}[word(node)]

    def _identifier(self, node: Any) -> Any:
        name = word(node)
        try:
            return self._scope(name)
        except KeyError:
            raise HclError(
                f'Unknown variable; There is no variable named "{name}".', node
            ) from None

    def _tuple(self, node: Any) -> Any:
        return [self.value(part) for part in parts(node)]

    def _object(self, node: Any) -> Any:
        found = {}
        for element in parts(node):
            key, value = parts(element)
            found[self._key(parts(key)[0])] = self.value(value)
        return found

    def _key(self, node: Any) -> str:
        """A bare word is its own name; anything in parentheses is evaluated."""
        inner = parts(node)[0] if node.data == "expr_term" and parts(node) else node
        if node.data == "keyword" or inner.data in ("identifier", "literal_value"):
            if word(node).startswith("("):
                return text_of(self.value(node), node)
            return word(inner)
        return text_of(self.value(node), node)

    # -- operators -----------------------------------------------------------------------

    def _conditional(self, node: Any) -> Any:
        condition, yes, no = parts(node)
        return self.value(yes if self._truth(condition) else no)

    def _truth(self, node: Any) -> bool:
        return truth(self.value(node), node)

    def _unary_op(self, node: Any) -> Any:
        (operand,) = parts(node)
        if word(node).startswith("!"):
            return not self._truth(operand)
        return -number(self.value(operand), operand)

    def _binary_op(self, node: Any) -> Any:
        left, term = parts(node)[:2]
        operator, right = parts(term)[:2]
        sign = word(operator)
        if sign == "&&":
            return self._truth(left) and self._truth(right)
        if sign == "||":
            return self._truth(left) or self._truth(right)
        first, second = self.value(left), self.value(right)
        if sign in ("==", "!="):
            return same(first, second) == (sign == "==")
        return _arithmetic(sign, number(first, left), number(second, right), term)

    # -- access --------------------------------------------------------------------------

    def _index_expr_term(self, node: Any) -> Any:
        whole, index = parts(node)
        return self._item(self.value(whole), self._index(index), node)

    def _index(self, node: Any) -> Any:
        if node.data == "short_index":
            return int(word(node).lstrip("."))
        return self.value(parts(node)[0])

    def _item(self, whole: Any, key: Any, node: Any) -> Any:
        try:
            if isinstance(whole, list):
                at = int(number(key, node))
                if at >= 0:
                    return whole[at]
            elif isinstance(whole, dict):
                return whole[text_of(key, node)]
        except (LookupError, TypeError):
            pass
        raise HclError("Invalid index; The given key does not identify an element in this "
                       "collection value.", node)  # fmt: skip

    def _get_attr_expr_term(self, node: Any) -> Any:
        whole, attribute = parts(node)
        return self._attribute(self.value(whole), word(attribute).lstrip("."), node)

    def _attribute(self, whole: Any, name: str, node: Any) -> Any:
        try:
            return whole[name]
        except (KeyError, TypeError):
            raise HclError(
                f'Unsupported attribute; This object does not have an attribute named "{name}".',
                node,
            ) from None

    def _attr_splat_expr_term(self, node: Any) -> Any:
        whole, splat = parts(node)
        value = self.value(whole)
        items = value if isinstance(value, list) else [] if value is None else [value]
        return [self._followed(item, parts(splat)) for item in items]

    _full_splat_expr_term = _attr_splat_expr_term

    def _followed(self, value: Any, steps: list[Any]) -> Any:
        for step in steps:
            if step.data == "get_attr":
                value = self._attribute(value, word(step).lstrip("."), step)
            else:
                value = self._item(value, self._index(step), step)
        return value

    # -- functions and loops -------------------------------------------------------------

    def _function_call(self, node: Any) -> Any:
        named, *rest = parts(node)
        name = word(named)
        function = self._functions.get(name)
        if name == "try" or name == "can":
            return self._attempt(name, rest)
        if name == "convert" and rest and len(parts(rest[0])) == 2:
            return self._convert(*parts(rest[0]))
        if function is None:
            raise HclError(f'Function call; There is no function named "{name}".', node)
        values = [self.value(part) for part in parts(rest[0])] if rest else []
        if rest and any(str(token) == "..." for token in rest[0].children):
            values = [*values[:-1], *values[-1]]
        try:
            return fixed(function(*values))
        except HclError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as err:
            raise HclError(
                f'Error in function call; Call to function "{name}" failed: {err}.', node
            ) from None

    def _convert(self, wanted: Any, kind: Any) -> Any:
        """``convert(VALUE, TYPE)``; the type is an expression that is not evaluated."""
        words = [kind] if not hasattr(kind, "scan_values") else kind.scan_values(lambda _: True)
        text = "".join(str(each) for each in words).replace(" ", "")
        try:
            return converted(self.value(wanted), text)
        except ValueError as err:
            raise HclError(
                f'Error in function call; Call to function "convert" failed: {err}.', kind
            ) from None

    def _attempt(self, name: str, rest: list[Any]) -> Any:
        for part in parts(rest[0]) if rest else ():
            try:
                value = self.value(part)
            except HclError:
                continue
            return True if name == "can" else value
        if name == "can":
            return False
        raise HclError("no expression of try succeeded", rest[0] if rest else None)

    def _for_tuple_expr(self, node: Any) -> Any:
        intro, result, *condition = parts(node)
        return [inner.value(result) for inner in self._rounds(intro, condition)]

    def _for_object_expr(self, node: Any) -> Any:
        intro, key, result, *condition = parts(node)
        groups = any(str(token) == "..." for token in node.children)
        found: dict[str, Any] = {}
        for inner in self._rounds(intro, condition):
            name = text_of(inner.value(key), key)
            if groups:
                found.setdefault(name, []).append(inner.value(result))
            else:
                found[name] = inner.value(result)
        return found

    def _rounds(self, intro: Any, condition: list[Any]) -> Iterator[Evaluator]:
        *names, whole = parts(intro)
        for inner in self._each([word(name) for name in names], self.value(whole), intro):
            if not condition or inner._truth(parts(condition[0])[0]):
                yield inner

    def _each(self, names: list[str], whole: Any, node: Any) -> Iterator[Evaluator]:
        pairs: Any
        if isinstance(whole, dict):
            pairs = sorted(whole.items())
        elif isinstance(whole, list):
            pairs = enumerate(whole)
        else:
            raise HclError("Iteration over non-iterable value", node)
        for key, value in pairs:
            given = {names[0]: value} if len(names) == 1 else {names[0]: key, names[1]: value}
            yield self.within(given)

    # -- templates -----------------------------------------------------------------------

    def _string(self, node: Any) -> Any:
        return self.template([part.children[0] for part in parts(node)])

    def _template_string(self, node: Any) -> Any:
        return self.embedded(word(node)[2:-2])

    def _heredoc_template(self, node: Any) -> Any:
        return self.embedded(_heredoc(str(node.children[0]), trims=False))

    def _heredoc_template_trim(self, node: Any) -> Any:
        return self.embedded(_heredoc(str(node.children[0]), trims=True))

    def embedded(self, text: str) -> Any:
        """A template that is not quoted: of a here-document or of JSON."""
        if "${" not in text and "%{" not in text:
            return text
        quoted = _quote_outside(text)
        (attribute,) = parts(parts(parse(f'x = "{quoted}"'))[0])
        return self.value(parts(attribute)[1])

    def template(self, nodes: list[Any]) -> Any:
        """Pieces of text, interpolations and directives; a lone interpolation keeps its type."""
        if len(nodes) == 1 and getattr(nodes[0], "data", "") == "interpolation":
            return self.value(parts(nodes[0])[0])
        text, rest = self._sequence(nodes)
        if rest:
            raise HclError("Unexpected directive in a template", rest[0])
        return text

    def _sequence(self, nodes: list[Any]) -> tuple[str, list[Any]]:
        """The text up to a directive that belongs to an outer one, and what is left."""
        found, nodes = [], list(nodes)
        while nodes:
            node = nodes[0]
            kind = str(getattr(node, "data", ""))
            if kind in ("template_else", "template_endif", "template_endfor"):
                break
            nodes.pop(0)
            if kind == "interpolation":
                found.append(text_of(self.value(parts(node)[0]), node))
            elif kind == "template_if_start":
                text, nodes = self._if(node, nodes)
                found.append(text)
            elif kind == "template_for_start":
                text, nodes = self._for(node, nodes)
                found.append(text)
            else:
                found.append(_unescaped(str(node)))
        return "".join(found), nodes

    def _if(self, start: Any, nodes: list[Any]) -> tuple[str, list[Any]]:
        condition = next(part for part in parts(start))
        yes, nodes = self._sequence(nodes)
        no = ""
        if nodes and nodes[0].data == "template_else":
            no, nodes = self._sequence(nodes[1:])
        return (yes if self._truth(condition) else no), _ended(nodes, "template_endif", start)

    def _for(self, start: Any, nodes: list[Any]) -> tuple[str, list[Any]]:
        *names, whole = [part for part in parts(start) if part.data != "keyword"]
        texts = []
        rest = nodes
        for inner in self._each([word(name) for name in names], self.value(whole), start):
            text, rest = inner._sequence(nodes)
            texts.append(text)
        if not texts:
            rest = _skipped(nodes)
        return "".join(texts), _ended(rest, "template_endfor", start)


def _ended(nodes: list[Any], kind: str, start: Any) -> list[Any]:
    if not nodes or nodes[0].data != kind:
        raise HclError("A directive of a template has no end", start)
    return nodes[1:]


def _skipped(nodes: list[Any]) -> list[Any]:
    """The nodes from the end of a loop whose body is not evaluated."""
    depth = 0
    for at, node in enumerate(nodes):
        kind = str(getattr(node, "data", ""))
        if kind == "template_for_start":
            depth += 1
        elif kind == "template_endfor":
            if not depth:
                return nodes[at:]
            depth -= 1
    return []


_QUOTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quote_outside(text: str) -> str:
    """Quote what is outside of ``${…}`` and ``%{…}``, whose text is an expression."""
    found, depth, at = [], 0, 0
    while at < len(text):
        if text[at : at + 2] in ("${", "%{") and text[at - 1 : at] != text[at]:
            depth += 1
            found.append(text[at : at + 2])
            at += 2
            continue
        char = text[at]
        if depth and char in "{}":
            depth += 1 if char == "{" else -1
        found.append(char if depth else _QUOTED.get(char, char))
        at += 1
    return "".join(found)


def _heredoc(text: str, *, trims: bool) -> str:
    lines = text.split("\n")[1:]
    while lines and not lines[-1].strip():
        lines.pop()
    lines.pop()  # the end's own line
    if trims:
        indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
        cut = min(indents, default=0)
        lines = [line[cut:] for line in lines]
    return "".join(f"{line}\n" for line in lines)


def _unescaped(text: str) -> str:
    text = text.replace("$${", "${").replace("%%{", "%{")

    def one(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] in "uU":
            return chr(int(escape[1:], 16))
        return _ESCAPES.get(escape, match[0])

    return re.sub(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", one, text)


def truth(value: Any, node: Any = None) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise HclError("Incorrect condition type; The condition expression must be of type bool.",
                   node)  # fmt: skip


def number(value: Any, node: Any = None) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return fixed(float(value))
        except ValueError:
            pass
    raise HclError("Invalid operand; Unsuitable value for operand: a number is required.", node)


def same(first: Any, second: Any) -> bool:
    """Equality of values of the same type."""
    if isinstance(first, bool) != isinstance(second, bool):
        return False
    return bool(first == second)


def _arithmetic(sign: str, first: Any, second: Any, node: Any) -> Any:
    if sign in ("/", "%") and not second:
        raise HclError("Division by zero", node)
    if sign in ("<", ">", "<=", ">="):
        return {"<": first < second, ">": first > second, "<=": first <= second,
                ">=": first >= second}[sign]  # fmt: skip
    if sign == "%":
        import math

        return fixed(math.fmod(first, second))
    made = {"+": first + second, "-": first - second, "*": first * second}
    return fixed(first / second if sign == "/" else made[sign])


def converted(value: Any, kind: str) -> Any:
    """A value as another type, such as ``number`` or ``list(string)``. ValueError."""
    outer, _, inner = kind.partition("(")
    inner = inner.removesuffix(")") or "any"
    if value is None or outer == "any":
        return value
    if outer in ("list", "set") and isinstance(value, list):
        found = [converted(each, inner) for each in value]
        if outer == "set":
            found = [each for _, each in sorted({text_of(each): each for each in found}.items())]
        return found
    if outer == "map" and isinstance(value, dict):
        return {key: converted(each, inner) for key, each in value.items()}
    if outer == "string" and isinstance(value, str | bool | int | float):
        return text_of(value)
    if outer == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if outer == "number" and isinstance(value, str):
        try:
            return fixed(float(value))
        except ValueError:
            raise ValueError("a number is required") from None
    if outer == "bool" and isinstance(value, bool):
        return value
    if outer == "bool" and value in ("true", "1", "false", "0"):
        return value in ("true", "1")
    raise ValueError(f"{outer} required")
