"""Log drivers and their options: what is accepted, and what the monitor receives."""

from __future__ import annotations

from portside.containers.record import Record
from portside.model.container import LogConfig
from portside.model.errors import InvalidParameter, NotImplementedHere
from portside.model.golang.booleans import parse_bool
from portside.model.golang.sizes import ram_bytes
from portside.runtime import messages
from portside.runtime.logs import log_size

BUILT = frozenset(("json-file", "local", "none", "syslog", "journald"))
_KNOWN = frozenset(("awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "logentries", "splunk"))
_COMMON = frozenset(
    (
        "mode",
        "max-buffer-size",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "cache-disabled",
        "cache-max-size",
        "cache-max-file",
        "cache-compress",
    )
)
_FILE = frozenset(("max-size", "max-file", "compress"))
_OPTIONS = {
    "json-file": _COMMON | _FILE,
    "local": _COMMON | _FILE,
    "syslog": _COMMON | {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert",
                         "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"},
    "journald": _COMMON,
}  # fmt: skip


def check_log_config(config: LogConfig) -> None:
    """Raise for a driver that is unknown or not supported, and for an option it does not have."""
    if config.type in _KNOWN:
        raise NotImplementedHere(
            f"logging driver {config.type!r} is not supported: "
            f"use one of {', '.join(sorted(BUILT))}"
        )
    if config.type not in BUILT:
        raise InvalidParameter(
            f'error looking up logging plugin {config.type}: plugin "{config.type}" not found'
        )
    if config.type == "none":
        return  # nothing is kept, so nothing can be wrong
    options = config.config or {}
    for name in options:
        if name not in _OPTIONS[config.type]:
            raise InvalidParameter(f"unknown log opt '{name}' for {config.type} log driver")
    if options.get("mode", "") not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {options['mode']}")
    if "max-buffer-size" in options and options.get("mode") != "non-blocking":
        raise InvalidParameter(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
        )
    address = options.get("syslog-address", "")
    if address and "://" not in address:
        raise InvalidParameter(f"syslog-address should be in form proto://address, got {address}")
    _check_numbers(options)


def _check_numbers(options: dict[str, str]) -> None:
    if "max-size" in options:
        log_size(options["max-size"])
    if "max-buffer-size" in options:
        ram_bytes(options["max-buffer-size"])
    files = options.get("max-file", "1")
    if not files.isdecimal() or len(files) > 18 or int(files) < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    parse_bool(options.get("compress", "false"))


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
            "daemon_name": "portside",
        },
    )


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
        from portside.containers import log_tag

        found["tag"] = log_tag.render(options["tag"], record, path, found)
    return found
