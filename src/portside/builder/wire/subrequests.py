"""Questions about a Dockerfile instead of a build: ``--check``, ``--call=outline|targets``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError
from portside.builder.wire.build_job import Result
from portside.model.errors import NotImplementedHere

if TYPE_CHECKING:
    from portside.builder.wire.dockerfile_frontend import DockerfileFrontend

LINT, TARGETS, DESCRIBE = "frontend.lint", "frontend.targets", "frontend.subrequests.describe"
_KINDS = {
    LINT: "Lint a Dockerfile",
    TARGETS: "List all targets current build supports",
    DESCRIBE: "List available subrequest types",
}


async def answer(frontend: DockerfileFrontend, request: str, parsed: ins.Dockerfile) -> Result:
    """The answer as metadata, as JSON and as text."""
    found: Any
    if request == LINT:
        found = await _lint(frontend)
    elif request == TARGETS:
        found = _targets(frontend, parsed)
    elif request == DESCRIBE:
        found = [
            {"name": name, "version": "1.0.0", "type": "rpc", "description": text}
            for name, text in _KINDS.items()
        ]
    else:
        raise NotImplementedHere(f"unsupported request {request}")
    data = json.dumps(found).encode()
    metadata = {"result.json": data, "result.txt": data, "version": b"1.0.0"}
    if request == LINT and isinstance(found, dict):
        metadata["result.statuscode"] = b"1" if found["warnings"] or found.get("error") else b"0"
    return Result(metadata=metadata)


async def _lint(frontend: DockerfileFrontend) -> dict[str, Any]:
    source = frontend.job.source
    assert source is not None
    import base64

    file = {"filename": source.name, "language": "Dockerfile",
            "data": base64.b64encode(source.data).decode()}  # fmt: skip
    found: dict[str, Any] = {"warnings": [], "sources": [file]}
    try:
        plan = await frontend.plan_for_checks()
    except DockerfileError as err:
        found["buildError"] = {"message": str(err), "location": _place(*err.span[:2])}
        return found
    for warned in plan.warnings:
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


def _targets(frontend: DockerfileFrontend, parsed: ins.Dockerfile) -> dict[str, Any]:
    targets = []
    for stage in parsed.stages:
        last = stage.index == len(parsed.stages) - 1
        target: dict[str, Any] = {"name": stage.name, "base": stage.base.base}
        if last:
            target["default"] = True
        target["location"] = _place(stage.base.span.line, stage.base.span.end_line)
        targets.append({key: value for key, value in target.items() if value != ""})
    return {"targets": targets}


def _place(first: int, last: int) -> dict[str, Any]:
    lines = {"start": {"line": first}, "end": {"line": last}}
    return {"sourceIndex": 0, "ranges": [lines]}
