"""``bake --list``: what a file has."""

from __future__ import annotations

from portside.cli.bake import hcl_expressions as hcl
from portside.cli.session import Failed
from portside.model import jsontext
from portside.model.golang.csv_line import csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.bake.bake_files import Definitions
    from portside.cli.bake.bake_targets import Bake
    from portside.cli.session import Session

_TAB = 8


def show(session: Session, text: str, definitions: Definitions, bake: Bake) -> None:
    """``targets``, ``variables``, or ``type=…,format=json``. Raises Failed."""
    fields = dict(part.partition("=")[::2] for part in csv(text)) if "=" in text else {"type": text}
    kind, form = fields.get("type", ""), fields.get("format", "table")
    if kind not in ("targets", "variables"):
        raise Failed(1, f'ERROR: invalid list type "{kind}"')
    rows = _targets(bake) if kind == "targets" else _variables(definitions)
    if form == "json":
        kept = [{k: v for k, v in row.items() if v not in ("", None)} for row in rows]
        session.out(jsontext.dumps(kept, "  "))
    elif kind == "targets":
        _table(session, [("TARGET", "DESCRIPTION"),
                         *((row["name"], row["description"]) for row in rows)])  # fmt: skip
    else:
        _table(session, [("VARIABLE", "TYPE", "VALUE", "DESCRIPTION"), *(
            (row["name"], row["type"], "<null>" if row["value"] is None else row["value"],
             row["description"]) for row in rows)])  # fmt: skip


def _targets(bake: Bake) -> list[dict[str, Any]]:
    found = {}
    for name in bake.target_names():
        found[name] = {"name": name, "description": bake.own(name).get("description", "")}
    for name, group in bake.groups.items():
        members = ", ".join(sorted(group["targets"]))
        about = group.get("description", "")
        text = f"{about} ({members})" if about else members
        found[name] = {"name": name, "description": text, "group": True}
    return [found[name] for name in sorted(found)]


def _variables(definitions: Definitions) -> list[dict[str, Any]]:
    found = []
    for name, block in sorted(definitions.variables.items()):
        value = definitions.variable(name)
        if value is not None:
            simple = isinstance(value, str | int | float)
            value = hcl.text_of(value) if simple else jsontext.dumps(value)
        kind = definitions.type_of(name)
        about = block.body.get("description")
        text = definitions.evaluated(block, about) if about is not None else ""
        found.append({"name": name, "type": kind, "description": text, "value": value})
    return found


def _table(session: Session, rows: list[tuple[str, ...]]) -> None:
    """Columns that end at tab stops."""
    widths = [
        (max(len(row[column]) for row in rows) // _TAB + 1) * _TAB
        for column in range(len(rows[0]) - 1)
    ]
    for row in rows:
        cells = []
        for cell, width in zip(row[:-1], widths, strict=True):
            cells.append(cell + "\t" * -(-(width - len(cell)) // _TAB))
        session.out("".join([*cells, row[-1]]))
