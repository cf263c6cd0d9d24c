"""Exporters: every interval the newest samples are encoded and put into a delivery queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from portside.model.errors import InvalidParameter
from portside.monitor.collector import Collector, Group
from portside.monitor.delivery_queue import DeliveryQueue, Rejected
from portside.monitor.exporters import (
    cadvisor_documents,
    influxdb_lines,
    otlp_metrics,
    statsd_datagrams,
)
from portside.monitor.samples import View, view
from portside.monitor.settings import Endpoint, seconds

if TYPE_CHECKING:
    from redis.asyncio import Redis

KINDS = ("otlp", "influxdb", "influxdb2", "statsd", "jsonlines", "redis")
_BYTES = 32 << 20
"""Bytes that wait for one host at most."""


def check(endpoint: Endpoint) -> None:
    """Raise InvalidParameter for an exporter that cannot work."""
    if endpoint.kind not in KINDS:
        raise InvalidParameter(f"exporter: unknown kind {endpoint.kind!r}: use {', '.join(KINDS)}")
    scheme = endpoint.url.partition("://")[0] if "://" in endpoint.url else ""
    wanted = {"statsd": ("udp",), "redis": ("redis", "rediss", "unix"),
              "jsonlines": ("",)}.get(endpoint.kind, ("http", "https"))  # fmt: skip
    if scheme not in wanted:
        forms = " or ".join(f"{name}://" if name else "a path" for name in wanted)
        raise InvalidParameter(
            f"exporter {endpoint.kind}: {endpoint.url!r} does not begin with {forms}"
        )
    if endpoint.kind == "influxdb2" and not endpoint.organization:
        raise InvalidParameter("exporter influxdb2: organization is missing (use --config)")
    if not 0.1 <= seconds(endpoint.interval) <= 86400:
        raise InvalidParameter(f"exporter {endpoint.kind}: interval must be 100ms to 24h")
    if not 1 <= endpoint.queue <= 1_000_000:
        raise InvalidParameter(f"exporter {endpoint.kind}: queue must be 1 to 1000000")


class Exporter:
    """One endpoint."""

    def __init__(self, endpoint: Endpoint, collector: Collector) -> None:
        check(endpoint)
        self.endpoint, self._collector = endpoint, collector
        name = f"{endpoint.kind} {_without_password(endpoint.url)}"
        self.queue = DeliveryQueue(name, self._sender(), endpoint.queue, _BYTES)
        self._last: dict[str, int] = {}
        self._session: aiohttp.ClientSession | None = None
        self._socket: socket.socket | None = None
        self._redis: Redis | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _sender(self) -> Any:
        kinds = {"statsd": self._datagrams, "jsonlines": self._append, "redis": self._push}
        return kinds.get(self.endpoint.kind, self._post)

    async def start(self) -> None:
        if self.queue._send == self._post:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=seconds(self.endpoint.timeout))
            )
        self.queue.start()
        self._tasks = [asyncio.get_running_loop().create_task(self._run())]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(seconds(self.endpoint.interval))
            for batch in self.encode(self.newest()):
                self.queue.put(batch)

    def newest(self) -> list[tuple[Group, View]]:
        """The last sample of each group that has one since the last time."""
        found, seen = [], {}
        for name, group in self._collector.groups.items():
            sample = group.history.last
            if sample is None or (self.endpoint.containers_only and not group.container):
                continue
            seen[name] = sample.time_ns
            if self._last.get(name) != sample.time_ns:
                found.append((group, view(sample)))
        self._last = seen
        return found

    def encode(self, found: list[tuple[Group, View]]) -> list[bytes]:
        """Batches for the queue."""
        if not found:
            return []
        kind = self.endpoint.kind
        if kind == "otlp":
            return [otlp_metrics.request(found)]
        if kind in ("influxdb", "influxdb2"):
            return [influxdb_lines.lines(found)]
        if kind == "statsd":
            # each batch is one datagram: lengths are not kept in the queue
            return statsd_datagrams.datagrams(found, self.endpoint.prefix)
        return [b"\n".join(cadvisor_documents.documents(found, self._collector.settings)) + b"\n"]

    # -- sending -----------------------------------------------------------------------------

    def target(self) -> tuple[str, dict[str, str]]:
        """URL and headers of a POST."""
        endpoint = self.endpoint
        url, headers = endpoint.url.rstrip("/"), dict(endpoint.headers)
        if endpoint.kind == "otlp":
            headers["Content-Type"] = "application/json"
            if not urlsplit(url).path.strip("/"):
                url += "/v1/metrics"
        elif endpoint.kind == "influxdb":
            url += f"/write?db={endpoint.database}&precision=ns"
            if endpoint.user:
                basic = aiohttp.BasicAuth(endpoint.user, endpoint.password)
                headers["Authorization"] = basic.encode()
        else:
            url += f"/api/v2/write?org={endpoint.organization}"
            url += f"&bucket={endpoint.database}&precision=ns"
            headers["Authorization"] = f"Token {endpoint.token}"
        if endpoint.kind == "otlp" and endpoint.token:
            headers["Authorization"] = f"Bearer {endpoint.token}"
        return url, headers

    async def _post(self, batch: bytes) -> None:
        assert self._session is not None
        url, headers = self.target()
        try:
            async with self._session.post(url, data=batch, headers=headers) as answer:
                text = (await answer.content.read(300)).decode(errors="replace")
                if 400 <= answer.status < 500 and answer.status not in (401, 403, 404, 408, 429):
                    raise Rejected(f"status {answer.status}: {text}")
                if answer.status >= 300:
                    raise OSError(f"status {answer.status}: {text[:100]}")
        except aiohttp.ClientError as err:
            raise OSError(str(err) or type(err).__name__) from err

    async def _datagrams(self, batch: bytes) -> None:
        parts = urlsplit(self.endpoint.url)
        if self._socket is None:
            loop = asyncio.get_running_loop()
            family, _, _, _, address = (
                await loop.getaddrinfo(parts.hostname or "", parts.port or 8125,
                                       type=socket.SOCK_DGRAM)
            )[0]  # fmt: skip
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(address)
            self._socket = sock
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, batch)
        except ConnectionRefusedError:
            # an ICMP message for an earlier datagram: nobody listens
            raise OSError("nobody listens there") from None

    async def _append(self, batch: bytes) -> None:
        await asyncio.to_thread(self._write, batch)

    def _write(self, batch: bytes) -> None:
        """A whole batch or none of it: a full disk must not leave half a line."""
        path = Path(self.endpoint.url)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size + len(batch) > self.endpoint.max_size:
                path.rename(f"{path}.1")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                written = os.write(fd, batch)
                if written < len(batch):
                    raise OSError(28, "no space left on device")
            except OSError:
                os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)

    async def _push(self, batch: bytes) -> None:
        import redis.exceptions
        from redis.asyncio import Redis

        if self._redis is None:
            self._redis = Redis.from_url(
                self.endpoint.url, socket_timeout=seconds(self.endpoint.timeout),
                username=self.endpoint.user or None, password=self.endpoint.password or None,
            )  # fmt: skip
        try:
            await self._redis.lpush(self.endpoint.database, *batch.splitlines())  # type: ignore[misc]
        except redis.exceptions.ResponseError as err:
            raise Rejected(str(err)) from err
        except redis.exceptions.RedisError as err:
            raise OSError(str(err)) from err

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.queue.stop()
        if self._session is not None:
            await self._session.close()
        if self._socket is not None:
            self._socket.close()
        if self._redis is not None:
            await self._redis.aclose()


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://{tail}" if at else url
