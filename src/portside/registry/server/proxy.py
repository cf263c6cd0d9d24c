"""A pull-through mirror: what is asked for and not here is fetched from the upstream, kept
and served from then on. Tags are asked again each time; when the upstream does not answer,
what was kept is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

from portside.model.digest import Digest
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.registryauth import AuthConfig
from portside.registry.client.client import RegistryClient
from portside.registry.client.errors import RegistryError as UpstreamError
from portside.registry.client.options import HUB_HOST, RegistryOptions
from portside.registry.client.repository import Repository as Remote
from portside.registry.server import manifests
from portside.registry.server.config import Proxy
from portside.registry.server.content import Content, Repository, blob_key
from portside.registry.server.errors import RegistryError
from portside.registry.server.names import lexical
from portside.registry.server.uploads import Uploads

T = TypeVar("T")


class Upstream:
    """The registry behind a mirror; its requests for one digest are joined."""

    def __init__(self, proxy: Proxy, content: Content, uploads: Uploads) -> None:
        parts = urlsplit(proxy.remoteurl)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidParameter(f"proxy.remoteurl: {proxy.remoteurl!r} is not a URL of http(s)")
        insecure = (parts.netloc,) if parts.scheme == "http" else ()
        self._domain = "docker.io" if parts.netloc == HUB_HOST else parts.netloc
        self._client = RegistryClient(RegistryOptions(insecure=insecure))
        self._auth = AuthConfig(username=proxy.username, password=proxy.password)
        self._content = content
        self._uploads = uploads
        self._coming: dict[tuple[str, Digest], asyncio.Task[None]] = {}

    async def close(self) -> None:
        for task in (coming := list(self._coming.values())):
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        await self._client.close()

    async def manifest(self, repository: Repository, reference: str | Digest) -> None:
        """Fetch the manifest unless it is here; raises MANIFEST_UNKNOWN."""
        if isinstance(reference, Digest) and await _known(repository, reference):
            return

        async def fetch(remote: Remote) -> None:
            if not isinstance(reference, Digest):
                described = await remote.head_manifest(reference)
                if described is not None and await _known(repository, Digest(described.digest)):
                    await repository.set_tag(reference, Digest(described.digest))
                    return
            found = await remote.get_manifest(str(reference))
            parsed = manifests.parse(found.data, found.media_type, found.digest.algorithm)
            tags = () if isinstance(reference, Digest) else (reference,)
            async with self._content.guard.together():
                await repository.put_manifest(parsed, tags, complete=False)

        try:
            await self._client.on_repository(self._domain, repository.name, fetch, auth=self._auth)
        except UpstreamError as err:
            if err.is_missing:
                raise RegistryError("MANIFEST_UNKNOWN", f"unknown reference={reference}") from err
            await self._fall_back(repository, reference, err)
        except RegistryError:
            raise
        except PortsideError as err:
            await self._fall_back(repository, reference, err)

    async def _fall_back(
        self, repository: Repository, reference: str | Digest, err: PortsideError
    ) -> None:
        """Continue with the manifest that is here; without one, raise DENIED or UNAVAILABLE."""
        try:
            await repository.resolve(reference)
        except RegistryError:
            raise _refusal(err) from err

    async def blob(self, repository: Repository, digest: Digest) -> None:
        """Fetch the blob unless it is here; raises BLOB_UNKNOWN, DENIED or UNAVAILABLE.

        A request for a blob that is being fetched waits for it. The fetch goes to its end, so
        that an impatient client finds it the next time.
        """
        with suppress(RegistryError):
            await repository.blob(digest)
            return
        key = (repository.name, digest)
        task = self._coming.get(key)
        if task is None:
            fetch = self._ask(repository, lambda remote: self._fetch(repository, digest, remote))
            task = self._coming[key] = asyncio.create_task(fetch)
            task.add_done_callback(lambda done: self._arrived(key, done))
        await asyncio.shield(task)

    def _arrived(self, key: tuple[str, Digest], task: asyncio.Task[None]) -> None:
        del self._coming[key]
        if not task.cancelled():
            task.exception()  # other waiters raise it

    async def blob_size(self, repository: Repository, digest: Digest) -> int:
        """Bytes of a blob here or upstream, which is not fetched; raises as :meth:`blob`."""
        with suppress(RegistryError):
            return (await repository.blob(digest)).size
        size = await self._ask(repository, lambda remote: remote.has_blob(digest))
        if size is None:
            raise RegistryError("BLOB_UNKNOWN", {"digest": digest})
        if size < 0:  # unknown
            await self.blob(repository, digest)
            return (await repository.blob(digest)).size
        return size

    async def _ask(self, repository: Repository, work: Callable[[Remote], Awaitable[T]]) -> T:
        """Do some work about blobs on the upstream's repository; its errors are ours then."""
        try:
            return await self._client.on_repository(
                self._domain, repository.name, work, auth=self._auth
            )
        except UpstreamError as err:
            if err.is_missing:
                raise RegistryError("BLOB_UNKNOWN", message=f"upstream: {err}") from err
            raise _refusal(err) from err
        except RegistryError:
            raise
        except PortsideError as err:
            raise _refusal(err) from err

    async def _fetch(self, repository: Repository, digest: Digest, remote: Remote) -> None:
        if await self._content.has_blob(digest) and await remote.has_blob(digest) is not None:
            await repository.link_blob(digest)
            return
        upload = self._uploads.start(repository.name)
        try:
            async with remote.open_blob(digest) as (_, chunks):
                await upload.append(chunks)
            await upload.verify(digest)
            async with self._content.guard.together():
                await self._content.storage.adopt(upload.data, blob_key(digest))
                await repository.link_blob(digest)
        finally:
            self._uploads.finish(upload)

    async def tags(self, repository: Repository) -> list[str]:
        """All tags the upstream has; the tags kept here when the upstream does not answer."""
        try:
            found = await self._client.on_repository(
                self._domain, repository.name, Remote.tags, auth=self._auth
            )
        except UpstreamError as err:
            if err.is_missing:
                raise RegistryError("NAME_UNKNOWN", {"name": repository.name}) from err
            return await repository.tag_names()
        except PortsideError:
            return await repository.tag_names()
        return sorted(found, key=lexical)


def _refusal(err: PortsideError) -> RegistryError:
    """The error for the mirror's client; a retry helps only when nobody answered."""
    denied = isinstance(err, UpstreamError) and err.is_denied
    return RegistryError("DENIED" if denied else "UNAVAILABLE", message=f"upstream: {err}")


async def _known(repository: Repository, digest: Digest) -> bool:
    try:
        await repository.manifest(digest)
    except RegistryError:
        return False
    return True
