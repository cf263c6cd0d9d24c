"""What is refused when a container is made or changed, in Docker's words."""

from __future__ import annotations

from portside.containers import user_mapping
from portside.containers.core import Core
from portside.model.container import ContainerConfig, CreateRequest, HostConfig
from portside.model.errors import InvalidParameter, NotFound
from portside.model.image import Healthcheck

_POLICIES = ("", "no", "always", "unless-stopped", "on-failure", "on-unhealthy")
OWN_RUNTIMES = ("portside", "runc", "io.containerd.runc.v2")
"""Names that mean our own runtime: clients send what another engine's inspect has told."""


def check_request(request: CreateRequest) -> None:
    """Wishes that contradict each other, before the image's part is merged in."""
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
        ((shared or network == "host") and request.mac_address,
         "mac-address and the network mode"),
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
    check_policy(host)
    check_health(config.healthcheck)
    if config.stop_signal:
        from portside.containers.signal_names import parse

        parse(config.stop_signal)
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
                raise InvalidParameter(f"invalid {kind} mode: {mode}: name the container")
            try:
                core.find(other)
            except NotFound as err:
                if kind == "network":
                    continue  # Docker tells it at the start
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
    """What this platform, or this engine, does not have."""
    if host.isolation not in ("", "default"):
        raise InvalidParameter(
            f"invalid isolation: \"{host.isolation}\" - linux only supports 'default'"
        )
    for name in host.storage_opt or {}:
        if name != "size":
            raise InvalidParameter(f"unknown option {name}")
        raise InvalidParameter(
            "--storage-opt size is not built: the writable layer has no quota of its own; "
            "put what may grow on a volume or a tmpfs with a size"
        )


def _check_log(host: HostConfig) -> None:
    from portside.containers.logconfig import check_log_config

    check_log_config(host.log_config)
