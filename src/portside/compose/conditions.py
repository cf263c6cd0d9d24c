"""Waiting for containers to be healthy, to run or to end: by the engine's events, no polling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from portside.client.client import filters_text, path_of
from portside.client.framed_lines import FRAMED, Lines
from portside.compose.engine_pool import EnginePool
from portside.compose.observed import Container
from portside.compose.requests import PROJECT
from portside.model.errors import PortsideError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STARTED, HEALTHY, COMPLETED = (
    "service_started", "service_healthy", "service_completed_successfully"
)  # fmt: skip
RUNNING_OR_HEALTHY = "running_or_healthy"
_LOG_LINES = 10


class ConditionFailed(PortsideError):
    """The condition can no longer become true."""


class TimedOut(PortsideError):
    """The condition has not become true in time."""


class ContainerWatch:
    """Follows the events of a project's containers from the first wait on."""

    def __init__(self, pool: EnginePool, project: str) -> None:
        self._pool, self._project = pool, project
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._begun = False
        self._broken: PortsideError | None = None

    def begin(self) -> None:
        """Subscribe; returns when the engine has noted it."""
        with self._changed:
            if self._begun:
                return
            self._begun = True
        client = self._pool._connect()
        filters = {"type": ["container"], "label": [f"{PROJECT}={self._project}"]}
        response = client.request("GET", "/events", {"filters": filters_text(filters)})
        threading.Thread(target=self._follow, args=(response,), daemon=True).start()

    def _follow(self, response: Any) -> None:
        from portside.model import jsontext

        try:
            for line in response.lines():
                event = jsontext.loads(line)
                identifier = (event.get("Actor") or {}).get("ID", "")
                with self._changed:
                    self._counts[identifier] = self._counts.get(identifier, 0) + 1
                    self._changed.notify_all()
            raise Unavailable("the engine ended while its containers were waited for")
        except PortsideError as err:
            with self._changed:
                self._broken = err
                self._changed.notify_all()

    def wait(
        self, container: str, judge: Callable[[dict[str, Any]], bool], deadline: float | None = None
    ) -> None:
        """Return when ``judge`` is true of the container's inspection; it is called again after
        each event. ``deadline`` is in time.monotonic(). Raises TimedOut, and what it raises."""
        self.begin()
        while True:
            with self._changed:
                seen = self._counts.get(container, 0)
            if judge(self._pool.get(path_of("containers", container, "json"))):
                return
            with self._changed:
                while self._counts.get(container, 0) == seen:
                    if self._broken is not None:
                        raise self._broken
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimedOut("timeout waiting for dependencies")
                    self._changed.wait(left)


def fulfil(
    pool: EnginePool, watch: ContainerWatch, containers: Iterable[Container], condition: str,
    service: str, deadline: float | None = None,
) -> None:  # fmt: skip
    """Wait until a service's containers meet a condition of ``depends_on``.

    Raises ConditionFailed with what is known about why, TimedOut.
    """
    judge = {
        HEALTHY: lambda found: _is_healthy(found, False),
        RUNNING_OR_HEALTHY: lambda found: _is_healthy(found, True),
        COMPLETED: lambda found: _is_completed(found, service),
    }[condition]
    for container in containers:
        try:
            watch.wait(container.id, judge, deadline)
        except ConditionFailed as err:
            raise ConditionFailed(f"{err}{_why(pool, container)}") from None


def _is_healthy(found: dict[str, Any], or_running: bool) -> bool:
    state, name = found["State"], found["Name"].removeprefix("/")
    if state["Status"] in ("exited", "dead"):
        raise ConditionFailed(f"container {name} exited ({state['ExitCode']})")
    health = state.get("Health")
    test = (found["Config"].get("Healthcheck") or {}).get("Test") or []
    if health is None or test[:1] == ["NONE"]:
        if or_running:
            return bool(state["Status"] == "running")
        if state["Status"] in ("created", "restarting"):
            return False  # the engine reports health once it runs
        raise ConditionFailed(f"container {name} has no healthcheck configured")
    if health["Status"] == "unhealthy":
        raise ConditionFailed(f"container {name} is unhealthy")
    return bool(health["Status"] == "healthy")


def _is_completed(found: dict[str, Any], service: str) -> bool:
    state = found["State"]
    if state["Status"] not in ("exited", "dead"):
        return False
    if state["ExitCode"]:
        raise ConditionFailed(
            f'service "{service}" didn\'t complete successfully: exit {state["ExitCode"]}'
        )
    return True


def _why(pool: EnginePool, container: Container) -> str:
    """The last probe's output and the last lines of output, each below the message."""
    try:
        path = path_of("containers", container.id)
        state = pool.get(f"{path}/json")["State"]
        text = ""
        probes = (state.get("Health") or {}).get("Log") or []
        if probes:
            output = str(probes[-1].get("Output", "")).strip()
            text += f"\n  last probe of {container.name}: exit {probes[-1].get('ExitCode')}"
            text += f": {output}" if output else ""
        query = {"stdout": True, "stderr": True, "tail": _LOG_LINES}
        with pool.client() as client:
            response = client.request("GET", f"{path}/logs", query)
            lines = Lines(response.headers.get("content-type") == FRAMED)
            data = response.read()
            found = [text for text, _ in (*lines.feed(data), *lines.end())][-_LOG_LINES:]
            client.release(response)
        if found:
            text += f"\n  last output of {container.name}:"
            text += "".join(f"\n    {line}" for line in found)
        return text
    except PortsideError:
        return ""
