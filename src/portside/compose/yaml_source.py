"""Compose files as plain values that remember where they stand.

A mapping is a ``Map``, a sequence a ``Seq``: a dict and a list that also know the position of
each entry. Scalars are plain ``str``, ``int``, ``float``, ``bool`` and ``None``, typed by YAML
1.2's core schema as Compose's other implementations type them: ``yes`` and ``22:22`` are strings.

libyaml composes the nodes, which is about 20 times as fast as a pure Python reader; the nodes
carry the positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from portside.compose import libyaml
from portside.compose.compose_errors import InvalidFile, Position

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import yaml


MAX_NODES = 100_000
"""Nodes of one document with its aliases followed: a small file with nested aliases can stand for
billions of them."""
MAX_ALL_NODES = 1_000_000
"""Nodes of all documents of one project: files that include others several times multiply."""
MAX_DEPTH = 200
MAX_BYTES = 16 << 20
"""Bytes of one file."""

_MAX_DIGITS = 4000
"""Longer numbers are text: Python refuses to convert more than 4300 digits."""
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_OTHER_INT = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Map(dict[str, "Any"]):
    """A mapping; ``where`` has the position of each key, ``at`` its own."""

    __slots__ = ("at", "where")

    def __init__(self, at: Position | None = None) -> None:
        super().__init__()
        self.at = at
        self.where: dict[str, Position] = {}

    def put(self, key: str, value: Any, at: Position | None) -> None:
        """Set a value together with its position."""
        self[key] = value
        if at is not None:
            self.where[key] = at


class Seq(list["Any"]):
    """A sequence; ``where`` has the position of each item, ``at`` its own."""

    __slots__ = ("at", "where")

    def __init__(self, at: Position | None = None) -> None:
        super().__init__()
        self.at = at
        self.where: list[Position | None] = []

    def add(self, value: Any, at: Position | None) -> None:
        """Append a value together with its position."""
        self.append(value)
        self.where.append(at)

    def spot(self, index: int) -> Position | None:
        """The position of an item, else the sequence's own."""
        return self.where[index] if index < len(self.where) else self.at


Path = tuple[str, ...]
"""The keys from the top of a file to a value; items of a sequence are ``[0]``, ``[1]`` …"""


class Document:
    """One YAML document: its tree, and the paths with ``!reset`` and ``!override``."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.resets: list[Path] = []
        """Paths whose value in the files before this one is dropped."""
        self.nodes = 0


def text_of(path: Path) -> str:
    """``("services", "web", "ports", "[1]")`` as ``services.web.ports[1]``."""
    return ".".join(path).replace(".[", "[")


def documents(text: str | bytes, file: str) -> Iterator[Document]:
    """The documents of a file. Raises InvalidFile when it is not YAML."""
    if len(text) > MAX_BYTES:
        raise InvalidFile(f"the file is larger than {MAX_BYTES} bytes", Position(file, 1, 1))
    try:
        for node in libyaml.compose_all(text):
            yield _Reader(file).document(node)
    except libyaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        at = Position(file, mark.line + 1, mark.column + 1) if mark else None
        raise InvalidFile(f"not valid YAML: {err.problem or err.context}", at) from None
    except (libyaml.YAMLError, UnicodeDecodeError) as err:
        raise InvalidFile(f"not valid YAML: {err}", Position(file, 1, 1)) from None
    except RecursionError:
        raise InvalidFile("the file is nested too deeply", Position(file, 1, 1)) from None


class _Reader:
    """Turns the nodes of one document into values; aliases are copied where they stand."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._visits = 0
        self._open: set[int] = set()
        self._resets: list[Path] = []

    def document(self, node: yaml.Node | None) -> Document:
        tree = None if node is None else self._value(node, ())
        document = Document(tree)
        document.resets = self._resets
        document.nodes = self._visits
        return document

    def _at(self, node: yaml.Node) -> Position:
        return Position(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._visits += 1
        if self._visits > MAX_NODES:
            raise InvalidFile(
                f"compose file exceeds maximum node visit limit ({MAX_NODES})", self._at(node)
            )
        if len(path) > MAX_DEPTH:
            raise InvalidFile("the file is nested too deeply", self._at(node))
        if node.tag == "!override":
            self._resets.append(path)
        if isinstance(node, libyaml.ScalarNode):
            return scalar(node.value, node.tag, node.style)
        if id(node) in self._open:
            raise InvalidFile("cycle detected: an alias contains itself", self._at(node))
        self._open.add(id(node))
        try:
            if isinstance(node, libyaml.MappingNode):
                return self._mapping(node, path)
            return self._sequence(node, path)
        finally:
            self._open.discard(id(node))

    def _sequence(self, node: yaml.Node, path: Path) -> Seq:
        found = Seq(self._at(node))
        for item in node.value:
            place = (*path, f"[{len(found)}]")
            if item.tag == "!reset":
                self._resets.append(place)
                continue
            found.add(self._value(item, place), self._at(item))
        return found

    def _mapping(self, node: yaml.Node, path: Path) -> Map:
        found = Map(self._at(node))
        merged: list[Map] = []
        seen: dict[str, int] = {}
        for key_node, item in node.value:
            at = self._at(key_node)
            if key_node.tag == "tag:yaml.org,2002:merge" or key_node.value == "<<":
                merged += self._merged(item, path)
                continue
            key = self._key(key_node, path)
            if key in seen:
                raise InvalidFile(
                    f'mapping key "{key}" already defined at line {seen[key]}', at, text_of(path)
                )
            seen[key] = at.line
            if item.tag == "!reset":
                self._resets.append((*path, key))
                continue
            found.put(key, self._value(item, (*path, key)), at)
        for other in merged:  # explicit keys win, then the earlier of several
            for key, value in other.items():
                if key not in found:
                    found.put(key, value, other.where.get(key))
        return found

    def _key(self, node: yaml.Node, path: Path) -> str:
        if isinstance(node, libyaml.ScalarNode):
            value = scalar(node.value, node.tag, node.style)
            if isinstance(value, str):
                return value
            shown: Any = node.value
        else:
            shown = "a collection"
        where = f"in {text_of(path)}" if path else "at top level"
        raise InvalidFile(f"non-string key {where}: {shown}", self._at(node))

    def _merged(self, node: yaml.Node, path: Path) -> list[Map]:
        nodes = node.value if isinstance(node, libyaml.SequenceNode) else [node]
        found = [self._value(item, path) for item in nodes]
        for item, value in zip(nodes, found, strict=True):
            if not isinstance(value, Map):
                raise InvalidFile("map merge requires map or sequence of maps as the value",
                                  self._at(item), text_of(path))  # fmt: skip
        return found


def scalar(text: str, tag: str = "", style: str | None = None) -> Any:
    """The value of a scalar: plain ones by their text, quoted ones are strings."""
    if tag == "tag:yaml.org,2002:str" or (style and (not tag or tag.startswith("!"))):
        return text
    return plain(text)


def plain(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in WORDS:
        return WORDS[text]
    first = text[0]
    if first.isdigit() or first in "+-.":
        if len(text) > _MAX_DIGITS:
            return text
        if _INT.fullmatch(text):
            return int(text.replace("_", ""))
        if _OTHER_INT.fullmatch(text):
            return _other_int(text.replace("_", ""), text)
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", ""))
    return text


def _other_int(text: str, written: str) -> int | str:
    """The value of digits with a prefix; a prefix without digits is text."""
    digits = text.lstrip("+-")
    if digits in ("0b", "0o", "0x"):
        return written
    base = {"0x": 16, "0b": 2, "0o": 8}.get(digits[:2], 8)
    return (-1 if text.startswith("-") else 1) * int(digits, base)


def position(tree: Any, path: Path) -> Position | None:
    """Where the value at a path stands, or the nearest value around it whose place is known."""
    found = getattr(tree, "at", None)
    for key in path:
        if isinstance(tree, Map) and key in tree:
            found, tree = tree.where.get(key, found), tree[key]
        elif isinstance(tree, Seq) and key.startswith("[") and key[1:-1].isdecimal():
            index = int(key[1:-1])
            if index >= len(tree):
                break
            found, tree = tree.spot(index) or found, tree[index]
        else:
            break
    return found


def copy(value: Any) -> Any:
    """A deep copy that keeps positions."""
    if isinstance(value, Map):
        copied = Map(value.at)
        for key, item in value.items():
            copied[key] = copy(item)
        copied.where = dict(value.where)
        return copied
    if isinstance(value, Seq):
        items = Seq(value.at)
        items.extend(copy(item) for item in value)
        items.where = list(value.where)
        return items
    return value
