"""``portside registry serve``: the process around the application."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from pathlib import Path

from aiohttp import web

from portside.model.errors import InvalidParameter
from portside.registry.server.app import make_app, watching_app
from portside.registry.server.config import Settings, Tls, seconds
from portside.registry.server.context import REGISTRY

_LEVELS = {"debug": logging.DEBUG, "warn": logging.WARNING, "error": logging.ERROR}


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """The server's TLS context, or None for plain HTTP; raises InvalidParameter."""
    if not tls.certificate and not tls.key:
        return None
    if not (tls.certificate and tls.key):
        raise InvalidParameter("http.tls needs both certificate and key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if tls.minimumtls == "tls1.3" else ssl.TLSVersion.TLSv1_2
    )
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        for authority in tls.clientcas:
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as err:
        raise InvalidParameter(f"http.tls: cannot load {tls.certificate}: {err}") from err
    if tls.clientcas:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def address(text: str) -> tuple[str | None, int]:
    """``HOST:PORT``, ``:PORT`` or ``[V6]:PORT``; raises InvalidParameter."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidParameter(f"http.addr: {text!r} is not of the form HOST:PORT")
    return host.strip("[]") or None, int(port)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises InvalidParameter or OSError (address in use)."""
    context = tls_context(settings.http.tls)
    log = logging.getLogger("portside.registry")
    log.setLevel(_LEVELS.get(settings.log.level.lower(), logging.INFO))
    app = make_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None if settings.log.accesslog.disabled else log,
        shutdown_timeout=seconds(settings.http.draintimeout),
        handler_cancellation=True,
        read_bufsize=1 << 19,
    )
    await runner.setup()
    watching = web.AppRunner(watching_app(app[REGISTRY]), access_log=None)
    try:
        if settings.http.debug.addr:
            await watching.setup()
            await web.TCPSite(watching, *address(settings.http.debug.addr)).start()
        if settings.http.net == "unix":
            await web.UnixSite(runner, settings.http.addr, ssl_context=context).start()
        else:
            host, port = address(settings.http.addr)
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        log.info("listening on %s%s", settings.http.addr, ", tls" if context else "")
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        await watching.cleanup()
        await runner.cleanup()


def state_directory(settings: Settings) -> Path:
    """Where robots and staged uploads are kept."""
    return Path(settings.storage.filesystem.rootdirectory) / "portside"
