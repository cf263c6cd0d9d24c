"""Errors are classes below PortsideError, and nothing is told from another by its text."""

from __future__ import annotations

import ast
import builtins
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from portside.model.errors import NotFound
from portside.model.quiet_teardown import teardown
from portside.store import metadata_file

PACKAGE = Path(__file__).parents[2] / "src" / "portside"
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_bytes()) for path in PACKAGE.rglob("*.py")}
NOT_ERRORS = {
    "HelpWanted",  # --help was given
    "VersionWanted",  # --version was given
    "_Break", "_Continue",  # {{break}} and {{continue}} of a template
    "_TooLong",  # raised by a signal's handler in a regular expression
    "Gone",  # a control group went while it was read
    "Rejected",  # one delivery is given up
    "MsgspecError",  # stands for msgspec's where that is not imported
}  # fmt: skip
"""Exceptions that say how to proceed; nobody gets to see them."""


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path, tree in TREES.items():
        yield from ((str(path), node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def names(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def test_what_is_raised_on_purpose_is_a_portside_error() -> None:
    builtin = {
        name
        for name, item in vars(builtins).items()
        if isinstance(item, type) and issubclass(item, BaseException)
    }
    wrong = [
        f"{file}: {node.name}"
        for file, node in classes()
        if names(node)
        and all(name in builtin for name in names(node))
        and node.name not in NOT_ERRORS | {"PortsideError"}
    ]
    assert not wrong, wrong


def _compares_text(node: ast.AST) -> bool:
    """``"word" in str(err)`` or ``str(err).startswith("word")``."""

    def is_text(part: ast.AST) -> bool:
        return (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Name)
            and part.func.id == "str"
            and len(part.args) == 1
            and isinstance(part.args[0], ast.Name)
            and part.args[0].id in ("err", "error", "exc", "e")
        )

    if isinstance(node, ast.Compare):
        return any(is_text(part) for part in (node.left, *node.comparators))
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("startswith", "endswith", "find", "count")
        and is_text(node.func.value)
    )


def test_nothing_is_classified_by_its_text() -> None:
    wrong = [
        f"{path}:{node.lineno}"  # type: ignore[attr-defined]
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if _compares_text(node)
    ]
    assert not wrong, wrong
    assert _compares_text(ast.parse("'full' in str(err)", mode="eval").body)
    assert _compares_text(ast.parse("str(err).startswith('x')", mode="eval").body)


def test_a_teardown_passes_over_errors_and_notes_them(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("teardown")
    with caplog.at_level(logging.DEBUG, "teardown"):
        with teardown(log, "remove a link"):
            raise OSError(2, "No such device")
        with teardown(log, "remove a volume"):
            raise NotFound("no such volume")
    assert caplog.messages == [
        "remove a link: [Errno 2] No such device",
        "remove a volume: no such volume",
    ]
    with pytest.raises(KeyError), teardown(log, "a mistake of ours"):
        raise KeyError("x")


def test_a_locked_database_is_known_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as one,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as two,
    ):
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as found:
            two.execute("SELECT * FROM sqlite_master").fetchall()
    assert metadata_file.is_locked(found.value)
    assert not metadata_file.is_locked(sqlite3.OperationalError("database is locked"))
