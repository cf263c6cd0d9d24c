"""``portside registry serve``: the process around the application."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl

from aiohttp import web

from portside.registry.server.app import make_app, watching_app
from portside.registry.server.config import Settings, Tls, seconds
from portside.registry.server.context import REGISTRY
from portside.registry.server.sockets import Listening
from portside.serving.tls import server_context

_LEVELS = {"debug": logging.DEBUG, "warn": logging.WARNING, "error": logging.ERROR}


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """The server's TLS context, or None for plain HTTP; raises InvalidParameter."""
    return server_context(
        tls.certificate, tls.key, tls.clientcas, "http.tls", newest=tls.minimumtls == "tls1.3"
    )


async def serve(settings: Settings, listening: Listening) -> None:
    """Serve on sockets that listen already, until SIGTERM or SIGINT; raises InvalidParameter."""
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
        if listening.watched:
            await watching.setup()
            for sock in listening.watched:
                await web.SockSite(watching, sock).start()
        for sock in listening.served:
            await web.SockSite(runner, sock, ssl_context=context).start()
        log.info("listening on %s%s", settings.http.addr, ", tls" if context else "")
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        await watching.cleanup()
        await runner.cleanup()
