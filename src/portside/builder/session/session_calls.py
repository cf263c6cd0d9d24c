"""``--call``: what a Dockerfile says of itself, without a build. The values that BuildKit's
frontend gives, as its clients print them."""

from __future__ import annotations

import base64
from typing import Any

from portside.builder.dockerfile import outline
from portside.builder.dockerfile.frontend_values import Plan


def called(call: str, plan: Plan, source: bytes, file: str) -> dict[str, Any]:
    """The answer to ``check``, ``outline`` or ``targets``."""
    if call == "check":
        return {"check": _check(plan, source, file)}
    if call == "targets":
        return {"targets": outline.targets(plan.stages, source)}
    return {"outline": outline.outline(plan, source)}


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
