"""Reading the daemon's options: command line and daemon.json, with dockerd's errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from portside.model.errors import InvalidParameter
from portside.model.golang.booleans import parse_bool
from portside.model.golang.numbers import parse_int
from portside.model.golang.sizes import ram_bytes


class HelpWanted(Exception):
    """``--help`` was given."""


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
    """What SIGHUP makes of the current options: only reloadable ones change."""
    fresh = load(arguments)
    changes = {name: getattr(fresh, name) for name, spec in specs().items() if spec.reloads}
    return replace(current, **changes)


# -- the command line ------------------------------------------------------------------------


def parse_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """Options given as flags, by field name. ``--x=v``, ``--x v``, ``-x v``, ``-xv``, ``-D``."""
    by_flag: dict[str, str] = {}
    by_short: dict[str, str] = {}
    table = specs()
    for name, spec in table.items():
        if spec.flag:
            by_flag[spec.flag] = name
        if spec.short:
            by_short[spec.short] = name
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            raise HelpWanted
        if argument in ("-v", "--version"):
            raise VersionWanted
        if argument.startswith("--"):
            flag, equals, value = argument[2:].partition("=")
            field, shown = by_flag.get(flag), f"--{flag}"
        elif argument.startswith("-") and len(argument) > 1:
            flag, value = argument[1], argument[2:].removeprefix("=")
            equals, field, shown = value, by_short.get(argument[1]), f"-{argument[1]}"
        else:
            raise InvalidParameter(f'"portside daemon" accepts no arguments: {argument}')
        if field is None:
            raise InvalidParameter(f"unknown flag: {shown}")
        spec = table[field]
        if not equals:
            if spec.kind == "bool":
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise InvalidParameter(f"flag needs an argument: {shown}")
        _add_flag(found, field, spec, value)
    return found


def _add_flag(found: dict[str, Any], name: str, spec: Spec, value: str) -> None:
    try:
        parsed = _from_text(spec, value)
    except InvalidParameter as err:
        raise InvalidParameter(
            f'invalid argument "{value}" for "--{spec.flag}" flag: {err}'
        ) from None
    if spec.kind in ("list", "pools"):
        found[name] = (*found.get(name, ()), parsed)
    elif spec.kind in ("map", "ulimits", "runtimes"):
        found[name] = {**found.get(name, {}), **parsed}
    else:
        found[name] = parsed


def _from_text(spec: Spec, value: str) -> Any:
    readers: dict[str, Callable[[str], Any]] = {
        "str": str,
        "list": str,
        "bool": parse_bool,
        "int": lambda text: parse_int(text, 0),
        "size": ram_bytes,
        "pools": parse_pool,
        "map": _pair,
        "ulimits": _ulimit_pair,
        "runtimes": _runtime_pair,
    }
    return readers[spec.kind](value)


def _pair(text: str) -> dict[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidParameter("must be key=value")
    return {key: value}


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
    try:
        data = json.loads(text) if text.strip() else {}
    except ValueError as err:
        raise InvalidParameter(str(err)) from None
    if not isinstance(data, dict):
        raise InvalidParameter("the file must hold one JSON object")
    by_key = {spec.key: name for name, spec in specs().items() if not spec.flag_only}
    unknown = [key for key in data if key not in by_key]
    if unknown:
        raise InvalidParameter(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    table = specs()
    return {by_key[key]: _from_json(table[by_key[key]], key, value) for key, value in data.items()}


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
    try:
        return Runtime(str(item["path"]), tuple(map(str, item.get("runtimeArgs") or ())))
    except (KeyError, TypeError, AttributeError):
        raise InvalidParameter(f'"{key}.{name}" needs "path"') from None


def _merge(flags: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Both sources together; an option in both is an error, except where lists add up."""
    table = specs()
    conflicts = [
        f"{table[name].key}: (from flag: {_show(flags[name])}, from file: {_show(file[name])})"
        for name in file
        if name in flags
    ]
    if conflicts:
        raise InvalidParameter(
            "the following directives are specified both as a flag and in the configuration "
            "file: " + ", ".join(conflicts)
        )
    return {**flags, **file}


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + " ".join(map(str, value)) + "]"
    return str(value)


def _check(options: DaemonOptions) -> DaemonOptions:
    from portside.daemon.listeners import check_addresses

    check(options)
    check_addresses(options)
    return options


def usage() -> str:
    """The text of ``portside daemon --help``."""
    lines = ["", "Usage:  portside daemon [OPTIONS]", "", "A container engine.", "", "Options:"]
    rows: list[tuple[str, str]] = []
    words = {"bool": "", "list": " list", "pools": " pool-options", "map": " map",
             "ulimits": " ulimit", "runtimes": " runtime", "int": " int", "size": " bytes",
             "str": " string"}  # fmt: skip
    for spec in sorted(specs().values(), key=lambda spec: spec.flag):
        if spec.flag:
            short = f"-{spec.short}, " if spec.short else "    "
            rows.append((f"  {short}--{spec.flag}{words[spec.kind]}", spec.help))
    width = max(len(left) for left, _ in rows) + 3
    lines += [f"{left:<{width}}{right}" for left, right in rows]
    return "\n".join(lines) + "\n"
