"""Uploading a blob: skipped when present, mounted from a neighbour, else sent and resumed."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from enum import Enum

from portside.registry.client.errors import BadRedirect, RegistryError, Unreachable
from portside.registry.client.repository import Repository, pull_scope, push_scope, upload_path
from portside.registry.client.transport import pause, wait_before_retry

Source = Callable[[int], AsyncIterator[bytes]]
"""Opens a blob's bytes from an offset; called again when an upload is resumed."""
Sent = Callable[[int], None]
"""Called with the number of bytes sent to the registry so far."""


class Outcome(Enum):
    """How a blob came to be in the repository."""

    EXISTED = "existed"
    MOUNTED = "mounted"
    PUSHED = "pushed"


async def upload(
    repository: Repository,
    digest: str,
    size: int,
    source: Source,
    *,
    neighbours: tuple[str, ...] = (),
    sent: Sent = lambda _: None,
) -> Outcome:
    """Bring a blob into a repository.

    ``neighbours`` are repositories of the same registry that may have it already. Raises
    RegistryError, Unreachable, NoCredentials.
    """
    if await repository.has_blob(digest) is not None:
        return Outcome.EXISTED
    for neighbour in neighbours:
        if await _mount(repository, digest, neighbour):
            return Outcome.MOUNTED
    await _send(repository, digest, size, source, sent)
    return Outcome.PUSHED


async def _mount(repository: Repository, digest: str, neighbour: str) -> bool:
    """Ask for a cross-repository mount; returns whether the registry made it. An upload
    that the registry opened instead is cancelled."""
    connection = repository.connection
    try:
        async with connection.request(
            "POST",
            f"{repository.path}/blobs/uploads/",
            query={"mount": digest, "from": neighbour},
            expect=(201, 202),
            scopes=(push_scope(repository.path), pull_scope(neighbour)),
        ) as response:
            if response.status == 201:
                return True
            location = response.headers.get("Location", "")
    except RegistryError:
        return False  # the neighbour may not be ours to read: then the bytes are sent
    await _cancel(repository, location)
    return False


async def _cancel(repository: Repository, location: str) -> None:
    try:
        async with repository.connection.request(
            "DELETE", upload_path(location), expect=(200, 202, 204), retry=False
        ):
            pass
    except (RegistryError, Unreachable):
        pass  # the registry purges abandoned uploads itself


async def _begin(repository: Repository) -> str:
    async with repository.connection.request(
        "POST", f"{repository.path}/blobs/uploads/", expect=(202,)
    ) as response:
        return upload_path(response.headers.get("Location", ""))


async def _send(repository: Repository, digest: str, size: int, source: Source, sent: Sent) -> None:
    """PATCH the bytes and PUT the digest; a broken upload continues where the registry is."""
    options = repository.connection.transport.options
    location, offset, attempt = await _begin(repository), 0, 0
    while True:
        try:
            if offset < size:
                location = await _patch(repository, location, offset, size, source, sent)
            await _finish(repository, location, digest)
            return
        except (RegistryError, Unreachable) as err:
            if isinstance(err, BadRedirect):
                raise
            if (
                isinstance(err, RegistryError)
                and err.status not in (404, 408, 416, 429)
                and (err.status < 500)
            ):
                raise
            delay = wait_before_retry(attempt, None, options.retry_delay)
            if delay is None or attempt + 1 >= options.max_download_attempts:
                raise
            await pause(delay)
            attempt += 1
            location, offset = await _resume(repository, location)


async def _patch(
    repository: Repository, location: str, offset: int, size: int, source: Source, sent: Sent
) -> str:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size - offset),
    }
    if offset:
        headers["Content-Range"] = f"{offset}-{size - 1}"

    async def body() -> AsyncIterator[bytes]:
        done = offset
        async for chunk in source(offset):
            yield chunk
            done += len(chunk)
            sent(done)

    async with repository.connection.request(
        "PATCH", location, headers=headers, body=body, expect=(200, 202, 204), retry=False
    ) as response:
        return upload_path(response.headers.get("Location", location))


async def _finish(repository: Repository, location: str, digest: str) -> None:
    async with repository.connection.request(
        "PUT",
        location,
        query={"digest": digest},
        headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
        body=lambda: b"",
        expect=(200, 201, 204),
        retry=False,
    ):
        pass


async def _resume(repository: Repository, location: str) -> tuple[str, int]:
    """The address and offset of an upload; an upload the registry does not know starts again."""
    try:
        async with repository.connection.request(
            "GET", location, expect=(200, 202, 204), retry=False
        ) as response:
            received = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
            where = upload_path(response.headers.get("Location", location))
    except (RegistryError, Unreachable):
        return await _begin(repository), 0
    if received is None:
        return await _begin(repository), 0
    last = int(received[1])
    # "0-0" means one byte or none: registries differ, so such an upload starts again.
    return (where, last + 1) if last else (await _begin(repository), 0)
