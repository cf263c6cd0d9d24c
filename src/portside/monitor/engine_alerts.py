"""Warnings as events of the engine: ``docker events`` shows them beside what caused them.

Only Portside's engine takes them (``POST /portside/alerts``); another one is not asked again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from portside.client.client import Client
from portside.client.errors import Refused
from portside.model.errors import PortsideError
from portside.monitor.early_warning import Alert
from portside.monitor.engine_watch import EngineWatch

_LOG = logging.getLogger("portside.monitor")
_MOST = 200


class EngineAlerts:
    """Sends warnings from a thread; failures are counted."""

    def __init__(self, watch: EngineWatch) -> None:
        self._watch = watch
        self.sent = self.lost = 0
        self._queue: deque[dict[str, str]] = deque()
        self._some = threading.Event()
        self._stopped = self._refused = False
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._some.set()

    def put(self, alert: Alert) -> None:
        """Never waits."""
        if self._refused:
            return
        if len(self._queue) >= _MOST:
            self.lost += 1
            return
        self._queue.append(
            {
                "rule": alert.rule, "summary": alert.summary, "advice": alert.advice,
                "severity": alert.severity, "state": "resolved" if alert.ended else "firing",
                "container": alert.labels.get("id", ""),
            }
        )  # fmt: skip
        self._some.set()

    def _run(self) -> None:
        client: Client | None = None
        while not self._stopped:
            self._some.wait()
            self._some.clear()
            while self._queue and not self._stopped:
                body = self._queue.popleft()
                try:
                    client = client or self._watch.client()
                    client.post("/portside/alerts", body=body)
                    self.sent += 1
                except Refused as err:
                    self.lost += 1
                    if err.status == 404 and not body["container"]:
                        self._refused = True
                        self._queue.clear()
                        _LOG.info("this engine does not accept warnings as events")
                except (PortsideError, OSError) as err:
                    self.lost += 1
                    client = None
                    _LOG.debug("alerts: %s", err)
