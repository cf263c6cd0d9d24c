"""Checks of requests that create or change a container, with Docker's error texts."""

from __future__ import annotations

from typing import TypeVar

from portside.containers import user_mapping
from portside.containers.core import Core
from portside.kernel.cgroup import detect, limits
from portside.kernel.cgroup.machine import machine
from portside.model.container import ContainerConfig, CreateRequest, HostConfig, Resources
from portside.model.errors import InvalidParameter, LimitUnsupported, NotFound
from portside.model.image import Healthcheck
from portside.model.paths import rootless_user
from portside.model.signals import parse_signal

_POLICIES = ("", "no", "always", "unless-stopped", "on-failure", "on-unhealthy")
OWN_RUNTIMES = ("portside", "runc", "io.containerd.runc.v2")
"""Names that mean our own runtime: clients send what another engine's inspect has shown."""


def check_request(request: CreateRequest) -> None:
    """Options that contradict each other, before the image's part is merged in."""
    host = request.host_config
    network, _, other = host.network_mode.partition(":")
    shared = network == "container"
    if shared and not other:
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
    if host.uts_mode == "host" and request.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    conflicts = (
        (shared and request.hostname, "hostname and the network mode"),
        (shared and host.dns, "dns and the network mode"),
        (shared and host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (shared and (host.port_bindings or host.publish_all_ports),
         "port publishing and the container type network mode"),
        (shared and request.exposed_ports,
         "port exposing and the container type network mode"),
    )  # fmt: skip
    for found, words in conflicts:
        if found:
            raise InvalidParameter(f"conflicting options: {words}")
    for kind, words in (("container", "container type network"), ("host", "host type networking")):
        if network == kind and host.links:
            raise InvalidParameter(
                f"conflicting options: {words} can't be used with links. "
                "This would result in undefined behavior"
            )


def check(core: Core, config: ContainerConfig, host: HostConfig) -> None:
    """The whole configuration, with the image's part in it."""
    if not config.entrypoint and not config.cmd:
        raise InvalidParameter("no command specified")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an "
            "absolute path"
        )
    if "" in (host.annotations or {}):
        raise InvalidParameter(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    check_policy(host)
    check_health(config.healthcheck)
    if config.stop_signal:
        parse_signal(config.stop_signal, stops=True)
    for variable in config.env or ():
        if not variable or variable.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {variable}")
        if "\0" in variable:
            raise InvalidParameter("invalid environment variable: it contains a zero byte")
    if host.runtime not in (*OWN_RUNTIMES, *core.options.runtimes):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    _check_modes(core, host)
    _check_unbuilt(host)
    _check_log(host)


_LEAST_TIME = 10**6
"""Nanoseconds that a health check's times must have at least."""


def check_health(check: Healthcheck | None) -> None:
    """A health check's times and count. Raises InvalidParameter in Docker's words."""
    if check is None:
        return
    for words, value in (
        ("Interval", check.interval), ("Timeout", check.timeout),
        ("StartPeriod", check.start_period), ("StartInterval", check.start_interval),
    ):  # fmt: skip
        if value and value < _LEAST_TIME:
            raise InvalidParameter(f"{words} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def check_policy(host: HostConfig) -> None:
    """A restart policy's name, count, and company."""
    policy = host.restart_policy
    if policy.name not in _POLICIES:
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', 'unless-stopped' or 'on-unhealthy'"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameter(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            + (" and cannot be negative" if policy.maximum_retry_count < 0 else "")
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def _check_modes(core: Core, host: HostConfig) -> None:
    for kind, mode in (
        ("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)
    ):  # fmt: skip
        if mode.startswith("container:"):
            other = mode.partition(":")[2]
            if not other:
                word = "PID" if kind == "pid" else kind
                raise InvalidParameter(f"invalid {word} mode: {mode}")
            try:
                core.find(other)
            except NotFound as err:
                if kind == "network":
                    continue  # Docker reports it at the start
                raise InvalidParameter(str(err)) from None  # 404 would mean the image
    if host.ipc_mode not in ("private", "shareable", "host", "none") and not (
        host.ipc_mode.startswith("container:")
    ):
        raise InvalidParameter(f"invalid IPC mode: {host.ipc_mode}")
    if host.pid_mode not in ("", "host") and not host.pid_mode.startswith("container:"):
        raise InvalidParameter(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    user_mapping.check(core, host)
    if host.cgroupns_mode not in ("private", "host"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")


def _check_unbuilt(host: HostConfig) -> None:
    """Refuse options that this platform or this engine does not support."""
    if host.isolation.lower() not in ("", "default"):
        raise InvalidParameter(
            f"invalid isolation ({host.isolation}): linux only supports 'default'"
        )
    for name in host.storage_opt or {}:
        if name != "size":
            raise InvalidParameter(f"unknown option {name}")
        raise InvalidParameter(
            "--storage-opt size is not supported: the writable layer has no quota of its own; "
            "put what may grow on a volume or a tmpfs with a size"
        )


def _check_log(host: HostConfig) -> None:
    from portside.containers.log_config import check_log_config

    check_log_config(host.log_config)


# -- limits --------------------------------------------------------------------------------


_R = TypeVar("_R", bound=Resources)


def _undelegated() -> str:
    """Why an engine without root has no limits, and what to do; empty where it has some."""
    if not rootless_user() or detect().mode != "none":
        return ""
    return (
        "no control group was delegated to this user's engine: on a system with systemd and "
        "version 2, install it as the user's service: portside daemon stop; portside daemon install"
    )


def _not_the_kernels(warning: str) -> str:
    """A warning for an engine that lacks a control group, not a feature of the kernel."""
    text = warning.replace("Your kernel does not support", "Not delegated to this user's engine:")
    return text.replace(" or the cgroup is not mounted", "")


def check_limits(host: _R, *, update: bool = False) -> tuple[_R, list[str]]:
    """The limits as they can be had here, with warnings. Raises InvalidParameter."""
    here = machine()
    try:
        found, warnings = limits.check(host, here, update)
    except LimitUnsupported as err:
        hint = _undelegated()
        raise (LimitUnsupported(f"{err}: {hint}") if hint else err) from None
    if warnings and (hint := _undelegated()):
        warnings = [*map(_not_the_kernels, warnings), hint]
    if isinstance(host, HostConfig):
        if here.oom_kill_disable and found.oom_kill_disable is None:
            found.oom_kill_disable = False  # as it is in the kernel; null where it cannot be
        if host.shm_size < 0:
            raise InvalidParameter("SHM size can not be less than 0")
        if not -1000 <= host.oom_score_adj <= 1000:
            raise InvalidParameter(
                f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
            )
    return found, warnings
