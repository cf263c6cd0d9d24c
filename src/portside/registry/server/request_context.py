"""What one request carries: who sent it, and the address that it was sent to."""

from __future__ import annotations

from aiohttp import web

from portside.registry.server.auth import Identity
from portside.registry.server.config import Settings
from portside.registry.server.forwarded import forwarded

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
IDENTITY: web.RequestKey[Identity] = web.RequestKey("identity", Identity)


def own_url(request: web.Request) -> str:
    """The registry's address as the client sees it (behind proxies: ``http.host``)."""
    host = request.app[SETTINGS].http.host
    if host:
        return host.rstrip("/")
    sent = forwarded(request.headers)
    return f"{sent.scheme or request.scheme}://{sent.host or request.host}"
