"""docs/SECURITY.md names modules and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/SECURITY.md").read_text()
NAMES = sorted(set(re.findall(r"`([a-z_0-9]+(?:/[a-z_0-9]+)*\.py|test_[a-z_0-9]+)`", TEXT)))


@pytest.fixture(scope="module")
def tests() -> str:
    """The names of all test functions."""
    files = (ROOT / "tests").rglob("test_*.py")
    return "\n".join(re.sub(r"(?m)^(?!.*\bdef test_).*\n?", "", f.read_text()) for f in files)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_document_names_is_there(name: str, tests: str) -> None:
    if name.startswith("test_") and not name.endswith(".py"):
        assert f"def {name}(" in tests
    else:
        assert any((ROOT / top / name).is_file() for top in ("src/portside", "tests")), name


def test_the_document_names_something() -> None:
    assert len(NAMES) > 50
