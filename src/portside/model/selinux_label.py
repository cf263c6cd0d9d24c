"""SELinux security contexts (``user:role:type:level``) and the labels that a container gets.

A level is a sensitivity with categories, ``s0:c12,c700``. The policy lets a process touch a file
only when the process's categories include the file's. Each container has a pair of categories that
no other has, so containers of one type cannot touch each other's files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from portside.model.errors import InvalidParameter, SystemFailure

CATEGORIES = 1024
"""``c0`` to ``c1023``, as policies define them."""
UNUSED_LEVEL = f"s0:c{CATEGORIES - 2},c{CATEGORIES - 1}"
"""Level of the files of containers without a process label; no container gets this level."""
SHARED_LEVEL = "s0"
"""Level of files that several containers use (``:z``)."""
_TRIES = 64
_FIELDS = ("user", "role", "type", "level")


class Context(NamedTuple):
    """A security context. ``level`` is empty where the policy has no levels."""

    user: str
    role: str
    type: str
    level: str = ""

    @classmethod
    def parse(cls, text: str) -> Context:
        """Raises InvalidParameter for less than three fields."""
        fields = text.split(":", 3)
        if len(fields) < 3 or not all(fields[:3]):
            raise InvalidParameter(f"invalid SELinux label: {text!r}")
        return cls(*fields)

    def __str__(self) -> str:
        return ":".join(self if self.level else self[:3])


class Labels(NamedTuple):
    """Labels of one container. An empty label is not set."""

    process: str = ""
    mount: str = ""
    """Label of the container's files."""


NO_LABELS = Labels()


def categories(level: str) -> frozenset[int] | None:
    """The categories of a level or of a range's upper level; None when the text is not a level."""
    _, colon, text = level.rpartition("-")[2].partition(":")
    found: set[int] = set()
    for part in text.split(",") if colon else ():
        first, _, last = part.partition(".")
        numbers = [word[1:] for word in (first, last or first) if word[:1] == "c"]
        if len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers):
            return None
        low, high = (int(number[:9]) for number in numbers)
        if low > high or high >= CATEGORIES:
            return None
        found.update(range(low, high + 1))
    return frozenset(found)


def level_of(label: str) -> str:
    """The level of a context, empty when it has none."""
    return Context.parse(label).level if label else ""


def unused_level(taken: Iterable[str], choose: Callable[[int], int] = random.randrange) -> str:
    """A level of two categories that differs from those ``taken``, however they are written.

    Raises SystemFailure when every pair is taken. ``choose(n)`` gives a number below ``n``.
    """
    used = {categories(level) for level in (*taken, UNUSED_LEVEL)}
    for _ in range(_TRIES):
        pair = frozenset((choose(CATEGORIES), choose(CATEGORIES)))
        if len(pair) == 2 and pair not in used:
            return _level(pair)
    for low in range(CATEGORIES):
        for high in range(low + 1, CATEGORIES):
            if (pair := frozenset((low, high))) not in used:
                return _level(pair)
    raise SystemFailure("every pair of SELinux categories is taken: remove containers")


def _level(pair: frozenset[int]) -> str:
    low, high = sorted(pair)
    return f"s0:c{low},c{high}"


def choose(options: Iterable[str], process: str, file: str, taken: Iterable[str]) -> Labels:
    """The labels of a container with ``--security-opt label=OPTION`` for each of ``options``.

    ``process`` and ``file`` are the policy's contexts for containers, ``taken`` the levels that
    others have. ``nested`` changes no label. Raises InvalidParameter.
    """
    process_context, file_context = Context.parse(process), Context.parse(file)
    given = dict(_parsed(option) for option in options if option != "nested")
    if "disable" in given:
        return Labels("", str(file_context._replace(level=UNUSED_LEVEL)))
    if process_context.level:
        level = given.get("level") or unused_level(taken)
        process_context = process_context._replace(level=level)
        file_context = file_context._replace(level=level)
    changes = {name: value for name, value in given.items() if name in _FIELDS}
    process_context = process_context._replace(**changes)
    shared = {name: value for name, value in changes.items() if name in ("user", "level")}
    if "filetype" in given:
        shared["type"] = given["filetype"]
    return Labels(str(process_context), str(file_context._replace(**shared)))


def _parsed(option: str) -> tuple[str, str]:
    if option == "disable":
        return option, ""
    name, colon, value = option.partition(":")
    if not colon:
        raise InvalidParameter(
            f"Bad label option {option!r}, valid options 'disable' or 'nested', or 'user, role, "
            "level, type, filetype' followed by ':' and a value"
        )
    if name not in (*_FIELDS, "filetype"):
        raise InvalidParameter(
            f"bad label option {name!r}, valid options 'disable, nested, user, role, level, type, "
            "filetype'"
        )
    return name, value


def same_options(label: str) -> tuple[str, ...]:
    """The options that give another container the label of a process; none without a label."""
    if not label:
        return ()
    context = Context.parse(label)
    return tuple(
        f"label={name}:{value}" for name, value in zip(_FIELDS, context, strict=True) if value
    )
