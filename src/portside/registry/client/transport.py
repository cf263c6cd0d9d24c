"""HTTP to registries: connections, TLS, proxies, retries. Knows nothing of images.

aiohttp is imported when the first request is made: an engine that never pulls stays small.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import fnmatch
import ipaddress
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from portside.model.errors import InvalidParameter, SystemFailure
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.errors import BadRedirect, TooSlow, from_network
from portside.registry.client.options import RegistryOptions

if TYPE_CHECKING:
    import aiohttp

USER_AGENT = "portside/0.1"
CONNECT_TIMEOUT = 30.0
READ_TIMEOUT = 60.0
"""Seconds without a byte before a peer is given up."""
WINDOW = 60.0
"""Seconds of waiting over which a transfer's progress is judged."""
SLOWEST = 1024
"""Bytes a second that a peer must manage within each window."""
ANSWER_TIMEOUT = 120.0
"""Seconds from the end of a request to the end of its answer's headers."""
PIECE_TIMEOUT = 600.0
"""Seconds within which a peer must take a piece of a request's body (at most 1 MiB)."""
MAX_REDIRECTS = 10
LONGEST_WAIT = 60.0
"""Seconds of ``Retry-After`` that are honoured; a longer one is an error at once."""
STARTING = 2.0
"""Seconds a registry on this machine is given to listen."""
RETRIED = frozenset({408, 429, 500, 502, 503, 504})


class Transport:
    """One pool of connections for all registries."""

    def __init__(self, options: RegistryOptions) -> None:
        self.options = options
        self._session: aiohttp.ClientSession | None = None
        self._refused: dict[str, float] = {}
        """When a port of this machine began to refuse connections."""
        self._contexts: dict[tuple[str, bool], tuple[object, ssl.SSLContext]] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, no retry. GET and HEAD follow redirects, each hop with the TLS settings
        and proxy of its own host; credentials and client certificates stay with the first host.

        Raises Unreachable when no answer comes, also while the body is being read, and
        BadRedirect.
        """
        import aiohttp

        target = str(_with_query(url, query))
        try:
            async with AsyncExitStack() as stack:
                given = dict(headers or {})
                for _ in range(MAX_REDIRECTS + 1):
                    hop = await stack.enter_async_context(AsyncExitStack())
                    response = await self._patiently(hop, method, target, endpoint, given, body)
                    where = response.headers.get("Location", "")
                    if method not in ("GET", "HEAD") or response.status not in _REDIRECTS:
                        break
                    following = next_hop(method, url, target, where)
                    if not keeps_credentials(target, following):
                        given = {k: v for k, v in given.items() if k.lower() != "authorization"}
                    target = following
                    await hop.aclose()
                else:
                    raise BadRedirect(
                        f'{method.capitalize()} "{url}": stopped after {MAX_REDIRECTS} redirects'
                    )
                yield response
        except (aiohttp.ClientError, TimeoutError) as err:
            raise from_network(method, url, err) from err

    async def _patiently(
        self,
        stack: AsyncExitStack,
        method: str,
        url: str,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        body: Any,
    ) -> aiohttp.ClientResponse:
        """As :meth:`_once`, while a registry on this machine may be about to listen."""
        import aiohttp

        while True:
            try:
                return await self._once(stack, method, url, endpoint, headers, body)
            except aiohttp.ClientConnectorError as err:
                if err.errno != errno.ECONNREFUSED or not await self._may_be_starting(url):
                    raise

    async def _once(
        self,
        stack: AsyncExitStack,
        method: str,
        url: str,
        endpoint: Endpoint,
        headers: Mapping[str, str],
        body: Any,
    ) -> aiohttp.ClientResponse:
        """One exchange up to the answer's headers, in bounded time."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT + ANSWER_TIMEOUT) as limit:

            async def paced(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
                async for piece in pieces:
                    limit.reschedule(loop.time() + PIECE_TIMEOUT)
                    yield piece
                limit.reschedule(loop.time() + ANSWER_TIMEOUT)

            return await stack.enter_async_context(
                self._client().request(
                    method,
                    _with_query(url, None),
                    headers=headers,
                    data=paced(body) if isinstance(body, AsyncIterator) else body,
                    ssl=self._tls(endpoint, url),
                    proxy=self.proxy_for(url),
                    allow_redirects=False,
                )
            )

    async def _may_be_starting(self, url: str) -> bool:
        """Wait a moment for a registry on this machine, which may have been started just now.

        False when it has had :data:`STARTING` seconds already.
        """
        parts = urlsplit(url)
        host, now = parts.hostname or "", time.monotonic()
        if host != "localhost" and not _is_loopback(host):
            return False
        first = self._refused.get(parts.netloc, 0.0)
        if now - first > 10 * STARTING:
            first = self._refused[parts.netloc] = now
        if now - first > STARTING:
            return False
        await asyncio.sleep(0.05)
        return True

    def _client(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
                ),
                headers={"User-Agent": USER_AGENT},
                auto_decompress=False,
                skip_auto_headers=["Accept-Encoding"],
                cookie_jar=aiohttp.DummyCookieJar(),
                requote_redirect_url=False,
                read_bufsize=1 << 18,
                trust_env=False,
            )
        return self._session

    def _tls(self, endpoint: Endpoint, url: str) -> ssl.SSLContext | bool:
        if not url.startswith("https://"):
            return True
        host = urlsplit(url).netloc.rpartition("@")[2]
        if host == endpoint.host:
            return self._context(host, endpoint.verify)
        return self._context(host, not self.options.is_insecure(host))

    def _context(self, host: str, verify: bool) -> ssl.SSLContext:
        # who puts a certificate there does not expect to start the engine again
        directory = self.options.certs_dir / host
        state = _state(directory)
        known, found = self._contexts.get((host, verify), ((), None))
        if found is None or known != state:
            found = tls_context(directory, verify)
            self._contexts[host, verify] = state, found
        return found

    def proxy_for(self, url: str) -> str | None:
        """The proxy for a URL: daemon.json's, else the environment's; None is direct."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if host == "localhost" or _is_loopback(host):
            return None
        options = self.options
        excluded = options.no_proxy if options.no_proxy is not None else _environment("no_proxy")
        if _is_excluded(host, port, excluded):
            return None
        if parts.scheme == "https":
            chosen = options.https_proxy
            chosen = chosen if chosen is not None else _environment("https_proxy")
        else:
            chosen = options.http_proxy
            chosen = chosen if chosen is not None else _environment("http_proxy")
        if chosen and "://" not in chosen:
            chosen = f"http://{chosen}"
        return chosen or None


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def next_hop(method: str, url: str, current: str, location: str) -> str:
    """Where a redirect of ``current`` leads; ``url`` is the request's own, for messages.
    BadRedirect unless it is http or https."""
    prefix = f'{method.capitalize()} "{url}": '
    if not location:
        raise BadRedirect(f"{prefix}the answer is a redirect without a Location header")
    try:
        target = urljoin(current, location)
        parts = urlsplit(target)
        host = parts.hostname
        _ = parts.port  # raises for an invalid port
    except ValueError as err:
        raise BadRedirect(f"{prefix}redirect to an invalid address: {err}") from err
    if parts.scheme not in ("http", "https"):
        raise BadRedirect(f'{prefix}redirect to an unsupported protocol scheme "{parts.scheme}"')
    if not host or not target.isascii() or not target.isprintable() or " " in target:
        raise BadRedirect(f"{prefix}redirect to an invalid address")
    if "@" in parts.netloc:  # credentials that the server chose: never sent
        target = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return target


def keeps_credentials(current: str, target: str) -> bool:
    """Whether a redirect stays at the host, port and scheme, or only turns http into https."""
    old, new = urlsplit(current), urlsplit(target)
    if (old.scheme, old.netloc) == (new.scheme, new.netloc):
        return True
    is_upgrade = (old.scheme, new.scheme) == ("http", "https")
    return is_upgrade and old.hostname == new.hostname and old.port is None and new.port is None


async def paced_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """A body's bytes as they arrive; TooSlow below :data:`SLOWEST` bytes a second.

    Only the time spent waiting for the peer counts.
    """
    waited, received = 0.0, 0
    while True:
        begun = time.monotonic()
        chunk = await response.content.readany()
        waited += time.monotonic() - begun
        if not chunk:
            return
        received += len(chunk)
        if waited >= WINDOW:
            if received < waited * SLOWEST:
                raise TooSlow(
                    f'{response.method.capitalize()} "{response.url}": only {received} bytes in '
                    f"{waited:.0f} seconds"
                )
            waited, received = 0.0, 0
        yield chunk


def _state(directory: Path) -> tuple[tuple[str, int], ...]:
    """A value that changes when the files of a directory change."""
    try:
        with os.scandir(directory) as entries:
            return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries))
    except OSError:
        return ()


def tls_context(directory: Path, verify: bool) -> ssl.SSLContext:
    """The system's CAs and the CAs of a certs.d directory, with its client certificates.

    Raises SystemFailure naming a file that cannot be used.
    """
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if not directory.is_dir():
        return context
    for path in sorted(directory.iterdir()):
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(cafile=str(path))
            elif path.suffix == ".cert":
                context.load_cert_chain(str(path), str(_key_of(path)))
        except (OSError, ssl.SSLError) as err:
            raise SystemFailure(f"error reading registry certificate {path}: {err}") from err
    return context


def _key_of(certificate: Path) -> Path:
    key = certificate.with_suffix(".key")
    if not key.exists():
        raise InvalidParameter(
            f"missing key {key.name} for client certificate {certificate.name}. "
            "CA certificates must use the extension .crt"
        )
    return key


def _environment(name: str) -> str:
    # HTTP_PROXY in capitals could come from a CGI request's "Proxy:" header, but an engine
    # is not a CGI program, and Go's and everyone's convention reads both.
    return os.environ.get(name.upper()) or os.environ.get(name) or ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_excluded(host: str, port: int | None, excluded: str) -> bool:
    """``no_proxy``: hosts, domains (``.x.org`` or ``x.org``), networks, ``*``, with ports."""
    for entry in (part.strip().lower() for part in excluded.split(",")):
        if not entry:
            continue
        if entry == "*":
            return True
        if "/" in entry and _in_network(host, entry):
            return True
        name, colon, entry_port = entry.rpartition(":")
        if colon and entry_port.isdecimal() and name.count(":") == 0:
            if port != int(entry_port):
                continue
            entry = name
        entry = entry.removeprefix("*")
        if host == entry.lstrip(".") or host.endswith("." + entry.lstrip(".")):
            return True
        if "*" in entry and fnmatch.fnmatchcase(host, entry):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _with_query(url: str, query: Mapping[str, str] | None) -> Any:
    """The URL, with more parameters; never normalised, since upload URLs are the server's."""
    import yarl

    made = yarl.URL(url, encoded=True)
    return made.update_query(dict(query)) if query else made


def wait_before_retry(attempt: int, retry_after: str | None, base: float) -> float | None:
    """Seconds to wait before attempt ``attempt + 1`` (counted from 0).

    ``Retry-After`` (seconds or a date, RFC 9110 10.2.3) is honoured; None means that the
    server wants a longer wait than anyone would sit through.
    """
    backoff = min(base * 2.0**attempt, 30.0) * random.uniform(0.75, 1.25)
    asked = _retry_after(retry_after)
    if asked is None:
        return backoff
    return max(asked, 0.0) if asked <= LONGEST_WAIT else None


def _retry_after(text: str | None) -> float | None:
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None


async def pause(seconds: float, on_wait: Callable[[float], None] | None = None) -> None:
    """Wait before a retry; ``on_wait`` gets the remaining seconds once a second."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if on_wait is not None:
            on_wait(left)
        await asyncio.sleep(min(left, 1.0))
