"""Requests that a browser sends for a page of another site.

A browser adds the password it knows for this registry to whatever any page sends here, and
sends simple requests without asking first. So a request that changes something is refused
when the browser says that a page of another origin made it, unless ``http.headers`` names
that origin in ``Access-Control-Allow-Origin``. Programs other than browsers send neither of
the two headers.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from portside.registry.server.context import registry_of
from portside.registry.server.errors import RegistryError
from portside.registry.server.request_context import own_url
from portside.serving.host_names import REFUSED

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))


def refuse_cross_site(request: web.Request) -> None:
    """Raise DENIED for a request of another site's page that is more than a look."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if request.method in _SAFE or (origin is None and site is None):
        return
    if site in ("same-origin", "none") or (site is None and _is_own(request, origin or "")):
        return
    if not _is_allowed(request, origin or ""):
        message = "requests from pages of other origins are refused"
        raise RegistryError("DENIED", {"origin": origin}, message=message)


def refuse_foreign_name(request: web.Request) -> None:
    """Raise 421 for a name that a page of another site may have given this address."""
    names = registry_of(request).names
    if names is not None and not names.has(request.host):
        message = REFUSED.format(host=request.host[:100], setting="http.host or portside.hosts")
        raise RegistryError("DENIED", message=message, status=421)


def _is_own(request: web.Request, origin: str) -> bool:
    """Whether an origin is this registry, by the address the client used or a proxy reports."""
    try:
        host = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    own = {request.host.lower(), urlsplit(own_url(request)).netloc.lower()}
    return bool(host) and host in own


def _is_allowed(request: web.Request, origin: str) -> bool:
    """Whether the settings let pages of that origin in.

    ``*`` lets in what browsers ask about first, with OPTIONS: for a credential they find
    out there that ``*`` is not enough. A simple POST is sent without asking.
    """
    headers = registry_of(request).settings.http.headers
    named = {
        value.strip()
        for name, values in headers.items()
        if name.lower() == "access-control-allow-origin"
        for value in values
    }
    return (origin in named and origin != "null") or ("*" in named and request.method != "POST")
