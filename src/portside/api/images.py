"""The Image and Distribution groups."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from portside.api import params, reply
from portside.api.http.messages import Request, Response
from portside.api.router import Answer, Router
from portside.model.errors import InvalidParameter
from portside.model.platform import Platform
from portside.model.progress import Progress, Report
from portside.model.registryauth import AuthConfig

if TYPE_CHECKING:
    from portside.api.app import Api

router = Router()

_LIST_FILTERS = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
_PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))
_SEARCH_FILTERS = frozenset(("is-automated", "is-official", "stars"))


def _platform(request: Request) -> Platform | None:
    """``platform``: ``os/arch[/variant]``, or an image-spec object in JSON (API 1.48 on)."""
    value = params.text(request, "platform")
    if not value:
        return None
    if value.startswith("{"):
        try:
            return msgspec.json.decode(value, type=Platform)
        except msgspec.MsgspecError as err:
            raise InvalidParameter(f"invalid platform: {err}") from None
    return Platform.parse(value)


def _platforms(request: Request) -> Platform | None:
    """The one platform of ``save`` and ``load`` (they allow a list, Docker takes one)."""
    found = params.texts(request, "platform")
    if len(found) > 1:
        raise InvalidParameter("multiple platform parameters not supported")
    return _platform(request)


def _auth(request: Request) -> AuthConfig:
    return AuthConfig.from_header(request.header("x-registry-auth"))


@router.add("GET", "/images/json", cancellable=True)
async def list_images(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    name = params.text(request, "filter")
    if name:  # before API 1.28
        filters.setdefault("reference", []).append(name)
    params.accept_filters(filters, _LIST_FILTERS)
    found = await api.engine.images.list(
        all=params.boolean(request, "all"),
        filters=filters,
        shared_size=params.boolean(request, "shared-size"),
        manifests=params.boolean(request, "manifests"),
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
    ref = _with_tag(source, tag)
    auth, platform = _auth(request), _platform(request)
    # `docker pull -a` sends no tag at all; every other client names one or a digest.
    all_tags = not tag and ":" not in source.rpartition("/")[2] and "@" not in source

    async def work(report: Report) -> None:
        await api.engine.images.pull(ref, platform, auth, report, all_tags=all_tags)

    return await reply.progress(request, work)


def _with_tag(name: str, tag: str) -> str:
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


async def _import(api: Api, request: Request) -> Answer:
    source = params.text(request, "fromSrc")
    name, tag = params.text(request, "repo"), params.text(request, "tag")
    archive: AsyncIterator[bytes] | str = request.body.chunks() if source == "-" else source
    if isinstance(archive, str) and "://" not in archive:
        archive = f"http://{archive}"

    async def work(report: Report) -> str:
        return await api.engine.images.import_(
            archive,
            _with_tag(name, tag) if name else "",
            message=params.text(request, "message"),
            changes=params.texts(request, "changes"),
            platform=_platform(request),
            progress=report,
        )

    return await reply.progress(request, work, render=lambda image: [{"status": image}])


@router.add("POST", "/images/load", cancellable=True)
async def load(api: Api, request: Request, _: str) -> Answer:
    quiet = params.boolean(request, "quiet", True)
    platform = _platforms(request)

    async def work(report: Report) -> Any:
        def unless_quiet(message: Progress) -> None:
            if not quiet or message.stream:
                report(message)

        return await api.engine.images.load(request.body.chunks(), unless_quiet, platform=platform)

    return await reply.progress(request, work)


@router.add("GET", "/images/search", cancellable=True)
async def search(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    params.accept_filters(filters, _SEARCH_FILTERS)
    limit = params.number(request, "limit", 25) or 25
    found = await api.engine.images.search(
        params.text(request, "term"), limit=limit, filters=filters, auth=_auth(request)
    )
    return reply.json(list(found))


@router.add("GET", "/images/get", cancellable=True)
async def save_many(api: Api, request: Request, _: str) -> Answer:
    names = [part for value in params.texts(request, "names") for part in value.split(",") if part]
    if not names:
        raise InvalidParameter("no images to save: give names")
    return await reply.pour(request, api.engine.images.save(names, platform=_platforms(request)))


@router.add("GET", "/images/{name}/get", cancellable=True)
async def save_one(api: Api, request: Request, name: str) -> Answer:
    return await reply.pour(request, api.engine.images.save([name], platform=_platforms(request)))


@router.add("GET", "/images/{name}/json")
async def inspect(api: Api, request: Request, name: str) -> Answer:
    manifests = params.boolean(request, "manifests")
    image = await api.engine.images.inspect(name, manifests=manifests)
    return reply.json(image.wire(request.version))


@router.add("GET", "/images/{name}/history")
async def history(api: Api, request: Request, name: str) -> Answer:
    return reply.json(list(await api.engine.images.history(name)))


@router.add("POST", "/images/{name}/push", cancellable=True)
async def push(api: Api, request: Request, name: str) -> Answer:
    tag = params.text(request, "tag")
    auth, platform = _auth(request), _platform(request)

    async def work(report: Report) -> None:
        await api.engine.images.push(
            _with_tag(name, tag), auth, report, all_tags=not tag, platform=platform
        )

    return await reply.progress(request, work)


@router.add("POST", "/images/{name}/tag")
async def tag(api: Api, request: Request, name: str) -> Answer:
    repo = params.text(request, "repo")
    api.engine.images.tag(name, _with_tag(repo, params.text(request, "tag")))
    return Response(201)


@router.add("DELETE", "/images/{name}")
async def remove(api: Api, request: Request, name: str) -> Answer:
    removed = await api.engine.images.remove(
        name,
        force=params.boolean(request, "force"),
        prune=not params.boolean(request, "noprune"),
    )
    return reply.json(list(removed))


@router.add("POST", "/images/prune", since=(1, 25))
async def prune(api: Api, request: Request, _: str) -> Answer:
    filters = params.filters(request)
    params.accept_filters(filters, _PRUNE_FILTERS)
    return reply.json(await api.engine.images.prune(filters))


@router.add("GET", "/distribution/{name}/json", cancellable=True, since=(1, 30))
async def distribution(api: Api, request: Request, name: str) -> Answer:
    return reply.json(await api.engine.images.distribution_inspect(name, _auth(request)))
