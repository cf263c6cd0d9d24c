"""Streams of containers and execs: attach, exec, resize, logs."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from portside.api import params, reply, request_versions
from portside.api.router import Answer, Router
from portside.containers.attach_exec import (
    AttachOptions,
    Take,
    attach_container,
    create_exec,
    inspect_exec,
    parse_keys,
    resize,
    resize_exec,
    start_exec,
)
from portside.containers.log_reader import LogsOptions, open_logs
from portside.model.container import ExecConfig, ExecStart, decode_as
from portside.model.errors import InvalidParameter, InvalidText, PortsideError
from portside.model.golang.numbers import parse_uint
from portside.model.golang.quoting import quote
from portside.serving.http.hijack import replay
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def stream_type(request: Request, terminal: bool) -> str:
    """Since API 1.42 framed streams have their own content type."""
    return MULTIPLEXED if not terminal and request.version >= (1, 42) else RAW


def _wants_upgrade(request: Request) -> bool:
    """For any protocol, and also without ``Connection: Upgrade``, as dockerd reads it."""
    return "upgrade" in request.head.headers


def taker(request: Request) -> Take:
    """A function that hijacks the client's socket, after all checks."""

    def take(terminal: bool) -> socket.socket:
        if _wants_upgrade(request):
            head = (
                f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {stream_type(request, terminal)}\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
        else:  # the old form, which dockerd calls raw whether it is framed or not
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\n"
        return replay(request.hijack(head.encode()))

    return take


def _detach_keys(request: Request) -> str:
    """Checked before the container is looked for."""
    text = params.text(request, "detachKeys")
    if text:
        try:
            parse_keys(text)
        except InvalidParameter:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided") from None
    return text


@router.add("POST", "/containers/{name}/attach")
async def attach(api: Api, request: Request, name: str) -> Answer:
    await request.body.read()
    options = AttachOptions(
        stream=params.boolean(request, "stream"),
        logs=params.boolean(request, "logs"),
        stdin=params.boolean(request, "stdin"),
        stdout=params.boolean(request, "stdout"),
        stderr=params.boolean(request, "stderr"),
        detach_keys=_detach_keys(request),
    )
    containers = api.engine.containers
    await attach_container(containers, containers.find(name), options, taker(request), name=name)
    return None


@router.add("GET", "/containers/{name}/attach/ws")
async def attach_websocket(api: Api, request: Request, name: str) -> Answer:
    """As attach, in messages of a websocket; output is raw (there are no frame headers)."""
    from portside.serving.http import websocket

    head = websocket.accept(request.head.headers)
    every = request.version < (1, 42)  # the choice of streams was ignored
    options = AttachOptions(
        stream=params.boolean(request, "stream"),
        logs=params.boolean(request, "logs"),
        stdin=every or params.boolean(request, "stdin"),
        stdout=every or params.boolean(request, "stdout"),
        stderr=every or params.boolean(request, "stderr"),
        detach_keys=params.text(request, "detachKeys"),
        raw=True,
    )

    def take(terminal: bool) -> socket.socket:
        hijacked = request.hijack(head)
        text = request.version < (1, 28)
        return websocket.relay(hijacked.sock, hijacked.early, text=text)

    containers = api.engine.containers
    await attach_container(containers, containers.find(name), options, take, name=name)
    return None


@router.add("POST", "/containers/{name}/exec")
async def exec_create(api: Api, request: Request, name: str) -> Answer:
    config = request_versions.exec_config(await params.json(request, ExecConfig), request.version)
    if not config.cmd:
        raise InvalidParameter("No exec command specified")
    containers = api.engine.containers
    created = await create_exec(containers, containers.find(name), config, name=name)
    return reply.json({"Id": created.id}, 201)


@router.add("POST", "/exec/{id}/start")
async def exec_start(api: Api, request: Request, exec_id: str) -> Answer:
    body = await params.json_bytes(request)
    start = decode_as(body, ExecStart) if body else ExecStart()
    containers = api.engine.containers
    found = containers.find_exec(exec_id)  # before the answer that upgrades the connection
    if start.detach:
        await start_exec(containers, found, start, None)
        return Response(200)
    try:
        await start_exec(containers, found, start, taker(request))
    except PortsideError:
        if not request.has_started:
            raise
    return None


@router.add("GET", "/exec/{id}/json")
async def exec_inspect(api: Api, request: Request, exec_id: str) -> Answer:
    return reply.json(inspect_exec(api.engine.containers.find_exec(exec_id)))


def _size(request: Request) -> tuple[int, int]:
    found = []
    for name, what in (("h", "height"), ("w", "width")):
        value = params.text(request, name)
        try:
            found.append(parse_uint(value, bits=16 if value.isdecimal() else 64))
        except InvalidText as err:
            why = "value out of range" if value[:1] == "-" else str(err).rpartition(": ")[2]
            raise InvalidParameter(f"invalid resize {what} {quote(value)}: {why}") from None
    return found[0], found[1]


@router.add("POST", "/exec/{id}/resize")
async def exec_resize(api: Api, request: Request, exec_id: str) -> Answer:
    size = _size(request)  # before the exec is looked for, as dockerd
    await resize_exec(api.engine.containers.find_exec(exec_id), *size)
    return Response(200)


@router.add("POST", "/containers/{name}/resize")
async def resize_terminal(api: Api, request: Request, name: str) -> Answer:
    containers, size = api.engine.containers, _size(request)
    await resize(containers, containers.find(name), *size)
    return Response(200)


@router.add("GET", "/containers/{name}/logs", cancellable=True)
async def logs(api: Api, request: Request, name: str) -> Answer:
    stdout, stderr = params.boolean(request, "stdout"), params.boolean(request, "stderr")
    if not (stdout or stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    container = api.engine.containers.find(name)
    options = LogsOptions(
        stdout=stdout,
        stderr=stderr,
        follow=params.boolean(request, "follow"),
        since_ns=params.timestamp(params.text(request, "since")) or 0,
        until_ns=params.timestamp(params.text(request, "until")) or 0,
        timestamps=params.boolean(request, "timestamps"),
        details=params.boolean(request, "details"),
        tail=params.text(request, "tail", "all"),
    )
    terminal, pieces = open_logs(api.engine.containers, container, options)
    stream = request.start(200, stream_type(request, terminal))
    async for piece in pieces:
        await stream.write(piece)
    return stream
