"""Event notifications: distribution's envelopes, posted to the configured endpoints.

Each endpoint has its own bounded queue and task: a dead endpoint costs the
registry nothing but the oldest events, and the loss is logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import deque
from typing import Any

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from portside.model.digest import Digest
from portside.registry.server.auth import ANONYMOUS
from portside.registry.server.config import Endpoint, seconds
from portside.registry.server.manifests import Parsed
from portside.registry.server.request_context import IDENTITY, own_url

_LOG = logging.getLogger("portside.registry")
_MEDIA_TYPE = "application/vnd.docker.distribution.events.v1+json"
_QUEUE = 10_000
"""Events kept for one endpoint that does not answer."""


class _Sender:
    """Posts events to one endpoint in order, again and again until each is taken."""

    def __init__(self, endpoint: Endpoint, session: ClientSession) -> None:
        self._endpoint = endpoint
        self._session = session
        self._queue: deque[dict[str, Any]] = deque()
        self._some = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, event: dict[str, Any]) -> None:
        ignore = self._endpoint.ignore
        kinds = (*self._endpoint.ignoredmediatypes, *ignore.mediatypes)
        if event["action"] in ignore.actions or event["target"].get("mediaType") in kinds:
            return
        if len(self._queue) >= _QUEUE:
            self._queue.popleft()
            _LOG.warning("webhook %s: queue full, oldest event dropped", self._endpoint.name)
        self._queue.append(event)
        self._some.set()

    async def _run(self) -> None:
        backoff = seconds(self._endpoint.backoff)
        failures = 0
        while True:
            if not self._queue:
                self._some.clear()
                await self._some.wait()
            if await self._post(self._queue[0]):
                self._queue.popleft()
                failures = 0
            else:
                failures += 1
                await asyncio.sleep(backoff if failures >= self._endpoint.threshold else 0.1)

    async def _post(self, event: dict[str, Any]) -> bool:
        headers = {name: ", ".join(values) for name, values in self._endpoint.headers.items()}
        headers["Content-Type"] = _MEDIA_TYPE
        timeout = ClientTimeout(total=seconds(self._endpoint.timeout))
        body = msgspec.json.encode({"events": [event]}, enc_hook=str)
        try:
            async with self._session.post(
                self._endpoint.url, data=body, headers=headers, timeout=timeout
            ) as answer:
                return 200 <= answer.status < 400
        except (ClientError, TimeoutError, OSError) as err:
            _LOG.debug("webhook %s: %s", self._endpoint.name, err)
            return False

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Webhooks:
    """All endpoints of one registry."""

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._endpoints = [endpoint for endpoint in endpoints if not endpoint.disabled]
        self._senders: list[_Sender] = []
        self._session: ClientSession | None = None
        self._source = {"addr": os.uname().nodename, "instanceID": str(uuid.uuid4())}

    async def start(self) -> None:
        if self._endpoints:
            self._session = session = ClientSession()
            self._senders = [_Sender(endpoint, session) for endpoint in self._endpoints]

    async def close(self) -> None:
        for sender in self._senders:
            await sender.close()
        if self._session is not None:
            await self._session.close()

    def manifest(
        self, action: str, request: web.Request, name: str, parsed: Parsed, tag: str | None
    ) -> None:
        target = _content(request, name, "manifests", parsed.digest, len(parsed.data))
        target["mediaType"] = parsed.media_type
        if tag:
            target["tag"] = tag
        self._send(action, request, target)

    def blob(
        self,
        action: str,
        request: web.Request,
        name: str,
        digest: Digest,
        size: int,
        source: str = "",
    ) -> None:
        target = _content(request, name, "blobs", digest, size)
        if source:
            target["fromRepository"] = source
        self._send(action, request, target)

    def deleted(self, request: web.Request, name: str, reference: str | Digest) -> None:
        key = "digest" if isinstance(reference, Digest) else "tag"
        self._send("delete", request, {key: reference, "repository": name})

    def _send(self, action: str, request: web.Request, target: dict[str, Any]) -> None:
        if not self._senders:
            return
        now = time.time()
        fraction = f"{now % 1:.9f}"[1:]
        event = {
            "id": str(uuid.uuid4()),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + fraction + "Z",
            "action": action,
            "target": target,
            "request": {
                "id": str(uuid.uuid4()),
                "addr": _peer(request),
                "host": request.host,
                "method": request.method,
                "useragent": request.headers.get("User-Agent", ""),
            },
            "actor": {}
            if request[IDENTITY].user == ANONYMOUS
            else {"name": request[IDENTITY].user},
            "source": self._source,
        }
        for sender in self._senders:
            sender.put(event)


def _content(
    request: web.Request, name: str, kind: str, digest: Digest, size: int
) -> dict[str, Any]:
    return {
        "mediaType": "application/octet-stream",
        "size": size,
        "length": size,
        "digest": digest,
        "repository": name,
        "url": f"{own_url(request)}/v2/{name}/{kind}/{digest}",
    }


def _peer(request: web.Request) -> str:
    """The sender's address and port."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(peer, tuple):
        return request.remote or ""
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
