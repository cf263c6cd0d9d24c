"""What ``GET /info`` and ``GET /version`` tell."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import portside
from portside.engine import host
from portside.engine.options import DaemonOptions
from portside.model.ids import new_id
from portside.model.system import (
    API_VERSION,
    MIN_API_VERSION,
    Component,
    IndexInfo,
    Info,
    PlatformName,
    PoolInfo,
    RegistryConfig,
    RuntimeInfo,
    Version,
    api_text,
)

if TYPE_CHECKING:
    from portside.engine.engine import Engine


def version() -> Version:
    python = f"python{platform.python_version()}"
    details = {
        "ApiVersion": api_text(API_VERSION),
        "Arch": host.architecture(),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": python,
        "KernelVersion": host.kernel(),
        "MinAPIVersion": api_text(MIN_API_VERSION),
        "Os": "linux",
    }
    return Version(
        platform=PlatformName("Portside"),
        components=(Component("Engine", portside.__version__, details),),
        version=portside.__version__,
        go_version=python,
        arch=host.architecture(),
        kernel_version=host.kernel(),
    )


def engine_id(data_root: Path) -> str:
    """This data root's identity, kept in the file ``engine-id``."""
    path = data_root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        digits = new_id()[:32]
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])
        identity = "-".join(parts)
        fresh = path.with_suffix(".new")
        fresh.write_text(identity + "\n")
        fresh.rename(path)
        return identity


async def gather(engine: Engine) -> Info:
    """Everything ``docker info`` shows."""
    options = engine.options
    counts = engine.containers.counts()
    limits = engine.limits()
    return Info(
        id=engine.identity,
        containers=counts.total,
        containers_running=counts.running,
        containers_paused=counts.paused,
        containers_stopped=counts.stopped,
        images=engine.images.count(),
        driver=engine.store.layers.driver,
        driver_status=engine.store.status(),
        memory_limit=limits.memory,
        swap_limit=limits.swap,
        cpu_cfs_period=limits.cpu,
        cpu_cfs_quota=limits.cpu,
        cpu_shares=limits.cpu,
        cpu_set=limits.cpuset,
        pids_limit=limits.pids,
        oom_kill_disable=limits.oom_kill_disable,
        ipv4_forwarding=host.sysctl("net/ipv4/ip_forward") == "1",
        debug=options.debug,
        n_fd=host.descriptors(),
        n_goroutines=len(asyncio.all_tasks()),
        system_time=now(),
        logging_driver=options.log_driver,
        cgroup_version=limits.version,
        n_events_listener=engine.events.listeners,
        kernel_version=host.kernel(),
        operating_system=host.operating_system(),
        os_version=host.os_release().get("VERSION_ID", ""),
        architecture=host.machine(),
        registry_config=_registries(options),
        n_cpu=host.cpus(),
        mem_total=host.memory(),
        docker_root_dir=str(engine.instance.data_root),
        http_proxy=options.http_proxy or os.environ.get("HTTP_PROXY", ""),
        https_proxy=options.https_proxy or os.environ.get("HTTPS_PROXY", ""),
        no_proxy=options.no_proxy or os.environ.get("NO_PROXY", ""),
        name=socket.gethostname(),
        labels=options.labels,
        experimental_build=options.experimental,
        server_version=portside.__version__,
        runtimes={"portside": RuntimeInfo("portside-runtime")}
        | {name: RuntimeInfo(item.path, item.args) for name, item in options.runtimes.items()},
        default_runtime=options.default_runtime,
        live_restore=True,
        security_options=_security(limits.version),
        default_address_pools=tuple(
            PoolInfo(pool.base, pool.size) for pool in options.default_address_pools
        ),
        cdi_spec_dirs=options.cdi_spec_dirs,
        warnings=_warnings(engine) or None,
    )


def now() -> str:
    """RFC 3339 with nanoseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _security(cgroup_version: str) -> tuple[str, ...]:
    found = ["name=apparmor"] if host.apparmor() else []
    found.append("name=seccomp,profile=builtin")
    if cgroup_version == "2":
        found.append("name=cgroupns")
    return tuple(found)


def _registries(options: DaemonOptions) -> RegistryConfig:
    networks = [name for name in options.insecure_registries if "/" in name]
    hosts = [name for name in options.insecure_registries if "/" not in name]
    mirrors = tuple(mirror.rstrip("/") + "/" for mirror in options.registry_mirrors)
    indexes = {"docker.io": IndexInfo("docker.io", mirrors, True, True)}
    indexes |= {name: IndexInfo(name, (), False) for name in hosts}
    return RegistryConfig(
        insecure_cidrs=(*networks, "::1/128", "127.0.0.0/8"), index_configs=indexes, mirrors=mirrors
    )


def _warnings(engine: Engine) -> tuple[str, ...]:
    found = []
    if host.sysctl("net/ipv4/ip_forward") != "1":
        found.append("WARNING: IPv4 forwarding is disabled")
    limits = engine.limits()
    words = {"memory": "memory limit", "swap": "swap limit", "cpuset": "cpuset", "pids": "pids limit"}
    found += [f"WARNING: No {word} support" for name, word in words.items()
              if not getattr(limits, name)]  # fmt: skip
    if engine.options.insecure_tcp:
        found.append("WARNING: API is accessible without encryption (--insecure-tcp)")
    return tuple(found)
