"""Replacing the containers of a service in batches: ``deploy.update_config``.

A batch of ``parallelism`` containers (0: all) is replaced, each new container is watched until it
is healthy and for ``monitor``, and after ``delay`` comes the next batch. With the order
``start-first`` the old container runs until the new one does. What happens after a failure is
said by ``failure_action``: ``pause`` (no further batch), ``continue``, or ``rollback`` (the old
containers run again, which are kept until the end for that).
"""

from __future__ import annotations

import time

from portside.client.client import path_of
from portside.compose.actions import Actions
from portside.compose.compose_errors import ComposeError, user_message
from portside.compose.conditions import RUNNING_OR_HEALTHY, ConditionFailed, TimedOut, fulfil
from portside.compose.observed import Container
from portside.compose.progress_events import DONE, ERROR, WORKING
from portside.compose.requests import container_name
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NS = 10**9


class Rollout:
    """The replacement of one service's running containers."""

    def __init__(
        self, actions: Actions, service: str, replaced: list[Container], inherit: bool
    ) -> None:
        self._actions, self._service, self._replaced = actions, service, replaced
        self._inherit = inherit
        self._definition = actions.project.services[service]
        config = self._definition["deploy"]["update_config"]
        self._action = config.get("failure_action") or "pause"
        if self._action not in ("pause", "continue", "rollback"):
            raise ComposeError(
                f"services.{service}.deploy.update_config.failure_action: pause, continue or "
                f"rollback is expected, not {self._action!r}"
            )
        order = config.get("order") or "stop-first"
        if order not in ("stop-first", "start-first"):
            raise ComposeError(
                f"services.{service}.deploy.update_config.order: stop-first or start-first is "
                f"expected, not {order!r}"
            )
        self._starts_first = order == "start-first"
        parallelism = config.get("parallelism")
        self._size = (1 if parallelism is None else int(parallelism)) or len(replaced)
        self._delay = (config.get("delay") or 0) / _NS
        self._watched = (config.get("monitor") or 0) / _NS
        self._ratio = float(config.get("max_failure_ratio") or 0)
        self._kept: list[tuple[Container, Container]] = []
        """Old containers and the new ones in their places."""

    def perform(self) -> None:
        """Replace them all. Raises ComposeError when failures stopped it."""
        from concurrent.futures import ThreadPoolExecutor

        failed, waiting = 0, list(self._replaced)
        while waiting:
            batch, waiting = waiting[: self._size], waiting[self._size :]
            with ThreadPoolExecutor(len(batch)) as pool:
                errors = [error for error in pool.map(self._replace, batch) if error is not None]
            failed += len(errors)
            if errors and failed > self._ratio * len(self._replaced):
                self._failed(errors[0], len(waiting))
            if waiting and self._delay and not self._actions.dry_run:
                time.sleep(self._delay)
        for old, _ in self._kept:
            self._remove(old)

    def _failed(self, error: PortsideError, left: int) -> None:
        text = f"update of service {self._service} failed: {user_message(error)}"
        if self._action == "continue":
            self._actions.warn(text)
            return
        if self._action == "rollback":
            for old, made in self._kept:
                self._restore(old, made)
            raise ComposeError(f"{text}\nthe previous containers were restored")
        raise ComposeError(f"{text}\nthe update is paused: {left} containers were not replaced")

    # -- one container ----------------------------------------------------------------------

    def _replace(self, old: Container) -> PortsideError | None:
        """Replace a container; the failure, if any."""
        actions, event = self._actions, old.event_id
        actions.emit(event, WORKING, "Recreate")
        try:
            made = actions.replacement(self._service, old, self._inherit)
        except PortsideError as err:
            actions.emit(event, ERROR, user_message(err))
            return err
        if actions.dry_run:
            actions.emit(event, DONE, "Recreated")
            return None
        error: PortsideError | None = None
        try:
            self._swap(old, made)
        except PortsideError as err:
            error = err
            actions.emit(event, ERROR, user_message(err).partition("\n")[0])
        undo = error is not None and (self._starts_first or self._action == "rollback")
        try:
            if undo:
                self._restore(old, made)
            elif self._action == "rollback":
                self._kept.append((old, made))
            else:
                self._remove(old)
        except PortsideError as err:
            error = error or err
        if error is None:
            actions.emit(event, DONE, "Recreated")
        return error

    def _swap(self, old: Container, made: Container) -> None:
        """Have the new container run under the name of the old one."""
        actions, name = self._actions, self._name(old)
        if not self._starts_first:
            self._stop(old)
        actions.rename(old, f"{made.id[:12]}_{name}")
        actions.rename(made, name)
        known = actions.containers[self._service]
        known[known.index(old)] = made
        actions.start(self._definition, made)
        self._check(made)
        if self._starts_first:
            self._stop(old)

    def _name(self, old: Container) -> str:
        return container_name(
            self._actions.project, self._service, self._definition, old.number or 1
        )

    def _stop(self, old: Container) -> None:
        path = path_of("containers", old.id, "stop")
        self._actions.pool.post(path, {"t": self._actions.timeout})
        old.state = "exited"

    def _remove(self, old: Container) -> None:
        """Stop (after a start first) and remove what has been replaced."""
        if old.state == "running":
            self._stop(old)
        self._actions.pool.delete(path_of("containers", old.id))

    def _restore(self, old: Container, made: Container) -> None:
        """Take a new container away and have the old one run again."""
        actions = self._actions
        actions.pool.delete(path_of("containers", made.id), {"force": True})
        if old.name != self._name(old):
            actions.rename(old, self._name(old))
        known = actions.containers[self._service]
        if made in known:
            known[known.index(made)] = old
        if old.state != "running":
            actions.start(self._definition, old)

    def _check(self, made: Container) -> None:
        """Wait until a container runs or is healthy, and watch it for a while. One that has ended
        without a failure is good. Raises ConditionFailed."""
        actions = self._actions
        try:
            fulfil(actions.pool, actions.watch, [made], RUNNING_OR_HEALTHY, self._service)
        except ConditionFailed:
            state = actions.pool.get(path_of("containers", made.id, "json"))["State"]
            if state["Status"] != "exited" or state["ExitCode"]:
                raise
            return
        if self._watched:
            try:
                actions.watch.wait(made.id, _has_ended, time.monotonic() + self._watched)
            except TimedOut:
                pass  # nothing has happened to it


def _has_ended(found: dict[str, Any]) -> bool:
    state = found["State"]
    if state["Status"] == "restarting" or (
        state["Status"] in ("exited", "dead") and state["ExitCode"]
    ):
        name = found["Name"].removeprefix("/")
        raise ConditionFailed(f"container {name} exited ({state['ExitCode']})")
    return bool(state["Status"] in ("exited", "dead"))
