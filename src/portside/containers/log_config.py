"""Log drivers and their options: what is accepted, and what the monitor receives.

A ``tag`` is a Go template over what dockerd calls the ``logger.Info`` of a container; the template
engine is imported only for a container that has one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from portside.containers.container import Record
from portside.model.container import LogConfig
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.golang.booleans import parse_bool
from portside.model.golang.numbers import atoi
from portside.model.golang.sizes import ram_bytes
from portside.model.golang.timestamps import rfc3339_or_never
from portside.model.log_drivers import FILES, NONE, REMOTE
from portside.runtime import messages
from portside.runtime.logs import DEFAULT_MAX_FILE, log_size

if TYPE_CHECKING:
    from portside.model.golang.template import Row

DAEMON_NAME = "portside"
_SUPPORTED = (*FILES, *REMOTE, NONE)
_KNOWN = frozenset(("awslogs", "etwlogs", "gcplogs", "logentries", "splunk"))
_DELIVERY = frozenset(
    ("mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file",
     "cache-compress")
)  # fmt: skip
"""How the engine hands records to any driver, and what it keeps of them for ``logs``."""
_COMMON = _DELIVERY | {"labels", "labels-regex", "env", "env-regex", "tag"}
_FILE = frozenset(("max-size", "max-file", "compress"))
_OPTIONS = {
    "json-file": _COMMON | _FILE,
    "local": _FILE | _DELIVERY,
    "syslog": _COMMON | {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert",
                         "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"},
    "journald": _COMMON,
    "gelf": _COMMON | {"gelf-address", "gelf-compression-type", "gelf-compression-level",
                       "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"},
    "fluentd": _COMMON | {"fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval",
                          "fluentd-buffer-limit", "fluentd-retry-wait", "fluentd-max-retries",
                          "fluentd-sub-second-precision", "fluentd-request-ack",
                          "fluentd-write-timeout", "fluentd-read-timeout"},
}  # fmt: skip


def check_log_config(config: LogConfig) -> None:
    """Raise for a driver that is unknown or not supported, and for an option it does not have."""
    if config.type not in _SUPPORTED:
        advice = (
            f": it is not supported, use one of {', '.join(sorted(_SUPPORTED))}"
            if config.type in _KNOWN
            else ""
        )
        raise InvalidParameter(
            f'error looking up logging plugin {config.type}: plugin "{config.type}" not '
            f"found{advice}"
        )
    if config.type == NONE:
        return  # nothing is kept, so nothing can be wrong
    options = config.config or {}
    for name in options:
        if name not in _OPTIONS[config.type]:
            driver = "log driver local" if config.type == "local" else f"{config.type} log driver"
            raise InvalidParameter(f"unknown log opt '{name}' for {driver}")
    if options.get("mode", "") not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options and options.get("mode") != "non-blocking":
        raise InvalidParameter(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        )
    address = options.get("syslog-address", "")
    if address and "://" not in address:
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {address}")
    if config.type == "syslog":
        from portside.runtime.remote_logs import check_syslog

        check_syslog(options)
    elif config.type == "gelf":
        from portside.runtime.gelf_log import check_gelf

        check_gelf(options)
    elif config.type == "fluentd":
        from portside.runtime.fluentd_log import check_fluentd

        check_fluentd(options)
    _check_values(options)


def _check_values(options: dict[str, str]) -> None:
    if "max-size" in options:
        log_size(options["max-size"])
    if "max-buffer-size" in options:
        try:
            ram_bytes(options["max-buffer-size"])
        except InvalidParameter as err:
            raise InvalidParameter(f"error parsing option max-buffer-size: {err}") from None
    files = atoi(options["max-file"]) if "max-file" in options else DEFAULT_MAX_FILE
    if files < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    if parse_bool(options.get("compress", "false")) and files < 2:
        raise InvalidParameter("compress cannot be true when max-file is less than 2")
    try:
        parse_bool(options.get("cache-disabled", "false"))
    except InvalidParameter:
        value = options["cache-disabled"]
        raise InvalidParameter(f"invalid value for option cache-disabled: {value}") from None
    for name in ("labels-regex", "env-regex"):
        if options.get(name):
            from portside.model.golang.regexps import compiled

            compiled(options[name])


def monitor_log(record: Record, path: str) -> messages.LogConfig:
    """The log settings for the container's monitor."""
    config = record.host.log_config
    options = dict(config.config or {})
    return messages.LogConfig(
        driver=config.type,
        path=path,
        options=options,
        attributes=_attributes(record, options, path),
        names={
            "id": record.id,
            "name": record.name,
            "image_id": record.image_id,
            "image_name": record.config.image,
            "daemon_name": DAEMON_NAME,
            **_gelf_names(record),
        },
    )


def _gelf_names(record: Record) -> dict[str, str]:
    if record.host.log_config.type != "gelf":
        return {}
    return {"command": " ".join(_command(record)), "created": rfc3339_or_never(record.created_ns)}


def _command(record: Record) -> list[str]:
    return [*(record.config.entrypoint or ()), *(record.config.cmd or ())]


def _attributes(record: Record, options: dict[str, str], path: str) -> dict[str, str]:
    """Labels and variables that ``labels``, ``env`` and their regular expressions choose."""
    from portside.model.golang.regexps import search

    found: dict[str, str] = {}
    environment = dict(entry.partition("=")[::2] for entry in record.config.env or ())
    for option, values in (("labels", record.config.labels or {}), ("env", environment)):
        for name in filter(None, options.get(option, "").split(",")):
            if name in values:
                found[name] = values[name]
        pattern = options.get(f"{option}-regex")
        if pattern:
            found |= {key: value for key, value in values.items() if search(pattern, key)}
    if options.get("tag"):
        found["tag"] = render_tag(options["tag"], record, path, found)
    return found


# -- tags -----------------------------------------------------------------------------------------


def render_tag(template: str, record: Record, log_path: str, attributes: Mapping[str, str]) -> str:
    """A tag such as ``{{.Name}}/{{(.ExtraAttributes nil).FOO}}``.

    ``attributes`` are what the options ``labels`` and ``env`` choose. Raises SystemFailure in
    dockerd's words.
    """
    from portside.model.golang.template import Template

    try:
        return Template(template, "log-tag").render(_info(record, log_path, attributes))
    except InvalidParameter as err:
        raise SystemFailure(
            f"failed to create task for container: failed to initialize logging driver: {err}"
        ) from err


def _info(record: Record, log_path: str, attributes: Mapping[str, str]) -> Row:
    from portside.model.golang.template import GoMap, Row
    from portside.model.golang.template.values import GoTime

    command = _command(record)
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
