"""``--call``: what a Dockerfile says of itself, without a build. The values that BuildKit's
frontend gives, as its clients print them."""

from __future__ import annotations

import base64
from typing import Any

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.frontend_values import Plan


def called(call: str, plan: Plan, source: bytes, file: str) -> dict[str, Any]:
    """The answer to ``check``, ``outline`` or ``targets``."""
    if call == "check":
        return {"check": _check(plan, source, file)}
    if call == "targets":
        return {"targets": _targets(plan, source, file)}
    return {"outline": _outline(plan, source, file)}


def _source(source: bytes, file: str) -> list[dict[str, Any]]:
    return [{"filename": file, "language": "Dockerfile",
             "data": base64.b64encode(source).decode()}]  # fmt: skip


def _check(plan: Plan, source: bytes, file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for warned in plan.warnings:
        place = {
            "start": {"line": warned.span.line, "character": 0},
            "end": {"line": warned.span.end_line, "character": 0},
        }
        found.setdefault("warnings", []).append({
            "ruleName": warned.rule.name,
            "description": warned.rule.description,
            "url": warned.rule.url,
            "detail": warned.message,
            "location": {"sourceIndex": 0, "ranges": [place]},
        })  # fmt: skip
    return {**found, "sources": _source(source, file)}


def _targets(plan: Plan, source: bytes, file: str) -> dict[str, Any]:
    found = []
    stages = plan.stages
    for stage in stages:
        entry: dict[str, Any] = {}
        if stage.name:
            entry["name"] = stage.base.written_stage or stage.name
        if stage is stages[-1]:
            entry["default"] = True
        if text := _description(stage.base, stage.name):
            entry["description"] = text
        entry["base"] = stage.base.base
        entry["location"] = _location(stage.base)
        found.append(entry)
    return {"targets": found, "sources": _source(source, file)}


def _outline(plan: Plan, source: bytes, file: str) -> dict[str, Any]:
    """The build arguments, secrets and agents that the target reads."""
    found: dict[str, Any] = {}
    if plan.stage is not None and plan.stage.name:
        found["name"] = plan.stage.name
        if text := _description(plan.stage.base, plan.stage.name):
            found["description"] = text
    args: dict[str, dict[str, Any]] = {}
    for arg, values in plan.arguments:
        for declared in arg.declared:
            entry: dict[str, Any] = {"name": declared.key}
            if text := _description(arg, declared.key):
                entry["description"] = text
            if values.get(declared.key) is not None:
                entry["value"] = values[declared.key]
            args[declared.key] = {**entry, "location": _location(arg)}
    if args:
        found["args"] = list(args.values())
    for kind, names in (("secrets", plan.secrets), ("ssh", plan.agents)):
        if names:
            found[kind] = [{"name": name, **({"required": True} if required else {})}
                           for name, required in sorted(names.items())]  # fmt: skip
    return {**found, "sources": _source(source, file)}


def _location(instruction: ins.Instruction) -> dict[str, Any]:
    place = {
        "start": {"line": instruction.span.line, "character": 0},
        "end": {"line": instruction.span.end_line, "character": 0},
    }
    return {"sourceIndex": 0, "ranges": [place]}


def _description(instruction: ins.Instruction, name: str) -> str:
    """The comment before an instruction, if it begins with the name."""
    if not instruction.comments:
        return ""
    word, _, rest = instruction.comments[-1].partition(" ")
    return rest.strip() if word.lower() == name.lower() else ""
