"""images, rmi, tag, history, save, load."""

from __future__ import annotations

import os

from portside.cli import table, times
from portside.cli.ps import ellipsis, short_id
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import filters_text, path_of
from portside.model.errors import InvalidParameter
from portside.model.golang import sizes, timestamps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from portside.cli.format import Columns
    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

NONE = "<none>"
_PIECE = 1 << 20


# -- listing ---------------------------------------------------------------------------------


class _Line:
    """One tag (or digest) of an image in the listing."""

    __slots__ = ("digest", "image", "repository", "tag")

    def __init__(self, image: Item, repository: str, tag: str, digest: str) -> None:
        self.image, self.repository, self.tag, self.digest = image, repository, tag, digest


def lines_of(image: Item, with_digests: bool) -> list[_Line]:
    """An image has a line for each of its tags and, with ``--digests``, each digest."""
    tags: dict[str, list[str]] = {}
    digests: dict[str, list[str]] = {}
    for name in image.get("RepoTags") or ():
        repository, _, tag = name.rpartition(":")
        if repository != NONE:
            tags.setdefault(repository, []).append(tag)
    for name in image.get("RepoDigests") or ():
        repository, _, digest = name.partition("@")
        if repository != NONE:
            digests.setdefault(repository, []).append(digest)
    found = []
    for repository, names in tags.items():
        own = digests.pop(repository, [])
        for tag in names:
            if with_digests and own:
                found += [_Line(image, repository, tag, digest) for digest in own]
            else:
                found.append(_Line(image, repository, tag, NONE))
    for repository, own in digests.items():
        if with_digests:
            found += [_Line(image, repository, NONE, digest) for digest in own]
        else:
            found.append(_Line(image, repository, NONE, NONE))
    return found or [_Line(image, NONE, NONE, NONE)]


def _number(value: int) -> str:
    return "N/A" if value < 0 else str(value)


def _optional_size(value: int) -> str:
    return "N/A" if value < 0 else sizes.human_size(value)


def _unique(line: _Line, full: bool) -> str:
    shared = line.image.get("SharedSize", -1)
    return "N/A" if shared < 0 else sizes.human_size(line.image["Size"] - shared)


COLUMNS: Columns = {
    "ID": ("IMAGE ID", lambda line, full: line.image["Id"] if full else
           short_id(line.image["Id"])),
    "Repository": ("REPOSITORY", lambda line, full: line.repository),
    "Tag": ("TAG", lambda line, full: line.tag),
    "Digest": ("DIGEST", lambda line, full: line.digest),
    "CreatedSince": ("CREATED", lambda line, full: times.ago(line.image["Created"])),
    "CreatedAt": ("CREATED AT", lambda line, full: timestamps.local_time(line.image["Created"])),
    "Size": ("SIZE", lambda line, full: sizes.human_size(line.image["Size"], 3)),
    "Containers": ("CONTAINERS", lambda line, full: _number(
        line.image.get("Containers", -1))),
    "VirtualSize": ("SIZE", lambda line, full: sizes.human_size(line.image["Size"])),
    "SharedSize": ("SHARED SIZE", lambda line, full: _optional_size(
        line.image.get("SharedSize", -1))),
    "UniqueSize": ("UNIQUE SIZE", _unique),
}  # fmt: skip
SHOWN = ("Repository", "Tag", "ID", "CreatedSince", "Size")
_WITH_DIGESTS = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")


@verb("image ls", "image list", "images", usage="[OPTIONS] [REPOSITORY[:TAG]]", arguments=(0, 1),
      about="List images", completes="image", flags="""
  -a, --all             Also unnamed images that other images are made of
      --digests         Show digests
  -f, --filter filter   Only images that match, such as dangling=true
      --format string   Print by a Go template, 'table TEMPLATE' or 'json'
      --no-trunc        Do not shorten anything
  -q, --quiet           Print IDs only
      --tree            Show the platforms of each image
""")  # fmt: skip
def images(session: Session, options: Options, arguments: list[str]) -> None:
    wanted = table.filters(options)
    if arguments:
        wanted.setdefault("reference", []).append(arguments[0])
    tree = options.flag("tree")
    found = session.client.get(
        "/images/json",
        {
            "all": options.flag("all") or None,
            "filters": filters_text(wanted),
            "manifests": tree or None,
        },
    )
    quiet, full = options.flag("quiet"), options.flag("no-trunc")
    format = options.text("format") or ("" if quiet else session.config.text("imagesFormat"))
    if tree:
        _print_tree(session, options, found)
        return
    digests = options.flag("digests")
    shows_digest = digests or (".Digest" in format)
    rows = [line for image in found for line in lines_of(image, shows_digest)]
    if quiet and format in ("", "table"):
        for row in rows:
            session.out(COLUMNS["ID"][1](row, full))
        return
    shown = _WITH_DIGESTS if digests else SHOWN
    if format in ("", "table"):
        header = [COLUMNS[name][0] for name in shown]
        cells = [[COLUMNS[name][1](row, full) for name in shown] for row in rows]
        session.out(table.table(header, cells))
        return
    from portside.cli.format import print_rows

    print_rows(session, format, rows, COLUMNS, shown, full, kind="image")


def _print_tree(session: Session, options: Options, found: list[Item]) -> None:
    if options.flag("quiet") or options.flag("no-trunc") or options.text("format"):
        raise InvalidParameter("--tree goes with neither --quiet, --no-trunc nor --format")
    rows = []
    for image in found:
        tags = [name for name in image.get("RepoTags") or () if not name.startswith(NONE)]
        for name in tags[:-1]:
            rows.append([name, "", "", "", ""])
        manifests = [item for item in image.get("Manifests") or () if item["Kind"] == "image"]
        content = sum(item["Size"]["Content"] for item in manifests)
        used = "U" if image.get("Containers", 0) > 0 else ""
        rows.append([tags[-1] if tags else NONE, short_id(image["Id"]),
                     sizes.human_size(image["Size"], 3),
                     sizes.human_size(content, 3) if manifests else "", used])  # fmt: skip
        for number, item in enumerate(manifests):
            platform = (item.get("ImageData") or {}).get("Platform") or {}
            name = "/".join(filter(None, (platform.get(key, "") for key in
                                          ("os", "architecture", "variant"))))  # fmt: skip
            branch = "└─" if number == len(manifests) - 1 else "├─"
            rows.append([f"{branch} {name}", short_id(item["ID"]),
                         sizes.human_size(item["Size"]["Total"], 3),
                         sizes.human_size(item["Size"]["Content"], 3),
                         "U" if (item.get("ImageData") or {}).get("Containers")
                         else ""])  # fmt: skip
    session.out(table.table(["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "USED"], rows))


# -- names and removal -----------------------------------------------------------------------


@verb("image tag", "tag", usage="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", arguments=(2, 2),
      about="Give an image another name", completes="image")  # fmt: skip
def tag(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli import references

    repository, name, digest = references.split(arguments[1])
    if digest:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    try:
        references.check(arguments[1])
    except InvalidParameter as err:
        raise InvalidParameter(f'Error parsing reference: "{arguments[1]}" is not a valid '
                               f"repository/tag: {err}") from None  # fmt: skip
    query = {"repo": repository, "tag": name or "latest"}
    session.client.post(path_of("images", arguments[0], "tag"), query)


@verb("image rm", "image remove", "rmi", usage="[OPTIONS] IMAGE [IMAGE...]",
      about="Remove images, or names of images", arguments=(1, None), completes="image", flags="""
  -f, --force              Also images that stopped containers use
      --no-prune           Keep the unnamed images that the image was made of
      --platform strings   Only this platform of a multi-platform image (OS[/ARCH[/VARIANT]])
""")  # fmt: skip
def rmi(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.cli.pull_push import _platform_json

    client = session.client
    query = {
        "force": options.flag("force") or None,
        "noprune": options.flag("no-prune") or None,
        "platforms": [text for name in options.many("platform")
                      if (text := _platform_json(name))] or None,
    }  # fmt: skip

    def act(name: str) -> str:
        steps = client.delete(path_of("images", name), query) or ()
        return "\n".join(
            f"Untagged: {step['Untagged']}" if step.get("Untagged")
            else f"Deleted: {step['Deleted']}"
            for step in steps
        )  # fmt: skip

    return session.each(arguments, act, forgives_missing=options.flag("force"))


# -- history ---------------------------------------------------------------------------------


class _HistoryView:
    def __init__(self, full: bool, human: bool) -> None:
        self.full, self.human = full, human


def _history_command(item: Item, view: _HistoryView) -> str:
    text = str(item["CreatedBy"]).replace("\t", " ")
    return text if view.full else ellipsis(text, 45)


def _iso(item: Item) -> str:
    from datetime import UTC, datetime

    stamp = datetime.fromtimestamp(item["Created"], UTC).astimezone()
    return stamp.isoformat().replace("+00:00", "Z")


def _since(item: Item) -> str:
    return times.ago(item["Created"]) if item["Created"] > 0 else "N/A"


_HISTORY: Columns = {
    "ID": ("IMAGE", lambda item, view: item["Id"] if view.full else short_id(item["Id"])),
    "CreatedSince": ("CREATED", lambda item, view: _since(item) if view.human else _iso(item)),
    "CreatedAt": ("CREATED AT", lambda item, view: _iso(item)),
    "CreatedBy": ("CREATED BY", _history_command),
    "Size": ("SIZE", lambda item, view: sizes.human_size(item["Size"], 3) if view.human
             else str(item["Size"])),
    "Comment": ("COMMENT", lambda item, view: item.get("Comment", "")),
}  # fmt: skip


@verb("image history", "history", usage="[OPTIONS] IMAGE", arguments=(1, 1), completes="image",
      about="Show the history of an image", flags="""
      --format string     Print by a Go template, 'table TEMPLATE' or 'json'
  -H, --human             Sizes and times for people (default true)
      --no-trunc          Do not shorten anything
      --platform string   One platform of a multi-platform image
  -q, --quiet             Print IDs only
""")  # fmt: skip
def history(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.format import print_rows
    from portside.cli.pull_push import _platform_json

    query = {"platform": _platform_json(options.text("platform"))}
    found = session.client.get(path_of("images", arguments[0], "history"), query)
    view = _HistoryView(options.flag("no-trunc"), options.flag("human"))
    if options.flag("quiet"):
        for item in found:
            session.out(_HISTORY["ID"][1](item, view))
        return
    shown = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
    columns = dict(_HISTORY)
    if not view.human:
        columns["CreatedSince"] = ("CREATED AT", _HISTORY["CreatedSince"][1])
    print_rows(session, options.text("format"), found, columns, shown, view, kind="history")


# -- save and load ---------------------------------------------------------------------------


def to_file(session: Session, output: str, path: str, query: Any, verb_: str) -> None:
    """Write a stream of the engine to a file, whole or not at all, or to standard output."""
    from portside.cli.stream_pump import write_all

    if not output and os.isatty(1):
        what = "cowardly refusing to save to a terminal"
        raise Failed(1, f"{what}. Use the -o flag or redirect")
    if output and os.path.isdir(output):
        raise InvalidParameter(f"failed to {verb_}: cannot write to a directory")
    if output and not os.path.isdir(directory := os.path.dirname(output) or "."):
        raise InvalidParameter(f"failed to {verb_}: invalid output path: stat {directory}: "
                               "no such file or directory")  # fmt: skip
    response = session.client.request("GET", path, query)
    if not output:
        for piece in response.pieces():
            write_all(1, piece)
        return
    temporary = os.path.join(os.path.dirname(output) or ".", f".tmp-{os.path.basename(output)}")
    try:
        if os.path.exists(output) and not os.path.isfile(output):
            temporary = output  # a device or a pipe is written where it is
        with open(temporary, "wb") as file:
            for piece in response.pieces():
                file.write(piece)
        if temporary != output:
            os.replace(temporary, output)
    except OSError as err:
        raise InvalidParameter(f"failed to {verb_}: {output}: {err.strerror}") from err
    finally:
        if temporary != output and os.path.exists(temporary):
            os.unlink(temporary)


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """A file piece by piece."""
    while piece := file.read(_PIECE):
        yield piece


@verb("image save", "save", usage="[OPTIONS] IMAGE [IMAGE...]", completes="image",
      about="Write images to a tar archive", arguments=(1, None), flags="""
  -o, --output string     Write to a file, not to standard output
      --platform string   Only this platform of multi-platform images (OS[/ARCH[/VARIANT]])
""")  # fmt: skip
def save(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.pull_push import _platform_json

    query = {"names": arguments, "platform": _platform_json(options.text("platform"))}
    to_file(session, options.text("output"), "/images/get", query, "save image")


@verb("image load", "load", usage="[OPTIONS]", about="Read images from a tar archive", flags="""
  -i, --input string      Read from a file, not from standard input
      --platform string   Only this platform of multi-platform images (OS[/ARCH[/VARIANT]])
  -q, --quiet             Do not show progress
""")  # fmt: skip
def load(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli import progress
    from portside.cli.progress import StreamFailed
    from portside.cli.pull_push import _platform_json

    path = options.text("input")
    if not path and os.isatty(0):
        raise Failed(1, "requested load from stdin, but stdin is empty")
    query = {
        "quiet": options.flag("quiet") or not os.isatty(1),
        "platform": _platform_json(options.text("platform")),
    }
    try:
        file = open(path or 0, "rb", buffering=0)  # noqa: SIM115 - closed by the with below
    except OSError as err:
        raise InvalidParameter(f"open {path}: {(err.strerror or '').lower()}") from None
    with file:
        try:
            progress.show(
                session.client.messages(
                    "POST", "/images/load", query, pieces_of(file),
                    {"Content-Type": "application/x-tar"},
                )
            )  # fmt: skip
        except StreamFailed as err:
            raise StreamFailed(f"{path}: {err}" if path else str(err)) from None
