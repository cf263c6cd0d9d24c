"""Containers' files and processes: archive, export, changes, commit, top, stats, update."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from portside.api import params, reply, request_versions
from portside.api.http.messages import Request, Response
from portside.api.router import Answer, Router
from portside.containers.container_files import CommitOptions
from portside.model.container import ContainerConfig, UpdateRequest, decode_as
from portside.model.containerstate import Updated
from portside.model.errors import InvalidParameter

if TYPE_CHECKING:
    from portside.api.app import Api

router = Router()


# -- archive ---------------------------------------------------------------------------------


def _stat_header(stat: object) -> dict[str, str]:
    return {"X-Docker-Container-Path-Stat": base64.b64encode(msgspec.json.encode(stat)).decode()}


def _path(request: Request) -> str:
    path = params.text(request, "path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return path


@router.add("HEAD", "/containers/{name}/archive")
async def archive_head(api: Api, request: Request, name: str) -> Answer:
    stat = await api.engine.containers.archive_stat(name, _path(request))
    return Response(200, headers=_stat_header(stat))


@router.add("GET", "/containers/{name}/archive", cancellable=True)
async def archive_get(api: Api, request: Request, name: str) -> Answer:
    stat, pieces = await api.engine.containers.archive_get(name, _path(request))
    stream = request.start(200, reply.TAR, _stat_header(stat))
    async for piece in pieces:
        await stream.write(piece)
    return stream


@router.add("PUT", "/containers/{name}/archive", cancellable=True)
async def archive_put(api: Api, request: Request, name: str) -> Answer:
    await api.engine.containers.archive_put(
        name,
        _path(request),
        request.body.chunks(),
        keep_kind=params.boolean(request, "noOverwriteDirNonDir"),
        copy_owner=params.boolean(request, "copyUIDGID"),
    )
    return Response(200)


@router.add("GET", "/containers/{name}/export", cancellable=True)
async def export(api: Api, request: Request, name: str) -> Answer:
    return await reply.pour(request, api.engine.containers.export(name), "application/octet-stream")


@router.add("GET", "/containers/{name}/changes")
async def changes(api: Api, request: Request, name: str) -> Answer:
    return reply.json(list(await api.engine.containers.changes(name)))


@router.add("POST", "/commit")
async def commit(api: Api, request: Request, _: str) -> Answer:
    name = params.text(request, "container")
    body = await params.json_bytes(request)
    config = decode_as(body, ContainerConfig) if body and body.strip() != b"null" else None
    wish = CommitOptions(
        ref=params.new_name(request),
        author=params.text(request, "author"),
        comment=params.text(request, "comment"),
        pause=params.boolean(request, "pause", True),
        changes=tuple(params.texts(request, "changes")),
        config=config,
    )
    return reply.json({"Id": await api.engine.containers.commit(name, wish)}, 201)


# -- processes and limits --------------------------------------------------------------------


@router.add("GET", "/containers/{name}/top")
async def top(api: Api, request: Request, name: str) -> Answer:
    return reply.json(await api.engine.containers.top(name, params.text(request, "ps_args")))


@router.add("GET", "/containers/{name}/stats", cancellable=True)
async def stats(api: Api, request: Request, name: str) -> Answer:
    endless = params.boolean(request, "stream", True)
    one_shot = params.boolean(request, "one-shot") and request.version >= (1, 41)
    if endless and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    samples = api.engine.containers.stats(name, stream=endless, one_shot=one_shot)
    stream = request.start(200, reply.JSON)
    async for sample in samples:
        if request.version >= (1, 52):
            sample = msgspec.structs.replace(sample, os_type="linux")
        await stream.write(msgspec.json.encode(sample) + b"\n")
    return stream


@router.add("POST", "/containers/{name}/update")
async def update(api: Api, request: Request, name: str) -> Answer:
    wish = request_versions.update(await params.json(request, UpdateRequest), request.version)
    warnings = await api.engine.containers.update(name, wish)
    return reply.json(Updated(warnings=tuple(warnings) or None))


@router.add("POST", "/containers/{name}/rename")
async def rename(api: Api, request: Request, name: str) -> Answer:
    await api.engine.containers.rename(name, params.text(request, "name"))
    return Response(204)
