"""Which attributes of a service make a container differ, and where they stand in the files."""

from __future__ import annotations

from portside.client.client import path_of
from portside.compose.actions import Actions
from portside.compose.observed import Container
from portside.compose.requests import PREFIX, image_of
from portside.compose.yaml_source import position

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONFIG = {
    "Env": "environment", "Cmd": "command", "Entrypoint": "entrypoint", "Image": "image",
    "User": "user", "WorkingDir": "working_dir", "Labels": "labels", "Hostname": "hostname",
    "Domainname": "domainname", "Tty": "tty", "OpenStdin": "stdin_open",
    "StopSignal": "stop_signal", "StopTimeout": "stop_grace_period", "Healthcheck": "healthcheck",
}  # fmt: skip
_HOST = {
    "Binds": "volumes", "Mounts": "volumes", "PortBindings": "ports", "CapAdd": "cap_add",
    "CapDrop": "cap_drop", "RestartPolicy": "restart", "Memory": "mem_limit",
    "NanoCpus": "cpus", "CpuShares": "cpu_shares", "PidsLimit": "pids_limit",
    "NetworkMode": "network_mode", "Privileged": "privileged", "ReadonlyRootfs": "read_only",
    "Sysctls": "sysctls", "Tmpfs": "tmpfs", "Ulimits": "ulimits", "LogConfig": "logging",
    "Dns": "dns", "DnsSearch": "dns_search", "ExtraHosts": "extra_hosts", "Init": "init",
    "GroupAdd": "group_add", "Devices": "devices", "SecurityOpt": "security_opt",
    "VolumesFrom": "volumes_from", "OomScoreAdj": "oom_score_adj", "Links": "links",
}  # fmt: skip


def details(actions: Actions, name: str, container: Container) -> list[str]:
    """Lines such as ``environment (compose.yaml:7:5)``, one for each attribute that differs."""
    body = actions.request(name, container.number or 1).body()
    found = actions.pool.get(path_of("containers", container.id, "json"))
    image = actions.images.get(image_of(actions.project, name, actions.project.services[name]))
    base = (image or {}).get("Config") or {}
    keys: dict[str, None] = {}
    for field, key in _CONFIG.items():
        if field == "Hostname" and not body[field]:
            continue  # the engine made one up
        wanted, actual = body.get(field), found["Config"].get(field)
        if _differs(field, wanted, actual, base.get(field)):
            keys[key] = None
    for field, key in _HOST.items():
        actual = found["HostConfig"].get(field)
        if field in body["HostConfig"] and _differs(field, body["HostConfig"][field], actual, None):
            keys[key] = None
    wanted_networks = set((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or ())
    if wanted_networks and wanted_networks != set(found["NetworkSettings"].get("Networks") or ()):
        keys["networks"] = None
    return [f"{key}{_place(actions, name, key)}" for key in keys]


def _differs(field: str, wanted: Any, actual: Any, base: Any) -> bool:
    if field == "Env":
        extra = set(actual or ()) - set(base or ())
        return set(wanted or ()) != extra and not extra <= set(wanted or ()) <= set(actual or ())
    if field == "Labels":
        return _own(wanted, {}) != _own(actual, base or {})
    if field == "RestartPolicy":
        return ((wanted or {}).get("Name") or "no") != ((actual or {}).get("Name") or "no")
    if field == "LogConfig" and not (wanted or {}).get("Type"):
        return False
    if wanted in (None, "", [], {}, 0, False) or field == "Healthcheck":
        return bool(_plain(wanted) != _plain(actual)) and not (not wanted and actual == base)
    return bool(_plain(wanted) != _plain(actual))


def _own(labels: dict[str, str] | None, base: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in (labels or {}).items()
            if not key.startswith(PREFIX) and base.get(key) != value}  # fmt: skip


def _plain(value: Any) -> Any:
    """Without what is empty."""
    if isinstance(value, dict):
        inner = {key: _plain(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item} or None
    if isinstance(value, list):
        return [_plain(item) for item in value] or None
    return value or None


def _place(actions: Actions, name: str, key: str) -> str:
    at = position(actions.project.tree, ("services", name, key))
    return f" ({at})" if at is not None else ""
