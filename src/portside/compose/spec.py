"""The Compose Specification as tables: every attribute, its kind, in the order it is printed.

The order and which empty values are left out are those of ``docker compose config``; the hash by
by which ``up`` sees whether a service changed is made from the same tables.
"""

from __future__ import annotations

from portside.compose.attribute_kinds import (
    Bytes,
    Command,
    DeviceCount,
    Duration,
    External,
    FileMode,
    Flag,
    Float32,
    HealthTest,
    Here,
    Hosts,
    Integer,
    Kind,
    ListOf,
    MapOf,
    MultiOptions,
    Pairs,
    Ssh,
    Struct,
    Text,
    Ulimit,
)
from portside.compose.short_forms import parse_device, parse_volume
from portside.compose.yaml_source import Map
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


NAMES = r"[a-zA-Z0-9._-]+"
"""Names of services, networks, volumes, configs, secrets and models."""
CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")

TEXT = Text()
TEXTS = ListOf(TEXT)
ONE_OR_MORE = ListOf(TEXT, single=True)
OPTIONS = MapOf(Text(numbers=True), nulls=True)
LABELS = Pairs()
FLAG = Flag()
POINTER_FLAG = Flag(pointer=True)


def _short(name: str) -> Any:
    def make(value: Any, here: Here) -> Any:
        if not isinstance(value, str):
            raise here.error("must be a string or a mapping")
        found = Map()
        found[name] = value
        return found

    return make


def _parsed(parse: Any) -> Any:
    def make(value: Any, here: Here) -> Any:
        if not isinstance(value, str):
            raise here.error("must be a string or a mapping")
        try:
            return parse(value)
        except InvalidParameter as err:
            raise here.error(str(err)) from None

    return make


class _EnvFile(Struct):
    """An entry of ``env_file``: its path alone is printed when the file is required."""

    def encode(self, value: Any, json: bool) -> Any:
        if value.get("required", True):
            return value["path"]
        found = {"path": value["path"], "required": False}
        if json and value.get("format"):
            found["format"] = value["format"]
        return found


FILE_REFERENCE = Struct(
    {"source": TEXT, "target": TEXT, "uid": TEXT, "gid": TEXT, "mode": FileMode()},
    short=_short("source"),
)

HOOK = Struct(
    {
        "command": Command(), "image": TEXT, "user": TEXT, "privileged": FLAG,
        "working_dir": TEXT, "environment": Pairs(empty=True), "per_replica": FLAG,
    },
    required=("command",),
)  # fmt: skip
WATCH_HOOK = Struct(HOOK.fields, required=("command",), pointer=False)

BUILD = Struct(
    {
        "context": TEXT, "dockerfile": TEXT, "dockerfile_inline": TEXT, "entitlements": TEXTS,
        "args": Pairs(empty=True), "provenance": Text(booleans=True), "sbom": Text(booleans=True),
        "ssh": Ssh(), "labels": LABELS, "cache_from": ONE_OR_MORE, "cache_to": ONE_OR_MORE,
        "no_cache": FLAG, "no_cache_filter": ONE_OR_MORE, "additional_contexts": Pairs(),
        "pull": FLAG, "extra_hosts": Hosts(), "isolation": TEXT, "network": TEXT, "target": TEXT,
        "secrets": ListOf(FILE_REFERENCE), "shm_size": Bytes(), "tags": ONE_OR_MORE,
        "ulimits": MapOf(Ulimit(), keys=r"[a-z]+"), "platforms": ONE_OR_MORE, "privileged": FLAG,
    },
    short=_short("context"),
)  # fmt: skip

WATCH = Struct(
    {
        "path": TEXT,
        "action": Text(one_of=("rebuild", "sync", "restart", "sync+restart", "sync+exec")),
        "target": TEXT, "exec": WATCH_HOOK, "include": ONE_OR_MORE, "ignore": ONE_OR_MORE,
        "initial_sync": FLAG,
    },
    required=("path", "action"),
)  # fmt: skip

_LIMIT = Struct({"path": TEXT, "rate": Bytes()}, extensions=False,
                json_names={"path": "Path", "rate": "Rate"})  # fmt: skip
_WEIGHT = Struct({"path": TEXT, "weight": Integer()}, extensions=False,
                 json_names={"path": "Path", "weight": "Weight"})  # fmt: skip
BLKIO = Struct(
    {
        "weight": Integer(), "weight_device": ListOf(_WEIGHT), "device_read_bps": ListOf(_LIMIT),
        "device_read_iops": ListOf(_LIMIT), "device_write_bps": ListOf(_LIMIT),
        "device_write_iops": ListOf(_LIMIT),
    },
    extensions=False,
)  # fmt: skip

DEVICE_REQUEST = Struct(
    {"capabilities": TEXTS, "driver": TEXT, "count": DeviceCount(), "device_ids": TEXTS,
     "options": Pairs()},
)  # fmt: skip
_GENERIC = Struct({"discrete_resource_spec": Struct({"kind": TEXT, "value": Integer()})})
_RESOURCE = {
    "cpus": Float32(), "memory": Bytes(), "pids": Integer(), "devices": ListOf(DEVICE_REQUEST),
    "generic_resources": ListOf(_GENERIC),
}  # fmt: skip
_ROLL = Struct(
    {
        "parallelism": Integer(pointer=True), "delay": Duration(pointer=False),
        "failure_action": TEXT, "monitor": Duration(pointer=False),
        "max_failure_ratio": Float32(), "order": Text(one_of=("start-first", "stop-first")),
    }
)  # fmt: skip
DEPLOY = Struct(
    {
        "mode": TEXT, "replicas": Integer(pointer=True), "labels": LABELS,
        "update_config": _ROLL, "rollback_config": _ROLL,
        "resources": Struct(
            {"limits": Struct(_RESOURCE), "reservations": Struct(_RESOURCE)}, pointer=False
        ),
        "restart_policy": Struct(
            {"condition": TEXT, "delay": Duration(), "max_attempts": Integer(pointer=True),
             "window": Duration()}
        ),
        "placement": Struct(
            {"constraints": TEXTS, "preferences": ListOf(Struct({"spread": TEXT})),
             "max_replicas_per_node": Integer()},
            pointer=False,
        ),
        "endpoint_mode": TEXT,
    },
    nullable=True,
)  # fmt: skip

HEALTHCHECK = Struct(
    {
        "test": HealthTest(), "timeout": Duration(), "interval": Duration(),
        "retries": Integer(pointer=True), "start_period": Duration(),
        "start_interval": Duration(), "disable": FLAG,
    }
)  # fmt: skip

SERVICE_NETWORK = Struct(
    {
        "aliases": TEXTS, "driver_opts": OPTIONS, "gw_priority": Integer(),
        "interface_name": TEXT, "ipv4_address": TEXT, "ipv6_address": TEXT,
        "link_local_ips": TEXTS, "mac_address": TEXT, "priority": Integer(),
    }
)  # fmt: skip

PORT = Struct(
    {
        "name": TEXT, "mode": TEXT, "host_ip": TEXT, "target": Integer(),
        "published": Text(numbers=True), "protocol": TEXT, "app_protocol": TEXT,
    }
)  # fmt: skip

VOLUME_MOUNT = Struct(
    {
        "type": Text(one_of=("bind", "volume", "tmpfs", "cluster", "npipe", "image")),
        "source": TEXT, "target": TEXT, "read_only": FLAG, "consistency": TEXT,
        "bind": Struct(
            {
                "selinux": Text(one_of=("z", "Z")), "propagation": TEXT,
                "create_host_path": FLAG,
                "recursive": Text(one_of=("enabled", "disabled", "writable", "readonly")),
            }
        ),
        "volume": Struct({"labels": LABELS, "nocopy": FLAG, "subpath": TEXT}),
        "tmpfs": Struct({"size": Bytes(), "mode": Integer()}),
        "image": Struct({"subpath": TEXT}),
    },
    required=("type",),
    short=_parsed(parse_volume),
)  # fmt: skip

DEPENDENCY = Struct(
    {"condition": Text(one_of=CONDITIONS), "restart": FLAG, "required": Kind()},
    required=("condition",),
)

SERVICE = Struct(
    {
        "profiles": TEXTS,
        "annotations": Pairs(),
        "attach": POINTER_FLAG,
        "build": BUILD,
        "develop": Struct({"watch": ListOf(WATCH)}, nullable=True),
        "blkio_config": BLKIO,
        "cap_add": TEXTS,
        "cap_drop": TEXTS,
        "cgroup_parent": TEXT,
        "cgroup": Text(one_of=("host", "private")),
        "cpu_count": Integer(least=0),
        "cpu_percent": Float32(whole=True),
        "cpu_period": Integer(),
        "cpu_quota": Integer(),
        "cpu_rt_period": Integer(),
        "cpu_rt_runtime": Integer(),
        "cpus": Float32(),
        "cpuset": TEXT,
        "cpu_shares": Integer(),
        "command": Command(),
        "configs": ListOf(FILE_REFERENCE),
        "container_name": Text(pattern="[a-zA-Z0-9][a-zA-Z0-9_.-]+"),
        "credential_spec": Struct({"config": TEXT, "file": TEXT, "registry": TEXT}),
        "depends_on": MapOf(DEPENDENCY, keys=NAMES),
        "deploy": DEPLOY,
        "device_cgroup_rules": TEXTS,
        "devices": ListOf(
            Struct({"source": TEXT, "target": TEXT, "permissions": TEXT},
                   required=("source",), short=_parsed(parse_device))
        ),
        "dns": ONE_OR_MORE,
        "dns_opt": TEXTS,
        "dns_search": ONE_OR_MORE,
        "domainname": TEXT,
        "entrypoint": Command(),
        "provider": Struct({"type": TEXT, "options": MultiOptions()}, required=("type",)),
        "environment": Pairs(empty=True),
        "env_file": ListOf(
            _EnvFile({"path": TEXT, "required": Flag(default=True), "format": TEXT},
                     required=("path",), short=_short("path"), extensions=False)
        ),
        "expose": ListOf(Text(numbers=True)),
        "extends": Kind(),
        "external_links": TEXTS,
        "extra_hosts": Hosts(),
        "group_add": ListOf(Text(numbers=True)),
        "gpus": ListOf(DEVICE_REQUEST),
        "hostname": TEXT,
        "healthcheck": HEALTHCHECK,
        "image": TEXT,
        "init": POINTER_FLAG,
        "ipc": TEXT,
        "isolation": TEXT,
        "labels": LABELS,
        "label_file": ONE_OR_MORE,
        "links": TEXTS,
        "logging": Struct({"driver": TEXT, "options": OPTIONS}),
        "mem_limit": Bytes(),
        "mem_reservation": Bytes(),
        "memswap_limit": Bytes(),
        "mem_swappiness": Bytes(),
        "mac_address": TEXT,
        "models": MapOf(Struct({"endpoint_var": TEXT, "model_var": TEXT}), nulls=True, keys=NAMES),
        "network_mode": TEXT,
        "networks": MapOf(SERVICE_NETWORK, nulls=True, keys=NAMES),
        "oom_kill_disable": FLAG,
        "oom_score_adj": Integer(-1000, 1000),
        "pid": TEXT,
        "pids_limit": Integer(),
        "platform": TEXT,
        "ports": ListOf(PORT),
        "privileged": FLAG,
        "pull_policy": Text(
            pattern="always|never|build|if_not_present|missing|refresh|daily|weekly"
            "|every_([0-9]+[wdhms])+"
        ),
        "pull_refresh_after": TEXT,
        "read_only": FLAG,
        "restart": TEXT,
        "runtime": TEXT,
        "scale": Integer(pointer=True),
        "secrets": ListOf(FILE_REFERENCE),
        "security_opt": TEXTS,
        "shm_size": Bytes(),
        "stdin_open": FLAG,
        "stop_grace_period": Duration(),
        "stop_signal": TEXT,
        "storage_opt": MapOf(Text(numbers=True, booleans=True), nulls=True),
        "sysctls": Pairs(),
        "tmpfs": ONE_OR_MORE,
        "tty": FLAG,
        "ulimits": MapOf(Ulimit(), keys=r"[a-z]+"),
        "use_api_socket": FLAG,
        "user": TEXT,
        "userns_mode": TEXT,
        "uts": TEXT,
        "volumes": ListOf(VOLUME_MOUNT),
        "volumes_from": TEXTS,
        "working_dir": TEXT,
        "pre_start": ListOf(HOOK),
        "post_start": ListOf(HOOK),
        "pre_stop": ListOf(HOOK),
    }
)  # fmt: skip

NETWORK = Struct(
    {
        "name": TEXT, "driver": TEXT, "driver_opts": OPTIONS,
        "ipam": Struct(
            {
                "driver": TEXT,
                "config": ListOf(
                    Struct({"subnet": TEXT, "gateway": TEXT, "ip_range": TEXT,
                            "aux_addresses": Pairs()})
                ),
                "options": OPTIONS,
            },
            pointer=False,
        ),
        "external": External(), "internal": FLAG, "attachable": FLAG, "labels": LABELS,
        "enable_ipv4": POINTER_FLAG, "enable_ipv6": POINTER_FLAG,
    },
    nullable=True,
)  # fmt: skip

VOLUME = Struct(
    {"name": TEXT, "driver": TEXT, "driver_opts": OPTIONS, "external": External(),
     "labels": LABELS},
    nullable=True,
)  # fmt: skip

FILE_OBJECT = Struct(
    {
        "name": TEXT, "file": TEXT, "environment": TEXT, "content": TEXT, "external": External(),
        "labels": LABELS, "driver": TEXT, "driver_opts": OPTIONS, "template_driver": TEXT,
    }
)  # fmt: skip

MODEL = Struct(
    {"name": TEXT, "model": TEXT, "context_size": Integer(), "runtime_flags": TEXTS},
    required=("model",),
)

PROJECT = Struct(
    {
        "name": TEXT,
        "services": MapOf(SERVICE, keys=NAMES),
        "networks": MapOf(NETWORK, keys=NAMES, nulls=True),
        "volumes": MapOf(VOLUME, keys=NAMES, nulls=True),
        "secrets": MapOf(FILE_OBJECT, keys=NAMES),
        "configs": MapOf(FILE_OBJECT, keys=NAMES),
        "models": MapOf(MODEL, keys=NAMES),
    }
)
