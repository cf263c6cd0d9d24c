"""A Dockerfile's outline: a target's parameters and the targets, as BuildKit's frontend gives
them to ``--call=outline|targets``."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import Span
from portside.builder.dockerfile.frontend_values import Plan


def outline(plan: Plan, source: bytes) -> dict[str, Any]:
    """The build arguments, secrets and agents that the target reads, in the file's order. Of a
    global argument that a stage only declares the global line counts."""
    found: dict[str, Any] = {}
    if plan.stage is not None and plan.stage.name:
        found["name"] = plan.stage.name
        if text := _description(plan.stage.base, plan.stage.name):
            found["description"] = text
    args: dict[str, dict[str, Any]] = {}
    for offered in plan.arguments:
        entry: dict[str, Any] = {"name": offered.key}
        if text := _description(offered.instruction, offered.key):
            entry["description"] = text
        if offered.value:
            entry["value"] = offered.value
        args[offered.key] = {**entry, "location": _location(offered.instruction.span)}
    if args:
        found["args"] = sorted(
            args.values(), key=lambda entry: entry["location"]["ranges"][0]["start"]["line"]
        )
    for kind, names in (("secrets", plan.secrets), ("ssh", plan.agents)):
        entries = [
            {"name": name, **({"required": True} if each.required else {}),
             "location": _location(each.span)}
            for name, each in names.items()
        ]  # fmt: skip
        if entries:
            found[kind] = entries
    return {**found, "sources": _sources(source)}


def targets(stages: Sequence[ins.Stage], source: bytes) -> dict[str, Any]:
    found = []
    for stage in stages:
        entry: dict[str, Any] = {}
        if stage.name:
            entry["name"] = stage.name
        if stage is stages[-1]:
            entry["default"] = True
        if text := _description(stage.base, stage.name):
            entry["description"] = text
        found.append({**entry, "base": stage.base.base, "location": _location(stage.base.span)})
    return {"targets": found, "sources": _sources(source)}


def _sources(source: bytes) -> list[str]:
    return [base64.b64encode(source).decode()]


def _location(span: Span) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": span.line}, "end": {"line": span.end_line}}]}


def _description(instruction: ins.Instruction, name: str) -> str:
    """The comment before an instruction that begins with the name."""
    for comment in instruction.comments:
        word, _, rest = comment.partition(" ")
        if name and word == name:
            return rest.strip()
    return ""
