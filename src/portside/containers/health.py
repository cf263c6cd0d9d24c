"""Health checks: probes executed in the container, their verdict, the last five results."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from portside.containers.attach_exec import process_of, shown
from portside.containers.stop import STOP_TIMEOUT, send_signal
from portside.model.container import ExecConfig, ExecStart
from portside.model.containerstate import HealthResult
from portside.model.errors import PortsideError
from portside.model.golang.durations import format_duration
from portside.model.golang.timestamps import rfc3339_or_never
from portside.model.ids import new_id
from portside.model.image import Healthcheck
from portside.model.signals import stop_signal
from portside.runtime.messages import Exec, Exited, Identity, Streams

if TYPE_CHECKING:
    from portside.containers.container import Container
    from portside.containers.core import Core
    from portside.runtime.monitor_client import MonitorClient


log = logging.getLogger(__name__)

INTERVAL = 30.0
TIMEOUT = 30.0
START_INTERVAL = 5.0
KINDS = ("CMD", "CMD-SHELL", "")
"""First words of a check that is run."""
RETRIES = 3
_KEPT = 5
_LAST_WORDS = 1.0
"""Seconds that the output of a probe that was killed is waited for."""
_OUTPUT = 4096
"""Bytes of a probe's output that are kept."""


class HealthMonitor:
    """Probes one running container until it ends."""

    def __init__(self, core: Core, container: Container, check: Healthcheck) -> None:
        self._core, self._container, self._check = core, container, check
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def begin(
        cls, core: Core, container: Container, *, resumed: bool = False
    ) -> HealthMonitor | None:
        """Start probing; None when the container's check is ``NONE``.

        A new run of the container is ``starting`` again; with ``resumed`` (the engine was
        restarted, the container was not) the verdict so far stands.
        """
        check = container.record.config.healthcheck
        if check is None or not check.test or check.test[0] == "NONE":
            return None
        if check.test[0] not in KINDS:
            log.warning(
                "unknown healthcheck type %r (expected CMD) in container %s",
                check.test[0], container.id,
            )  # fmt: skip
            return None
        monitor = cls(core, container, check)
        record = container.record
        if not resumed or not record.health_status:
            record.health_status, record.health_streak = "starting", 0
            core.save(container)
        monitor._task = core.spawn(monitor._run())
        return monitor

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # -- probing -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._container.record.running:
            await asyncio.sleep(self._pause())
            if self._container.record.paused:
                continue
            started = time.time_ns()
            code, output = await self._probe()
            self._judge(started, code, output)

    def _in_start_period(self) -> bool:
        began = self._container.record.started_ns
        return time.time_ns() - began < self._check.start_period

    def _pause(self) -> float:
        interval = _seconds(self._check.interval, INTERVAL)
        starting = self._container.record.health_status == "starting"
        if starting and self._check.start_period and self._in_start_period():
            return min(_seconds(self._check.start_interval, START_INTERVAL), interval)
        return interval

    def _command(self) -> tuple[str, ...]:
        kind, *rest = self._check.test
        if kind == "CMD":
            return tuple(rest)
        if kind == "CMD-SHELL":
            return (*(self._container.record.config.shell or ("/bin/sh", "-c")), *rest)
        return tuple(self._check.test)

    async def _probe(self) -> tuple[int, str]:
        """Exit status (-1: it took too long, or could not run) and output."""
        core, container = self._core, self._container
        monitor = container.monitor
        if monitor is None:
            return -1, "the container is not running"
        request = self._request()
        words, about = shown(request.process.args), {"execID": request.exec_id}
        core.event(container, f"exec_create: {words}", about)
        core.event(container, f"exec_start: {words}", about)
        ended = core.probes[request.exec_id] = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        try:
            with ours:
                with theirs:
                    await monitor.exec(request, [theirs])
                ours.setblocking(False)
                code, output = await self._outcome(ended, ours, monitor, request.exec_id)
        except PortsideError as err:
            return -1, str(err)
        finally:
            core.probes.pop(request.exec_id, None)
        core.event(container, "exec_die", about | {"exitCode": str(code)})
        return code, output

    def _request(self) -> Exec:
        record = self._container.record
        config = ExecConfig(cmd=self._command(), attach_stdout=True, attach_stderr=True)
        return Exec(
            exec_id=new_id(),
            process=process_of(self._core, self._container, config, ExecStart()),
            identity=Identity(record.config.user or "0", record.host.group_add or ()),
            attachments=(Streams(stdout=True, stderr=True, raw=True),),
        )

    async def _outcome(
        self, ended: asyncio.Future[Exited], output: socket.socket, monitor: MonitorClient,
        exec_id: str,
    ) -> tuple[int, str]:  # fmt: skip
        """Wait for a probe's end, or end it when its time is over."""
        timeout = _seconds(self._check.timeout, TIMEOUT)
        said = bytearray()
        reading = asyncio.ensure_future(_read(output, said))
        try:
            async with asyncio.timeout(timeout):
                code = (await ended).code
                await reading
                return code, _shown(said)
        except TimeoutError:
            await monitor.signal(signal.SIGKILL, exec_id)
            await asyncio.wait([reading], timeout=_LAST_WORDS)
            limit = format_duration(round(timeout * 1e9))
            return -1, f"Health check exceeded timeout ({limit}): {_shown(said)}"
        finally:
            reading.cancel()

    # -- judging -----------------------------------------------------------------------------

    def _judge(self, started: int, code: int, output: str) -> None:
        core, container, record = self._core, self._container, self._container.record
        if not record.running:
            return
        result = HealthResult(
            start=rfc3339_or_never(started),
            end=rfc3339_or_never(time.time_ns()),
            exit_code=code,
            output=output,
        )
        record.health_log = (*record.health_log, result)[-_KEPT:]
        before = record.health_status
        if code == 0:
            record.health_status, record.health_streak = "healthy", 0
        elif not (before == "starting" and self._in_start_period()):
            record.health_streak += 1
            if record.health_streak >= (self._check.retries or RETRIES):
                record.health_status = "unhealthy"
        core.save(container)
        if record.health_status != before:
            core.event(container, f"health_status: {record.health_status}")
            policy = record.host.restart_policy.name
            if record.health_status == "unhealthy" and policy == "on-unhealthy":
                core.spawn(_end(core, container))


async def _end(core: Core, container: Container) -> None:
    """``on-unhealthy``: end it, so that its policy starts it again."""
    log.info("container %s is unhealthy: restarting it", container.id)
    number = stop_signal(container.record.config.stop_signal)
    timeout = container.record.config.stop_timeout
    await send_signal(core, container, number)
    try:
        async with asyncio.timeout(STOP_TIMEOUT if timeout is None else timeout):
            await container.exited.wait()
    except TimeoutError:
        await send_signal(core, container, signal.SIGKILL)


def _seconds(nanoseconds: int, default: float) -> float:
    return nanoseconds / 1e9 if nanoseconds > 0 else default


async def _read(sock: socket.socket, kept: bytearray) -> None:
    """Output up to its bound; what follows is read and dropped."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(sock, 65536):
            kept += data[: _OUTPUT + 1 - len(kept)]


def _shown(output: bytearray) -> str:
    text = output[:_OUTPUT].decode(errors="replace")
    return text + "..." if len(output) > _OUTPUT else text
