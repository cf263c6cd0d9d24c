"""buildx ls, inspect, du, prune, version, use, stop, create, rm: the one builder that there is,
shown as docker's buildx shows its default builder."""

from __future__ import annotations

from portside.cli import prune, times
from portside.cli.format import print_rows
from portside.cli.session import Failed
from portside.cli.table import aligned
from portside.cli.verb import verb
from portside.client.client import filters_text
from portside.model import jsontext
from portside.model.errors import InvalidParameter
from portside.model.golang import sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.format import Columns
    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

MUTABLE = ("exec.cachemount", "source.local")
"""Types of records whose content changes from build to build."""
_BUILDER = """
      --builder string   Accepted and ignored: there is one builder
"""
NAME = "default"


def _check(options: Options, arguments: list[str]) -> None:
    """Only the one builder is known. Raises Failed."""
    for name in (*arguments, options.text("builder")):
        if name not in ("", NAME):
            raise Failed(1, f'ERROR: no builder "{name}" found')


def _about(session: Session) -> Item:
    found: Item = session.client.get("/portside/builder")
    return found


@verb("buildx ls", "builder ls", usage="[OPTIONS]", about="List builders", flags="""
      --format string   Print as a table, as json, or with a Go template
      --no-trunc        Do not shorten platforms
""")  # fmt: skip
def ls(session: Session, options: Options, arguments: list[str]) -> None:
    about = _about(session)
    format = options.text("format")
    if format in ("json", "{{json .}}"):
        session.out(jsontext.dumps({
            "Current": True, "Driver": "docker", "Dynamic": False, "Name": NAME,
            "LastActivity": _stamp(about["LastActivity"]),
            "Nodes": [{
                "Endpoint": NAME, "GCPolicy": about["Rules"], "IDs": [about["Id"]], "Name": NAME,
                "Platforms": about["Platforms"], "Status": "running", "Version": _version(),
            }],
        }))  # fmt: skip
        return
    first, *others = about["Platforms"]
    shown = ", ".join(about["Platforms"]) if options.flag("no-trunc") or len(others) < 4 else (
        f"{first} (+{len(others)})")  # fmt: skip
    node = {"DriverEndpoint": NAME, "Status": "running", "Buildkit": _version(), "Platforms": shown}
    rows = [{"DriverEndpoint": "docker", "LastActivity": _stamp(about["LastActivity"])}, node]
    marks = format.startswith("table") or not format
    try:
        print_rows(session, format, rows, _LISTED, _TABLE, marks, kind="*commands.lsContext")
    except InvalidParameter as err:
        raise Failed(1, f"ERROR: {err}") from None


def _named(row: Item, marks: bool) -> str:
    """Tables mark the builder in use, and its nodes."""
    if not marks:
        return NAME
    return f" \\_ {NAME}" if "Status" in row else f"{NAME}*"


def _endpoint(row: Item, marks: bool) -> str:
    return (" \\_ " if marks and "Status" in row else "") + str(row["DriverEndpoint"])


_LISTED: Columns = {
    "Name": ("NAME/NODE", _named),
    "DriverEndpoint": ("DRIVER/ENDPOINT", _endpoint),
    "LastActivity": ("LAST ACTIVITY", lambda row, _: row.get("LastActivity", "")),
    "Status": ("STATUS", lambda row, _: row.get("Status", "")),
    "Buildkit": ("BUILDKIT", lambda row, _: row.get("Buildkit", "")),
    "Platforms": ("PLATFORMS", lambda row, _: row.get("Platforms", "")),
    "Error": ("ERROR", lambda row, _: ""),
}
_TABLE = ("Name", "DriverEndpoint", "Status", "Buildkit", "Platforms")


def _version() -> str:
    import portside

    return f"v{portside.__version__}"


def _stamp(nanoseconds: int) -> str:
    from portside.model.golang.timestamps import format_rfc3339

    return format_rfc3339(nanoseconds - nanoseconds % 10**9) if nanoseconds else ""


@verb("buildx inspect", "builder inspect", usage="[OPTIONS] [NAME]", arguments=(0, 1),
      about="Show the builder: platforms and limits of its cache", flags="""
      --bootstrap        Accepted and ignored: the builder runs
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    _check(options, arguments)
    about = _about(session)
    lines = [f"Name:          {NAME}", "Driver:        docker"]
    if about["LastActivity"]:
        stamp = _stamp(about["LastActivity"]).replace("T", " ").replace("Z", " +0000 UTC")
        lines.append(f"Last Activity: {stamp}")
    lines += ["", "Nodes:", f"Name:             {NAME}", f"Endpoint:         {NAME}",
              "Status:           running", f"BuildKit version: {_version()}",
              f"Platforms:        {', '.join(about['Platforms'])}"]  # fmt: skip
    for number, rule in enumerate(about["Rules"]):
        lines.append(f"GC Policy rule#{number}:")
        rows = [("All:", str(rule["all"]).lower())]
        if rule["filter"]:
            rows.append(("Filters:", " ".join(rule["filter"])))
        if rule["keepDuration"]:
            rows.append(("Keep Duration:", _duration(rule["keepDuration"])))
        bounds = {"reservedSpace": "Reserved Space:", "maxUsedSpace": "Max Used Space:",
                  "minFreeSpace": "Min Free Space:"}  # fmt: skip
        for key, title in bounds.items():
            if rule[key]:
                rows.append((title, sizes.binary_size(rule[key])))
        lines += [f" {title:<15} {text}" for title, text in rows]
    session.out("\n".join(lines))


def _duration(nanoseconds: int) -> str:
    hours, rest = divmod(nanoseconds // 10**9, 3600)
    return f"{hours}h{rest // 60}m{rest % 60}s"


def _records(session: Session, options: Options) -> list[Item]:
    """The cache's records that the filters leave, smallest first."""
    found = session.client.get("/system/df", {"type": "build-cache"}).get("BuildCache") or []
    wanted = options.many("filter")
    kept = [record for record in found if all(_matches(record, *pair) for pair in wanted)]
    return sorted(kept, key=lambda record: (record["Size"], record["ID"]))


def _matches(record: Item, name: str, value: str) -> bool:
    keys = {"id": "ID", "type": "Type", "description": "Description"}
    if name in keys:
        return bool(record[keys[name]] == value)
    if name == "until":
        import time

        from portside.model.golang.durations import parse_duration

        age = time.time() - times.seconds_of(record["LastUsedAt"])
        return age >= parse_duration(value) / 10**9
    facts = {"inuse": record["InUse"], "shared": record["Shared"], "private": not record["Shared"],
             "mutable": record["Type"] in MUTABLE}  # fmt: skip
    facts["immutable"] = not facts["mutable"]
    if name not in facts:
        raise Failed(1, f"ERROR: invalid filter '{name}'")
    return bool(facts[name]) == (value.lower() not in ("false", "0"))


@verb("buildx du", "builder du", usage="[OPTIONS]", about="Show the disk usage of the build cache",
      flags="""
      --filter filter   Only records that match, such as type=regular or until=24h
      --format string   Print as a table, as json, pretty, or by a Go template
      --verbose         Short for --format=pretty
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def du(session: Session, options: Options, arguments: list[str]) -> None:
    _check(options, arguments)
    records = _records(session, options)
    format = "pretty" if options.flag("verbose") else options.text("format", "table")
    if format not in ("pretty", "table"):
        _templated(session, format, records)
        return
    if format == "pretty":
        for record in records:
            session.out(_pretty(record))
    else:
        rows = ["ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED", *(_row(record) for record in records)]
        session.out("\n".join(aligned(rows)))
    if not options.many("filter"):
        _totals(session, records)


def _templated(session: Session, format: str, records: list[Item]) -> None:
    """Raises Failed."""
    kind, marks = "*commands.diskusageContext", format.startswith("table")
    try:
        print_rows(session, format, records, _COLUMNS, (), marks, kind=kind)
    except InvalidParameter as err:
        raise Failed(1, f"ERROR: {err}") from None


def _row(record: Item) -> str:
    return "\t".join((
        _id(record, True), str(not record["InUse"]).lower(), _size(record, True), _ago(record),
    ))  # fmt: skip


def _id(record: Item, marks: bool) -> str:
    """Tables mark what is mutable, and sizes that an image shares."""
    return str(record["ID"]) + ("*" if marks and record["Type"] in MUTABLE else "")


def _size(record: Item, marks: bool) -> str:
    return sizes.human_size(record["Size"], 4) + ("*" if marks and record["Shared"] else "")


def _ago(record: Item) -> str:
    used = record.get("LastUsedAt")
    return times.ago(times.seconds_of(used)) if used else ""


_COLUMNS: Columns = {
    "CreatedAt": ("CREATED AT", lambda record, _: _created(record)),
    "Description": ("DESCRIPTION", lambda record, _: record["Description"]),
    "ID": ("ID", _id),
    "LastUsedAt": ("LAST ACCESSED", lambda record, _: _ago(record)),
    "Mutable": ("MUTABLE", lambda record, _: record["Type"] in MUTABLE),
    "Parents": ("PARENTS", lambda record, _: record.get("Parents") or []),
    "Reclaimable": ("RECLAIMABLE", lambda record, _: not record["InUse"]),
    "Shared": ("SHARED", lambda record, _: record["Shared"]),
    "Size": ("SIZE", _size),
    "Type": ("TYPE", lambda record, _: record["Type"]),
    "UsageCount": ("USAGE COUNT", lambda record, _: record["UsageCount"]),
}


def _created(record: Item) -> str:
    stamp: str = record["CreatedAt"]
    return stamp.replace("T", " ").replace("Z", " +0000 UTC")


def _pretty(record: Item) -> str:
    rows = [("ID:", record["ID"])]
    lines = [f"{title:<13} {text}" for title, text in rows]
    if record.get("Parents"):
        lines += ["Parents:", *(f" - {name}" for name in record["Parents"])]
    rows = [
        ("Created at:", _created(record)), ("Mutable:", str(record["Type"] in MUTABLE).lower()),
        ("Reclaimable:", str(not record["InUse"]).lower()),
        ("Shared:", str(record["Shared"]).lower()), ("Size:", sizes.human_size(record["Size"], 4)),
    ]  # fmt: skip
    if record.get("Description"):
        rows.append(("Description:", record["Description"]))
    rows += [("Usage count:", str(record["UsageCount"])), ("Last used:", _ago(record)),
             ("Type:", record["Type"])]  # fmt: skip
    return "\n".join([*lines, *(f"{title:<13} {text}" for title, text in rows), ""])


def _totals(session: Session, records: list[Item]) -> None:
    total = sum(record["Size"] for record in records)
    shared = sum(record["Size"] for record in records if record["Shared"])
    reclaimable = sum(record["Size"] for record in records if not record["InUse"])
    if shared:
        session.out(f"Shared:\t\t{sizes.human_size(shared, 4)}")
        session.out(f"Private:\t{sizes.human_size(total - shared, 4)}")
    session.out(f"Reclaimable:\t{sizes.human_size(reclaimable, 4)}")
    session.out(f"Total:\t\t{sizes.human_size(total, 4)}")


@verb("buildx prune", usage="[OPTIONS]", about="Remove records of the build cache", flags="""
  -a, --all                    Also records that an image shares
      --filter filter          Only records that match, such as until=24h
  -f, --force                  Do not ask
      --keep-storage bytes     The old name of --reserved-space
      --max-used-space bytes   Largest size of the cache
      --min-free-space bytes   Free disk space to leave at least
      --reserved-space bytes   Size of the cache that is always kept
      --verbose                Show more of each record
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def buildx_prune(session: Session, options: Options, arguments: list[str]) -> None:
    _check(options, arguments)
    kind = "all" if options.flag("all") else "all dangling"
    prune.confirm(session, options, f"WARNING! This will remove {kind} build cache.")
    known = session.client.get("/system/df", {"type": "build-cache"}).get("BuildCache") or []
    query = {
        "all": options.flag("all") or None,
        "filters": filters_text(prune.wanted(session, options)),
        **{name: options.number(name) for name in
           ("keep-storage", "reserved-space", "max-used-space", "min-free-space")},
    }  # fmt: skip
    answer = session.client.post("/build/prune", query) or {}
    gone = set(answer.get("CachesDeleted") or ())
    records = [record for record in known if record["ID"] in gone]
    if records and not options.flag("verbose"):
        session.out("ID\t\t\t\t\t\tRECLAIMABLE\tSIZE\t\tLAST ACCESSED")
    for record in records:
        if options.flag("verbose"):
            session.out(_pretty(record))
        else:
            size = sizes.human_size(record["Size"], 4)
            session.out(f"{record['ID']:<40}\t{'true':<5}\t{size:<10}\t{_ago(record)}")
    session.out(f"Total:\t{sizes.human_size(int(answer.get('SpaceReclaimed') or 0), 4)}")


@verb("buildx version", about="Show the version of the builder")
def version(session: Session, options: Options, arguments: list[str]) -> None:
    import portside

    session.out(f"portside/buildx {_version()} {portside.__name__}")


@verb("buildx use", usage="[OPTIONS] NAME", arguments=(1, 1), about="Choose the builder", flags="""
      --default   Accepted and ignored
      --global    Accepted and ignored
""")  # fmt: skip
def use(session: Session, options: Options, arguments: list[str]) -> None:
    if arguments[0] != NAME:
        raise Failed(1, f'ERROR: failed to find instance "{arguments[0]}": there is one builder, '
                        f'named "{NAME}"')  # fmt: skip


@verb("buildx stop", usage="[NAME]", arguments=(0, 1), about="Accepted and ignored: the "
      "builder is a part of the engine")  # fmt: skip
def stop(session: Session, options: Options, arguments: list[str]) -> None:
    _check(options, arguments)


@verb("buildx create", usage="[OPTIONS] [CONTEXT|ENDPOINT]", arguments=(0, 1),
      about="Refused: there is one builder, which is a part of the engine", flags="""
      --bootstrap                 Boot the builder
      --driver string             Driver
      --driver-opt list           Options of the driver
      --name string               Name of the builder
      --platform list             Platforms
      --use                       Choose it
""")  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> None:
    driver = options.text("driver", "docker-container")
    raise Failed(1, f'ERROR: additional instances of driver "{driver}" cannot be created: the '
                    "engine is the builder, and builds need no other")  # fmt: skip


@verb("buildx rm", usage="[OPTIONS] [NAME...]", arguments=(0, None),
      about="Refused: the engine's own builder cannot be removed", flags="""
      --all-inactive   Remove all builders that do not run
  -f, --force          Do not ask
      --keep-daemon    Accepted and ignored
      --keep-state     Accepted and ignored
""")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> None:
    if options.flag("all-inactive"):
        return
    for name in arguments or [NAME]:
        why = "context builder cannot be removed" if name == NAME else f'no builder "{name}" found'
        session.warn(f"failed to remove {name}: {why}")
    raise Failed(1, "ERROR: failed to remove one or more builders")
