"""volume create, ls, rm, update; clone, rename, export and import, which Docker lacks."""

from __future__ import annotations

from portside.cli import table
from portside.cli.ps import labels_text
from portside.cli.verb import verb
from portside.client.client import filters_text, path_of
from portside.model.errors import InvalidParameter
from portside.model.golang import sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]


@verb("volume create", usage="[OPTIONS] [VOLUME]", about="Create a volume", arguments=(0, 1),
      flags="""
  -d, --driver string   Driver of the volume (default "local")
      --label list      Add a label (NAME=VALUE)
      --name string     hidden:
  -o, --opt map         Option of the driver (NAME=VALUE)
""")  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.envfile import labels

    if arguments and options.text("name"):
        raise InvalidParameter("conflicting options: cannot specify a volume-name through both "
                               "--name and as a positional arg")  # fmt: skip
    made = session.client.post(
        "/volumes/create",
        body={
            "Name": arguments[0] if arguments else options.text("name"),
            "Driver": options.text("driver", "local"),
            "DriverOpts": dict(options.many("opt")) or None,
            "Labels": labels([], options.many("label")) or None,
        },
    )
    session.out(made["Name"])


def _usage(item: Item, name: str) -> int:
    return int((item.get("UsageData") or {}).get(name, -1))


def _links(item: Item, _: Any) -> str:
    count = _usage(item, "RefCount")
    return "N/A" if count < 0 else str(count)


def _size(item: Item, _: Any) -> str:
    size = _usage(item, "Size")
    return "N/A" if size < 0 else sizes.human_size(size)


COLUMNS = {
    "Driver": ("DRIVER", lambda item, _: item["Driver"]),
    "Name": ("VOLUME NAME", lambda item, _: item["Name"]),
    "Scope": ("SCOPE", lambda item, _: item.get("Scope", "local")),
    "Mountpoint": ("MOUNTPOINT", lambda item, _: item.get("Mountpoint", "")),
    "Labels": ("LABELS", lambda item, _: labels_text(item.get("Labels"))),
    "Links": ("LINKS", _links),
    "Size": ("SIZE", _size),
    "Availability": ("AVAILABILITY", lambda item, _: "N/A"),
    "Group": ("GROUP", lambda item, _: "N/A"),
    "Status": ("STATUS", lambda item, _: "N/A"),
}


@verb("volume ls", "volume list", usage="[OPTIONS]", about="List volumes", flags="""
      --cluster         Not supported: a swarm's volumes
  -f, --filter filter   Only volumes that match, such as dangling=true
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
  -q, --quiet           Print names only
""")  # fmt: skip
def ls(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.format import print_rows

    query = {"filters": filters_text(table.filters(options))}
    found = session.client.get("/volumes", query).get("Volumes") or []
    found.sort(key=lambda item: item["Name"])
    format = options.text("format")
    if options.flag("quiet") and format in ("", "table"):
        for item in found:
            session.out(item["Name"])
        return
    format = format or session.config.text("volumesFormat")
    print_rows(
        session, format, found, COLUMNS, ("Driver", "Name"), kind="volume",
        methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
    )  # fmt: skip


@verb("volume rm", "volume remove", usage="[OPTIONS] VOLUME [VOLUME...]", arguments=(1, None),
      about="Remove volumes that no container uses", completes="volume", flags="""
  -f, --force   No error when a volume does not exist
""")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> int:
    client = session.client
    query = {"force": options.flag("force") or None}
    return session.each(arguments, lambda name: client.delete(path_of("volumes", name), query))


@verb("volume update", usage="[OPTIONS] VOLUME", about="Change the labels of a volume",
      arguments=(1, 1), completes="volume", flags="""
      --label list   New labels, instead of the present ones (NAME=VALUE)
""")  # fmt: skip
def update(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.envfile import labels

    body = {"Labels": labels([], options.many("label"))}
    session.client.post(path_of("portside", "volumes", arguments[0], "update"), body=body)
    session.out(arguments[0])


@verb("volume clone", usage="VOLUME NEW_VOLUME", about="Copy a volume with everything in it",
      arguments=(2, 2), completes="volume")  # fmt: skip
def clone(session: Session, options: Options, arguments: list[str]) -> None:
    path = path_of("portside", "volumes", arguments[0], "clone")
    session.out(session.client.post(path, {"name": arguments[1]})["Name"])


@verb("volume rename", usage="VOLUME NEW_NAME", about="Rename a volume that no container uses",
      arguments=(2, 2), completes="volume")  # fmt: skip
def rename(session: Session, options: Options, arguments: list[str]) -> None:
    path = path_of("portside", "volumes", arguments[0], "rename")
    session.out(session.client.post(path, {"name": arguments[1]})["Name"])


@verb("volume export", usage="[OPTIONS] VOLUME", about="Write a volume's files to a tar archive",
      arguments=(1, 1), completes="volume", flags="""
  -o, --output string   Write to a file, not to standard output
""")  # fmt: skip
def export(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.images import to_file

    path = path_of("portside", "volumes", arguments[0], "export")
    to_file(session, options.text("output"), path, None, "export volume")


@verb("volume import", usage="VOLUME [FILE|-]", arguments=(1, 2), completes="volume",
      about="Fill a volume from a tar archive; create the volume if needed")  # fmt: skip
def import_(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.images import pieces_of

    source = arguments[1] if len(arguments) > 1 else "-"
    try:
        file = open(0 if source == "-" else source, "rb", buffering=0)  # noqa: SIM115
    except OSError as err:
        raise InvalidParameter(f"open {source}: {(err.strerror or '').lower()}") from None
    with file:
        path = path_of("portside", "volumes", arguments[0], "import")
        headers = {"Content-Type": "application/x-tar"}
        made = session.client.post(path, body=pieces_of(file), headers=headers)
    session.out(made["Name"])
