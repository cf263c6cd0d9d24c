"""The monitor's HTTP server: all interfaces, access, and what keeps hostile clients off."""

from __future__ import annotations

import asyncio
import logging
import time

import portside
from portside.model.errors import Cancelled, InvalidParameter, TooLarge
from portside.monitor import own_api
from portside.monitor.access import Access
from portside.monitor.cadvisor import exposition, remote_api
from portside.monitor.monitor_context import Monitor
from portside.monitor.page_files import page_routes
from portside.monitor.validate_report import report
from portside.monitor.web_requests import (
    Answer,
    Request,
    Route,
    Router,
    compressed,
    text_response,
)
from portside.serving.host_names import REFUSED, HostNames, is_loopback
from portside.serving.http.messages import Request as HttpRequest
from portside.serving.http.messages import Response

_LOG = logging.getLogger("portside.monitor")
_STREAMS = 300
"""Connections that are answered at the same time; more are answered with 503."""


class App:
    """Answers every request below the settings' prefix."""

    def __init__(self, monitor: Monitor, access: Access) -> None:
        self._monitor, self._access = monitor, access
        settings = monitor.settings
        is_private = access.is_open and not settings.tls_client_ca and not settings.tls_certificate
        self._names: HostNames | None = None
        if is_private and is_loopback(settings.listen, "--listen"):
            self._names = HostNames(settings.hosts)
        self._prefix = settings.prefix.rstrip("/")
        self._busy = 0
        self._router = Router([
            Route("/", _first),
            Route("/healthz", _healthy),
            Route("/validate", _validate),
            Route("/validate/", _validate),
            Route(settings.metrics_path, _metrics),
            *own_api.routes(),
            *remote_api.routes(),
            *page_routes(),
        ])  # fmt: skip

    async def __call__(self, http: HttpRequest) -> Answer:
        http.make_cancellable()
        path = http.head.path
        request = Request(http, self._monitor, path.removeprefix(self._prefix) or "/")
        host = request.header("host")
        if self._names is not None and not self._names.has(host):
            text = REFUSED.format(host=host[:100], setting="--host-name")
            return text_response(f"{text}\n", 421)
        refused = await self._access.refusal(request)
        if refused is not None:
            return refused
        if not path.startswith(f"{self._prefix}/") and path != self._prefix:
            return text_response("404: Not Found", 404)
        if self._busy >= _STREAMS:
            answer = text_response("too many requests\n", 503)
            answer.headers["Retry-After"] = "5"
            return answer
        self._busy += 1
        try:
            return await self._answered(request)
        finally:
            self._busy -= 1

    async def _answered(self, request: Request) -> Answer:
        found = self._router.find(request.path)
        if found is None:
            return text_response("404: Not Found", 404)
        route, request.rest = found
        if request.method not in route.methods:
            refused = text_response("405: Method Not Allowed", 405)
            refused.headers["Allow"] = ",".join(route.methods)
            return refused
        try:
            answer = await route.handler(request)
            if isinstance(answer, Response):
                await compressed(request, answer)
            return answer
        except (asyncio.CancelledError, Cancelled):
            raise
        except (InvalidParameter, TooLarge) as err:
            return text_response(f"{err}\n", 413 if isinstance(err, TooLarge) else 400)
        except Exception:
            if request.has_started:
                raise
            _LOG.exception("%s %s failed", request.method, request.path)
            return text_response("internal error; the log says more\n", 500)


async def _first(request: Request) -> Answer:
    return Response(307, headers={"Location": f"{request.monitor.settings.prefix}/containers/"})


async def _healthy(_request: Request) -> Answer:
    return text_response("ok")


async def _validate(request: Request) -> Answer:
    return text_response(report(request.monitor))


async def _metrics(request: Request) -> Answer:
    """Containers, the machine, and the monitor itself; parameters as in cAdvisor."""
    monitor = request.monitor
    try:
        options = remote_api.options_of(request)
        options.recursive = True
        groups = remote_api.requested(monitor, "/", options)
    except remote_api.ApiError as err:
        return text_response(f"No metrics gathered, last error:\n\n{err}\n", 500)
    newer = "application/openmetrics-text" in request.header("accept")
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
    exposition.write_machine(out, monitor.machine, monitor.settings.enabled("cpu_topology"))
    _own(out, monitor)
    kind = exposition.OPEN_METRICS if newer else exposition.TEXT
    return Response(200, out.text(), kind)


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
