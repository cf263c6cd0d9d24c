"""ps."""

from __future__ import annotations

from portside.cli import table, times
from portside.cli.verb import verb
from portside.client.client import filters_text
from portside.model.golang import sizes, timestamps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

_ELLIPSIS = "…"


def ellipsis(text: str, width: int) -> str:
    """Cut to ``width`` characters, the last of which marks the cut."""
    return text if len(text) <= width else text[: width - 1] + _ELLIPSIS


def short_id(text: str) -> str:
    return text.removeprefix("sha256:")[:12]


class _View:
    """The options that columns depend on."""

    def __init__(self, full: bool) -> None:
        self.full = full


def _id(item: Item, view: _View) -> str:
    return str(item["Id"]) if view.full else short_id(item["Id"])


def _names(item: Item, view: _View) -> str:
    names = [name.removeprefix("/") for name in item.get("Names") or ()]
    if not view.full:  # links to other containers have a slash inside
        names = [name for name in names if "/" not in name]
    return ",".join(names)


def _image(item: Item, view: _View) -> str:
    image = str(item.get("Image") or "")
    if not image:
        return "<no image>"
    if view.full:
        return image
    if "@sha256:" in image:
        from portside.cli import references

        repository, tag, _ = references.split(image)
        return f"{repository}:{tag}" if tag else repository
    hexadecimal = image.removeprefix("sha256:")
    if len(hexadecimal) == 64 and all(character in "0123456789abcdef" for character in hexadecimal):
        return hexadecimal[:12]
    return image


def _command(item: Item, view: _View) -> str:
    from portside.model.golang.template.values import quoted

    command = str(item.get("Command") or "")
    return quoted(command if view.full else ellipsis(command, 20))


def _size(item: Item, view: _View) -> str:
    size = sizes.human_size(item.get("SizeRw") or 0, 3)
    virtual = item.get("SizeRootFs") or 0
    return f"{size} (virtual {sizes.human_size(virtual, 3)})" if virtual > 0 else size


def _mounts(item: Item, view: _View) -> str:
    names = [mount.get("Name") or mount.get("Source") or "" for mount in item.get("Mounts") or ()]
    return ",".join(name if view.full else ellipsis(name, 15) for name in names)


def _networks(item: Item, view: _View) -> str:
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    return ",".join(sorted(networks))


def _platform(item: Item) -> str:
    """The platform of the image's manifest, when the engine reports it: ``linux/amd64``."""
    found = (item.get("ImageManifestDescriptor") or {}).get("platform") or {}
    parts = (found.get("os"), found.get("architecture"), found.get("variant"))
    return "/".join(part for part in parts if part)


def labels_text(labels: dict[str, str] | None) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))


def ports_text(ports: list[Item]) -> str:
    """``0.0.0.0:8080-8082->80-82/tcp, 53/udp``: neighbouring ports are grouped."""
    groups: list[list[Any]] = []
    ordered = sorted(
        ports,
        key=lambda port: (
            port.get("Type", "tcp"), port.get("IP", ""), port["PrivatePort"],
            port.get("PublicPort", 0),
        ),
    )  # fmt: skip
    for port in ordered:
        address, kind = port.get("IP", ""), port.get("Type", "tcp")
        private, public = int(port["PrivatePort"]), int(port.get("PublicPort") or 0)
        if groups:
            last = groups[-1]
            follows = private == last[3] + 1 and (
                (not public and not last[4]) or (public and public == last[5] + 1)
            )
            if last[:2] == [address, kind] and follows:
                last[3], last[5] = private, public
                continue
        groups.append([address, kind, private, private, public, public])
    return ", ".join(_port_group(*group) for group in groups)


def _port_group(address: str, kind: str, low: int, high: int, first: int, last: int) -> str:
    inside = f"{low}/{kind}" if low == high else f"{low}-{high}/{kind}"
    if not first:
        return inside
    outside = str(first) if first == last else f"{first}-{last}"
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{outside}->{inside}"


COLUMNS = {
    "ID": ("CONTAINER ID", _id),
    "Names": ("NAMES", _names),
    "Image": ("IMAGE", _image),
    "Command": ("COMMAND", _command),
    "CreatedAt": ("CREATED AT", lambda item, view: timestamps.local_time(item["Created"])),
    "RunningFor": ("CREATED", lambda item, view: times.ago(item["Created"])),
    "Ports": ("PORTS", lambda item, view: ports_text(item.get("Ports") or [])),
    "State": ("STATE", lambda item, view: item.get("State", "")),
    "Status": ("STATUS", lambda item, view: item.get("Status", "")),
    "Size": ("SIZE", _size),
    "Labels": ("LABELS", lambda item, view: labels_text(item.get("Labels"))),
    "Mounts": ("MOUNTS", _mounts),
    "LocalVolumes": (
        "LOCAL VOLUMES",
        lambda item, view: str(
            sum(mount.get("Driver") == "local" for mount in item.get("Mounts") or ())
        ),
    ),
    "Networks": ("NETWORKS", _networks),
    "Platform": ("PLATFORM", lambda item, view: _platform(item)),
}
SHOWN = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


@verb("container ls", "container list", "container ps", "ps", usage="[OPTIONS]",
      about="List containers", flags="""
  -a, --all             Also containers that do not run
  -f, --filter filter   Only containers that match, such as status=exited
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
  -n, --last int        The last n created containers, running or not
  -l, --latest          The last created container, running or not
      --no-trunc        Do not shorten anything
  -q, --quiet           Print IDs only
  -s, --size            Show sizes
""")  # fmt: skip
def ps(session: Session, options: Options, arguments: list[str]) -> None:
    format = options.text("format") or ("" if options.flag("quiet") else
                                        session.config.text("psFormat"))  # fmt: skip
    limit = options.number("last") or 0
    if options.flag("latest") and limit <= 0:
        limit = 1
    wants_size = options.flag("size") or _uses_size(format)
    found = session.client.get(
        "/containers/json",
        {
            "all": options.flag("all") or None,
            "limit": limit if limit > 0 else None,
            "size": wants_size or None,
            "filters": filters_text(table.filters(options)),
        },
    )
    view = _View(options.flag("no-trunc"))
    if options.flag("quiet") and options.text("format"):
        session.warn(_IGNORED)
    if options.flag("quiet") and format != "raw":
        for item in found:
            session.out(_id(item, view))
        return
    shown = (*SHOWN, "Size") if options.flag("size") else SHOWN
    if not format or format == "table":
        header = [COLUMNS[name][0] for name in shown]
        rows = [[COLUMNS[name][1](item, view) for name in shown] for item in found]
        session.out(table.table(header, rows))
        return
    from portside.cli.format import print_rows

    if format == "raw":
        format = _RAW_ID if options.flag("quiet") else _RAW
        format += _RAW_SIZE if options.flag("size") and not options.flag("quiet") else ""
    print_rows(
        session, format, found, COLUMNS, shown, view, kind="container",
        methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
    )  # fmt: skip


_IGNORED = "WARNING: Ignoring custom format, because both --format and --quiet are set."
_RAW_ID = "container_id: {{.ID}}"
_RAW = (
    f"{_RAW_ID}\nimage: {{{{.Image}}}}\ncommand: {{{{.Command}}}}\n"
    "created_at: {{.CreatedAt}}\nstate:{{pad .State 1 0}}\nstatus:{{pad .Status 1 0}}\n"
    "names: {{.Names}}\nlabels:{{with .Labels}} {{.}}{{end}}\nports:{{with .Ports}} {{.}}{{end}}\n"
)
_RAW_SIZE = "size: {{.Size}}\n"


def _uses_size(format: str) -> bool:
    """Sizes are computed only when they are shown."""
    return ".Size" in format or "json ." in format
