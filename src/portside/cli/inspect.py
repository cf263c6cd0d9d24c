"""inspect (of everything), port, top, diff."""

from __future__ import annotations

import os

from portside.cli import table
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.flags.table import ArgumentCount
from portside.model import jsontext
from portside.model.errors import InvalidParameter, PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Getter = Callable[[str], Any]

_FORMAT = """
  -f, --format string   Print by a Go template, or 'json'
"""
_SIZE = """
  -s, --size            Also compute sizes
"""


# -- inspect ---------------------------------------------------------------------------------


@verb("inspect", usage="[OPTIONS] NAME|ID [NAME|ID...]", arguments=(1, None), completes="any",
      about="Show everything about containers, images, networks and volumes",
      flags=_FORMAT + _SIZE + """
      --oci             The container's OCI runtime configuration instead
      --type string     Only objects of this kind (container, image, network, volume)
""")  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> int:
    if options.flag("oci"):
        return _print(session, options, arguments, lambda name: _oci(session, name))
    kind = options.text("type")
    if options.given("type") and not kind:
        raise InvalidParameter("type is empty: must be one of \"container\", \"image\", "
                               "\"network\", \"volume\"")  # fmt: skip
    size = options.flag("size")
    getters = {
        "container": lambda name: _container(session, name, size),
        "image": lambda name: session.client.get(path_of("images", name, "json")),
        "network": lambda name: session.client.get(path_of("networks", name)),
        "volume": lambda name: session.client.get(path_of("volumes", name)),
    }
    if not kind:
        return _print(session, options, arguments, lambda name: _first(getters.values(), name))
    if kind in ("node", "secret", "service", "task", "plugin", "config"):
        raise InvalidParameter(f"{kind} is not supported: Portside has no swarm and no plugins")
    if kind not in getters:
        raise InvalidParameter(f'unknown type: "{kind}": must be one of "container", "image", '
                               '"network", "volume"')  # fmt: skip
    return _print(session, options, arguments, getters[kind])


def _oci(session: Session, name: str) -> Any:
    return session.client.get(path_of("portside", "containers", name, "oci"))


def _container(session: Session, name: str, size: bool) -> Any:
    return session.client.get(path_of("containers", name, "json"), {"size": size or None})


def _first(getters: Iterable[Getter], name: str) -> Any:
    """The first kind of object that has the name."""
    for getter in getters:
        try:
            return getter(name)
        except Refused as err:
            if not err.is_not_found and err.status != 400:
                raise
    raise Failed(1, f"Error: No such object: {name}")


def _kind(value: Any) -> str:
    """The kind of an object without a state."""
    return "image" if "RootFS" in value else "volume" if "Mountpoint" in value else "network"


def _group_verb(group: str, what: str, plural: str, extra: str, completes: str) -> None:
    """``container inspect`` and similar."""

    @verb(f"{group} inspect", usage=f"[OPTIONS] {what} [{what}...]", completes=completes,
          about=f"Show everything about {plural}", flags=_FORMAT + extra,
          arguments=(1, None))  # fmt: skip
    def group_inspect(session: Session, options: Options, arguments: list[str]) -> int:
        def get(name: str) -> Any:
            if group == "container":
                return _container(session, name, options.flag("size"))
            if group == "image":
                platform = {"platform": _platform(options)}
                return session.client.get(path_of("images", name, "json"), platform)
            verbose = True if extra and options.flag("verbose") else None
            return session.client.get(path_of(plural, name), {"verbose": verbose})

        return _print(session, options, arguments, get)


def _platform(options: Options) -> str | None:
    from portside.cli.pull_push import _platform_json

    return _platform_json(options.text("platform"))


_group_verb("container", "CONTAINER", "containers", _SIZE, "container")
_group_verb("image", "IMAGE", "images", """
      --platform string   One platform of a multi-platform image
""", "image")  # fmt: skip
_group_verb("network", "NETWORK", "networks", """
  -v, --verbose         Accepted and ignored
""", "network")  # fmt: skip
_group_verb("volume", "VOLUME", "volumes", "", "volume")


def _print(session: Session, options: Options, names: list[str], get: Getter) -> int:
    """Print what was found, then the errors for the other names; the exit status is 1 then."""
    format = options.text("format")
    template = None
    if format and format != "json":
        template = _parsed(format)
    found: list[Any] = []
    problems: list[PortsideError] = []
    session.client  # noqa: B018 - connect before anything is printed
    for name in names:
        try:
            value = get(name)
            if options.flag("size") and "State" not in value:
                session.warn(f"WARNING: --size ignored for {_kind(value)}")
            found.append(value if template is None else _rendered(template, value))
        except PortsideError as err:
            problems.append(err)
            if not isinstance(err, (Refused, Failed)):
                break
    if template is not None:
        session.out("\n".join(found))
    elif format == "json":
        session.out(jsontext.dumps(found))
    else:
        session.out(jsontext.dumps(found, "    "))
    for problem in problems:
        from portside.cli.session import describe

        session.warn(describe(problem))
    return 1 if problems else 0


def _parsed(format: str) -> Any:
    from portside.model.golang.template import ParseError, Template

    try:
        return Template(format)
    except ParseError as err:
        raise Failed(64, f"template parsing error: {err}") from None


def _rendered(template: Any, value: Any) -> str:
    """An object by a template. Raises Failed."""
    from portside.cli import shapes
    from portside.model.golang.template import ExecError

    kind = "container" if "State" in value else _kind(value)
    try:
        return str(template.render(shapes.whole(value, kind)))
    except ExecError:
        pass
    try:  # the raw answer may have fields that the known shape lacks
        return str(template.render(value))
    except ExecError as err:
        raise Failed(1, f"template parsing error: {err}") from None


# -- port ------------------------------------------------------------------------------------


@verb("container port", "port", usage="CONTAINER [PRIVATE_PORT[/PROTO]]", arguments=(1, 2),
      about="Show where a container's ports are published", completes="container")  # fmt: skip
def port(session: Session, options: Options, arguments: list[str]) -> None:
    found = session.client.get(path_of("containers", arguments[0], "json"))
    ports = found["NetworkSettings"].get("Ports") or {}
    if len(arguments) == 2:
        wanted = arguments[1] if "/" in arguments[1] else f"{arguments[1]}/tcp"
        number = wanted.partition("/")[0]
        if not number.isdecimal() or int(number) > 65535:
            why = "value out of range" if number.isdecimal() else "invalid syntax"
            raise InvalidParameter(
                f'Error: invalid port ({number}): strconv.ParseUint: parsing "{number}": {why}'
            )
        bindings = ports.get(wanted)
        if not bindings:
            raise Failed(1, f"Error: No public port '{arguments[1]}' published for {arguments[0]}")
        for binding in bindings:
            session.out(_address(binding))
        return
    lines = [
        (_port_key(name), f"{name} -> {_address(binding)}")
        for name, bindings in ports.items()
        for binding in bindings or ()
    ]
    for _, line in sorted(lines):
        session.out(line)


def _port_key(name: str) -> tuple[int, str]:
    number, _, protocol = name.partition("/")
    return int(number), protocol


def _address(binding: dict[str, str]) -> str:
    host = binding.get("HostIp") or ""
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"


# -- top and diff ----------------------------------------------------------------------------


@verb("container top", "top", usage="CONTAINER [ps OPTIONS]", arguments=(0, None),
      about="Show the processes of a container, or all containers on a live screen",
      interspersed=False, completes="running")  # fmt: skip
def top(session: Session, options: Options, arguments: list[str]) -> None:
    if not arguments:
        if not (os.isatty(0) and os.isatty(1)):
            raise ArgumentCount(f"'{session.called}' requires at least 1 argument", True)
        from portside.cli.screen.screen_verb import show

        show(session)
        return
    query = {"ps_args": " ".join(arguments[1:]) or None}
    found = session.client.get(path_of("containers", arguments[0], "top"), query)
    rows = ["\t".join(row) for row in [found["Titles"], *(found.get("Processes") or ())]]
    for line in table.aligned(rows, width=20, padding=3):
        session.out(line)


@verb("container diff", "diff", usage="CONTAINER", arguments=(1, 1), completes="container",
      about="Show what a container has changed in its file system")  # fmt: skip
def diff(session: Session, options: Options, arguments: list[str]) -> None:
    if not arguments[0]:
        raise InvalidParameter("Container name cannot be empty")
    for change in session.client.get(path_of("containers", arguments[0], "changes")) or ():
        session.out(f"{'CAD'[change['Kind']]} {change['Path']}")
