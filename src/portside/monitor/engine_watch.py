"""The engine's data about containers (names, images, labels, health, limits) and its events.

A thread of its own with the Engine API's client. Without an engine it tries again, from a
second to half a minute apart; what was known stays known.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from portside.client.client import Client, filters_text, path_of
from portside.client.config import ClientConfig
from portside.client.endpoint import Endpoint, choose, default_socket
from portside.client.http import Response
from portside.model.counted import counted
from portside.model.errors import PortsideError
from portside.model.golang.timestamps import rfc3339_or_zero

_LOG = logging.getLogger("portside.monitor")
SOCKETS = ("/run/portside/portside.sock", "/var/run/portside/portside.sock",
           "/var/run/docker.sock")  # fmt: skip
_LOOK_AGAIN = frozenset(
    ("create", "start", "restart", "die", "stop", "kill", "pause", "unpause", "rename", "update",
     "oom", "connect", "disconnect")
)  # fmt: skip
_FIRST, _LONGEST = 1.0, 30.0
"""Seconds between attempts to reach an engine."""


class ContainerFacts(msgspec.Struct, frozen=True):
    """One container as its engine describes it."""

    id: str
    name: str
    """Without the leading slash."""
    image: str = ""
    labels: dict[str, str] = {}
    environment: dict[str, str] = {}
    state: str = ""
    """created, running, paused, restarting, exited, dead."""
    pid: int = 0
    """The first process's ID in the host's PID namespace; 0 while the container does not run."""
    created_ns: int = 0
    started_ns: int = 0
    restarts: int = 0
    health: str = ""
    """starting, healthy, unhealthy; empty without a health check."""
    exit_code: int = 0
    oom_killed: bool = False
    network_mode: str = ""
    upper: str = ""
    """The directory of its writable layer on the host."""
    volumes: tuple[str, ...] = ()
    """Directories of its volumes on the host."""
    cgroup_parent: str = ""
    """The group its own is made in; empty for the engine's usual one."""
    ports: tuple[str, ...] = ()
    """As ``8080->80/tcp``."""

    @property
    def shares_network(self) -> bool:
        """The container uses the interfaces of the host or of another container."""
        return self.network_mode == "host" or self.network_mode.startswith("container:")


class EngineEvent(msgspec.Struct, frozen=True):
    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time_ns: int


class EngineVersion(msgspec.Struct, frozen=True):
    version: str = ""
    api: str = ""
    root: str = ""
    """The engine's data root."""
    name: str = ""
    driver: str = ""


def endpoint_of(address: str, rootfs: str = "") -> Endpoint:
    """The configured engine, or the first one whose socket exists: the user's own before the
    system's, and one that this user may use before one that he may not."""
    if address or os.environ.get("DOCKER_HOST"):
        return choose(ClientConfig(), host=address)
    usual = default_socket()
    own = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else ""
    places = [usual, *([f"{own}/docker.sock"] if own else []), *SOCKETS]
    places += [f"{rootfs}{path}" for path in SOCKETS if rootfs]
    found = [path for path in places if os.path.exists(path)]
    allowed = (path for path in found if os.access(path, os.W_OK))
    return Endpoint(f"unix://{next(allowed, found[0] if found else usual)}")


def facts_of(found: dict[str, Any]) -> ContainerFacts:
    """From the answer of ``GET /containers/{id}/json``."""
    config, host = found.get("Config") or {}, found.get("HostConfig") or {}
    state = found.get("State") or {}
    pairs = (entry.partition("=") for entry in config.get("Env") or ())
    graph = (found.get("GraphDriver") or {}).get("Data") or {}
    mounts = found.get("Mounts") or ()
    return ContainerFacts(
        id=found["Id"],
        name=str(found.get("Name", "")).lstrip("/"),
        image=config.get("Image") or found.get("Image", ""),
        labels=config.get("Labels") or {},
        environment={name: value for name, _, value in pairs},
        state=state.get("Status", ""),
        pid=int(state.get("Pid") or 0),
        created_ns=rfc3339_or_zero(found.get("Created", "")),
        started_ns=rfc3339_or_zero(state.get("StartedAt", "")),
        restarts=int(found.get("RestartCount") or 0),
        health=(state.get("Health") or {}).get("Status", "").replace("none", ""),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        network_mode=host.get("NetworkMode", ""),
        cgroup_parent=host.get("CgroupParent", ""),
        upper=graph.get("UpperDir", ""),
        volumes=tuple(m["Source"] for m in mounts if m.get("Type") == "volume" and m.get("Source")),
        ports=tuple(_ports((found.get("NetworkSettings") or {}).get("Ports") or {})),
    )


def _ports(ports: dict[str, Any]) -> Iterator[str]:
    for inside, bindings in ports.items():
        for binding in bindings or ():
            yield f"{binding.get('HostPort', '')}->{inside}"


class Listener:
    """The functions that the watch calls, from its thread."""

    def __init__(
        self,
        known: Callable[[ContainerFacts], None],
        forgotten: Callable[[str], None],
        happened: Callable[[EngineEvent], None],
        reached: Callable[[EngineVersion | None, frozenset[str]], None],
    ) -> None:
        self.known, self.forgotten = known, forgotten
        self.happened, self.reached = happened, reached


class EngineWatch:
    """Follows one engine until :meth:`stop`."""

    def __init__(self, address: str, rootfs: str, listener: Listener) -> None:
        self._address, self._rootfs, self._listener = address, rootfs, listener
        self._stopped = threading.Event()
        self._stream: Response | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it does not keep the process."""
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            from portside.monitor.engine_questions import shut_down

            shut_down(stream)

    def client(self) -> Client:
        """A client of this engine, for a single caller."""
        return Client(endpoint_of(self._address, self._rootfs))

    def _run(self) -> None:
        pause = _FIRST
        was_reached = True
        while not self._stopped.is_set():
            try:
                self._follow()
                pause = _FIRST
            except (PortsideError, OSError, ValueError, KeyError, TypeError) as err:
                if was_reached and not self._stopped.is_set():
                    _LOG.warning("engine: %s; continuing without it", err)
                was_reached = False
            else:
                was_reached = True
            self._listener.reached(None, frozenset())
            self._stopped.wait(pause)
            pause = min(pause * 2, _LONGEST)

    def _follow(self) -> None:
        """Learn all containers, then follow the events until the connection ends."""
        client = self.client()
        types = filters_text({"type": ["container", "network"]})
        self._stream = stream = Client(client.endpoint).request(
            "GET", "/events", {"filters": types}
        )
        listed = client.get("/containers/json", {"all": True})
        for entry in listed:
            self._look(client, entry["Id"])
        info = client.get("/info")
        version = EngineVersion(
            version=str(info.get("ServerVersion", "")),
            api=str(client.get("/version").get("ApiVersion", "")),
            root=str(info.get("DockerRootDir", "")),
            name=str(info.get("Name", "")),
            driver=str(info.get("Driver", "")),
        )
        self._listener.reached(version, frozenset(entry["Id"] for entry in listed))
        _LOG.info(
            "engine: connected to %s, %s", client.endpoint.text, counted(len(listed), "containers")
        )
        try:
            for line in stream.lines():
                self._event(client, msgspec.json.decode(line))
                if self._stopped.is_set():
                    return
        finally:
            self._stream = None
            stream.close()

    def _look(self, client: Client, identifier: str) -> None:
        """Inspect one container, which may have been removed already."""
        from portside.client.errors import Refused

        try:
            found = client.get(path_of("containers", identifier, "json"))
        except Refused as err:
            if err.status == 404:
                self._listener.forgotten(identifier)
            return
        self._listener.known(facts_of(found))

    def _event(self, client: Client, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        action = str(event.get("Action", ""))
        kind = str(event.get("Type", ""))
        identifier = str(actor.get("ID", ""))
        if kind == "network":
            identifier = str(attributes.get("container", ""))
        reported = EngineEvent(kind, action, identifier, attributes, int(event.get("timeNano", 0)))
        if action == "destroy":
            self._listener.happened(reported)
            self._listener.forgotten(identifier)
            return
        if identifier and (action in _LOOK_AGAIN or action.startswith("health_status")):
            self._look(client, identifier)
        self._listener.happened(reported)
