"""Code, help and documents use the field's terms: words that only this project used stay out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("src", "docs", "scripts", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".sh", ".css", ".js", ".html", ".yaml", ".service")
] + [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]

INSTEAD = {
    r"wish(es|ed)?": "request, options",
    r"mend(s|ed|ing)?": "repair, fix",
    r"kin": "similar",
    r"house": "project, engine",
    r"a word (about|on|of warning)": "a message, a warning",
    r"(is|are) not built": "is not supported",
    r"not built(:| into)": "not supported",
    r"for want of": "without, because there is no",
    r"(goes|go|went) on": "continues",
    r"told apart": "distinguished",
    r"told otherwise": "set otherwise",
    r"for docker's sake": "accepted and ignored",
    r"knows? better": "has newer information",
    r"lonely": "single",
}
WORDS = re.compile(rf"(?<![\w-])({'|'.join(INSTEAD)})(?![\w-])", re.IGNORECASE)

IN_PACKAGE = re.compile(
    # says, reports, shows, receives; also in names such as _tell_mount (a file's tell() may stay)
    r"(?<![a-z])(?:re)?(?:tells?|told|telling)(?![a-z])(?<!\.tell(?=\(\)))"
    # is not an X
    r"|(?<!here )\b(?:is|are|was|were) no (?!longer|more|less|one)\w+",
    re.IGNORECASE,
)
PACKAGES = sorted(
    path.name for path in (ROOT / "src/portside").iterdir() if (path / "__init__.py").is_file()
)


def found(text: str) -> list[str]:
    return [match.group(0) for match in WORDS.finditer(text)]


@pytest.mark.parametrize("folder", ["src", "docs", "scripts", "examples", ""])
def test_no_private_words(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in FILES
        if (path.relative_to(ROOT).parts[0] == folder) or (not folder and path.parent == ROOT)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in found(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_uses_precise_verbs(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {match.group(0)}"
        for path in sorted((ROOT / "src/portside" / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for match in IN_PACKAGE.finditer(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_words_are_seen() -> None:
    assert found("the user's wishes; it is mended, told apart and goes on") == [
        "wishes", "mended", "told apart", "goes on",
    ]  # fmt: skip
    seen = [match.group(0) for match in IN_PACKAGE.finditer(
        "def _tell_mount: exec_told is told what retold it; this is no volume"
    )]  # fmt: skip
    assert seen == ["tell", "told", "told", "retold", "is no volume"]
    assert not IN_PACKAGE.search("position = file.tell(); there is no volume; it is no longer used")
    assert found("recommend housekeeping kind DownloadWishlist") == []
