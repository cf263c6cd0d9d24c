"""buildx history: the engine's records of builds."""

from __future__ import annotations

import json
import os
import sys

from portside.cli import times
from portside.cli.build import build_progress
from portside.cli.format import print_rows
from portside.cli.session import Failed, write_text
from portside.cli.table import aligned
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.model import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from portside.cli.format import Columns
    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

_BUILDER = """
      --builder string   Accepted and ignored: there is one builder
"""


def _all(session: Session) -> list[Item]:
    found: list[Item] = session.client.get("/portside/builds")
    return found


def _ref(session: Session, text: str) -> str:
    """A record's ID: whole, its beginning, after ``default/default/``, or ^N from the newest.
    Raises Failed."""
    records = _all(session)
    wanted = text.rpartition("/")[2]
    if not wanted or (wanted.startswith("^") and wanted[1:].isdecimal()):
        at = int(wanted[1:] or 0) if wanted else 0
        if at < len(records):
            return str(records[at]["ref"])
        raise Failed(1, "ERROR: no records found")
    found = [record["ref"] for record in records if record["ref"].startswith(wanted)]
    if len(found) != 1 and wanted not in found:
        why = f'no record found for ref "{wanted}"' if not found else f'"{wanted}" is ambiguous'
        raise Failed(1, f"ERROR: {why}")
    return wanted if wanted in found else str(found[0])


def _status(record: Item) -> str:
    if not record.get("completed"):
        return "Running"
    if record.get("error"):
        return "Canceled" if record.get("error_code") == 1 else "Error"
    return "Completed"


def _name(record: Item) -> str:
    """The name of a build: the image's names, or the target or file."""
    names = (record.get("response") or {}).get("image.name", "")
    names = "" if "@" in names else names  # an image without a name
    attrs = record.get("attrs") or {}
    place = attrs.get("vcs:source") or attrs.get("context") or ""
    return names.partition(",")[0] or place or attrs.get("target") or attrs.get("filename", "")


def _seconds(record: Item) -> float:
    end = record.get("completed") or 0
    return max(0, end - record["created"]) / 10**9 if end else 0


_COLUMNS: Columns = {
    "CreatedAt": ("CREATED AT", lambda record, _: times.ago(record["created"] / 10**9)),
    "Duration": ("DURATION", lambda record, _: f"{_seconds(record):.1f}s"),
    "Name": ("NAME", lambda record, _: _name(record)),
    "Ref": ("BUILD ID", lambda record, _: record["ref"]),
    "Status": ("STATUS", lambda record, _: _status(record)),
}


@verb("buildx history ls", "builder history ls", usage="[OPTIONS]", about="List builds", flags="""
      --filter filter    Only builds that match: status=error|completed|running|canceled, ref=ID
      --format string    Print as a table, as json, or by a Go template
      --local            Accepted and ignored
      --no-trunc         Do not shorten anything
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def ls(session: Session, options: Options, arguments: list[str]) -> None:
    records = [record for record in _all(session)
               if all(_matches(record, *pair) for pair in options.many("filter"))]  # fmt: skip
    format = options.text("format", "table")
    if format == "json":
        for record in records:
            session.out(jsontext.dumps(_row_json(record)))
        return
    if format != "table":
        print_rows(session, format, records, _COLUMNS, (), kind="*history.lsContext")
        return
    lines = ["BUILD ID\tNAME\tSTATUS\tCREATED AT\tDURATION\t"]
    for record in records:
        ago = times.ago(record["created"] / 10**9)
        name = _name(record)
        if len(name) > 36 and not options.flag("no-trunc"):
            name = f"{name[:33]}..."
        lines.append(
            f"{record['ref']}\t{name}\t{_status(record)}\t{ago}\t{_seconds(record):.1f}s\t"
        )
    session.out("\n".join(aligned(lines)))


def _matches(record: Item, name: str, value: str) -> bool:
    if name == "status":
        return _status(record).lower() == value.lower()
    if name == "ref":
        return bool(record["ref"] == value.rpartition("/")[2])
    raise Failed(1, f"ERROR: invalid filter '{name}'")


def _stamp(nanoseconds: int) -> str:
    from portside.model.golang.timestamps import format_rfc3339

    return format_rfc3339(nanoseconds)


def _row_json(record: Item) -> Item:
    steps = record.get("steps") or [0, 0, 0, 0]
    if isinstance(steps, dict):
        steps = [steps.get(key, 0) for key in ("total", "completed", "cached")]
    found = {"ref": f"default/default/{record['ref']}", "name": _name(record),
             "status": _status(record), "created_at": _stamp(record["created"]),
             "total_steps": steps[0], "completed_steps": steps[1],
             "cached_steps": steps[2]}  # fmt: skip
    if record.get("completed"):
        found["completed_at"] = _stamp(record["completed"])
    return dict(sorted(found.items()))


@verb("buildx history inspect", "builder history inspect", usage="[OPTIONS] [REF]",
      arguments=(0, 1), about="Show the sources and results of a build", flags="""
      --format string    Print as text, or as json
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    ref = _ref(session, arguments[0] if arguments else "")
    record: Item = session.client.get(path_of("portside", "builds", ref, "json"))
    about = _about(record)
    if options.text("format") == "json":
        session.out(jsontext.dumps(about, "  "))
        return
    lines = [f"Name:\t\t{about['Name']}", f"Ref:\t\t{about['Ref']}",
             f"Dockerfile:\t{about['Dockerfile']}", ""]  # fmt: skip
    started = about["StartedAt"][:19].replace("T", " ")
    lines += [f"Started:\t{started}", f"Duration:\t{about['Duration'] / 10**9:.1f}s"]
    if about.get("Error"):
        lines.append(f"Error:\t\t{about['Error']['Message']}")
    cached = 100 * about["NumCachedSteps"] // max(1, about["NumTotalSteps"])
    lines.append(f"Build Steps:\t{about['NumCompletedSteps']}/{about['NumTotalSteps']} "
                 f"({cached}% cached)")  # fmt: skip
    if about["Materials"]:
        lines += [
            "",
            "Materials:",
            *aligned(
                [
                    "URI\tDIGEST",
                    *(
                        f"{item['URI']}\t{', '.join(item['Digests'])}"
                        for item in about["Materials"]
                    ),
                ]
            ),
        ]
    if about["Attachments"]:
        lines += ["", "Attachments:", *aligned(["DIGEST\tPLATFORM\tTYPE", *(
            f"{item['Digest']}\t{item.get('Platform', '')}\t{item['Type']}"
            for item in about["Attachments"])])]  # fmt: skip
    lines += ["", f"Print build logs: portside buildx history logs {about['Ref']}"]
    session.out("\n".join(lines))


def _about(record: Item) -> Item:
    row = _row_json(record)
    status = _status(record).lower()
    found: Item = {
        "Name": _name(record), "Ref": record["ref"],
        "Dockerfile": (record.get("attrs") or {}).get("filename", "Dockerfile"),
        "StartedAt": row["created_at"], "Duration": int(_seconds(record) * 10**9),
        "Status": "failed" if status == "error" else status,
        "NumCompletedSteps": row["completed_steps"], "NumTotalSteps": row["total_steps"],
        "NumCachedSteps": row["cached_steps"],
    }  # fmt: skip
    if record.get("error"):
        found["Error"] = {"Code": record.get("error_code", 2), "Message": record["error"]}
    materials: dict[str, Item] = {}
    for predicate in (record.get("predicates") or {}).values():
        definition = predicate.get("buildDefinition") or {}
        for item in predicate.get("materials") or definition.get("resolvedDependencies") or ():
            digests = [f"{kind}:{value}" for kind, value in (item.get("digest") or {}).items()]
            materials[item["uri"]] = {"URI": item["uri"], "Digests": digests}
    found["Materials"] = list(materials.values())
    attachments = []
    for key, parts in (record.get("results") or {}).items():
        attachments += [_attachment(part, key, part["mediaType"]) for part in parts]
    for key, part in (record.get("provenance") or {}).items():
        kind = (part.get("annotations") or {}).get("in-toto.io/predicate-type", "")
        attachments.append(_attachment(part, key, kind))
    return {**found, "Attachments": attachments}


def _attachment(part: Item, platform: str, kind: str) -> Item:
    where = {"Platform": platform} if platform else {}
    return {"Digest": part["digest"], **where, "Type": kind}


@verb("buildx history logs", "builder history logs", usage="[OPTIONS] [REF]", arguments=(0, 1),
      about="Show a build's progress messages", flags="""
      --progress string   How to show progress: plain, rawjson or tty (default "plain")
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def logs(session: Session, options: Options, arguments: list[str]) -> None:
    ref = _ref(session, arguments[0] if arguments else "")
    response = session.client.request("GET", path_of("portside", "builds", ref, "logs"))
    display = {"rawjson": build_progress.RawJson}.get(options.text("progress"), _Plain)()
    for line in response.read().splitlines():
        if line:
            display.show(jsontext.loads(line))
    display.close(False)


class _Plain(build_progress.Plain):
    """Without the line that names the builder."""

    def write(self, text: str) -> None:
        if not text.startswith("#0 "):
            super().write(text)


@verb("buildx history rm", "builder history rm", usage="[OPTIONS] [REF...]", arguments=(0, None),
      about="Remove builds from the history", flags="""
      --all              Remove all builds
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> None:
    if not arguments and not options.flag("all"):
        raise Failed(1, "ERROR: rm requires at least one argument")
    refs = [record["ref"] for record in _all(session)] if options.flag("all") else [
        _ref(session, text) for text in arguments]  # fmt: skip
    for ref in refs:
        try:
            session.client._value(
                session.client.request("DELETE", path_of("portside", "builds", ref))
            )
        except Refused as err:
            raise Failed(1, f"ERROR: {err}") from None


@verb("buildx history open", usage="[OPTIONS] [REF]", arguments=(0, 1),
      about="Refused: there is no desktop application", flags=_BUILDER)  # fmt: skip
def open_(session: Session, options: Options, arguments: list[str]) -> None:
    raise Failed(1, "ERROR: there is no desktop application: use buildx history inspect or logs")


@verb("buildx history import", usage="[OPTIONS] -", about="Import builds into Docker Desktop, "
      "where that is here", flags="""
  -f, --file list   A bundle of builds; - is standard input (default)
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def import_(session: Session, options: Options, arguments: list[str]) -> None:
    urls = []
    for path in options.many("file") or ["-"]:
        if path == "-":
            urls += _uploaded(sys.stdin.buffer)
            continue
        try:
            with open(path, "rb") as bundle:
                urls += _uploaded(bundle)
        except OSError as err:
            why = (err.strerror or "").lower()
            raise Failed(1, f"ERROR: failed to open file {path}: open {path}: {why}") from None
    if not urls:
        raise Failed(1, "ERROR: no build records found in the bundle")
    for url in urls:
        session.warn(url)


def _uploaded(bundle: BinaryIO) -> list[str]:
    """Where Docker Desktop shows the records that it was given. Raises Failed."""
    import http.client
    import socket

    from portside.model.paths import home

    place = f"{home()}/.docker/desktop/docker-desktop-build.sock"
    connection = http.client.HTTPConnection("docker-desktop")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(place)
        connection.request("POST", "/upload", bundle, encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != http.client.OK:
            raise Failed(1, f"ERROR: failed to import build: {text}")
        return [f"docker-desktop://dashboard/build/.imported/_/{ref}" for ref in json.loads(text)]
    except (OSError, http.client.HTTPException) as err:
        why = (getattr(err, "strerror", None) or str(err)).lower()
        raise Failed(
            1,
            "ERROR: failed to send request, check if Docker Desktop is running: Post "
            f'"http://docker-desktop/upload": dial unix {place}: connect: {why}',
        ) from None
    except ValueError as err:
        raise Failed(1, f"ERROR: failed to decode response: {err}") from None
    finally:
        connection.close()


@verb("buildx history export", usage="[OPTIONS] [REF...]", arguments=(0, None),
      about="Write the records of builds, with their logs, to a file as JSON", flags="""
      --all             Export all records
      --finalize        Accepted and ignored: records are final when builds have ended
  -o, --output string   The file (default: standard output)
""" + _BUILDER.lstrip("\n"))  # fmt: skip
def export(session: Session, options: Options, arguments: list[str]) -> None:
    refs = [record["ref"] for record in _all(session)] if options.flag("all") else [
        _ref(session, text) for text in arguments or [""]]  # fmt: skip
    found = []
    for ref in refs:
        record: Item = session.client.get(path_of("portside", "builds", ref, "json"))
        response = session.client.request("GET", path_of("portside", "builds", ref, "logs"))
        lines = [jsontext.loads(line) for line in response.read().splitlines() if line]
        found.append({**record, "logs": lines})
    text = jsontext.dumps(found, "  ")
    path = options.text("output")
    if not path:
        session.out(text)
        return
    write_text("export the records", path, text + "\n")
    session.warn(f"Written {os.path.abspath(path)}")
