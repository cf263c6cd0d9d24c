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


def test_the_reading_path_gives_the_length_of_each_file() -> None:
    """Within a tenth, so that it need not follow every change."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## A reading path")[2]
    found = re.findall(r"`([a-z_/0-9]+\.py)` \((\d+)\)", " ".join(text.split()))
    assert len(found) > 10
    lengths = {file: len((PACKAGE / file).read_text().splitlines()) for file, _ in found}
    wrong = {file: lengths[file] for file, said in found
             if abs(lengths[file] - int(said)) > lengths[file] / 10}  # fmt: skip
    assert not wrong, f"CONTRIBUTING.md gives other lengths than these: {wrong}"
    total = re.search(r"About ([\d,]+) lines", text)
    assert total is not None
    said_total = int(total[1].replace(",", ""))
    assert abs(sum(lengths.values()) - said_total) < said_total / 10
