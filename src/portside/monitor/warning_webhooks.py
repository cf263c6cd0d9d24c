"""Warnings as messages of Alertmanager: to receivers of its webhooks, or to its own API."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang.timestamps import ZERO, format_rfc3339
from portside.monitor.delivery_queue import DeliveryQueue, Rejected
from portside.monitor.early_warning import Alert, EarlyWarning
from portside.monitor.settings import Webhook, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import aiohttp

_NEWS = 1.0
"""Seconds in which warnings are gathered into one message."""
_RESEND = 60.0
"""Alertmanager's API ends a warning that is not sent again within its resolve_timeout."""


def labels_of(alert: Alert) -> dict[str, str]:
    """As rules of Prometheus over cAdvisor's metrics have them."""
    found = {
        "alertname": "".join(word.title() for word in alert.rule.split("_")),
        "severity": alert.severity, "id": alert.group, "name": alert.shown,
    }  # fmt: skip
    if alert.subject:
        found["subject"] = alert.subject
    if image := alert.labels.get("image"):
        found["image"] = image
    return found


def alert_json(alert: Alert, url: str) -> dict[str, Any]:
    """One alert, with the fields that webhooks of Alertmanager have."""
    return {
        "status": "resolved" if alert.ended else "firing",
        "labels": labels_of(alert),
        "annotations": {
            "summary": alert.summary, "description": alert.advice, "value": f"{alert.value:g}",
        },
        "startsAt": format_rfc3339(int(alert.started * 1e9)),
        "endsAt": format_rfc3339(int(alert.ended * 1e9)) if alert.ended else ZERO,
        "generatorURL": url,
        "fingerprint": hashlib.sha256("\0".join(alert.key).encode()).hexdigest()[:16],
    }  # fmt: skip


def webhook_message(alerts: list[Alert], url: str) -> dict[str, Any]:
    """Version 4 of Alertmanager's webhook messages."""
    found = [alert_json(alert, url) for alert in alerts]
    common = dict(found[0]["labels"].items())
    for entry in found[1:]:
        common = {k: v for k, v in common.items() if entry["labels"].get(k) == v}
    return {
        "version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0,
        "status": "firing" if any(e["status"] == "firing" for e in found) else "resolved",
        "receiver": "portside-monitor", "groupLabels": {}, "commonLabels": common,
        "commonAnnotations": {}, "externalURL": url, "alerts": found,
    }  # fmt: skip


class _Hook:
    def __init__(self, settings: Webhook, session: aiohttp.ClientSession, url: str) -> None:
        if settings.format not in ("webhook", "alertmanager"):
            raise InvalidParameter(f"webhooks: unknown format {settings.format!r}")
        self.settings, self._session, self._url = settings, session, url
        self.queue = DeliveryQueue(f"webhook {settings.url}", self._post, 1000, 8 << 20)
        self.sent_at: dict[tuple[str, str, str], float] = {}
        self._headers = {"Content-Type": "application/json", **settings.headers}
        if settings.token:
            self._headers["Authorization"] = f"Bearer {settings.token}"

    @property
    def repeat(self) -> float:
        if self.settings.format == "alertmanager":
            return _RESEND
        return seconds(self.settings.repeat)

    def put(self, alerts: list[Alert], now: float) -> None:
        for alert in alerts:
            if alert.ended:
                self.sent_at.pop(alert.key, None)
            else:
                self.sent_at[alert.key] = now
        if self.settings.format == "webhook":
            body: Any = webhook_message(alerts, self._url)
        else:
            body = []
            for alert in alerts:
                entry = alert_json(alert, self._url)
                del entry["status"], entry["fingerprint"]
                if not alert.ended:
                    del entry["endsAt"]
                body.append(entry)
        self.queue.put(msgspec.json.encode(body))

    async def _post(self, body: bytes) -> None:
        import aiohttp

        url = self.settings.url
        if self.settings.format == "alertmanager" and "/api/" not in url:
            url = f"{url.rstrip('/')}/api/v2/alerts"
        limit = aiohttp.ClientTimeout(total=seconds(self.settings.timeout))
        try:
            async with self._session.post(
                url, data=body, headers=self._headers, timeout=limit
            ) as answer:
                if 400 <= answer.status < 500 and answer.status not in (408, 429):
                    raise Rejected(f"status {answer.status}")
                if answer.status >= 300:
                    raise OSError(f"status {answer.status}")
        except aiohttp.ClientError as err:
            raise OSError(str(err) or type(err).__name__) from err


class Webhooks:
    """All hooks of one monitor."""

    def __init__(self, hooks: tuple[Webhook, ...], warning: EarlyWarning, url: str) -> None:
        self._settings, self._warning, self._url = hooks, warning, url
        self._news: list[Alert] = []
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self.hooks: list[_Hook] = []

    async def start(self) -> None:
        import aiohttp

        self._session = session = aiohttp.ClientSession()
        self.hooks = [_Hook(settings, session, self._url) for settings in self._settings]
        for hook in self.hooks:
            hook.queue.start()
        self._warning.listeners.append(self._news.append)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_NEWS)
            now = time.time()
            news = [msgspec.structs.replace(alert) for alert in self._news]
            self._news.clear()
            for hook in self.hooks:
                fresh = {alert.key for alert in news}
                again = [
                    alert
                    for alert in self._warning.firing
                    if alert.key not in fresh
                    and now - hook.sent_at.get(alert.key, now) >= hook.repeat
                ]
                if news or again:
                    hook.put([*news, *again], now)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for hook in self.hooks:
            await hook.queue.stop()
        if self._session is not None:
            await self._session.close()
