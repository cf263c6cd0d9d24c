"""Counters in Prometheus's text exposition format, through prometheus-client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry's counters; each registry has its own collector."""

    def __init__(self) -> None:
        self._collector = CollectorRegistry()
        self._requests = Counter(
            "portside_registry_requests_total",
            "Answered requests.",
            ("method", "route", "status"),
            registry=self._collector,
        )
        self._seconds = Histogram(
            "portside_registry_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("method", "route"),
            registry=self._collector,
        )
        self._sent = Counter(
            "portside_registry_sent_bytes_total", "Blob bytes sent.", registry=self._collector
        )
        self._received = Counter(
            "portside_registry_received_bytes_total",
            "Blob bytes received.",
            registry=self._collector,
        )
        self._in_flight = Gauge(
            "portside_registry_in_flight_requests",
            "Requests being answered now.",
            registry=self._collector,
        )
        self._collected = Counter(
            "portside_registry_collected_bytes_total",
            "Bytes freed by garbage collection.",
            registry=self._collector,
        )

    def begin(self) -> None:
        self._in_flight.inc()

    def end(self, method: str, route: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def sent(self, size: int) -> None:
        self._sent.inc(size)

    def received(self, size: int) -> None:
        self._received.inc(size)

    def collected(self, size: int) -> None:
        self._collected.inc(size)

    def text(self) -> bytes:
        """The whole exposition."""
        return generate_latest(self._collector)
