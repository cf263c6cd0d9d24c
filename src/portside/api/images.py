"""The Image and Distribution groups."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from portside.api import params, reply
from portside.api.router import Answer, Router
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, InvalidText
from portside.model.platform import Platform
from portside.model.progress import Progress, Report
from portside.model.reference import Reference
from portside.model.registryauth import AuthConfig
from portside.serving.http.messages import Request, Response

if TYPE_CHECKING:
    from portside.api.app import Api

router: Router[Api] = Router()

_FULL_ID = re.compile(r"(sha256:)?[0-9a-f]{64}")


def _platform(request: Request) -> Platform | None:
    """``platform``: ``os/arch[/variant]``, or an image-spec object in JSON (API 1.48 on)."""
    value = params.text(request, "platform")
    return _one_platform(value) if value else None


def _platform_as_named(request: Request) -> Platform | None:
    """The same, with arm64's variant where it was given, which normal names lack, and without
    arm's where it was not."""
    found = _platform(request)
    named = params.text(request, "platform").count("/") == 2
    if found and not named and (found.architecture, found.variant) == ("arm", "v7"):
        return msgspec.structs.replace(found, variant="")
    if found and named and found.architecture == "arm64" and not found.variant:
        return msgspec.structs.replace(found, variant="v8")
    return found


def _one_platform(value: str) -> Platform:
    if value.startswith("{"):
        try:
            found = msgspec.json.decode(value, type=Platform)
        except msgspec.MsgspecError as err:
            raise InvalidParameter(f"invalid platform: {err}") from None
        if not (found.os and found.architecture):
            raise InvalidParameter("both OS and Architecture must be provided")
        return found
    return Platform.parse(value)


def _platforms(request: Request) -> list[Platform]:
    """The platforms of ``save`` and ``load``: several since API 1.52."""
    found = [value for value in params.texts(request, "platform") if value]
    if len(found) > 1 and request.version < (1, 52):
        raise InvalidParameter("multiple platform parameters not supported")
    return [_one_platform(value) for value in found]


def _auth(request: Request) -> AuthConfig:
    """Credentials of the request; unreadable ones count as none, as they do for Docker."""
    try:
        return AuthConfig.from_header(request.header("x-registry-auth"))
    except InvalidParameter:
        return AuthConfig()


@router.add("GET", "/images/json", cancellable=True)
async def list_images(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    name = params.text(request, "filter")
    if name and request.version < (1, 41):
        filters.setdefault("reference", []).append(name)
    manifests = request.version >= (1, 47) and params.boolean(request, "manifests")
    identity = request.version >= (1, 54) and params.boolean(request, "identity")
    if identity and not manifests:
        raise InvalidParameter("conflicting options: identity requires manifests=1")
    found = await api.engine.images.list(
        all=params.boolean(request, "all"),
        filters=filters,
        shared_size=request.version >= (1, 42) and params.boolean(request, "shared-size"),
        manifests=manifests,
        identity=identity,
    )
    return reply.json([image.wire(request.version) for image in found])


@router.add("POST", "/images/create", cancellable=True)
async def create_image(api: Api, request: Request, _: str) -> Answer:
    """``docker pull`` (fromImage) and ``docker import`` (fromSrc)."""
    source, tag = params.text(request, "fromImage"), params.text(request, "tag")
    if not source and not params.text(request, "fromSrc"):
        raise InvalidParameter("no image or source given: use fromImage or fromSrc")
    if not source:
        return await _import(api, request)
    ref = _to_pull(source, tag)
    auth, platform = _auth(request), _platform(request)

    async def work(report: Report) -> None:
        # `docker pull -a` sends no tag at all; every other client names one or a digest.
        await api.engine.images.pull(str(ref), platform, auth, report, all_tags=ref.is_name_only)

    return await reply.progress(request, work)


def _to_pull(name: str, tag: str) -> Reference:
    """``tag`` may also be a digest, which then replaces a tag in the name."""
    try:
        digest = Digest(tag)
    except InvalidParameter:
        return params.tagged(name, tag)
    return Reference.parse(name).with_digest(digest)


async def _import(api: Api, request: Request) -> Answer:
    source = params.text(request, "fromSrc")
    target = params.new_name(request)
    message = params.text(request, "message") or f"Imported from {source}"
    archive: AsyncIterator[bytes] | str = request.body.chunks() if source == "-" else source
    if isinstance(archive, str) and "://" not in archive:
        archive = f"http://{archive}"

    async def work(report: Report) -> str:
        return await api.engine.images.import_(
            archive,
            target,
            message=message,
            changes=params.texts(request, "changes"),
            platform=_platform_as_named(request),
            progress=report,
        )

    return await reply.progress(request, work, render=lambda image: [{"status": image}])


@router.add("POST", "/images/load", cancellable=True, streams=True)
async def load(api: Api, request: Request, _: str) -> Answer:
    quiet = params.boolean(request, "quiet", True)
    platforms = _platforms(request)

    async def work(report: Report) -> Any:
        def unless_quiet(message: Progress) -> None:
            if not quiet or message.stream:
                report(message)

        return await api.engine.images.load(
            request.body.chunks(), unless_quiet, platforms=platforms
        )

    # Docker answers 200 before it reads the archive, and clients look for errors in the stream.
    return await reply.progress(request, work, failures_in_stream=True)


@router.add("GET", "/images/search", cancellable=True)
async def search(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    try:
        limit = params.number(request, "limit", 25) or 25
    except InvalidText as err:
        raise InvalidParameter(f"invalid limit specified: {err}") from None
    found = await api.engine.images.search(
        params.text(request, "term"), limit=limit, filters=filters, auth=_auth(request)
    )
    return reply.json(list(found))


@router.add("GET", "/images/get", cancellable=True, streams=True)
async def save_many(api: Api, request: Request, _: str) -> Answer:
    names = [part for value in params.texts(request, "names") for part in value.split(",") if part]
    if not names:
        raise InvalidParameter("no images to save: give names")
    return await reply.pour(request, api.engine.images.save(names, platforms=_platforms(request)))


@router.add("GET", "/images/{name}/get", cancellable=True, streams=True)
async def save_one(api: Api, request: Request, name: str) -> Answer:
    return await reply.pour(request, api.engine.images.save([name], platforms=_platforms(request)))


@router.add("GET", "/images/{name}/json")
async def inspect(api: Api, request: Request, name: str) -> Answer:
    manifests = request.version >= (1, 48) and params.boolean(request, "manifests")
    platform = _platform(request) if request.version >= (1, 49) else None
    if manifests and platform is not None:
        raise InvalidParameter(
            "conflicting options: manifests and platform options cannot both be set"
        )
    image = await api.engine.images.inspect(name, manifests=manifests, platform=platform)
    return reply.json(image.wire(request.version))


@router.add("GET", "/images/{name}/attestations", since=(1, 55))
async def attestations(api: Api, request: Request, name: str) -> Answer:
    if len(params.texts(request, "platform")) > 1:
        raise InvalidParameter("only one platform value is currently supported")
    types = [kind for text in params.texts(request, "type") if (kind := text.strip())]
    found = await api.engine.images.attestations(
        name,
        _platform(request),
        types=types,
        statements=params.boolean(request, "statement"),
    )
    return reply.json(list(found))


@router.add("GET", "/images/{name}/history")
async def history(api: Api, request: Request, name: str) -> Answer:
    platform = _platform(request) if request.version >= (1, 48) else None
    return reply.json(list(await api.engine.images.history(name, platform)))


@router.add("POST", "/images/{name}/push", cancellable=True)
async def push(api: Api, request: Request, name: str) -> Answer:
    tag = params.text(request, "tag")
    auth, platform = _auth(request), _platform(request)

    async def work(report: Report) -> None:
        await api.engine.images.push(
            str(params.tagged(name, tag)), auth, report, all_tags=not tag, platform=platform
        )

    return await reply.progress(request, work)


@router.add("POST", "/images/{name}/tag")
async def tag(api: Api, request: Request, name: str) -> Answer:
    api.engine.images.tag(name, params.new_name(request))
    return Response(201)


@router.add("DELETE", "/images/{name}")
async def remove(api: Api, request: Request, name: str) -> Answer:
    platforms = params.texts(request, "platforms") if request.version >= (1, 50) else []
    removed = await api.engine.images.remove(
        name,
        platforms=[_one_platform(value) for value in platforms],
        force=params.boolean(request, "force"),
        prune=not params.boolean(request, "noprune"),
    )
    return reply.json(list(removed))


@router.add("POST", "/images/prune", since=(1, 25))
async def prune(api: Api, request: Request, _: str) -> Answer:
    return reply.json(await api.engine.images.prune(params.filters(request)))


@router.add("GET", "/distribution/{name}/json", cancellable=True, since=(1, 30))
async def distribution(api: Api, request: Request, name: str) -> Answer:
    if _FULL_ID.fullmatch(name):
        raise InvalidParameter("no manifest found for full image ID")
    return reply.json(await api.engine.images.distribution_inspect(name, _auth(request)))
