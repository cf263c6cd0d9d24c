"""Log tags: Go templates over what dockerd calls the ``logger.Info`` of a container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from portside.containers.record import Record
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.golang.template import GoMap, Row, Template
from portside.model.golang.template.values import GoTime
from portside.model.golang.timestamps import rfc3339_or_never

DAEMON_NAME = "portside"


def render(template: str, record: Record, log_path: str, attributes: Mapping[str, str]) -> str:
    """A tag such as ``{{.Name}}/{{(.ExtraAttributes nil).FOO}}``.

    ``attributes`` are what the options ``labels`` and ``env`` choose. Raises SystemFailure in
    dockerd's words.
    """
    try:
        return Template(template, "log-tag").render(_info(record, log_path, attributes))
    except InvalidParameter as err:
        raise SystemFailure(
            f"failed to create task for container: failed to initialize logging driver: {err}"
        ) from err


def _info(record: Record, log_path: str, attributes: Mapping[str, str]) -> Row:
    import os

    command = [*(record.config.entrypoint or ()), *(record.config.cmd or ())]
    fields: dict[str, Any] = {
        "Config": GoMap(record.host.log_config.config or {}),
        "ContainerID": record.id,
        "ContainerName": f"/{record.name}",
        "ContainerEntrypoint": command[0] if command else "",
        "ContainerArgs": command[1:],
        "ContainerImageID": record.image_id,
        "ContainerImageName": record.config.image,
        "ContainerCreated": GoTime(rfc3339_or_never(record.created_ns)),
        "ContainerEnv": list(record.config.env or ()),
        "ContainerLabels": GoMap(record.config.labels or {}),
        "LogPath": log_path,
        "DaemonName": DAEMON_NAME,
        "Hostname": os.uname().nodename,
        "Command": " ".join(command),
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageID": record.image_id[:12],  # with the algorithm's name, as dockerd cuts it
        "ImageFullID": record.image_id,
        "ImageName": record.config.image,
    }
    return Row(
        "*logger.Info",
        None,
        {name: _constant(value) for name, value in fields.items()},
        {"ExtraAttributes": lambda _, change: GoMap(attributes)},
    )


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value
