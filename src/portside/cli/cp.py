"""cp, export, import, commit."""

from __future__ import annotations

import os

from portside.cli import platform_flag
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options


@verb("container export", "export", usage="[OPTIONS] CONTAINER", arguments=(1, 1),
      about="Write a container's file system to a tar archive", completes="container", flags="""
  -o, --output string   Write to a file, not to standard output
""")  # fmt: skip
def export(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.images import to_file

    path = path_of("containers", arguments[0], "export")
    to_file(session, options.text("output"), path, None, "export container")


@verb("image import", "import", usage="[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
      about="Make an image of a tar archive's files", arguments=(1, 2), completes="file", flags="""
  -c, --change list       Apply a Dockerfile instruction to the image
  -m, --message string    Comment to keep in the image
      --platform string   Platform of the files (OS/ARCH[/VARIANT])
""")  # fmt: skip
def import_(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli import progress, references
    from portside.cli.images import pieces_of

    source = arguments[0]
    name = arguments[1] if len(arguments) > 1 else ""
    repository, tag, _ = references.split(name)
    query = {
        "fromSrc": source if source.startswith(("http://", "https://")) else "-",
        "repo": repository or None,
        "tag": tag or None,
        "message": options.text("message") or None,
        "changes": options.many("change"),
        "platform": platform_flag.wanted(options) or None,
    }
    client = session.client
    if query["fromSrc"] != "-":
        progress.show(client.messages("POST", "/images/create", query))
        return
    try:
        file = open(0 if source == "-" else source, "rb", buffering=0)  # noqa: SIM115
    except OSError as err:
        raise InvalidParameter(f"open {source}: {(err.strerror or '').lower()}") from None
    with file:
        headers = {"Content-Type": "text/plain"}
        progress.show(client.messages("POST", "/images/create", query, pieces_of(file), headers))


@verb("container commit", "commit", usage="[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
      about="Make an image of a container's changes", arguments=(1, 2), completes="container",
      flags="""
  -a, --author string    Author to keep in the image
  -c, --change list      Apply a Dockerfile instruction to the image
  -m, --message string   Comment to keep in the image
  -p, --pause            Pause the container meanwhile (default true)
""")  # fmt: skip
def commit(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[1] if len(arguments) > 1 else ""
    session.out(committed(session, options, arguments[0], name))


def committed(session: Session, options: Options, container: str, name: str) -> str:
    """Commit a container with the verb's options; the ID of the image."""
    from portside.cli import references

    if name:
        references.check(name)
    repository, tag, _ = references.split(name)
    made = session.client.post(
        "/commit",
        {
            "container": container,
            "repo": repository or None,
            "tag": tag or None,
            "author": options.text("author") or None,
            "comment": options.text("message") or None,
            "changes": options.many("change"),
            "pause": options.flag("pause"),
        },
    )
    return str(made["Id"])


# -- cp --------------------------------------------------------------------------------------


@verb("container cp", "cp", arguments=(2, 2), completes="path",
      usage="[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n"
      "\t{program} cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
      about="Copy files between a container and this machine\n\n"
      "With '-' in place of a path a tar archive is read from standard input or written to\n"
      "standard output.", flags="""
  -a, --archive       Keep owner and group
  -L, --follow-link   Copy what a symbolic link in SRC_PATH points to
  -q, --quiet         Do not print how much was copied
""")  # fmt: skip
def cp(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli.cp_tar import Copy

    source, target = (split(argument) for argument in arguments)
    if source[0] and target[0]:
        raise Failed(1, "copying between containers is not supported")
    if not source[0] and not target[0]:
        raise Failed(1, "must specify at least one container source")
    if not source[1]:
        raise Failed(1, "source can not be empty")
    if not target[1]:
        raise Failed(1, "destination can not be empty")
    copy = Copy(
        session,
        follow=options.flag("follow-link"),
        archive=options.flag("archive"),
        quiet=options.flag("quiet") or not os.isatty(1),
    )
    if source[0]:
        copy.from_container(source[0], source[1], target[1])
    else:
        copy.to_container(source[1], target[0], target[1])


def split(argument: str) -> tuple[str, str]:
    """``CONTAINER:PATH``; a path that is absolute or starts with a dot is of this machine."""
    if argument.startswith(("/", ".")) or argument == "-" or ":" not in argument:
        return "", argument
    name, _, path = argument.partition(":")
    return name, path
