"""buildx imagetools inspect: what a registry has under a name, without pulling it."""

from __future__ import annotations

import binascii

from portside.cli import manifest, references
from portside.cli.format import execute, parse
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.golang.template.values import GoMap, GoStruct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

_INDENT = "  "


@verb("buildx imagetools inspect", usage="[OPTIONS] NAME", arguments=(1, 1), completes="image",
      about="Show an image, or the images of a list, as its registry has it", flags="""
      --format string   Print by a Go template: .Name, .Manifest, .Image
      --raw             Print the manifest byte by byte
""")  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    name = references.canonical(arguments[0])
    found = _fetch(session, name)
    raw = binascii.a2b_base64(found["Raw"])
    if options.flag("raw"):
        import sys

        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        return
    document = jsontext.loads(raw)
    if format := options.text("format"):
        session.out(_rendered(session, format, name, found, document))
        return
    descriptor = found["Descriptor"]
    for line in _pairs([("Name:", name), ("MediaType:", descriptor["mediaType"]),
                        ("Digest:", descriptor["digest"])]):  # fmt: skip
        session.out(line)
    if "manifests" in document:
        session.out("")
        for line in _entries(name, document["manifests"]):
            session.out(line)


def _fetch(session: Session, name: str) -> Item:
    try:
        return manifest.fetch(session, name)
    except Refused as err:
        if err.is_not_found:
            raise Failed(1, f"ERROR: {name}: not found") from None
        raise


def _entries(name: str, entries: list[Item]) -> list[str]:
    """The images of a list, each a paragraph."""
    bare = references.split(name)[0]
    lines = ["Manifests:"]
    for number, entry in enumerate(entries):
        rows = [("Name:", f"{bare}@{entry['digest']}"), ("MediaType:", entry["mediaType"])]
        if platform := entry.get("platform"):
            rows.append(("Platform:", _platform(platform)))
        notes = [(f"{key}:", note) for key, note in (entry.get("annotations") or {}).items()]
        if notes:
            rows.append(("Annotations:", ""))
        lines += [""] if number else []
        lines += [_INDENT + line for line in _pairs(rows)]
        lines += [2 * _INDENT + line for line in _pairs(sorted(notes))]
    return lines


def _pairs(rows: list[tuple[str, str]]) -> list[str]:
    """Labels and values in two columns."""
    width = max((len(label) for label, _ in rows), default=0) + 1
    return [f"{label:<{width}}{value}".rstrip() for label, value in rows]


def _platform(platform: Item) -> str:
    parts = (platform.get(key, "") for key in ("os", "architecture", "variant"))
    return "/".join(part for part in parts if part)


def _rendered(session: Session, format: str, name: str, found: Item, document: Item) -> str:
    """By a template; configurations are only fetched when it asks for them."""
    if "manifests" in document:
        manifest = {**document, **found["Descriptor"]}
    else:
        manifest = found["Descriptor"]
    value = GoStruct({"Name": name, "Manifest": _spoken(manifest)})
    if ".Image" in format or format == "json" or "{{json .}}" in format:
        value["Image"] = _spoken(_images(session, name, found, document))
    return execute(parse("{{json .}}" if format == "json" else format), value)


_SPOKEN = {"os": "OS", "rootfs": "RootFS"}
_MAPS = frozenset(("annotations", "Labels", "Volumes", "ExposedPorts"))


def _spoken(value: Any, key: str = "") -> Any:
    """Documents of the image-spec, whose fields templates name as Go's types do
    (``.Manifest.Digest``) and JSON as the documents do."""
    if isinstance(value, list):
        return [_spoken(item) for item in value]
    if not isinstance(value, dict):
        return value
    if key in _MAPS:
        return GoMap(value)
    made = GoStruct((name, _spoken(item, name)) for name, item in value.items())
    names = {_SPOKEN.get(name, name[:1].upper() + name[1:]): name for name in value}
    made.absent = frozenset(names) - value.keys()
    made.update((spoken, made[name]) for spoken, name in names.items())
    return made


def _images(session: Session, name: str, found: Item, document: Item) -> Item:
    """The configuration, of a list each platform's."""
    if "manifests" not in document:
        return _config(found)
    bare = references.split(name)[0]
    return {
        _platform(entry["platform"]): _config(_fetch(session, f"{bare}@{entry['digest']}"))
        for entry in document["manifests"]
        if entry.get("platform", {}).get("os", "unknown") != "unknown"
    }


def _config(found: Item) -> Item:
    config: Item = jsontext.loads(binascii.a2b_base64(found.get("Config") or b"")) or {}
    return config
