"""Output of ``--call``: findings of build checks, a target's arguments, the targets."""

from __future__ import annotations

import binascii

from portside.model import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

_CONTEXT = 2


def show(session: Session, options: Options, call: str, answer: dict[str, Any]) -> int:
    """Print the answer of the engine; the exit status, 1 when there are findings."""
    found = answer[call]
    if "format=json" in options.text("call").split(","):
        session.out(jsontext.dumps(found, "  "))
    elif call == "check":
        _check(session, found)
    elif call == "targets":
        _targets(session, found)
    else:
        _outline(session, found)
    return int(call == "check" and bool(found.get("warnings")))


def _check(session: Session, found: dict[str, Any]) -> None:
    warnings = found.get("warnings") or []
    if not warnings:
        session.out("Check complete, no warnings found.")
        return
    many = "1 warning has" if len(warnings) == 1 else f"{len(warnings)} warnings have"
    session.out(f"Check complete, {many} been found!")
    for warning in warnings:
        session.out(f"\nWARNING: {warning['ruleName']} - {warning['url']}\n{warning['detail']}")
        source = found["sources"][warning["location"].get("sourceIndex", 0)]
        session.out(_lines(source, warning["location"]["ranges"][0]))


def _lines(source: dict[str, Any], place: dict[str, Any]) -> str:
    lines = binascii.a2b_base64(source["data"]).decode("utf-8", "replace").split("\n")
    start, end = place["start"]["line"], place["end"]["line"]
    shown = [f"{source['filename']}:{start}", "-" * 20]
    for number in range(max(1, start - _CONTEXT), min(len(lines), end + _CONTEXT) + 1):
        mark = ">>>" if start <= number <= end else "   "
        shown.append(f"{number:4} | {mark} {lines[number - 1].rstrip()}")
    return "\n".join([*shown, "-" * 20])


def _table(session: Session, rows: Sequence[tuple[str, ...]], gap: int = 3) -> None:
    widths = [max(len(row[column]) for row in rows) + gap for column in range(len(rows[0]))]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        session.out("".join([*cells[:-1], row[-1]]))


def _targets(session: Session, found: dict[str, Any]) -> None:
    rows = [("TARGET", "DESCRIPTION")]
    for target in found.get("targets") or ():
        name = target.get("name", "")
        if target.get("default"):
            name = f"{name} (default)" if name else "(default)"
        if name:
            rows.append((name, target.get("description", "")))
    _table(session, rows, gap=1)


def _outline(session: Session, found: dict[str, Any]) -> None:
    lines = [(title, found[key]) for title, key in (("TARGET:", "name"),
             ("DESCRIPTION:", "description")) if found.get(key)]  # fmt: skip
    if lines:
        _table(session, lines, gap=1)
        session.out("")
    if args := found.get("args"):
        rows = [("BUILD ARG", "VALUE", "DESCRIPTION")]
        rows += [(a["name"], a.get("value", ""), a.get("description", "")) for a in args]
        _table(session, rows)
        session.out("")
    for kind, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        if entries := found.get(kind):
            _table(session, [(title, "REQUIRED"), *(
                (e["name"], "true" if e.get("required") else "") for e in entries)])  # fmt: skip
            session.out("")
