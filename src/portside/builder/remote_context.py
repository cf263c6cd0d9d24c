"""``remote=URL``: a tar or a Dockerfile from a web server, as the body of a build."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portside.model.errors import InvalidParameter, NotFound, Unavailable

PIECE = 1 << 18
PATIENCE = 60.0
"""Seconds without a byte."""


async def fetch(url: str) -> AsyncIterator[bytes]:
    """Fetch a context by its URL. NotFound, Unavailable, InvalidParameter."""
    import aiohttp

    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"remote: {url!r} is neither an http(s) URL nor a git repository")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url) as answer,
        ):
            if answer.status == 404:
                raise NotFound(f"error downloading remote context {url}: 404 Not Found")
            if answer.status >= 400:
                raise Unavailable(f"error downloading remote context {url}: {answer.status}")
            async for piece in answer.content.iter_chunked(PIECE):
                yield piece
    except (aiohttp.ClientError, TimeoutError, ValueError) as err:
        raise Unavailable(f"error downloading remote context {url}: {err}") from err
