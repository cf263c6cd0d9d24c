"""Containers' files and processes: archive, export, changes, commit, top, stats, update."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from portside.api import params, reply, request_versions
from portside.api.router import Answer, Router
from portside.containers import container_files
from portside.containers.update import check_update, rename_container, update_container
from portside.model.container import ContainerConfig, UpdateRequest, decode_as
from portside.model.containerstate import Updated
from portside.model.errors import InvalidParameter
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()


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
    containers, path = api.engine.containers, _path(request)
    stat = await container_files.archive_stat(containers, name, path)
    return Response(200, headers=_stat_header(stat))


@router.add("GET", "/containers/{name}/archive", cancellable=True, streams=True)
async def archive_get(api: Api, request: Request, name: str) -> Answer:
    containers, path = api.engine.containers, _path(request)
    stat, pieces = await container_files.archive_get(containers, name, path)
    stream = request.start(200, reply.TAR, _stat_header(stat))
    async for piece in pieces:
        await stream.write(piece)
    return stream


@router.add("PUT", "/containers/{name}/archive", cancellable=True, streams=True)
async def archive_put(api: Api, request: Request, name: str) -> Answer:
    containers, path = api.engine.containers, _path(request)
    await container_files.archive_put(
        containers,
        name,
        path,
        request.body.chunks(),
        keep_kind=params.boolean(request, "noOverwriteDirNonDir"),
        copy_owner=params.boolean(request, "copyUIDGID"),
    )
    return Response(200)


@router.add("GET", "/containers/{name}/export", cancellable=True, streams=True)
async def export(api: Api, request: Request, name: str) -> Answer:
    containers = api.engine.containers
    pieces = container_files.export_container(containers, containers.find(name))
    return await reply.pour(request, pieces, "application/octet-stream")


@router.add("GET", "/containers/{name}/changes")
async def changes(api: Api, request: Request, name: str) -> Answer:
    containers = api.engine.containers
    return reply.json(list(await container_files.changes(containers, containers.find(name))))


@router.add("POST", "/commit")
async def commit(api: Api, request: Request, _: str) -> Answer:
    name = params.text(request, "container")
    body = await params.json_bytes(request)
    config = decode_as(body, ContainerConfig) if body and body.strip() != b"null" else None
    options = container_files.CommitOptions(
        ref=params.new_name(request),
        author=params.text(request, "author"),
        comment=params.text(request, "comment"),
        pause=params.boolean(request, "pause", True),
        changes=tuple(params.texts(request, "changes")),
        config=config,
    )
    containers = api.engine.containers
    image = await container_files.commit_container(containers, containers.find(name), options)
    return reply.json({"Id": image}, 201)


# -- processes and limits --------------------------------------------------------------------


@router.add("GET", "/containers/{name}/top")
async def top(api: Api, request: Request, name: str) -> Answer:
    from portside.containers.top import processes_of  # start-up time

    containers = api.engine.containers
    container = containers.find(name)
    return reply.json(await processes_of(containers, container, params.text(request, "ps_args")))


@router.add("GET", "/containers/{name}/stats", cancellable=True)
async def stats(api: Api, request: Request, name: str) -> Answer:
    from portside.containers.stats import stats_samples  # start-up time

    endless = params.boolean(request, "stream", True)
    one_shot = params.boolean(request, "one-shot") and request.version >= (1, 41)
    if endless and one_shot:
        raise InvalidParameter("cannot have stream=true and one-shot=true")
    containers = api.engine.containers
    container = containers.find(name)
    samples = stats_samples(containers, container, stream=endless, one_shot=one_shot)
    stream = request.start(200, reply.JSON)
    async for sample in samples:
        if request.version >= (1, 52):
            sample = msgspec.structs.replace(sample, os_type="linux")
        await stream.write(msgspec.json.encode(sample) + b"\n")
    return stream


@router.add("POST", "/containers/{name}/update")
async def update(api: Api, request: Request, name: str) -> Answer:
    limits = request_versions.update(await params.json(request, UpdateRequest), request.version)
    containers = api.engine.containers
    check_update(limits)  # dockerd looks at the request before it looks for the container
    warnings = await update_container(containers, containers.find(name), limits)
    return reply.json(Updated(warnings=tuple(warnings) or None))


@router.add("POST", "/containers/{name}/rename")
async def rename(api: Api, request: Request, name: str) -> Answer:
    containers = api.engine.containers
    new = params.text(request, "name")
    if not new:
        raise InvalidParameter("Neither old nor new names may be empty")
    await rename_container(containers, containers.find(name), new)
    return Response(204)
