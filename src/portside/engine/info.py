"""The answers of ``GET /info`` and ``GET /version``."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import platform
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

import portside
from portside.containers.selinux_labels import contexts
from portside.containers.validation import OWN_RUNTIMES
from portside.engine import apparmor, machine_info
from portside.engine.options import DaemonOptions
from portside.kernel.cgroup import detect
from portside.kernel.cgroup.machine import machine
from portside.model import build_info
from portside.model.paths import rootless_user
from portside.model.system import (
    API_VERSION,
    DOCKER_RELEASE,
    MIN_API_VERSION,
    Component,
    DeviceInfo,
    IndexInfo,
    Info,
    PlatformName,
    PoolInfo,
    RegistryConfig,
    RuntimeInfo,
    Version,
    api_text,
)
from portside.store.mapped_copies import MISSING

if TYPE_CHECKING:
    from portside.engine.engine import Engine


log = logging.getLogger(__name__)

COMMIT = build_info.commit()
"""Commit of the source that this process was started from; the files may be newer."""


def engine_version() -> Version:
    python = f"python{platform.python_version()}"
    details = {
        "ApiVersion": api_text(API_VERSION),
        "Arch": machine_info.architecture(),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": COMMIT,
        "GoVersion": python,
        "KernelVersion": machine_info.kernel(),
        "MinAPIVersion": api_text(MIN_API_VERSION),
        "Os": "linux",
    }
    return Version(
        platform=PlatformName("Portside"),
        components=(Component("Engine", portside.__version__, details),),
        version=DOCKER_RELEASE,
        git_commit=COMMIT,
        go_version=python,
        arch=machine_info.architecture(),
        kernel_version=machine_info.kernel(),
    )


async def engine_info(engine: Engine) -> Info:
    """Everything ``docker info`` shows."""
    options = engine.options
    counts = engine.containers.counts()
    limits = machine()
    return Info(
        id=engine.identity,
        containers=counts.total,
        containers_running=counts.running,
        containers_paused=counts.paused,
        containers_stopped=counts.stopped,
        images=engine.image_count(),
        driver=engine.storage_driver,
        driver_status=engine.storage_status(),
        memory_limit=limits.memory_limit,
        swap_limit=limits.swap_limit,
        kernel_memory_tcp=limits.kernel_memory_tcp,
        cpu_cfs_period=limits.cpu_cfs,
        cpu_cfs_quota=limits.cpu_cfs,
        cpu_shares=limits.cpu_shares,
        cpu_set=limits.cpuset,
        pids_limit=limits.pids_limit,
        oom_kill_disable=limits.oom_kill_disable,
        ipv4_forwarding=machine_info.sysctl("net/ipv4/ip_forward") == "1",
        debug=options.debug,
        n_fd=machine_info.descriptors(),
        n_goroutines=len(asyncio.all_tasks()),
        system_time=now(),
        logging_driver=options.log_driver,
        cgroup_version=str(limits.cgroup_version),
        cgroup_driver="none" if detect().mode == "none" else "cgroupfs",
        n_events_listener=engine.events.listeners,
        kernel_version=machine_info.kernel(),
        operating_system=machine_info.operating_system(),
        os_version=machine_info.os_release().get("VERSION_ID", ""),
        architecture=machine_info.machine(),
        registry_config=_registries(options),
        n_cpu=machine_info.cpus(),
        mem_total=machine_info.memory(),
        docker_root_dir=str(engine.instance.data_root),
        http_proxy=_proxy(options.http_proxy, options.proxies.get("http-proxy"), "HTTP_PROXY"),
        https_proxy=_proxy(options.https_proxy, options.proxies.get("https-proxy"), "HTTPS_PROXY"),
        no_proxy=_proxy(options.no_proxy, options.proxies.get("no-proxy"), "NO_PROXY"),
        name=socket.gethostname(),
        labels=options.labels,
        experimental_build=options.experimental,
        server_version=DOCKER_RELEASE,
        runtimes=dict.fromkeys(OWN_RUNTIMES, _own_runtime())
        | {name: RuntimeInfo(item.path, item.args) for name, item in options.runtimes.items()},
        default_runtime=options.default_runtime,
        live_restore=True,
        security_options=_security(engine, limits.cgroup_version),
        default_address_pools=tuple(
            PoolInfo(pool.base, pool.size) for pool in options.default_address_pools
        ),
        cdi_spec_dirs=options.cdi_spec_dirs,
        discovered_devices=_devices(options.cdi_spec_dirs),
        warnings=_warnings(engine) or None,
    )


@functools.cache
def _own_runtime() -> RuntimeInfo:
    """The runtime that is part of the engine, with its features as ``portside-runtime features``
    prints them (runtime-spec, features.md)."""
    from portside.runtime.oci.features import described

    text = msgspec.json.encode(described()).decode()
    return RuntimeInfo(
        "portside-runtime", status={"org.opencontainers.runtime-spec.features": text}
    )


def _devices(directories: tuple[str, ...]) -> tuple[DeviceInfo, ...]:
    """Devices of CDI files; the reader is only imported when there are such files."""
    if not any(os.path.isdir(directory) for directory in directories):  # noqa: PTH112
        return ()
    from portside.containers.spec.cdi import Registry

    return tuple(DeviceInfo(name) for name in sorted(Registry.read(directories).devices))


def now() -> str:
    """RFC 3339 with nanoseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def _security(engine: Engine, cgroup_version: int) -> tuple[str, ...]:
    """In dockerd's order."""
    options = engine.options
    found = {
        "name=apparmor": apparmor.in_use(),
        f"name=seccomp,profile={options.seccomp_profile or 'builtin'}": True,
        "name=selinux": contexts(options.selinux_enabled) is not None,
        "name=userns": engine.id_mappings is not None,
        "name=rootless": bool(rootless_user()),
        "name=cgroupns": cgroup_version == 2,
        "name=no-new-privileges": options.no_new_privileges,
    }
    return tuple(name for name, holds in found.items() if holds)


def _proxy(option: str, configured: str | None, variable: str) -> str:
    """What is asked to reach the world: of the command line, daemon.json, the environment."""
    return option or configured or os.environ.get(variable, "")


def _registries(options: DaemonOptions) -> RegistryConfig:
    networks = [name for name in options.insecure_hosts if "/" in name]
    hosts = [name for name in options.insecure_hosts if "/" not in name]
    mirrors = tuple(mirror.rstrip("/") + "/" for mirror in options.registry_mirrors)
    indexes = {"docker.io": IndexInfo("docker.io", mirrors, True, True)}
    indexes |= {name: IndexInfo(name, (), False) for name in hosts}
    return RegistryConfig(
        insecure_cidrs=(*networks, "::1/128", "127.0.0.0/8"), index_configs=indexes, mirrors=mirrors
    )


def _warnings(engine: Engine) -> tuple[str, ...]:
    found = []
    if machine_info.sysctl("net/ipv4/ip_forward") != "1":
        found.append("WARNING: IPv4 forwarding is disabled")
    found += machine().warnings()
    if engine.options.seccomp_profile not in ("", "builtin"):
        found.append("WARNING: daemon is not using the default seccomp profile")
    if engine.options.insecure_tcp:
        found.append("WARNING: API is accessible without encryption (--insecure-tcp)")
    if engine.id_mappings is not None and engine.store.layers.copies.needed():
        found.append(f"WARNING: {MISSING}: layers are copied for the mapping")
    found += engine.space.warnings()
    return tuple(found)
