"""``/v2/NAME/blobs/…``: fetch, delete, and the three ways of pushing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress

from aiohttp import web

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.registry.server.content import Blob, Repository, blob_key
from portside.registry.server.context import Registry, location, registry_of, repository_for
from portside.registry.server.errors import RegistryError
from portside.registry.server.names import check_digest, is_name
from portside.registry.server.request_context import IDENTITY
from portside.registry.server.storage import CHUNK
from portside.registry.server.uploads import Upload

_WORTH_SENDFILE = 1 << 16
"""Bytes from which on sendfile(2) is quicker than reading and writing."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def get_blob(request: web.Request) -> web.StreamResponse:
    """GET and HEAD, with one range and conditional requests (RFC 9110, 13 and 14)."""
    repository = repository_for(request, "pull")
    registry = registry_of(request)
    digest = check_digest(request.match_info["digest"])
    if registry.upstream is not None and request.method == "HEAD":
        blob = Blob(digest, await registry.upstream.blob_size(repository, digest))
    else:
        if registry.upstream is not None:
            await registry.upstream.blob(repository, digest)
        blob = await repository.blob(digest)
    if request.method == "HEAD":
        # a pusher whose HEAD succeeds does not send the blob: keep collection away meanwhile
        await registry.content.touch(digest)
    headers = {
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
        "Content-Type": "application/octet-stream",
    }
    if not_modified(request, digest):
        return unchanged(headers)
    status, start, end = 200, 0, blob.size
    if (span := _range(_wanted(request, digest), blob.size)) is not None:
        status, (start, end) = 206, span
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = end - start
    await response.prepare(request)
    if request.method == "GET":
        await _send(request, response, digest, start, end - start)
        registry.metrics.sent(end - start)
    registry.webhooks.blob("pull", request, repository.name, digest, blob.size)
    await response.write_eof()
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, digest: Digest, start: int, count: int
) -> None:
    """The blob's bytes: from file to socket in the kernel where that can be."""
    storage = registry_of(request).content.storage
    path, transport = storage.local(blob_key(digest)), request.transport
    if path is None or transport is None or count < _WORTH_SENDFILE or request.secure:
        async for chunk in storage.stream(blob_key(digest), start, count):
            await response.write(chunk)
        return
    with path.open("rb") as file:
        try:
            await asyncio.get_running_loop().sendfile(transport, file, start, count)
        except RuntimeError as err:  # "Transport is closing"
            raise ConnectionResetError(str(err)) from err


def not_modified(request: web.Request, digest: Digest) -> bool:
    """Whether the sender has it already (RFC 9110, 13.1.2: compared weakly)."""
    tags = request.headers.get("If-None-Match", "").split(",")
    return any(tag.strip().removeprefix("W/").strip('"') in (digest, "*") for tag in tags)


def unchanged(headers: dict[str, str]) -> web.Response:
    """304 with what RFC 9110, 15.4.5 wants sent along."""
    kept = ("ETag", "Cache-Control", "Docker-Content-Digest")
    return web.Response(status=304, headers={k: v for k, v in headers.items() if k in kept})


def _wanted(request: web.Request, digest: Digest) -> str | None:
    """The Range header, unless it is for other content (RFC 9110, 13.1.5)."""
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != f'"{digest}"':
        return None
    return request.headers.get("Range")


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Half-open span of the bytes asked for; None (everything) for what is not one range.

    Raises RANGE_INVALID when the blob has no such bytes.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size or start >= end:
        raise RegistryError("RANGE_INVALID", headers={"Content-Range": f"bytes */{size}"})
    return start, end


async def delete_blob(request: web.Request) -> web.Response:
    repository = repository_for(request, "delete")
    registry = registry_of(request)
    digest = check_digest(request.match_info["digest"])
    require_deletes(request)
    async with registry.content.guard.alone():
        await repository.unlink_blob(digest)
    registry.webhooks.deleted(request, repository.name, digest)
    registry.audit.note(request, "delete-blob", repository.name, str(digest))
    return web.Response(status=202, headers={"Content-Length": "0"})


def require_deletes(request: web.Request) -> None:
    """Raise UNSUPPORTED unless ``storage.delete.enabled`` is set."""
    registry = registry_of(request)
    if not registry.settings.storage.delete.enabled or registry.upstream is not None:
        raise RegistryError("UNSUPPORTED")


def require_writes(request: web.Request) -> None:
    """Raise UNSUPPORTED on a read-only registry or a mirror."""
    registry = registry_of(request)
    if registry.settings.storage.maintenance.readonly.enabled or registry.upstream is not None:
        raise RegistryError("UNSUPPORTED")


async def start_upload(request: web.Request) -> web.Response:
    """POST: mount from another repository, push in one go, or open a session."""
    repository = repository_for(request, "pull", "push")
    require_writes(request)
    registry = registry_of(request)
    mounted = await _mounted(request, repository)
    if mounted is not None:
        return _created(request, repository, mounted)
    upload = registry.uploads.start(repository.name)
    digest = request.query.get("digest")
    if digest:
        try:
            return await _finish(request, repository, upload, check_digest(digest))
        except BaseException:
            registry.uploads.finish(upload)  # there is no session to come back to
            raise
    return _session(request, repository, upload, 202)


async def _mounted(request: web.Request, repository: Repository) -> Digest | None:
    """Link a blob that is here already; None when the client has to send it.

    With ``from``, another repository that the sender may read must have it; without, any
    such repository (distribution-spec, "Mounting a blob from another repository").
    """
    try:
        digest = Digest(request.query.get("mount", ""))
    except InvalidParameter:
        return None
    registry = registry_of(request)
    async with _pushing(registry, repository):
        source = await _source(request, digest)
        if source is None:
            return None
        size = (await registry.content.storage.stat(blob_key(digest))).size
        await _within_quota(request, repository, digest, size)
        await repository.link_blob(digest)
    registry.webhooks.blob("mount", request, repository.name, digest, size, source)
    return digest


async def _source(request: web.Request, digest: Digest) -> str | None:
    """The repository a blob can be mounted from. One the sender may not read counts as
    one without the blob: what others hold must not leak."""
    registry = registry_of(request)
    names = [request.query["from"]] if "from" in request.query else None
    if names is None:
        key = blob_key(digest)
        if registry.content.storage.local(key) is None or not await registry.content.has_blob(
            digest
        ):
            return None  # looking through a bucket costs more than sending the blob
        names = await registry.content.repositories()
    for name in names:
        if is_name(name) and "pull" in registry.authority.allowed(request[IDENTITY], name):
            with suppress(RegistryError):
                await registry.content.repository(name).blob(digest)
                return name
    return None


async def _within_quota(
    request: web.Request, repository: Repository, digest: Digest, size: int
) -> None:
    """Raise DENIED when a blob that the repository has not would be too much for it."""
    limit = registry_of(request).quota(repository.name)
    if not limit or await repository.has_blob(digest):
        return
    if await repository.size() + size > limit:
        raise RegistryError("DENIED", {"limit": limit}, message="quota exceeded")


def _created(request: web.Request, repository: Repository, digest: Digest) -> web.Response:
    headers = {
        "Location": location(request, f"/v2/{repository.name}/blobs/{digest}"),
        "Docker-Content-Digest": digest,
        "Content-Length": "0",
    }
    return web.Response(status=201, headers=headers)


def _session_headers(
    request: web.Request, repository: Repository, upload: Upload
) -> dict[str, str]:
    return {
        "Location": location(request, f"/v2/{repository.name}/blobs/uploads/{upload.id}"),
        "Range": f"0-{max(upload.offset - 1, 0)}",
        "Docker-Upload-UUID": upload.id,
    }


def _session(
    request: web.Request, repository: Repository, upload: Upload, status: int
) -> web.Response:
    headers = {"OCI-Chunk-Min-Length": "0", "Content-Length": "0"}
    return web.Response(
        status=status, headers=headers | _session_headers(request, repository, upload)
    )


def _upload(request: web.Request) -> tuple[Repository, Upload]:
    repository = repository_for(request, "pull", "push")
    return repository, registry_of(request).uploads.get(repository.name, request.match_info["uuid"])


async def upload_status(request: web.Request) -> web.Response:
    repository, upload = _upload(request)
    return _session(request, repository, upload, 204)


async def cancel_upload(request: web.Request) -> web.Response:
    _, upload = _upload(request)
    registry_of(request).uploads.finish(upload)
    return web.Response(status=204)


async def patch_upload(request: web.Request) -> web.Response:
    """PATCH: a chunk in order, or a stream without a range."""
    repository, upload = _upload(request)
    require_writes(request)
    async with upload.lock:
        _check_order(request, repository, upload)
        await upload.append(_body(request), await _allowance(request, repository))
    return _session(request, repository, upload, 202)


def _check_order(request: web.Request, repository: Repository, upload: Upload) -> None:
    """Chunks come in order and without gaps (distribution-spec, "Pushing a blob in chunks")."""
    header = request.headers.get("Content-Range")
    if not header:
        return
    match = re.fullmatch(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?", header.strip())
    length = request.content_length
    if match is None:
        raise RegistryError(
            "RANGE_INVALID", header, headers=_session_headers(request, repository, upload)
        )
    first, last = int(match[1]), int(match[2])
    if first != upload.offset or (length is not None and last - first + 1 != length):
        headers = _session_headers(request, repository, upload)
        raise RegistryError("RANGE_INVALID", header, headers=headers)


async def _allowance(
    request: web.Request, repository: Repository, digest: Digest | None = None
) -> int | None:
    """Most bytes an upload may have; None: any number, also of a blob that is here already."""
    limit = registry_of(request).quota(repository.name)
    if not limit or (digest is not None and await repository.has_blob(digest)):
        return None
    return max(limit - await repository.size(), 0)


def _pushing(registry: Registry, repository: Repository) -> AbstractAsyncContextManager[None]:
    """Held while a blob is linked; where bytes are counted, by one at a time."""
    guard = registry.content.guard
    return guard.alone() if registry.quota(repository.name) else guard.together()


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(CHUNK):
        registry_of(request).metrics.received(len(chunk))
        yield chunk


async def put_upload(request: web.Request) -> web.Response:
    """PUT: the last bytes (maybe none) and the digest of the whole."""
    repository, upload = _upload(request)
    require_writes(request)
    digest = request.query.get("digest")
    if not digest:
        raise RegistryError("DIGEST_INVALID", message="digest parameter missing")
    return await _finish(request, repository, upload, check_digest(digest))


async def _finish(
    request: web.Request, repository: Repository, upload: Upload, digest: Digest
) -> web.Response:
    registry = registry_of(request)
    async with upload.lock:
        _check_order(request, repository, upload)
        allowance = await _allowance(request, repository, digest)
        size = await upload.append(_body(request), allowance)
        await upload.verify(digest)
        async with _pushing(registry, repository):
            if allowance is not None:
                await _within_quota(request, repository, digest, size)
            if not await registry.content.has_blob(digest):
                await registry.content.storage.adopt(upload.data, blob_key(digest))
            await repository.link_blob(digest)
        registry.uploads.finish(upload)
    registry.webhooks.blob("push", request, repository.name, digest, size)
    return _created(request, repository, digest)


def routes() -> list[web.RouteDef]:
    name = r"/v2/{name:.+}"
    return [
        web.post(name + "/blobs/uploads/", start_upload),
        web.post(name + "/blobs/uploads", start_upload),
        web.get(name + "/blobs/uploads/{uuid}", upload_status),
        web.patch(name + "/blobs/uploads/{uuid}", patch_upload),
        web.put(name + "/blobs/uploads/{uuid}", put_upload),
        web.delete(name + "/blobs/uploads/{uuid}", cancel_upload),
        web.get(name + "/blobs/{digest}", get_blob),
        web.delete(name + "/blobs/{digest}", delete_blob),
    ]
