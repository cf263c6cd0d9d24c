"""A container's configuration: the user's options over the image's."""

from __future__ import annotations

from typing import Any

import msgspec

from portside.model.container import ContainerConfig
from portside.model.image import Healthcheck, RunConfig


def merge(config: ContainerConfig, image: RunConfig) -> ContainerConfig:
    """``config`` with what it leaves open taken from the image (Docker's rules).

    An entrypoint of the user's own drops the image's command; an empty string as the only
    word of an entrypoint clears it.
    """
    changes: dict[str, Any] = {
        "user": config.user or image.user,
        "working_dir": config.working_dir or image.working_dir,
        "stop_signal": config.stop_signal or image.stop_signal,
        "exposed_ports": _union(image.exposed_ports, config.exposed_ports),
        "volumes": _union(image.volumes, config.volumes),
        "labels": _union(image.labels, config.labels) or {},
        "env": _environment(image.env, config.env),
        "healthcheck": _health(config.healthcheck, image.healthcheck),
        "shell": config.shell or image.shell,
        "on_build": config.on_build,
    }
    if config.stop_timeout is None:
        changes["stop_timeout"] = image.stop_timeout
    if not config.entrypoint and not config.cmd:
        changes["cmd"] = image.cmd
        changes["args_escaped"] = config.args_escaped or image.args_escaped
    if config.entrypoint is None:
        changes["entrypoint"] = image.entrypoint
    elif config.entrypoint == ("",):
        changes["entrypoint"] = None
    return msgspec.structs.replace(config, **changes)


def _union(base: dict[str, Any] | None, over: dict[str, Any] | None) -> dict[str, Any] | None:
    if not over:
        return base
    return {**(base or {}), **over}


def _environment(
    base: tuple[str, ...] | None, over: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """The user's variables first, then the image's that were not given."""
    if not base:
        return over
    names = {entry.partition("=")[0] for entry in over or ()}
    return (*(over or ()), *(entry for entry in base if entry.partition("=")[0] not in names))


def _health(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if image is None or own is None:
        return own or image
    return msgspec.structs.replace(
        own,
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
        retries=own.retries or image.retries,
    )


def config_of(config: ContainerConfig) -> RunConfig:
    """A container's configuration as an image's (``commit``)."""
    return RunConfig(
        user=config.user,
        exposed_ports=config.exposed_ports,
        env=config.env,
        entrypoint=config.entrypoint,
        cmd=config.cmd,
        healthcheck=config.healthcheck,
        args_escaped=config.args_escaped,
        volumes=config.volumes,
        working_dir=config.working_dir,
        on_build=config.on_build,
        labels=config.labels,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout,
        shell=config.shell,
    )
