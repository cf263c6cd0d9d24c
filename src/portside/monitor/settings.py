"""Settings of the monitor: flags, and a YAML file for what flags cannot say well."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import msgspec

from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang.durations import parse_duration

DEFAULT_ADDRESS = "127.0.0.1:8080"
ALL_METRICS = frozenset(
    ("cpu", "percpu", "cpuLoad", "sched", "memory", "memory_numa", "hugetlb", "cpuset", "pressure",
     "disk", "diskIO", "network", "tcp", "udp", "advtcp", "process", "oom_event",
     "referenced_memory", "resctrl", "perf_event", "cpu_topology", "app", "accelerator")
)  # fmt: skip
"""cAdvisor's kinds of metrics, as ``--disable-metrics`` names them."""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where metrics are sent. ``kind``: otlp, influxdb, influxdb2, statsd, jsonlines, redis."""

    kind: str
    url: str
    """``http://HOST:PORT``; ``udp://HOST:PORT`` for StatsD; a path for JSON lines."""
    interval: str = "10s"
    database: str = "cadvisor"
    """InfluxDB 1: the database; InfluxDB 2: the bucket; Redis: the key."""
    organization: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    headers: dict[str, str] = {}
    prefix: str = "portside"
    """Begins the names of StatsD's metrics."""
    containers_only: bool = True
    timeout: str = "5s"
    queue: int = 1000
    """Batches that wait while the host does not answer; then the oldest is dropped and counted."""
    max_size: int = 100 << 20
    """JSON lines: bytes of the file, after which it is renamed to ``….1``."""


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address that accepts Alertmanager's webhook messages, or Alertmanager's own API."""

    url: str
    format: str = "webhook"
    """``webhook`` (what Alertmanager sends to its receivers) or ``alertmanager`` (its API v2)."""
    headers: dict[str, str] = {}
    token: str = ""
    timeout: str = "5s"
    repeat: str = "4h"
    """How often a warning that stays is sent again."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Overrides a rule of early warning by its name; None leaves a value as it is."""

    enabled: bool = True
    above: float | None = None
    below: float | None = None
    hold: str | None = None
    """For how long it must be so."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = DEFAULT_ADDRESS
    engine: str = ""
    """Address of the engine; empty: DOCKER_HOST, or the first socket that exists."""
    root: str = "/"
    """The control group below which is sampled."""
    rootfs: str = ""
    """Where the machine's root is mounted; empty: ``/rootfs`` if it exists, else ``/``."""
    interval: str = "1s"
    max_interval: str = "60s"
    dynamic: bool = True
    details_interval: str = "10s"
    full: str = "2m"
    kept: str = "1h"
    history: str = ""
    """File of the history on disk; empty: none."""
    history_days: float = 7.0
    history_bytes: int = 512 << 20
    docker_only: bool = False
    group_prefixes: tuple[str, ...] = ()
    """Groups that are sampled beside containers when ``docker_only`` is on, by their paths."""
    store_labels: bool = True
    labels: tuple[str, ...] = ()
    """Labels that become labels of metrics, when not all do."""
    environment: tuple[str, ...] = ()
    """Prefixes of environment variables that become labels of metrics."""
    disabled: tuple[str, ...] = ("referenced_memory", "resctrl", "perf_event", "cpu_topology")
    prefix: str = ""
    """Path below which everything is served, such as ``/monitor``."""
    metrics_path: str = "/metrics"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    htpasswd: str = ""
    realm: str = "portside monitor"
    token_file: str = ""
    """A file with bearer tokens, one a line."""
    hosts: tuple[str, ...] = ()
    """Host names under which a proxy reaches the monitor when it listens on loopback without
    authentication; ``*`` is every name."""
    insecure: bool = False
    """Listen beyond loopback without TLS or authentication."""
    logs: bool | None = None
    """Whether the page shows containers' logs; None: only where users are authenticated."""
    exporters: tuple[Endpoint, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    rules: dict[str, Rule] = {}
    kernel_log: str = "/dev/kmsg"

    @property
    def host_root(self) -> str:
        """Where the machine's root is mounted; empty when it is this process's root."""
        if self.rootfs:
            return "" if self.rootfs == "/" else self.rootfs.rstrip("/")
        return "/rootfs" if os.path.isdir("/rootfs/proc/1") else ""

    @property
    def host_proc(self) -> str:
        return f"{self.host_root}/proc"

    def enabled(self, kind: str) -> bool:
        """Whether metrics of this kind are shown."""
        return kind not in self.disabled


def seconds(text: str) -> float:
    """A duration such as ``1s``, ``500ms``, ``1h30m``; raises InvalidParameter."""
    return parse_duration(text) / 1e9


def _check_kinds(kinds: Iterable[str]) -> None:
    if unknown := set(kinds) - ALL_METRICS:
        known = ", ".join(sorted(ALL_METRICS))
        raise InvalidParameter(f"unknown kind of metrics {min(unknown)!r}: use {known}")


def all_but(shown: Iterable[str]) -> list[str]:
    """The kinds of metrics that are off when only these are on; raises InvalidParameter."""
    shown = set(shown)
    _check_kinds(shown)
    return sorted(ALL_METRICS - shown)


def load_file(path: str) -> dict[str, Any]:
    """The document of a YAML file; raises InvalidParameter."""
    import yaml

    try:
        with open(path, "rb") as file:
            found = yaml.safe_load(file.read())
    except OSError as err:
        raise InvalidParameter(f"cannot read {path}: {err.strerror}") from err
    except yaml.YAMLError as err:
        raise InvalidParameter(f"{path}: not YAML: {err}") from err
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidParameter(f"{path}: must be a mapping of settings")
    return found


def made_of(values: dict[str, Any]) -> Settings:
    """Settings of flags and file together; raises InvalidParameter naming the setting."""
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as err:
        raise InvalidParameter(f"settings: {err}") from err
    for name in ("interval", "max_interval", "details_interval", "full", "kept"):
        text, option = getattr(settings, name), f"--{name.replace('_', '-')}"
        try:
            value = seconds(text)
        except InvalidText:
            raise InvalidParameter(f"{option}: {text!r} is not a duration such as 1s") from None
        if not 0.05 <= value <= 30 * 86400:
            raise InvalidParameter(f"{option}: must be between 50ms and 720h")
    _check_kinds(settings.disabled)
    if not settings.metrics_path.startswith("/") or settings.metrics_path == "/":
        raise InvalidParameter("metrics_path: must be a path such as /metrics")
    if settings.prefix and not settings.prefix.startswith("/"):
        raise InvalidParameter("prefix: must begin with a slash")
    return settings
