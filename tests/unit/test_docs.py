"""The documents name files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "portside"
DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
]


def names_in(path: Path) -> set[str]:
    """Functions, methods and classes of a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }


def test_functions_of_the_walk_exist() -> None:
    text = (ROOT / "docs" / "run-walk.md").read_text()
    found = re.findall(r"`([a-z_/0-9]+\.py):([A-Za-z_]+)`", text)
    assert len(found) > 20
    for file, function in found:
        assert (PACKAGE / file).is_file(), file
        assert function in names_in(PACKAGE / file), f"{file}:{function}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_exist(document: Path) -> None:
    known = [str(path) for path in ROOT.glob("[!.]*/**/*.py")]
    for file in re.findall(r"`([a-z_/0-9]+\.py)`", document.read_text()):
        assert any(path.endswith(f"/{file}") for path in known), f"{document.name} names {file}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"
