"""Which version of the source this is: its commit, for messages and ``version``.

A wheel has the commit in the file ``commit`` beside the package's ``__init__``, written when it
was built; a checkout has it in ``.git``. No program is started to find out.
"""

from __future__ import annotations

import os

_LENGTH = 12
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def commit() -> str:
    """The first 12 digits of the commit as it is now on the disk; "" when it is unknown."""
    kept = _read(f"{_PACKAGE}/commit")
    if kept:
        return kept[:_LENGTH]
    root = os.path.dirname(os.path.dirname(_PACKAGE))
    return _of_checkout(root)[:_LENGTH]


def _of_checkout(root: str) -> str:
    """What HEAD of the checkout means (gitrepository-layout(5))."""
    git = common = f"{root}/.git"
    if pointer := _read(git):  # a worktree
        git = os.path.join(root, pointer.removeprefix("gitdir: "))
        common = os.path.join(git, _read(f"{git}/commondir") or ".")
    head = _read(f"{git}/HEAD")
    if not head.startswith("ref: "):
        return head
    name = head.removeprefix("ref: ")
    if found := _read(f"{git}/{name}") or _read(f"{common}/{name}"):
        return found
    for line in _read(f"{common}/packed-refs").splitlines():
        if line.endswith(f" {name}"):
            return line.partition(" ")[0]
    return ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
