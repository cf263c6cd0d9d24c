"""The process of the monitor: puts the parts together and serves until it is asked to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from portside.model.errors import InvalidParameter
from portside.monitor.access import Access
from portside.monitor.collector import Collector, Group, MonitorEvent
from portside.monitor.early_warning import Alert
from portside.monitor.engine_alerts import EngineAlerts
from portside.monitor.engine_watch import (
    ContainerFacts,
    EngineEvent,
    EngineVersion,
    EngineWatch,
    Listener,
)
from portside.monitor.group_tree import layout_below
from portside.monitor.history import Bucket
from portside.monitor.http_server import App
from portside.monitor.monitor_context import Monitor
from portside.monitor.samples import Point, Sample
from portside.monitor.settings import Settings, seconds
from portside.monitor.visibility import unseen
from portside.serving.host_names import is_loopback
from portside.serving.http.server import Server, date_line
from portside.serving.listening import tcp
from portside.serving.tls import server_context

_LOG = logging.getLogger("portside.monitor")


def check_exposure(settings: Settings, access: Access, context: ssl.SSLContext | None) -> None:
    """Check that an address beyond loopback requires authentication; raises InvalidParameter."""
    if is_loopback(settings.listen, "--listen") or settings.insecure:
        return
    if access.is_open and (context is None or context.verify_mode != ssl.CERT_REQUIRED):
        raise InvalidParameter(
            f"--listen {settings.listen} is open to other machines: set --htpasswd, "
            "--token-file or --tls-client-ca, or --insecure when a proxy protects it"
        )


def bridge(collector: Collector, loop: asyncio.AbstractEventLoop) -> Listener:
    """From the engine's thread into the event loop; what comes after the loop's end is dropped."""

    def call(function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the thread does not keep the program
            loop.call_soon_threadsafe(function, *arguments)

    def known(facts: ContainerFacts) -> None:
        call(collector.know, facts)

    def forgotten(identifier: str) -> None:
        call(collector.forget, identifier)

    def happened(event: EngineEvent) -> None:
        call(collector.engine_event, event)

    def reached(version: EngineVersion | None, containers: frozenset[str]) -> None:
        call(collector.reach, version, containers)

    return Listener(known, forgotten, happened, reached)


class Program:
    """One running monitor."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.access = Access(settings.htpasswd, settings.token_file, settings.realm)
        authorities = [settings.tls_client_ca] if settings.tls_client_ca else []
        self.context = server_context(
            settings.tls_certificate, settings.tls_key, authorities, "--tls-cert, --tls-key"
        )
        if authorities and self.context is None:
            raise InvalidParameter("--tls-client-ca needs --tls-cert and --tls-key")
        check_exposure(settings, self.access, self.context)
        self.collector = Collector(settings, layout_below(settings.host_root))
        self.monitor = Monitor(settings, self.collector)
        restricted = not self.access.is_open or bool(authorities)
        self.monitor.shows_logs = restricted if settings.logs is None else settings.logs
        for endpoint in settings.exporters:
            from portside.monitor.exporters.exporting import Exporter

            self.monitor.exporters.append(Exporter(endpoint, self.collector))
        if settings.history:
            from portside.monitor.history_file import HistoryFile  # sqlite uses memory

            self.monitor.history = HistoryFile(
                settings.history, settings.history_days, settings.history_bytes
            )
        if settings.webhooks:
            from portside.monitor.warning_webhooks import Webhooks

            url = f"{'https' if self.context else 'http'}://{settings.listen}{settings.prefix}/"
            self.monitor.webhooks = Webhooks(settings.webhooks, self.monitor.warning, url)
        self._connect()

    def _connect(self) -> None:
        """Connect the listeners."""
        monitor, listeners = self.monitor, self.collector.listeners

        def groups_changed(_group: Group) -> None:
            monitor.groups_changed = True

        def happened(event: MonitorEvent) -> None:
            monitor.live.send("happened", event)

        def known(_facts: ContainerFacts) -> None:
            monitor.groups_changed = True

        def sampled(group: Group, _sample: Sample, _point: Point, bucket: Bucket | None) -> None:
            if bucket is not None and monitor.history is not None:
                monitor.history.put(group.name, bucket)

        def warned(alert: Alert) -> None:
            monitor.live.send("alert", alert)
            level = logging.WARNING if not alert.ended else logging.INFO
            _LOG.log(level, "%s%s", "over: " if alert.ended else "", alert.summary)

        monitor.warning.listeners.append(warned)
        listeners.sampled += [monitor.sampled, sampled]
        listeners.added.append(groups_changed)
        listeners.removed.append(groups_changed)
        listeners.happened.append(happened)
        listeners.known.append(known)

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        server = Server(App(self.monitor, self.access), common_headers=date_line)
        watch = EngineWatch(
            self.settings.engine, self.settings.host_root, bridge(self.collector, loop)
        )
        self.monitor.engine = watch.client
        self.collector.start()
        watch.start()
        alerts = EngineAlerts(watch)
        self.monitor.warning.listeners.append(alerts.put)
        alerts.start()
        await self._start_parts()
        sending = loop.create_task(self._send_points())
        try:
            for sock in sockets:
                await server.listen(sock, self.context)
            _LOG.info(
                "listening on %s%s; %s, %d groups", self.settings.listen,
                ", tls" if self.context else "", self.collector.layout.mode,
                len(self.collector.groups),
            )  # fmt: skip
            for sentence in unseen(self.collector):
                _LOG.info("not seen: %s", sentence)
            await stopped.wait()
        finally:
            sending.cancel()
            watch.stop()
            alerts.stop()
            await server.close(1.0)
            await self.collector.stop()
            await self._stop_parts()

    async def _start_parts(self) -> None:
        monitor = self.monitor
        for exporter in monitor.exporters:
            await exporter.start()
        if monitor.webhooks is not None:
            await monitor.webhooks.start()
        if monitor.history is not None:
            monitor.history.start()

    async def _stop_parts(self) -> None:
        monitor = self.monitor
        for exporter in monitor.exporters:
            await exporter.stop()
        if monitor.webhooks is not None:
            await monitor.webhooks.stop()
        if monitor.history is not None:
            await monitor.history.stop()

    async def _send_points(self) -> None:
        while True:
            await asyncio.sleep(seconds(self.settings.interval))
            self.monitor.send_points()


def run(settings: Settings) -> None:
    """Listen and serve; raises InvalidParameter, SystemFailure, OSError."""
    program = Program(settings)
    sockets = tcp(settings.listen, "--listen")
    try:
        asyncio.run(program.run(sockets))
    finally:
        for sock in sockets:
            sock.close()
