"""Questions about a Dockerfile instead of a build: ``--check``, ``--call``."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError, findings_of
from portside.builder.dockerfile.frontend_values import Plan
from portside.builder.dockerfile.lint import Warned
from portside.builder.dockerfile.outline import outline, targets
from portside.builder.wire.build_job import Result
from portside.builder.wire.wire_errors import SourceFile
from portside.model.errors import InvalidParameter

MakePlan = Callable[[], Awaitable[Plan]]
"""The plan for the first platform. Raises DockerfileError."""
LINT, OUTLINE, TARGETS = "frontend.lint", "frontend.outline", "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"
_METADATA = [{"name": "result.json", "description": ""}, {"name": "result.txt", "description": ""}]
_TARGET = [{"name": "target", "description": "Target build stage"}]
_KINDS: list[tuple[str, str, list[dict[str, str]] | None]] = [
    (OUTLINE, "List all parameters current build target supports", _TARGET),
    (TARGETS, "List all targets current build supports", []),
    (DESCRIBE, "List available subrequest types", None),
]
"""BuildKit's list, which does not name a linter."""


async def answer(
    request: str, source: SourceFile, parsed: ins.Dockerfile, make_plan: MakePlan
) -> Result:
    """The answer as metadata, as JSON and as text."""
    found: Any
    if request == LINT:
        found = await _lint(source, make_plan)
    elif request == TARGETS:
        found = targets(parsed.stages, source.data)
    elif request == OUTLINE:
        found = outline(await make_plan(), source.data)
    elif request == DESCRIBE:
        found = [
            {"name": name, "version": "1.0.0", "type": "rpc", "description": text,
             "opts": options, "inputs": None, "metadata": _METADATA, "refs": None}
            for name, text, options in _KINDS
        ]  # fmt: skip
    else:
        raise InvalidParameter(f"unsupported request {request}")
    data = json.dumps(found, indent=2).encode()
    metadata = {"result.json": data, "result.txt": data, "version": b"1.0.0"}
    if request == LINT and isinstance(found, dict):
        metadata["result.statuscode"] = b"1" if found["warnings"] or found.get("error") else b"0"
    return Result(metadata=metadata)


async def _lint(source: SourceFile, make_plan: MakePlan) -> dict[str, Any]:
    file = {"filename": source.name, "language": "Dockerfile",
            "data": base64.b64encode(source.data).decode()}  # fmt: skip
    found: dict[str, Any] = {"warnings": [], "sources": [file]}
    try:
        warnings: Sequence[Warned] = (await make_plan()).warnings
    except DockerfileError as err:
        found["buildError"] = {"message": str(err), "location": _place(*err.span[:2])}
        warnings = findings_of(err)
    if not warnings:
        found["warnings"] = None  # an empty list of Go's, and so BuildKit's answer
    for warned in warnings:
        found["warnings"].append(
            {
                "ruleName": warned.rule.name,
                "description": warned.rule.description,
                "url": warned.rule.url,
                "detail": warned.message,
                "location": _place(warned.span.line, warned.span.end_line),
            }
        )
    return found


def _place(first: int, last: int) -> dict[str, Any]:
    lines = {"start": {"line": first}, "end": {"line": last}}
    return {"sourceIndex": 0, "ranges": [lines]}
