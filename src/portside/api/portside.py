"""Endpoints that the Engine API does not have: ``/portside/…``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from portside.api import params, reply
from portside.api.router import Answer, Router
from portside.containers.processes import last_spec
from portside.containers.update import reshape_container
from portside.model.container import ReshapeRequest, decode_as
from portside.model.errors import InvalidParameter
from portside.model.imageapi import ListPart
from portside.model.progress import Progress, Report
from portside.model.registryauth import AuthConfig
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()


# -- the engine ------------------------------------------------------------------------------


@router.add("POST", "/portside/daemon/stop")
async def stop_daemon(api: Api, request: Request, _: str) -> Answer:
    """End the engine; its containers continue unless ``containers`` is true."""
    api.engine.stop_requested(params.boolean(request, "containers"))
    return Response(202)


@router.add("POST", "/portside/reset")
async def reset(api: Api, request: Request, _: str) -> Answer:
    """``system reset``: stop all containers, end the engine and delete everything it has:
    containers, images, volumes, networks, and its data root."""
    api.engine.stop_requested(True, reset=True)
    return Response(202)


@router.add("POST", "/portside/check", cancellable=True)
async def check(api: Api, request: Request, _: str) -> Answer:
    """``system check``: verify the store; with ``repair`` repair what can be repaired. With
    ``progress`` the answer is a stream of messages, the report the last one's ``aux``."""
    repair = params.boolean(request, "repair")
    if not params.boolean(request, "progress"):
        return reply.json(await api.engine.check(repair=repair))

    async def work(report: Report) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(
            await api.engine.check(repair=repair, progress=report)
        )
        return found

    return await reply.progress(request, work, render=lambda found: [Progress(aux=found).message()])


@router.add("GET", "/portside/audit", cancellable=True)
async def audit(api: Api, request: Request, _: str) -> Answer:
    """``system audit``: the engine and its running containers by the CIS Docker Benchmark."""
    from portside.engine.audit_engine import audit_all

    return reply.json(await audit_all(api.engine))


class _Alert(msgspec.Struct):
    """A warning of ``portside monitor``, as ``monitor/engine_alerts.py`` sends it."""

    rule: str
    summary: str
    state: str = "firing"
    container: str = ""
    severity: str = ""
    advice: str = ""


_RULE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@router.add("POST", "/portside/alerts")
async def alert(api: Api, request: Request, _: str) -> Answer:
    """Emit a warning as an event of its container or of the engine."""
    found = decode_as(await params.json_bytes(request) or b"{}", _Alert)
    if not _RULE.fullmatch(found.rule) or found.state not in ("firing", "resolved"):
        raise InvalidParameter("an alert needs a rule (a-z, 0-9, _) and firing or resolved")
    attributes = {
        "severity": found.severity[:40], "summary": found.summary[:1000],
        "advice": found.advice[:1000], "state": found.state,
    }  # fmt: skip
    kind, subject = "daemon", api.engine.identity
    if found.container:
        record = api.engine.containers.find(found.container).record
        kind, subject = "container", record.id
        attributes["name"] = record.name
    api.engine.events(kind, f"alert: {found.rule}", subject, attributes)
    return Response(204)


# -- containers ------------------------------------------------------------------------------


@router.add("GET", "/portside/containers/{name}/oci")
async def oci(api: Api, request: Request, name: str) -> Answer:
    """The runtime-spec configuration of the container's last start."""
    return Response(
        200, last_spec(api.engine.containers, api.engine.containers.find(name)) + b"\n", reply.JSON
    )


@router.add("GET", "/portside/containers/{name}/timings")
async def timings(api: Api, request: Request, name: str) -> Answer:
    """Milliseconds of each step of the last start."""
    return reply.json(api.engine.containers.find(name).timings)


@router.add("GET", "/portside/containers/{name}/explain")
async def explain(api: Api, request: Request, name: str) -> Answer:
    """The container in the kernel's terms."""
    return reply.json(await api.engine.explain(name))


@router.add("POST", "/portside/containers/{name}/update")
async def reshape(api: Api, request: Request, name: str) -> Answer:
    """Change what Docker fixes at creation: published ports and labels live, environment and mounts
    by stopping and starting again."""
    containers = api.engine.containers
    container = containers.find(name)
    wanted = decode_as(await params.json_bytes(request) or b"{}", ReshapeRequest)
    return reply.json(await reshape_container(containers, container, wanted))


# -- manifests -------------------------------------------------------------------------------


class _List(msgspec.Struct):
    manifests: list[ListPart] = msgspec.field(name="Manifests", default_factory=list)
    raw: bytes = msgspec.field(name="Raw", default=b"")
    """The content to push, in base64; by default a list of the manifests."""
    media_type: str = msgspec.field(name="MediaType", default="")


def _auth(request: Request) -> AuthConfig:
    return AuthConfig.from_header(request.header("x-registry-auth"))


@router.add("GET", "/portside/manifests/{name}/json", cancellable=True)
async def remote_manifest(api: Api, request: Request, name: str) -> Answer:
    """A manifest or a manifest list as its registry has it."""
    statements = params.boolean(request, "statements")
    return reply.json(
        await api.engine.images.remote_manifest(name, _auth(request), statements=statements)
    )


@router.add("POST", "/portside/manifests/{name}/push", cancellable=True)
async def push_manifest_list(api: Api, request: Request, name: str) -> Answer:
    body = await params.json(request, _List)
    document = (body.media_type, body.raw) if body.raw else None
    digest = await api.engine.images.push_manifest_list(
        name, body.manifests, _auth(request), document
    )
    return reply.json({"Digest": digest})


class _Artifact(msgspec.Struct):
    manifest: bytes = msgspec.field(name="Manifest")
    media_type: str = msgspec.field(name="MediaType")
    blobs: list[bytes] = msgspec.field(name="Blobs", default_factory=list)


@router.add("POST", "/portside/artifacts/{name}/push", cancellable=True)
async def push_artifact(api: Api, request: Request, name: str) -> Answer:
    """A manifest and the blobs that it names, in base64, to a registry."""
    body = await params.json(request, _Artifact)
    digest = await api.engine.images.push_artifact(
        name, body.blobs, body.manifest, body.media_type, _auth(request)
    )
    return reply.json({"Digest": digest})


@router.add("GET", "/portside/artifacts/{name}/json", cancellable=True)
async def pull_artifact(api: Api, request: Request, name: str) -> Answer:
    """A manifest and, with ``blobs=1``, the content of its layers, in base64."""
    fetched, blobs = await api.engine.images.pull_artifact(
        name, _auth(request), with_blobs=params.boolean(request, "blobs")
    )
    return reply.json(
        {"Digest": str(fetched.digest), "MediaType": fetched.media_type,
         "Manifest": fetched.data, "Blobs": blobs}
    )  # fmt: skip


# -- volumes ---------------------------------------------------------------------------------


def _target(request: Request) -> str:
    name = params.text(request, "name")
    if not name:
        raise InvalidParameter("give the new volume's name")
    return name


@router.add("POST", "/portside/volumes/{name}/clone")
async def clone_volume(api: Api, request: Request, name: str) -> Answer:
    return reply.json(await api.engine.volumes.clone(name, _target(request)), 201)


@router.add("POST", "/portside/volumes/{name}/rename")
async def rename_volume(api: Api, request: Request, name: str) -> Answer:
    return reply.json(await api.engine.volumes.rename(name, _target(request)))


class _Labels(msgspec.Struct):
    labels: dict[str, str] = msgspec.field(name="Labels", default_factory=dict)


@router.add("POST", "/portside/volumes/{name}/update")
async def update_volume(api: Api, request: Request, name: str) -> Answer:
    body = await params.json(request, _Labels)
    return reply.json(api.engine.volumes.update(name, body.labels))


@router.add("GET", "/portside/volumes/{name}/export", cancellable=True, streams=True)
async def export_volume(api: Api, request: Request, name: str) -> Answer:
    stream = await api.engine.volumes.export(name)
    answer = request.start(200, reply.TAR)
    async with stream:
        async for piece in stream:
            await answer.write(piece)
    return answer


@router.add("POST", "/portside/volumes/{name}/import", cancellable=True, streams=True)
async def import_volume(api: Api, request: Request, name: str) -> Answer:
    return reply.json(await api.engine.volumes.import_(name, request.body.chunks()), 201)
