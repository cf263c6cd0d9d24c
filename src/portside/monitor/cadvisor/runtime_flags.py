"""cAdvisor's command line (docs/runtime_options.md of cAdvisor): its flags become our settings.

A flag without an effect here is accepted and named in the log; one whose effect would be missed
is refused, and the error says what to use instead. Go's flag package decides the syntax: one dash
or two, a value after ``=`` or in the next word, a boolean after ``=`` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from portside.flags.table import UsageError
from portside.model.golang.booleans import parse_bool
from portside.monitor.settings import all_but

_TEXT: Final = {
    "housekeeping_interval": "interval", "max_housekeeping_interval": "max_interval",
    "storage_duration": "full", "docker": "engine", "prometheus_endpoint": "metrics_path",
    "http_auth_file": "htpasswd", "http_auth_realm": "realm",
}  # fmt: skip
"""Flags that are settings as they are."""
_LISTS: Final = {
    "disable_metrics": "disabled", "whitelisted_container_labels": "labels",
    "env_metadata_whitelist": "environment", "docker_env_metadata_whitelist": "environment",
    "raw_cgroup_prefix_whitelist": "group_prefixes",
}  # fmt: skip
_BOOLEANS: Final = {
    "allow_dynamic_housekeeping": "dynamic", "docker_only": "docker_only",
    "store_container_labels": "store_labels",
}  # fmt: skip
_SILENT: Final = frozenset((
    "v", "vmodule", "stderrthreshold", "log_dir", "log_file", "log_file_max_size",
    "log_backtrace_at", "max_procs", "update_machine_info_interval", "housekeeping_jitter",
))  # fmt: skip
"""About cAdvisor's own program and log; with a value."""
_SILENT_BOOLEANS: Final = frozenset((
    "logtostderr", "alsologtostderr", "add_dir_header", "skip_headers", "skip_log_headers",
    "one_output", "log_cadvisor_usage", "enable_load_reader", "profiling",
))  # fmt: skip
_NO_EFFECT: Final = {
    "global_housekeeping_interval": "the kernel reports new control groups at once",
    "event_storage_age_limit": "10,000 events are kept, whatever their age",
    "event_storage_event_limit": "10,000 events are kept",
    "machine_id_file": "/etc/machine-id is read",
    "boot_id_file": "/proc/sys/kernel/random/boot_id is read",
    "docker_root": "the engine reports its data root",
    "containerd": "containers of containerd have no names",
    "containerd-namespace": "containers of containerd have no names",
    "containerd_env_metadata_whitelist": "containers of containerd have no names",
    "podman": "containers of podman have no names", "crio": "containers of CRI-O have no names",
    "mesos_agent": "there are no names of Mesos tasks",
    "mesos_agent_timeout": "there are no names of Mesos tasks",
    "container_hints": "there are no hints",
    "application_metrics_count_limit": "there are no application metrics",
    "collector_cert": "there are no application metrics",
    "collector_key": "there are no application metrics",
    "referenced_reset_interval": "referenced memory is not measured",
    "perf_events_config": "perf events are not measured",
    "resctrl_interval": "resctrl is not read", "storage_driver_table": "tables have fixed names",
}  # fmt: skip
_REFUSED: Final = {
    "http_digest_file": "use --http_auth_file with bcrypt passwords, and TLS",
    "http_digest_realm": "use --http_auth_file with bcrypt passwords, and TLS",
    "docker-tls-cert": "name the engine's socket with --docker",
    "docker-tls-key": "name the engine's socket with --docker",
    "docker-tls-ca": "name the engine's socket with --docker",
}  # fmt: skip
_REFUSED_BOOLEANS: Final = {
    "docker-tls": "name the engine's socket with --docker",
    "disable_root_cgroup_stats": "leave the series with id=\"/\" out where they are scraped",
}  # fmt: skip
_DRIVER: Final = ("storage_driver", "storage_driver_host", "storage_driver_db",
                  "storage_driver_user", "storage_driver_password",
                  "storage_driver_buffer_duration")  # fmt: skip
_DRIVER_REFUSED: Final = {
    "stdout": "use --exporter jsonlines=FILE",
    "kafka": "use --exporter otlp=URL and a collector",
    "elasticsearch": "use --exporter otlp=URL and a collector",
    "bigquery": "use --exporter otlp=URL and a collector",
}  # fmt: skip


class Carried(msgspec.Struct):
    """What a command line of cAdvisor's means."""

    words: list[str] = []
    """What is not cAdvisor's."""
    values: dict[str, Any] = {}
    """Settings by name."""
    notes: list[str] = []
    """Flags without an effect, with the reason."""
    shows_version: bool = False


def carry(given: Sequence[str]) -> Carried:
    """Separate cAdvisor's flags from ours. Raises UsageError."""
    carried, driver, address = Carried(), dict[str, str](), dict[str, str]()
    enabled: str | None = None
    pending = list(given)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not _is_cadvisors(name):
            carried.words.append(word)
            continue
        if not equals and not _is_boolean(name):
            if not pending:
                raise UsageError(f"flag needs an argument: -{name}")
            value = pending.pop(0)
        if _is_boolean(name):
            is_on = _boolean(name, value if equals else "true")
            if name == "storage_driver_secure":
                driver["scheme"] = "https" if is_on else "http"
            else:
                _take_boolean(carried, name, is_on)
        elif name in _TEXT:
            carried.values[_TEXT[name]] = value
        elif name in _LISTS:
            carried.values[_LISTS[name]] = items(value)
        elif name == "enable_metrics":
            enabled = value
        elif name == "url_base_prefix":
            carried.values["prefix"] = value.rstrip("/")
        elif name in ("port", "listen_ip"):
            address[name] = value
        elif name in _DRIVER:
            driver[name.removeprefix("storage_driver").lstrip("_")] = value
        elif name in _REFUSED:
            raise _refusal(name, _REFUSED[name])
        elif name not in _SILENT:
            reason = _NO_EFFECT.get(name, "its storage driver is not supported")
            carried.notes.append(f"--{name} has no effect: {reason}")
    _finish(carried, address, enabled)
    if driver.get(""):
        carried.values["exporters"] = [_exporter(driver)]
    return carried


def _is_boolean(name: str) -> bool:
    return (name in _BOOLEANS or name in _SILENT_BOOLEANS or name in _REFUSED_BOOLEANS
            or name in ("version", "storage_driver_secure", "percpu_usage")
            or name in ("storage_driver_es_enable_sniffer", "storage_driver_kafka_ssl_verify")
            )  # fmt: skip


def _is_cadvisors(name: str) -> bool:
    return (
        _is_boolean(name)
        or any(name in known for known in (_TEXT, _LISTS, _SILENT, _NO_EFFECT, _REFUSED, _DRIVER))
        or name in ("enable_metrics", "url_base_prefix", "port", "listen_ip")
        or name.startswith(("storage_driver_es_", "storage_driver_kafka_", "bq_"))
    )


def items(text: str) -> list[str]:
    """A list with commas between; empty items count for nothing."""
    return [item for item in text.split(",") if item]


def _refusal(name: str, instead: str) -> UsageError:
    return UsageError(f"-{name} is not supported: {instead}")


def _boolean(name: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise UsageError(f'invalid boolean value "{text}" for -{name}') from None


def _take_boolean(carried: Carried, name: str, value: bool) -> None:
    if name in _BOOLEANS:
        carried.values[_BOOLEANS[name]] = value
    elif name == "version":
        carried.shows_version = value
    elif name in _REFUSED_BOOLEANS and value:
        raise _refusal(name, _REFUSED_BOOLEANS[name])


def _finish(carried: Carried, address: dict[str, str], enabled: str | None) -> None:
    values = carried.values
    if address:
        host = address.get("listen_ip", "")
        host = f"[{host}]" if ":" in host else host
        values["listen"] = f"{host}:{address.get('port', 8080)}"
    if enabled is not None:
        values["disabled"] = all_but(items(enabled))
    if "labels" in values and values.get("store_labels", True):
        del values["labels"]
        carried.notes.append(
            "--whitelisted_container_labels has no effect without --store_container_labels=false"
        )


def _exporter(driver: dict[str, str]) -> dict[str, Any]:
    """``-storage_driver`` and its flags as one exporter. Raises UsageError."""
    kind, host = driver[""], driver.get("host", "localhost:8086")
    if kind in _DRIVER_REFUSED:
        raise _refusal(f"storage_driver={kind}", _DRIVER_REFUSED[kind])
    found: dict[str, Any] = {"kind": kind}
    if "buffer_duration" in driver:
        found["interval"] = driver["buffer_duration"]
    database = driver.get("db", "cadvisor")
    if kind == "influxdb":
        user, password = driver.get("user", "root"), driver.get("password", "root")
        return found | {
            "url": f"{driver.get('scheme', 'http')}://{host}", "database": database,
            "user": user, "password": password,
        }  # fmt: skip
    if kind == "statsd":
        return found | {"url": f"udp://{host}", "prefix": database}
    if kind == "redis":
        return found | {"url": f"redis://{host}", "database": database}
    raise UsageError(f'unknown backend storage driver "{kind}": use influxdb, redis or statsd')
