"""Columns of text, and the filters of listings."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portside.flags.table import Options

_WIDTH, _PADDING = 10, 3
"""The least width of a column, and the spaces after its widest cell."""


def aligned(lines: Iterable[str], width: int = _WIDTH, padding: int = _PADDING) -> list[str]:
    """Lines of cells that end with tabs, in columns of spaces.

    The rules are elastic tabstops, as in Docker's tables: a column continues
    as long as consecutive lines have a cell in it; what follows a line's last tab is in no
    column.
    """
    cells = [line.split("\t") for line in lines]
    widths: list[list[int]] = [[] for _ in cells]

    def assign(first: int, last: int, before: list[int]) -> None:
        column, at = len(before), first
        while at < last:
            if column >= len(cells[at]) - 1:
                widths[at] = before
                at += 1
                continue
            end, wide = at, width
            while end < last and column < len(cells[end]) - 1:
                wide = max(wide, len(cells[end][column]) + padding)
                end += 1
            assign(at, end, [*before, wide])
            at = end

    assign(0, len(cells), [])
    return [
        "".join(cell.ljust(wide) for cell, wide in zip(line, wides, strict=False)) + line[-1]
        for line, wides in zip(cells, widths, strict=True)
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its header."""
    return "\n".join(aligned("\t".join(row) for row in [header, *rows]))


def filters(options: Options, flag: str = "filter") -> dict[str, list[str]]:
    """``--filter`` by name."""
    found: dict[str, list[str]] = {}
    for name, value in options.many(flag):
        if name:
            found.setdefault(name, []).append(value)
    return found
