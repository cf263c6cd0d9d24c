"""ps, ls, images, volumes, top, port and version."""

from __future__ import annotations

from portside.cli import table, times
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.client.client import filters_text, path_of
from portside.compose.observed import Container, containers
from portside.compose.requests import CONFIG_FILES, HASH, PROJECT
from portside.model.golang.sizes import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.flags.table import Options

    Item = dict[str, Any]

_WIDTH, _PADDING = 20, 3
"""The least width of a column of ``ls`` and ``images``, and the spaces after its widest cell."""
_FORMAT = """
      --format string        'table', 'table TEMPLATE', 'json' or a Go template
"""


# -- ps --------------------------------------------------------------------------------------

_ENDED = ("exited", "dead")


def _publishers(item: Item) -> list[Item]:
    from portside.model.golang.template.values import GoStruct

    ports = sorted(item.get("Ports") or (), key=lambda port: port["PrivatePort"])
    return [
        GoStruct(
            URL=port.get("IP", ""), TargetPort=port["PrivatePort"],
            PublishedPort=port.get("PublicPort", 0), Protocol=port.get("Type", ""),
        )
        for port in ports
    ]  # fmt: skip


def _columns() -> dict[str, Any]:
    """The fields of ``docker ps``, and Compose's own."""
    from portside.cli import ps as containers_ps

    found: dict[str, Any] = {
        name: containers_ps.COLUMNS[name]
        for name in ("ID", "Image", "Command", "CreatedAt", "RunningFor", "Ports", "State",
                     "Status", "Size", "Labels", "Mounts", "LocalVolumes", "Networks", "Names")
    }  # fmt: skip
    label = "com.docker.compose."
    found |= {
        "Image": ("IMAGE", lambda item, _: item.get("Image", "")),
        "Name": ("NAME", lambda item, _: Container(item).name),
        "Service": ("SERVICE", lambda item, _: Container(item).service),
        "Project": ("PROJECT", lambda item, _: (item.get("Labels") or {}).get(f"{label}project")),
        "Health": ("HEALTH", lambda item, _: item.get("_health", "")),
        "ExitCode": ("EXIT CODE", lambda item, _: item.get("_exit", 0)),
        "Publishers": ("PUBLISHERS", lambda item, _: _publishers(item)),
    }
    return dict(sorted(found.items()))


SHOWN = ("Name", "Image", "Command", "Service", "RunningFor", "Status", "Ports")


class _View:
    def __init__(self, full: bool) -> None:
        self.full = full


@compose_verb("ps", usage="[OPTIONS] [SERVICE...]", about="List containers", flags=_FORMAT + """
  -a, --all           Also containers that have ended, and those of run
      --filter string  Only containers that match: status=STATUS
      --no-trunc      Do not shorten anything
      --orphans       Also containers of services that the files do not define (default true)
  -q, --quiet         Print IDs only
      --services      Print the names of services only
      --status list   Only containers that are paused, restarting, removing, running, dead,
                      created or exited
""")  # fmt: skip
def ps(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project, name = session.project_or_name(arguments)
    services = list(arguments)
    if project is not None:
        for service in arguments:
            project.service(service)
        if not services and not options.flag("orphans"):
            services = list(project.services)
    statuses = list(options.many("status"))
    if options.text("filter"):
        key, separator, value = options.text("filter").partition("=")
        if not separator:
            raise Failed(1, "arguments to --filter should be in form KEY=VAL")
        if key != "status":
            raise Failed(1, f"unknown filter {key}")
        statuses.append(value)
    everything = options.flag("all") or bool(statuses)
    found = containers(session.pool, name, all=everything,
                       one_off=None if everything else False, services=services)  # fmt: skip
    found = [item for item in found if not statuses or item.state in statuses]
    found.sort(key=lambda item: item.name)
    if options.flag("quiet"):
        for item in found:
            session.out(item.id)
    elif options.flag("services"):
        session.out("\n".join(dict.fromkeys(item.service for item in found)))
    else:
        _print_ps(session, options, [item.raw for item in found])
    return 0


def _print_ps(session: ComposeSession, options: Options, items: list[Item]) -> None:
    from portside.cli import format

    text = options.text("format") or session.config.text("psFormat")
    if text not in ("", "table"):
        _add_states(session, items)
    format.print_rows(
        session, text, items, _columns(), SHOWN, _View(options.flag("no-trunc")),
        kind="container",
        methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
    )  # fmt: skip


def _add_states(session: ComposeSession, items: list[Item]) -> None:
    """Health and exit status, which the list does not contain."""
    found = session.pool.get_all([(path_of("containers", item["Id"], "json"), None)
                                  for item in items])  # fmt: skip
    for item, inspected in zip(items, found, strict=True):
        state = (inspected or {}).get("State") or {}
        if state.get("Status") == "running":
            item["_health"] = (state.get("Health") or {}).get("Status", "")
        elif state.get("Status") in _ENDED:
            item["_exit"] = state.get("ExitCode", 0)


# -- ls --------------------------------------------------------------------------------------


@compose_verb("ls", usage="[OPTIONS]", about="List projects", arguments=(0, 0), flags="""
  -a, --all             Also projects without a running container
      --filter filter   Only projects that match: name=NAME
      --format string   table or json (default "table")
  -q, --quiet           Print names only
""")  # fmt: skip
def ls(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    wanted = table.filters(options)
    for name in wanted:
        if name != "name":
            raise Failed(1, f"invalid filter '{name}'")
    query = {"all": options.flag("all") or None,
             "filters": filters_text({"label": [PROJECT, HASH]})}  # fmt: skip
    projects: dict[str, list[Container]] = {}
    for raw in session.pool.get("/containers/json", query):
        item = Container(raw)
        projects.setdefault(item.labels[PROJECT], []).append(item)
    rows = [
        {"Name": name, "Status": _status(projects[name]), "ConfigFiles": _files(projects[name])}
        for name in sorted(projects)
        if not wanted or any(_matches(name, text) for text in wanted["name"])
    ]  # fmt: skip
    if options.flag("quiet"):
        for row in rows:
            session.out(row["Name"])
    else:
        _print(session, options.text("format"), rows, ("NAME", "STATUS", "CONFIG FILES"),
               [list(row.values()) for row in rows])  # fmt: skip
    return 0


def _matches(name: str, pattern: str) -> bool:
    import re

    try:
        return re.search(pattern, name) is not None
    except re.error:
        return name == pattern


def _status(found: list[Container]) -> str:
    states = sorted({item.state for item in found})
    return ", ".join(f"{state}({sum(item.state == state for item in found)})" for state in states)


def _files(found: list[Container]) -> str:
    names: dict[str, None] = {}
    for item in found:
        names |= dict.fromkeys(item.labels.get(CONFIG_FILES, "N/A").split(","))
    return ",".join(names)


def _print(
    session: ComposeSession, format: str, values: list[Item], header: tuple[str, ...],
    rows: list[list[str]],
) -> None:  # fmt: skip
    """A table or JSON. Raises Failed."""
    if format in ("", "table", "pretty"):
        lines = ["\t".join(row) for row in [header, *rows]]
        session.out("\n".join(table.aligned(lines, _WIDTH, _PADDING)))
    elif format == "json":
        from portside.compose.config_output import go_json

        session.out(go_json(values))
    else:
        raise Failed(1, f'format value "{format}" could not be parsed: parsing failed')


# -- images ----------------------------------------------------------------------------------


@compose_verb("images", usage="[OPTIONS] [SERVICE...]", about="List the images of containers",
              flags="""
      --format string   table or json (default "table")
  -q, --quiet           Print IDs only
""")  # fmt: skip
def images(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    _, name = session.project_or_name()
    found = containers(session.pool, name, one_off=None, services=arguments)
    found.sort(key=lambda item: item.name)
    inspected = session.pool.get_all([(path_of("images", item.raw["Image"], "json"), None)
                                      for item in found])  # fmt: skip
    values = [_image(item, image) for item, image in zip(found, inspected, strict=True) if image]
    if options.flag("quiet"):
        for text in dict.fromkeys(value["ID"].partition(":")[2] for value in values):
            session.out(text)
        return 0
    rows = [
        [value["ContainerName"], value["Repository"] or "<none>", value["Tag"] or "<none>",
         value["Platform"], value["ID"].partition(":")[2][:12], human_size(value["Size"], 3),
         times.ago(times.seconds_of(value["LastTagTime"]))]
        for value in values
    ]  # fmt: skip
    header = ("CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID", "SIZE", "CREATED")
    _print(session, options.text("format"), values, header, rows)
    return 0


def _image(container: Container, image: Item) -> Item:
    from portside.cli import references

    name = str(container.raw["Image"])
    repository, tag, _ = references.split(references.familiar(name))
    if name.startswith("sha256:"):
        repository = tag = ""
    parts = (image.get("Os", ""), image.get("Architecture", ""), image.get("Variant", ""))
    return {
        "ID": image["Id"], "ContainerName": container.name, "Repository": repository, "Tag": tag,
        "Platform": "/".join(filter(None, parts)), "Size": image.get("Size", 0),
        "LastTagTime": (image.get("Metadata") or {}).get("LastTagTime") or image.get("Created"),
    }  # fmt: skip


# -- volumes ---------------------------------------------------------------------------------


@compose_verb("volumes", usage="[OPTIONS] [SERVICE...]", about="List volumes", flags=_FORMAT + """
  -q, --quiet     Print names only
""")  # fmt: skip
def volumes(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.cli import format
    from portside.cli.volumes import COLUMNS

    project, name = session.project_or_name(arguments)
    if project is not None:
        for service in arguments:
            project.service(service)
    query = {"filters": filters_text({"label": [f"{PROJECT}={name}"]})}
    found = session.pool.get("/volumes", query).get("Volumes") or []
    if arguments:
        mounted = {
            mount.get("Name") for item in containers(session.pool, name, services=arguments)
            for mount in item.raw.get("Mounts") or ()
        }  # fmt: skip
        found = [item for item in found if item["Name"] in mounted]
    if options.flag("quiet"):
        for item in found:
            session.out(item["Name"])
        return 0
    format.print_rows(session, options.text("format"), found, COLUMNS, ("Driver", "Name"),
                      kind="volume")  # fmt: skip
    return 0


# -- top, port, version ----------------------------------------------------------------------


@compose_verb("top", usage="[SERVICES...]", about="List the processes in containers")
def top(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    _, name = session.project_or_name()
    found = containers(session.pool, name, all=False, services=arguments)
    found.sort(key=lambda item: item.name)
    answers = session.pool.get_all([(path_of("containers", item.id, "top"), None)
                                    for item in found])  # fmt: skip
    titles: dict[str, None] = {"SERVICE": None, "#": None}
    rows = []
    for item, answer in zip(found, answers, strict=True):
        for process in (answer or {}).get("Processes") or ():
            named = dict(zip(answer["Titles"], process, strict=False))
            titles |= dict.fromkeys(named)
            number = item.labels.get("com.docker.compose.container-number", "")
            rows.append({"SERVICE": item.service, "#": number, **named})
    if "CMD" in titles:  # the last column: it has spaces
        titles.pop("CMD")
        titles["CMD"] = None
    lines = ["\t".join(titles)]
    lines += ["\t".join(row.get(title, "-") for title in titles) for row in rows]
    if rows:
        session.out("\n".join(table.aligned(lines, 4, 2)))
    return 0


@compose_verb("port", usage="[OPTIONS] SERVICE PRIVATE_PORT", arguments=(2, 2),
              about="Show where a port is published", flags="""
      --index int         Which of the service's containers
      --protocol string   tcp or udp (default "tcp")
""")  # fmt: skip
def port(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    if not arguments[1].isdecimal() or int(arguments[1]) > 65535:
        raise Failed(1, f'strconv.ParseUint: parsing "{arguments[1]}": invalid syntax')
    number, protocol = int(arguments[1]), options.text("protocol", "tcp").lower()
    _, name = session.project_or_name()
    item = one_container(session, name, arguments[0], options.number("index") or 0, all=False)
    for found in item.raw.get("Ports") or ():
        if found["PrivatePort"] == number and found.get("Type") == protocol:
            session.out(f"{found.get('IP', '')}:{found.get('PublicPort', 0)}")
            return 0
    known = ", ".join(f"{found.get('PublicPort', 0)}/{found.get('Type')}"
                      for found in item.raw.get("Ports") or ())  # fmt: skip
    raise Failed(1, f"no port {number}/{protocol} for container {item.name}: {known}")


def one_container(
    session: ComposeSession, project: str, service: str, index: int, *, all: bool = False
) -> Container:
    """The container of a service, by number when ``index`` is one. Raises Failed."""
    found = containers(session.pool, project, all=all, one_off=None, services=[service])
    if index:
        found = [item for item in found if item.number == index]
    if not found:
        number = f" container #{index}" if index else ""
        raise Failed(1, f'service "{service}" is not running{number}')
    return min(found, key=lambda item: (item.is_one_off, item.number))


@compose_verb("version", usage="[OPTIONS]", about="Show the version", arguments=(0, 0),
              flags="""
  -f, --format string   pretty or json
      --short           Print the number only
""")  # fmt: skip
def version(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.compose.requests import VERSION

    if options.flag("short"):
        session.out(VERSION)
    elif options.text("format") == "json":
        session.out(f'{{"version":"v{VERSION}"}}')
    else:
        session.out(f"Docker Compose version v{VERSION} (Portside)")
    return 0
