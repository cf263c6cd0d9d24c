"""Dockerfile instructions that change an image's configuration (``commit -c``, ``import -c``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from portside.model.errors import InvalidParameter
from portside.model.golang.durations import MILLISECOND, parse_duration
from portside.model.golang.numbers import parse_int
from portside.model.image import Healthcheck, RunConfig
from portside.model.signals import parse_signal

_VARIABLE = re.compile(
    r"\\(.)|\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::([-+?])([^}]*))?\})"
)
_EXPANDED = frozenset({"env", "expose", "label", "stopsignal", "user", "volume", "workdir"})
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class _State:
    """A configuration while instructions are applied to it."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.cmd_set = False

    def put(self, **fields: object) -> None:
        self.config = msgspec.structs.replace(self.config, **fields)


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The configuration after Dockerfile instructions; InvalidParameter names a bad one."""
    state = _State(config)
    for line in _instructions("\n".join(changes)):
        word, rest = (*line.split(maxsplit=1), "")[:2]
        name = word.lower()
        handler = _HANDLERS.get(name)
        if handler is None:
            raise InvalidParameter(f"{word} is not a valid change command")
        if not rest:
            raise InvalidParameter(f"{word.upper()} requires at least one argument")
        if name in _EXPANDED:
            rest = expand(rest, environment(state.config))
        handler(state, rest)
    return state.config


def _instructions(text: str) -> Iterator[str]:
    """The instructions of a Dockerfile's text: without comments and empty lines, and with lines
    that end in a backslash joined with the next one."""
    joined = ""
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        joined += line
        stripped = joined.rstrip()
        if stripped.endswith("\\"):
            joined = stripped[:-1]
            continue
        yield joined.strip()
        joined = ""
    if joined.strip():
        yield joined.strip()


def environment(config: RunConfig) -> dict[str, str]:
    """The configuration's variables."""
    pairs = (entry.partition("=") for entry in config.env or ())
    return {name: value for name, _, value in pairs}


def expand(text: str, variables: dict[str, str]) -> str:
    """``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME:+word}``, ``\\$``; not within '…'."""

    def one(match: re.Match[str]) -> str:
        escaped, plain, braced, operator, word = match.groups()
        if escaped is not None:
            return "$" if escaped == "$" else f"\\{escaped}"
        value = variables.get(plain or braced, "")
        if operator == "-":
            return value or word
        if operator == "+":
            return word if value else ""
        if operator == "?" and not value:
            raise InvalidParameter(f"{braced}: {word or 'not set'}")
        return value

    parts = re.split(r"('[^']*')", text)
    return "".join(p if p.startswith("'") else _VARIABLE.sub(one, p) for p in parts)


def words(text: str) -> list[str]:
    """Words with quotes and backslashes taken away, as a shell would read them."""
    found: list[str] = []
    current, quote, begun, at = "", "", False, 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == quote:
                quote = ""
            elif char == "\\" and quote == '"' and at + 1 < len(text) and text[at + 1] in '"\\$':
                at += 1
                current += text[at]
            else:
                current += char
        elif char in "'\"":
            quote, begun = char, True
        elif char == "\\" and at + 1 < len(text):
            at += 1
            current, begun = current + text[at], True
        elif char.isspace():
            if begun:
                found.append(current)
            current, begun = "", False
        else:
            current, begun = current + char, True
        at += 1
    if quote:
        raise InvalidParameter("unexpected end of statement while looking for matching quote")
    return [*found, current] if begun else found


def _json_list(text: str) -> tuple[str, ...] | None:
    """The exec form ``["a", "b"]``; None for the shell form."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        return tuple(found)
    return None


def _command(state: _State, text: str) -> tuple[str, ...]:
    listed = _json_list(text)
    return _shell_form(state, text) if listed is None else listed


def _shell_form(state: _State, text: str) -> tuple[str, ...]:
    return (*(state.config.shell or ("/bin/sh", "-c")), text)


def _cmd(state: _State, text: str) -> None:
    state.cmd_set = True
    state.put(cmd=_command(state, text))


def _entrypoint(state: _State, text: str) -> None:
    found = _command(state, text)
    # A command that was inherited was meant for the entrypoint that goes.
    state.put(entrypoint=found or None, cmd=state.config.cmd if state.cmd_set else None)


def _pairs(text: str, what: str) -> dict[str, str]:
    """``a=1 b="2 3"``, or the old form ``a all the rest``."""
    first = re.match(r"[^\s=\"']+(=?)", text)
    if first is not None and not first[1]:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{what} must have two arguments")
        return {name: value.strip()}
    found = {}
    for word in words(text):
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(
                f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            )
        if not name:
            raise InvalidParameter(f"{what} names can not be blank")
        found[name] = value
    return found


def _env(state: _State, text: str) -> None:
    current = environment(state.config)
    current.update(_pairs(text, "ENV"))
    state.put(env=tuple(f"{name}={value}" for name, value in current.items()))


def _label(state: _State, text: str) -> None:
    state.put(labels={**(state.config.labels or {}), **_pairs(text, "LABEL")})


def _expose(state: _State, text: str) -> None:
    state.put(exposed_ports={**(state.config.exposed_ports or {}), **exposed(words(text))})


def exposed(specifications: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``80``, ``53/udp``, ``8000-8010`` as an image's configuration has them; InvalidParameter."""
    ports: dict[str, dict[str, Any]] = {}
    for word in specifications:
        mapped, slash, protocol = word.partition("/")
        address, _, port = mapped.rpartition(":")  # what is before it is for hosts alone
        host = address.rpartition(":")[2]
        if host and not _PORT.fullmatch(host):
            raise InvalidParameter(f"invalid hostPort: {host}")
        if not port and slash:
            raise InvalidParameter(f'invalid port: "{word}": no port specified')
        match = _PORT.fullmatch(port)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high <= 65535:
            raise InvalidParameter(f"invalid containerPort: {port}")
        if protocol and protocol.lower() not in ("tcp", "udp", "sctp"):
            raise InvalidParameter(f'invalid port: "{word}": invalid proto: {protocol}')
        for number in range(low, high + 1):
            ports[f"{number}/{protocol.lower() or 'tcp'}"] = {}
    return ports


def _user(state: _State, text: str) -> None:
    state.put(user=" ".join(words(text)))


def _volume(state: _State, text: str) -> None:
    paths = _json_list(text)
    found = [path.strip() for path in (paths if paths is not None else words(text))]
    if not all(found):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    state.put(volumes={**(state.config.volumes or {}), **{path: {} for path in found}})


def _workdir(state: _State, text: str) -> None:
    import posixpath

    path = "".join(words(text)) if text[:1] in "'\"" else text
    state.put(working_dir=posixpath.normpath(posixpath.join("/", state.config.working_dir, path)))


def _onbuild(state: _State, text: str) -> None:
    word = text.split()[0].upper()
    if word == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("MAINTAINER", "FROM"):
        raise InvalidParameter(f"{word} isn't allowed as an ONBUILD trigger")
    state.put(on_build=(*(state.config.on_build or ()), text))


def _stopsignal(state: _State, text: str) -> None:
    state.put(stop_signal=stop_signal(text))


def stop_signal(text: str) -> str:
    """A signal's name or number, unchanged; InvalidParameter for an unknown signal."""
    name = text.strip()
    parse_signal(name, stops=True)
    return name


def _healthcheck(state: _State, text: str) -> None:
    kind, options = "", dict[str, str]()
    rest = text
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", rest):
        options[match[1]] = match[2]
        rest = rest[match.end() :]
    kind, _, command = rest.partition(" ")
    if kind.upper() == "NONE":
        if command.strip():
            raise InvalidParameter("HEALTHCHECK NONE takes no arguments")
        state.put(healthcheck=Healthcheck(test=("NONE",)))
        return
    if kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not command.strip():
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    listed = _json_list(command.strip())
    test = ("CMD", *listed) if listed is not None else ("CMD-SHELL", command.strip())
    state.put(healthcheck=health_options(test, options))


def health_options(test: tuple[str, ...], options: dict[str, str]) -> Healthcheck:
    """HEALTHCHECK with its flags by name, such as ``interval``; InvalidParameter."""
    names = {"interval", "timeout", "start-period", "start-interval", "retries"}
    for name in options:
        if name not in names:
            raise InvalidParameter(f"Unknown flag: {name}")
    retries = options.get("retries", "0")
    count = parse_int(retries, bits=32)
    if count < 0:
        raise InvalidParameter(f"--retries cannot be negative ({count})")
    return Healthcheck(
        test=test,
        interval=_duration(options, "interval"),
        timeout=_duration(options, "timeout"),
        start_period=_duration(options, "start-period"),
        start_interval=_duration(options, "start-interval"),
        retries=count,
    )


def _duration(options: dict[str, str], name: str) -> int:
    """Nanoseconds; 0 when not given."""
    text = options.get(name)
    if text is None:
        return 0
    total = parse_duration(text)
    if total and total < MILLISECOND:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return total


_HANDLERS: dict[str, Callable[[_State, str], None]] = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "onbuild": _onbuild,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
