"""The builder and the history of builds, for the command line: ``/portside/builder`` and
``/portside/builds``. The builder is imported when one of them is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from portside.api import reply
from portside.api.router import Answer, Router
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api
    from portside.builder.build_history import BuildHistory, BuildRecord

router: Router[Api] = Router()


@router.add("GET", "/portside/builder")
async def builder(api: Api, request: Request, _: str) -> Answer:
    """What ``buildx inspect`` shows."""
    from portside.model.platform import Platform

    host = Platform.host()
    others = [arch for arch, _ in host.runs() if arch != host.architecture]
    policy = api.engine.builder().policy
    rules = [
        {
            "all": rule.all,
            "filter": [f"{name}=={text}" for name, texts in rule.filters.items() for text in texts]
            or None,
            "keepDuration": int(rule.unused_for * 10**9),
            "reservedSpace": rule.reserved,
            "maxUsedSpace": rule.max_used,
            "minFreeSpace": rule.min_free,
        }
        for rule in policy.rules
    ]
    found = {
        "Id": api.engine.identity,
        "Platforms": [f"{host.os}/{arch}" for arch in (host.architecture, *others)],
        "Rules": rules,
        "LastActivity": max((r.created for r in _history(api).all()), default=0),
    }
    return reply.json(found)


def _history(api: Api) -> BuildHistory:
    return api.engine.builder().history


def _record_json(record: BuildRecord) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(record)
    found.pop("error_status", None)
    return found


@router.add("GET", "/portside/builds")
async def builds(api: Api, request: Request, _: str) -> Answer:
    """The records, newest first."""
    return reply.json([_record_json(record) for record in _history(api).all()])


@router.add("GET", "/portside/builds/{name}/json")
async def build(api: Api, request: Request, ref: str) -> Answer:
    """One record, with its provenance by platform. NotFound."""
    history = _history(api)
    record = history.get(ref)
    predicates = {
        key: msgspec.json.decode(history.predicate(part)) for key, part in record.provenance.items()
    }
    return reply.json({**_record_json(record), "predicates": predicates})


@router.add("GET", "/portside/builds/{name}/logs")
async def logs(api: Api, request: Request, ref: str) -> Answer:
    """A build's messages as ``--progress=rawjson`` prints them, a line each. NotFound."""
    from portside.builder.wire.history_messages import json_of

    history = _history(api)
    record = history.get(ref)
    kind = record.log.media_type if record.log is not None else ""
    lines = [msgspec.json.encode(message) for message in json_of(history.log(record), kind)]
    return Response(200, b"\n".join(lines), "application/jsonl")


@router.add("DELETE", "/portside/builds/{name}")
async def remove(api: Api, request: Request, ref: str) -> Answer:
    """Forget a build. NotFound."""
    _history(api).delete([ref])
    return Response(204)
