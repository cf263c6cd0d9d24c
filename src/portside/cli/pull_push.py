"""pull, push and search."""

from __future__ import annotations

from portside.cli import auth, content_trust, platform_flag, progress, references
from portside.cli.verb import verb
from portside.client.client import filters_text, path_of
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options


def pull_image(
    session: Session,
    image: str,
    *,
    platform: str = "",
    quiet: bool = False,
    all_tags: bool = False,
    fd: int = 1,
) -> None:
    """Pull, and show it on ``fd``. Raises Refused, StreamFailed."""
    repository, tag, digest = references.split(image)
    query: dict[str, str | None] = {
        "fromImage": repository,
        "tag": None if all_tags else digest or tag or "latest",
        "platform": platform or None,
    }
    messages = session.client.messages(
        "POST", "/images/create", query, headers=auth.header(session.config, image)
    )
    if quiet:
        progress.drain(messages)
    else:
        progress.show(messages, fd)


@verb("pull", "image pull", usage="[OPTIONS] NAME[:TAG|@DIGEST]",
      about="Download an image from a registry", arguments=(1, 1), completes="image", flags="""
  -a, --all-tags                Download every tag of the repository
      --disable-content-trust   Do not ask for signatures (default true)
      --platform string         Platform to choose (OS/ARCH[/VARIANT])
  -q, --quiet                   Print the image's name only
""")  # fmt: skip
def pull(session: Session, options: Options, arguments: list[str]) -> None:
    image = arguments[0]
    _, tag, digest = references.split(image)
    all_tags = options.flag("all-tags")
    if all_tags and (tag or digest):
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    content_trust.check(options, image)
    if image != image.lower() or not image or digest:  # a valid name need not be parsed here
        references.check(image)
    if not all_tags and not tag and not digest and not options.flag("quiet"):
        session.out("Using default tag: latest")
    import sys

    sys.stdout.flush()
    pull_image(
        session,
        image,
        platform=platform_flag.wanted(options),
        quiet=options.flag("quiet"),
        all_tags=all_tags,
    )
    name = references.canonical(image)
    session.out(name if not all_tags else references.split(name)[0])


@verb("push", "image push", usage="[OPTIONS] NAME[:TAG]", about="Upload an image to a registry",
      arguments=(1, 1), completes="image", flags="""
  -a, --all-tags                Upload every tag of the repository
      --disable-content-trust   Do not ask for signatures (default true)
      --platform string         Upload one platform of a multi-platform image
                                (OS[/ARCH[/VARIANT]])
  -q, --quiet                   Print the image's name only
""")  # fmt: skip
def push(session: Session, options: Options, arguments: list[str]) -> None:
    image = arguments[0]
    repository, tag, digest = references.split(image)
    if digest:
        raise InvalidParameter("cannot push a digest reference")
    content_trust.check(options, image)
    if repository != repository.lower():  # a valid name need not be parsed here
        references.check(image)
    all_tags = options.flag("all-tags")
    if all_tags and tag:
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    if not all_tags and not tag:
        tag = "latest"
        if not options.flag("quiet"):
            session.out("Using default tag: latest")
    import sys

    sys.stdout.flush()
    known = auth.usable(session.config, references.registry(repository))
    messages = session.client.messages(
        "POST",
        path_of("images", repository, "push"),
        {"tag": tag or None, "platform": _platform_json(options.text("platform"))},
        headers={"X-Registry-Auth": auth.encode(known)},
    )
    if options.flag("quiet"):
        progress.drain(messages)
        session.out(references.canonical(f"{repository}:{tag}"))
    else:
        progress.show(messages)


def _platform_json(text: str) -> str | None:
    """``linux/arm/v7`` in the API's form."""
    if not text:
        return None
    from portside.model import jsontext

    names = ("os", "architecture", "variant")
    return jsontext.dumps(dict(zip(names, text.split("/"), strict=False)))


_COLUMNS = {
    "Name": ("NAME", lambda item, _: item["name"]),
    "Description": ("DESCRIPTION", lambda item, full: _description(item, full)),
    "StarCount": ("STARS", lambda item, _: str(item.get("star_count", 0))),
    "IsOfficial": ("OFFICIAL", lambda item, _: "[OK]" if item.get("is_official") else ""),
    "IsAutomated": ("AUTOMATED", lambda item, _: "[OK]" if item.get("is_automated") else ""),
}


def _description(item: dict[str, Any], full: bool) -> str:
    text = str(item.get("description") or "").replace("\n", " ").replace("\r", "")
    return text if full or len(text) <= 45 else f"{text[:44]}…"


@verb("search", usage="[OPTIONS] TERM", about="Search a registry for images", arguments=(1, 1),
      flags="""
  -f, --filter filter   Only images that match (stars=N, is-official=true)
      --format string   Print by a Go template, or 'json'
      --limit int       Number of results at most
      --no-trunc        Do not shorten descriptions
""")  # fmt: skip
def search(session: Session, options: Options, arguments: list[str]) -> None:
    from portside.cli import format
    from portside.cli.table import filters

    query = {
        "term": arguments[0],
        "limit": options.number("limit") or None,
        "filters": filters_text(filters(options)),
    }
    path = "/images/search"
    known = auth.header(session.config, arguments[0])
    response = session.client.request("GET", path, query, headers=known)
    found = session.client._value(response) or []
    format.print_rows(
        session, options.text("format"), found, _COLUMNS,
        ("Name", "Description", "StarCount", "IsOfficial"), options.flag("no-trunc"),
    )  # fmt: skip
