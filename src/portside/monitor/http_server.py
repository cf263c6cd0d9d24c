"""The monitor's HTTP server: all interfaces, access, and what keeps hostile clients off."""

from __future__ import annotations

import asyncio
import logging
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

import portside
from portside.monitor import own_api
from portside.monitor.access import Access
from portside.monitor.cadvisor import exposition, remote_api
from portside.monitor.monitor_context import MONITOR, Monitor, monitor_of
from portside.monitor.page_files import page_routes
from portside.monitor.validate_report import report
from portside.serving.host_names import REFUSED, HostNames, is_loopback

_LOG = logging.getLogger("portside.monitor")
_STREAMS = 300
"""Connections that are answered at the same time; more are answered with 503."""


def make_app(monitor: Monitor, access: Access) -> web.Application:
    """The application, below the settings' prefix."""
    settings = monitor.settings
    is_private = access.is_open and not settings.tls_client_ca and not settings.tls_certificate
    names = None
    if is_private and is_loopback(settings.listen, "--listen"):
        names = HostNames(settings.hosts)
    app = web.Application(middlewares=[_guard(access, names)], client_max_size=1 << 20)
    app[MONITOR] = monitor
    app.router.add_get("/healthz", _healthy)
    app.router.add_get("/validate", _validate)
    app.router.add_get("/validate/", _validate)
    app.router.add_get(settings.metrics_path, _metrics)
    app.add_routes(own_api.routes())
    app.add_routes(remote_api.routes())
    app.add_routes(page_routes())
    app.router.add_get("/", _first)
    if not settings.prefix:
        return app
    outer = web.Application()
    outer.add_subapp(settings.prefix.rstrip("/"), app)
    return outer


def _guard(access: Access, names: HostNames | None) -> Middleware:
    busy = 0

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal busy
        if names is not None and not names.has(request.host):
            text = REFUSED.format(host=request.host[:100], setting="--host-name")
            return web.Response(text=f"{text}\n", status=421)
        refused = await access.refusal(request)
        if refused is not None:
            return refused
        if busy >= _STREAMS:
            return web.Response(
                text="too many requests\n", status=503, headers={"Retry-After": "5"}
            )
        busy += 1
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.path)
            return web.Response(text="internal error; the log says more\n", status=500)
        finally:
            busy -= 1

    return guard


async def _first(request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(f"{monitor_of(request).settings.prefix}/containers/")


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _validate(request: web.Request) -> web.Response:
    return web.Response(text=report(monitor_of(request)))


async def _metrics(request: web.Request) -> web.Response:
    """Containers, the machine, and the monitor itself; parameters as in cAdvisor."""
    monitor = monitor_of(request)
    try:
        options = remote_api.options_of(request)
        options.recursive = True
        groups = remote_api.requested(monitor, "/", options)
    except remote_api.ApiError as err:
        return web.Response(text=f"No metrics gathered, last error:\n\n{err}\n", status=500)
    newer = "application/openmetrics-text" in request.headers.get("Accept", "")
    out = exposition.Exposition(newer)
    versions = remote_api.versions(monitor)
    out.family(
        "cadvisor_version_info", "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, "
        "cadvisor version & cadvisor revision.",
    )  # fmt: skip
    names = (
        ("cadvisorRevision", "cadvisor_revision"), ("cadvisorVersion", "cadvisor_version"),
        ("dockerVersion", "docker_version"), ("kernelVersion", "kernel_version"),
        ("osVersion", "container_os_version"),
    )  # fmt: skip
    labels = exposition.label_text((label, versions[key]) for label, key in names)
    out.line("cadvisor_version_info", labels, 1)
    exposition.write_containers(out, groups, monitor.settings)
    exposition.write_machine(out, monitor.machine)
    _own(out, monitor)
    kind = exposition.OPEN_METRICS if newer else exposition.TEXT
    response = web.Response(body=out.text(), headers={"Content-Type": kind})
    response.enable_compression()
    return response


def _own(out: exposition.Exposition, monitor: Monitor) -> None:
    """The monitor's metrics about itself."""
    collector = monitor.collector
    out.family("container_scrape_error", "gauge",
               "1 if there was an error while getting container metrics, 0 otherwise")  # fmt: skip
    out.line("container_scrape_error", "", 0)
    times = time.process_time()
    for name, kind, help, value in (
        ("portside_monitor_groups", "gauge", "Control groups that are sampled.",
         len(collector.groups)),
        ("portside_monitor_samples_total", "counter", "Samples taken.", collector.samples_taken),
        ("portside_monitor_sample_errors_total", "counter", "Samples that failed.",
         collector.sample_errors),
        ("portside_monitor_engine_reached", "gauge", "1 while the engine answers.",
         int(collector.engine_reached)),
        ("process_cpu_seconds_total", "counter",
         "Total user and system CPU time spent in seconds.", times),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
         monitor.resident()),
        ("process_start_time_seconds", "gauge",
         "Start time of the process since unix epoch in seconds.", monitor.started),
    ):  # fmt: skip
        out.family(name, kind, help)
        out.line(name, "", value)
    out.family("portside_monitor_build_info", "gauge", "The version of the monitor.")
    out.line("portside_monitor_build_info", f'version="{portside.__version__}"', 1)
    monitor.write_own(out)
