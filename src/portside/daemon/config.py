"""Reading the daemon's options: command line and daemon.json, with dockerd's errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from portside.engine.foreign_options import BY_FLAG, BY_KEY
from portside.engine.option_checks import check
from portside.engine.options import (
    DEFAULT_CONFIG_FILE,
    DaemonOptions,
    Pool,
    Runtime,
    Spec,
    Ulimit,
    parse_pool,
    parse_ulimit,
    specs,
)
from portside.flags.help_text import of_flags
from portside.flags.table import Flag, HelpWanted, UsageError, parse
from portside.model.errors import InvalidParameter
from portside.model.golang import json_reading
from portside.model.golang.numbers import parse_int
from portside.model.golang.sizes import ram_bytes


class VersionWanted(Exception):
    """``--version`` was given."""


def load(arguments: Sequence[str]) -> DaemonOptions:
    """The options of a command line and of the configuration file it names.

    Raises InvalidParameter naming the flag or key, HelpWanted, VersionWanted.
    """
    flags = parse_flags(arguments)
    named = flags.get("config_file")
    path = Path(named or DEFAULT_CONFIG_FILE)
    try:
        text = path.read_text()
    except FileNotFoundError:
        if named:
            raise InvalidParameter(
                f"unable to configure the Portside daemon with file {path}: "
                f"open {path}: no such file or directory"
            ) from None
        return _check(DaemonOptions(**flags))
    except OSError as err:
        raise InvalidParameter(
            f"unable to configure the Portside daemon with file {path}: {err.strerror}"
        ) from None
    in_file: dict[str, Any] = {"": "a file that cannot be read"}
    try:
        in_file = parse_file(text)
        return _check(DaemonOptions(**_merge(flags, in_file)))
    except InvalidParameter as err:
        if not in_file:
            raise
        raise InvalidParameter(
            f"unable to configure the Portside daemon with file {path}: {err}"
        ) from None


def reload(current: DaemonOptions, arguments: Sequence[str]) -> DaemonOptions:
    """The options after a SIGHUP: only reloadable ones change."""
    fresh = load(arguments)
    changes = {name: getattr(fresh, name) for name, spec in specs().items() if spec.reloads}
    return replace(current, **changes)


# -- the command line ------------------------------------------------------------------------


_KINDS_OF_FLAGS = {
    "bool": "", "list": "list", "pools": "pool-options", "map": "map", "ulimits": "ulimit",
    "runtimes": "runtime", "int": "int", "size": "bytes", "str": "string",
    "network-options": "mapmap",
}  # fmt: skip
_VERSION = Flag("version", "v", "", "Print version information and quit")


def flag_table() -> list[Flag]:
    """The daemon's flags, with their defaults in their help."""
    defaults = DaemonOptions()
    flags = [
        Flag(
            spec.flag,
            spec.short,
            _KINDS_OF_FLAGS[spec.kind],
            spec.help + _default(spec, getattr(defaults, name)),
        )
        for name, spec in specs().items()
        if spec.flag
    ]
    foreign = [
        Flag(name, "", "" if option.is_switch else "list", "hidden: " + option.reason)
        for name, option in BY_FLAG.items()
    ]
    return sorted([*flags, *foreign, _VERSION], key=lambda flag: flag.name)


def _default(spec: Spec, value: Any) -> str:
    """As Docker's help shows it; nothing for an empty value or one that the help text names."""
    if not value or "(default" in spec.help:
        return ""
    if spec.kind == "size":
        from portside.model.golang.sizes import binary_size

        return f" (default {binary_size(value)})"
    if spec.kind == "str":
        return f' (default "{value}")'
    return f" (default {_show(value)})"


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """Options given as flags, by field name. Raises InvalidParameter, HelpWanted."""
    try:
        options, rest = parse(flag_table(), arguments, convert=_convert)
    except UsageError as err:
        raise InvalidParameter(str(err)) from None
    if options.flag("version"):
        raise VersionWanted
    if rest:
        raise InvalidParameter(f'"portside daemon" accepts no arguments: {rest[0]}')
    found: dict[str, Any] = {}
    for name, spec in specs().items():
        if not spec.flag or not options.given(spec.flag):
            continue
        value = options.value(spec.flag)
        if spec.kind in ("list", "pools"):
            found[name] = tuple(value)
        elif spec.kind in ("map", "ulimits", "runtimes"):
            found[name] = {key: item for pair in value for key, item in pair.items()}
        elif spec.kind == "network-options":
            found[name] = _by_driver(value)
        else:
            found[name] = value
    ignored = tuple(option.key for name, option in BY_FLAG.items() if options.given(name))
    return {**found, "ignored": ignored} if ignored else found


def _by_driver(pairs: Sequence[dict[str, dict[str, str]]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for pair in pairs:
        for driver, settings in pair.items():
            found.setdefault(driver, {}).update(settings)
    return found


def _convert(kind: str, text: str) -> Any:
    """A flag's value; raises ValueError with what is wrong."""
    readers: dict[str, Callable[[str], Any]] = {
        "int": lambda text: parse_int(text, 0),
        "bytes": ram_bytes,
        "pool-options": parse_pool,
        "map": _pair,
        "ulimit": _ulimit_pair,
        "runtime": _runtime_pair,
        "mapmap": _network_option,
    }
    try:
        return readers[kind](text) if kind in readers else text
    except InvalidParameter as err:
        raise ValueError(str(err)) from None


def _pair(text: str) -> dict[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidParameter("must be key=value")
    return {key: value}


def _network_option(text: str) -> dict[str, dict[str, str]]:
    """``DRIVER=KEY=VALUE``."""
    driver, _, pair = text.partition("=")
    if not driver or "=" not in pair:
        raise InvalidParameter("must be driver=key=value")
    return {driver: _pair(pair)}


def _ulimit_pair(text: str) -> dict[str, Ulimit]:
    limit = parse_ulimit(text)
    return {limit.name: limit}


def _runtime_pair(text: str) -> dict[str, Runtime]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InvalidParameter("must be name=path")
    return {name: Runtime(path)}


# -- daemon.json -----------------------------------------------------------------------------


def parse_file(text: str) -> dict[str, Any]:
    """Options of a configuration file, by field name."""
    text = text.removeprefix("\ufeff")  # editors of other systems write a mark of byte order
    try:
        data = json_reading.parse(text) if text.strip() else {}
    except InvalidParameter as err:
        raise InvalidParameter(f"invalid JSON: {err}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise InvalidParameter("invalid JSON: the file must hold one JSON object")
    by_key = {spec.key: name for name, spec in specs().items() if not spec.flag_only}
    if "host-gateway-ip" in data:  # the name of Docker 27
        data.setdefault("host-gateway-ips", [data.pop("host-gateway-ip")])
    _refuse_unsafe(data)
    ignored = tuple(key for key in data if key in BY_KEY)
    unknown = [key for key in data if key not in by_key and key not in BY_KEY]
    if unknown:
        raise InvalidParameter(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    table = specs()
    found = {
        by_key[key]: _from_json(table[by_key[key]], key, value)
        for key, value in data.items()
        if key in by_key and value is not None  # null is the default, as for Go
    }
    return {**found, "ignored": ignored} if ignored else found


def _refuse_unsafe(data: dict[str, Any]) -> None:
    """Refuse options that must not be ignored: the user relies on them."""
    if data.get("authorization-plugins"):
        raise InvalidParameter(
            "authorization-plugins is not supported: no plugin would be asked whether a request is "
            "allowed. Remove it, and limit who reaches the socket (see group and tlsverify)"
        )
    data.pop("authorization-plugins", None)
    if data.get("rootless"):
        raise InvalidParameter("rootless is not supported: start the engine as root")


def _from_json(spec: Spec, key: str, value: Any) -> Any:
    match spec.kind, value:
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool):
            return value
        case "str", str():
            return value
        case "size", (int() | str()) if not isinstance(value, bool):
            return value if isinstance(value, int) else _size(key, value)
        case "list", list() if all(isinstance(item, str) for item in value):
            return tuple(value)
        case "map", dict():
            return value
        case "pools", list():
            return tuple(_pool(key, item) for item in value)
        case "ulimits", dict():
            return {name: _ulimit(key, name, item) for name, item in value.items()}
        case "network-options", dict() if all(isinstance(item, dict) for item in value.values()):
            return value
        case "runtimes", dict():
            return {name: _runtime(key, name, item) for name, item in value.items()}
    raise InvalidParameter(f'"{key}" must be {_KINDS.get(spec.kind, "an object")}')


def _size(key: str, value: str) -> int:
    try:
        return ram_bytes(value)
    except InvalidParameter as err:
        raise InvalidParameter(f'"{key}": {err}') from None


_KINDS = {
    "list": "a list of strings",
    "pools": 'a list of objects with "base" and "size"',
    "bool": "true or false",
    "int": "an integer",
    "str": "a string",
    "size": "a number of bytes, or a string such as 64m",
}


def _pool(key: str, item: Any) -> Pool:
    try:
        return Pool(str(item["base"]), int(item["size"]))
    except (KeyError, TypeError, ValueError):
        raise InvalidParameter(f'"{key}" needs objects with "base" and "size"') from None


def _ulimit(key: str, name: str, item: Any) -> Ulimit:
    try:
        return Ulimit(name, int(item["Soft"]), int(item["Hard"]))
    except (KeyError, TypeError, ValueError):
        raise InvalidParameter(f'"{key}.{name}" needs "Soft" and "Hard"') from None


def _runtime(key: str, name: str, item: Any) -> Runtime:
    """A runtime by ``path`` and ``runtimeArgs``, or by containerd's name for it.

    Of the latter (``runtimeType``, such as ``io.containerd.runsc.v1``) the program is called
    directly: ``options.BinaryName``, or what the type is named after.
    """
    if not isinstance(item, dict):
        raise InvalidParameter(f'"{key}.{name}" must be an object')
    path, kind = str(item.get("path") or ""), str(item.get("runtimeType") or "")
    args, options = item.get("runtimeArgs") or (), item.get("options") or {}
    if not path and not kind:
        raise InvalidParameter(f"runtime {name}: either a runtimeType or a path must be configured")
    if path and kind:
        raise InvalidParameter(
            f"runtime {name}: cannot configure both path and runtimeType for the same runtime"
        )
    if path and options:
        raise InvalidParameter(f"runtime {name}: options cannot be used with a path runtime")
    if kind and args:
        raise InvalidParameter(f"runtime {name}: args cannot be used with a runtimeType runtime")
    if kind:
        named = kind.split(".")[-2] if kind.count(".") >= 3 else Path(kind).name
        path = str(options.get("BinaryName") or named) if isinstance(options, dict) else named
    return Runtime(path, tuple(map(str, args)))


def _merge(flags: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Both sources together; an option in both is an error, except where lists add up."""
    table = specs()
    both = [name for name in file if name in flags]
    adding = {name for name in both if name in ("runtimes", "ignored")}
    conflicts = [
        f"{table[name].key}: (from flag: {_show(flags[name])}, from file: {_show(file[name])})"
        for name in both
        if name not in adding
    ]
    conflicts += [
        f"{name}: (from flag: {flags[key]}, from file: {text})"
        for name, text in (file.get("proxies") or {}).items()
        if (key := name.replace("-", "_")) in flags
    ]
    if conflicts:
        raise InvalidParameter(
            "the following directives are specified both as a flag and in the configuration "
            "file: " + ", ".join(conflicts)
        )
    merged = {**flags, **file}
    if "runtimes" in adding:  # as dockerd adds them up
        merged["runtimes"] = {**flags["runtimes"], **file["runtimes"]}
    if "ignored" in adding:
        merged["ignored"] = (*file["ignored"], *flags["ignored"])
    return merged


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + " ".join(map(str, value)) + "]"
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return "map[" + " ".join(f"{key}:{value[key]}" for key in sorted(value)) + "]"
    return str(value)


def _check(options: DaemonOptions) -> DaemonOptions:
    from portside.daemon.listeners import check_addresses

    check(options)
    check_addresses(options)
    return options


def usage() -> str:
    """The text of ``portside daemon --help``."""
    return (
        "Usage:  portside daemon [OPTIONS]\n        portside daemon COMMAND\n\n"
        "Run the engine in the foreground, or manage the service\n\n"
        f"Options:\n{of_flags(flag_table())}\n\n"
        "Run 'portside daemon COMMAND --help' for more information on a command.\n"
    )


__all__ = ["HelpWanted", "VersionWanted", "flag_table", "load", "parse_flags", "reload", "usage"]
