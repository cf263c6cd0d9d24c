"""The registry as an aiohttp application: ``web.run_app(make_app(settings))``."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from portside.registry.server import handlers_blobs, handlers_manifests, page
from portside.registry.server.audit import Audit
from portside.registry.server.auth import ANONYMOUS, COOKIE, Authority, Identity
from portside.registry.server.config import Retention, Settings, seconds
from portside.registry.server.content import Content
from portside.registry.server.context import REGISTRY, Registry, registry_of
from portside.registry.server.crosssite import refuse_cross_site, refuse_foreign_name
from portside.registry.server.errors import RegistryError
from portside.registry.server.forwarded import check_host
from portside.registry.server.gc import Collector
from portside.registry.server.metrics import Metrics
from portside.registry.server.request_context import IDENTITY, SETTINGS, own_url
from portside.registry.server.storage import Claim, FilesystemStorage, Storage, in_thread
from portside.registry.server.uploads import Uploads
from portside.registry.server.webhooks import Webhooks

_LOG = logging.getLogger("portside.registry")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(settings: Settings) -> web.Application:
    """The whole registry; ready to serve, alone or mounted under another application."""
    root = Path(settings.storage.filesystem.rootdirectory)
    state = settings.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(PermissionError):  # somebody else's, who lets us write
        state.chmod(0o700)  # keys and tokens lie there
    storage: Storage
    if settings.storage.s3 is not None:
        from portside.registry.server.s3 import S3Storage

        storage = S3Storage(settings.storage.s3)
    else:
        storage = FilesystemStorage(root)
    upstream = None
    content, uploads = Content(storage), Uploads(state / "uploads")
    if settings.proxy.remoteurl:
        from portside.registry.server.proxy import Upstream

        upstream = Upstream(settings.proxy, content, uploads)
    registry = Registry(
        settings,
        content,
        uploads,
        Authority(settings, state),
        Audit(settings.portside.audit),
        Metrics(),
        Webhooks(settings.notifications.endpoints),
        upstream,
    )
    app = web.Application(middlewares=[_answer], client_max_size=1 << 20)
    app[REGISTRY], app[SETTINGS] = registry, settings
    app.add_routes(handlers_manifests.routes())
    app.add_routes(handlers_blobs.routes())
    if settings.portside.metrics:
        app.router.add_get("/metrics", _metrics)
    if settings.portside.page:
        app.add_routes(page.routes())
    app.on_response_prepare.append(_stamp)
    app.cleanup_ctx.append(_running)
    return app


async def _metrics(request: web.Request) -> web.Response:
    """With authentication on, for users who may pull from every repository."""
    authority = registry_of(request).authority
    if not authority.may_watch(identity := request[IDENTITY]):
        if identity.user != ANONYMOUS and not identity.is_bearer:
            raise RegistryError("DENIED")
        raise RegistryError("UNAUTHORIZED", headers=authority.password_challenge())
    return _exposition(request)


def _exposition(request: web.Request) -> web.Response:
    text = registry_of(request).metrics.text()
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})


def watching_app(registry: Registry) -> web.Application:
    """What ``http.debug.addr`` serves beside the registry: its metrics and its health.

    It asks for no password, as in the distribution registry: the address decides who reaches it.
    """

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({})

    async def counters(request: web.Request) -> web.Response:
        return _exposition(request)

    app = web.Application()
    app[REGISTRY] = registry
    app.router.add_get("/debug/health", healthy)
    if registry.settings.http.debug.prometheus.enabled:
        app.router.add_get(registry.settings.http.debug.prometheus.path, counters)
    return app


async def _running(app: web.Application) -> AsyncIterator[None]:
    """Run webhooks, collection and upstream's connections as long as the application."""
    registry = app[REGISTRY]
    claim = Claim(Path(registry.settings.storage.filesystem.rootdirectory))
    await registry.webhooks.start()
    tasks = [asyncio.create_task(_housekeeping(registry, claim))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await registry.webhooks.close()
        if registry.upstream is not None:
            await registry.upstream.close()
        registry.audit.close()
        claim.close()


async def _housekeeping(registry: Registry, claim: Claim) -> None:
    """Remove what killed servers left; purge stale uploads daily; collect as the settings say."""
    ours, purging = registry.settings.portside, registry.settings.storage.maintenance.uploadpurging
    interval = seconds(ours.gc_interval) if ours.gc_interval else 0.0
    if registry.upstream is not None and seconds(registry.settings.proxy.ttl):
        interval = interval or 86400.0  # what was not asked for within proxy.ttl goes
    if swept := await in_thread(claim.sweep):
        _LOG.info("removed %d temporary files of servers that were killed", swept)
    while True:
        if purging.enabled:
            registry.uploads.purge(seconds(purging.age))
        await asyncio.sleep(interval or 86400.0)
        if interval:
            try:
                await collect(registry)
            except Exception:
                _LOG.exception("garbage collection failed; the next pass starts afresh")


async def collect(registry: Registry) -> None:
    """One pass of retention and collection, counted and logged."""
    ours = registry.settings.portside
    retention, mirror = ours.retention, registry.upstream is not None
    if mirror and seconds(registry.settings.proxy.ttl):
        days = max(int(seconds(registry.settings.proxy.ttl) // 86400), 1)
        retention = (Retention(keep_days=days),)
    collector = Collector(registry.content, seconds(ours.gc_grace), retention)
    done = await collector.run(untagged=mirror and bool(retention))
    registry.metrics.collected(done.bytes)
    _LOG.info("collected %d blobs, %d bytes; removed %d tags", done.blobs, done.bytes, done.tags)


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Identify the sender, run the handler, turn errors into answers, count."""
    registry = registry_of(request)
    route = request.match_info.route.resource
    label = route.canonical if route is not None else "none"
    registry.metrics.begin()
    started, status = time.monotonic(), 500
    try:
        response = await _guarded(request, handler)
        status = response.status
        return response
    finally:
        registry.metrics.end(request.method, label, status, time.monotonic() - started)


async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    registry = registry_of(request)
    try:
        check_host(request.host)
        refuse_foreign_name(request)
        refuse_cross_site(request)
        request[IDENTITY] = await _identify(request, registry)
        response = await handler(request)
    except RegistryError as err:
        if err.status == 401 and request.path.startswith(page.PREFIX):
            err.headers = dict(page.SESSION_CHALLENGE)
        response = _error(err)
    except web.HTTPRedirection:
        raise
    except web.HTTPException as err:
        response = _unrouted(request, err)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except OSError as err:
        response = _failed(request, err)
    except Exception:
        _LOG.exception("%s %s failed", request.method, request.path)
        response = _error(RegistryError("UNKNOWN"))
    with suppress(RuntimeError):
        # an answer given before the body was read (a quota, a digest) must not let the
        # rest of the body be taken for the next request
        if request.can_read_body and not request.content.at_eof():
            response.force_close()
    return response


def _error(err: RegistryError) -> web.Response:
    response = web.Response(body=err.body(), status=err.status, headers=err.headers)
    response.headers["Content-Type"] = "application/json; charset=utf-8"
    return response


def _unrouted(request: web.Request, err: web.HTTPException) -> web.Response:
    """The answer for an unknown path or method; OPTIONS, which browsers ask, lists methods."""
    allowed = {"Allow": err.headers["Allow"]} if "Allow" in err.headers else {}
    if err.status == 405 and request.method == "OPTIONS":
        return web.Response(status=200, headers=allowed)
    message = "" if err.status == 405 else f"no such endpoint: {request.path}"
    error = RegistryError("UNSUPPORTED", message=message, status=err.status, headers=allowed)
    return _error(error)


def _failed(request: web.Request, err: OSError) -> web.Response:
    """The machine's fault: a full disk is reported, everything else is logged."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        _LOG.error("%s %s: %s", request.method, request.path, err)
        reason = "no space left on the registry's storage"
        return _error(RegistryError("UNKNOWN", message=reason, status=507))
    _LOG.exception("%s %s failed", request.method, request.path)
    return _error(RegistryError("UNKNOWN"))


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every response, also of streamed ones."""
    response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    response.headers["Server"] = "portside"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    for name, values in registry_of(request).settings.http.headers.items():
        response.headers[name] = ", ".join(values)


async def _identify(request: web.Request, registry: Registry) -> Identity:
    authority, authorization = registry.authority, request.headers.get("Authorization")
    is_page = request.path.startswith(page.PREFIX)
    if is_page and authorization is None and COOKIE in request.cookies:
        return authority.in_session(request.cookies[COOKIE])
    try:
        return await authority.identify(authorization)
    except RegistryError as err:
        if request.path == "/token":  # which is where the other challenge leads to
            err.headers.update(authority.password_challenge())
        else:
            err.headers.update(authority.challenge(own_url(request)))
        raise
