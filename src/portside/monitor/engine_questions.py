"""What the page shows of one container: its configuration, and its log as it grows.

Asked in threads, because the Engine API's client blocks. Environment variables are never shown:
they hold passwords.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from portside.client.client import Client, path_of
from portside.client.errors import Refused
from portside.client.framed_lines import Lines
from portside.client.http import Response
from portside.model.errors import NotFound, PortsideError, Unavailable

MOST_LOGS = 20
"""Logs followed at the same time: each needs a thread and a connection."""
MOST_TAIL = 5000
_LONGEST_LINE = 16 << 10
_BATCH = 500
"""Lines of one message."""
_HEALTH_TEXT = 4096


class Named(msgspec.Struct, frozen=True):
    """A setting and its value, as text."""

    name: str
    value: str


class MountRow(msgspec.Struct, frozen=True):
    type: str
    source: str
    """Volume's name, or a path on the host."""
    target: str
    writable: bool


class PortRow(msgspec.Struct, frozen=True):
    container: str
    """As ``80/tcp``."""
    host: str
    """Address and port; empty: exposed, not published."""


class LayerRow(msgspec.Struct, frozen=True):
    digest: str
    size: int
    """Bytes; -1: not known."""
    created_by: str


class Probe(msgspec.Struct, frozen=True):
    """One run of the health check."""

    start: str
    end: str
    exit_code: int
    output: str


class ContainerPage(msgspec.Struct, frozen=True):
    """One container as the page shows it."""

    id: str
    name: str
    settings: list[Named]
    limits: list[Named]
    mounts: list[MountRow]
    ports: list[PortRow]
    networks: list[Named]
    layers: list[LayerRow]
    health: str
    failing: int
    probes: list[Probe]


_LIMITS = (
    ("Memory", "Memory", "bytes"),
    ("MemorySwap", "Memory and swap", "bytes"),
    ("MemoryReservation", "Memory reservation", "bytes"),
    ("NanoCpus", "Processors", "nano"),
    ("CpuQuota", "CPU quota", "us"),
    ("CpuShares", "CPU shares", ""),
    ("CpusetCpus", "Processors allowed", ""),
    ("PidsLimit", "Processes and threads", ""),
    ("BlkioWeight", "Block I/O weight", ""),
    ("OomKillDisable", "OOM kill disabled", ""),
)
"""Key in HostConfig, label, unit."""


def _limits(host: dict[str, Any]) -> list[Named]:
    from portside.model.golang.sizes import binary_size

    found = []
    for key, label, unit in _LIMITS:
        value = host.get(key)
        if not value or value == -1:
            continue
        text = str(value)
        if unit == "bytes":
            text = re.sub(r"(?<=\d)(?=[A-Z])", " ", binary_size(value))  # as the page writes sizes
        elif unit == "nano":
            text = f"{value / 1e9:g}"
        elif unit == "us":
            text = f"{value} µs of {host.get('CpuPeriod') or 100_000} µs"
        found.append(Named(label, text))
    for entry in host.get("Ulimits") or ():
        found.append(Named(f"ulimit {entry['Name']}", f"{entry['Soft']} : {entry['Hard']}"))
    return found


def _settings(found: dict[str, Any], config: dict[str, Any], host: dict[str, Any]) -> list[Named]:
    policy = host.get("RestartPolicy") or {}
    retries = policy.get("MaximumRetryCount") or 0
    restart = policy.get("Name") or "no"
    values = (
        ("Image", config.get("Image", "")),
        ("Image ID", found.get("Image", "")),
        ("Entrypoint", _words(config.get("Entrypoint"))),
        ("Command", _words(config.get("Cmd"))),
        ("Working directory", config.get("WorkingDir", "")),
        ("User", config.get("User") or "root"),
        ("Host name", config.get("Hostname", "")),
        ("Created", found.get("Created", "")),
        ("Restart policy", f"{restart}:{retries}" if retries else restart),
        ("Network mode", host.get("NetworkMode", "")),
        ("Log driver", (host.get("LogConfig") or {}).get("Type", "")),
        ("Runtime", host.get("Runtime", "")),
        ("Read-only root", "yes" if host.get("ReadonlyRootfs") else ""),
        ("Privileged", "yes" if host.get("Privileged") else ""),
    )
    return [Named(name, str(value)) for name, value in values if value]


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _ports(found: dict[str, Any]) -> list[PortRow]:
    rows = []
    ports: dict[str, list[dict[str, str]]]
    ports = (found.get("NetworkSettings") or {}).get("Ports") or {}
    for inside, bindings in ports.items():
        for binding in bindings or [{}]:
            address = binding.get("HostIp", "")
            address = f"[{address}]" if ":" in address else address
            port = binding.get("HostPort", "")
            rows.append(PortRow(inside, f"{address}:{port}" if port else ""))
    return rows


def _networks(found: dict[str, Any]) -> list[Named]:
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    rows = []
    for name, entry in networks.items():
        addresses = (entry.get("IPAddress"), entry.get("GlobalIPv6Address"))
        rows.append(Named(name, ", ".join(filter(None, addresses))))
    return rows


def _layers(client: Client, image: str) -> list[LayerRow]:
    """The image's layers, lowest first, with sizes where its history has one entry for each."""
    try:
        found = client.get(path_of("images", image, "json"))
        past = client.get(path_of("images", image, "history"))
    except PortsideError:
        return []  # the image was removed
    digests = (found.get("RootFS") or {}).get("Layers") or ()
    steps = [step for step in reversed(past) if step.get("Size")]
    if len(steps) != len(digests):
        return [LayerRow(digest, -1, "") for digest in digests]
    return [
        LayerRow(digest, step["Size"], str(step.get("CreatedBy", ""))[:500])
        for digest, step in zip(digests, steps, strict=True)
    ]


def container_page(client: Client, identifier: str) -> ContainerPage:
    """Everything about one container; raises PortsideError."""
    found = client.get(path_of("containers", identifier, "json"))
    config, host = found.get("Config") or {}, found.get("HostConfig") or {}
    health = (found.get("State") or {}).get("Health") or {}
    return ContainerPage(
        id=found["Id"],
        name=str(found.get("Name", "")).lstrip("/"),
        settings=_settings(found, config, host),
        limits=_limits(host),
        mounts=[
            MountRow(
                str(mount.get("Type", "")),
                str(mount.get("Name") or mount.get("Source", "")),
                str(mount.get("Destination", "")),
                bool(mount.get("RW")),
            )
            for mount in found.get("Mounts") or ()
        ],
        ports=_ports(found),
        networks=_networks(found),
        layers=_layers(client, found.get("Image", "")),
        health=str(health.get("Status", "")),
        failing=int(health.get("FailingStreak") or 0),
        probes=[
            Probe(
                str(probe.get("Start", "")),
                str(probe.get("End", "")),
                int(probe.get("ExitCode") or 0),
                str(probe.get("Output", ""))[:_HEALTH_TEXT],
            )
            for probe in health.get("Log") or ()
        ],
    )


def explanation(client: Client, identifier: str) -> Any:
    """``portside explain`` as JSON; other engines than Portside have none."""
    try:
        return client.get(path_of("portside", "containers", identifier, "explain"))
    except Refused as err:
        if err.status != 404:
            raise
        client.get(path_of("containers", identifier, "json"))  # raises when there is none
        raise NotFound("explain is not supported by this engine, only by Portside") from err


def shut_down(response: Response) -> None:
    """Wake a thread that reads a stream: closing the descriptor alone does not."""
    try:
        with socket.socket(fileno=os.dup(response.fileno())) as held:
            held.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class LogTail:
    """Follows one container's log in a thread; read it with ``async for``.

    The thread waits while nobody takes what it read, so a slow reader costs no memory.
    """

    open_now = 0

    def __init__(self, client: Callable[[], Client], identifier: str, tail: int) -> None:
        self._client, self._identifier, self._tail = client, identifier, tail
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[tuple[str, bool]] | Exception | None] = asyncio.Queue(4)
        self._stream: Response | None = None
        self._closed = threading.Event()

    async def lines(self) -> AsyncIterator[list[tuple[str, bool]]]:
        """Batches of lines, with whether each is of standard error; raises PortsideError."""
        if LogTail.open_now >= MOST_LOGS:
            raise Unavailable(f"{MOST_LOGS} logs are being followed already")
        LogTail.open_now += 1
        threading.Thread(target=self._run, name="log", daemon=True).start()
        try:
            while (found := await self._queue.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            LogTail.open_now -= 1
            self.close()

    def close(self) -> None:
        self._closed.set()
        if self._stream is not None:
            shut_down(self._stream)
        while not self._queue.empty():  # a thread that waits for room continues, and ends
            self._queue.get_nowait()

    def _put(self, value: list[tuple[str, bool]] | Exception | None) -> None:
        if self._closed.is_set():
            raise ConnectionError
        asyncio.run_coroutine_threadsafe(self._queue.put(value), self._loop).result()

    def _run(self) -> None:
        try:
            self._read()
            self._put(None)
        except ConnectionError:
            return
        except (PortsideError, OSError, ValueError, KeyError) as err:
            problem = err if isinstance(err, PortsideError) else Unavailable(f"log: {err}")
            try:
                self._put(problem)
            except (ConnectionError, RuntimeError):
                return
        except RuntimeError:
            return  # the loop has ended

    def _read(self) -> None:
        client = self._client()
        found = client.get(path_of("containers", self._identifier, "json"))
        framed = not (found.get("Config") or {}).get("Tty")
        wanted = {"stdout": True, "stderr": True, "follow": True, "tail": self._tail}
        path = path_of("containers", self._identifier, "logs")
        self._stream = stream = client.request("GET", path, {**wanted})
        try:
            if self._closed.is_set():
                return
            splitter = Lines(framed, _LONGEST_LINE)
            for piece in stream.pieces():
                batch = list(splitter.feed(piece))
                for start in range(0, len(batch), _BATCH):
                    self._put(batch[start : start + _BATCH])
            if rest := list(splitter.end()):
                self._put(rest)
        finally:
            stream.close()
