"""buildx imagetools inspect: what a registry has under a name, without pulling it."""

from __future__ import annotations

import binascii

from portside.cli import manifest, references
from portside.cli.format import execute, parse
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.golang.template.functions import Function, to_json
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
      --format string   Print by a Go template: .Name, .Manifest, .Image, .Provenance,
                        .SBOM
      --raw             Print the manifest byte by byte
""")  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    name = references.canonical(arguments[0])
    found = fetched(session, name)
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


def fetched(session: Session, name: str, *, statements: bool = False) -> Item:
    """The registry's manifest of a name; Failed when there is none."""
    try:
        return manifest.fetch(session, name, statements=statements)
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
            rows.append(("Platform:", platform_text(platform)))
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


def platform_text(platform: Item) -> str:
    parts = (platform.get(key, "") for key in ("os", "architecture", "variant"))
    return "/".join(part for part in parts if part)


def _rendered(session: Session, format: str, name: str, found: Item, document: Item) -> str:
    """Print by a template; configurations are fetched only when it uses them."""
    if "manifests" in document:
        manifest = {**document, **found["Descriptor"]}
    else:
        manifest = found["Descriptor"]
    whole: Item = {"name": name, "manifest": manifest}
    if ".Image" in format or format == "json" or "{{json .}}" in format:
        whole["image"] = _images(session, name, found, document)
    value = _spoken(whole)
    for field, kind in (("Provenance", "SLSA"), ("SBOM", "SPDX")):
        if f".{field}" in format:
            value[field] = _attested(session, name, document, kind)
    template = parse("{{json .}}" if format == "json" else format)
    template.functions = {**template.functions, "json": Function(_json, "a", 1, 1)}
    return execute(template, value)


def _json(value: Any) -> str:
    """``json`` as buildx has it: a member a line."""
    return jsontext.dumps(jsontext.loads(to_json(value)), "  ")


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
    found_ones = {
        platform: _config(fetched(session, f"{bare}@{digest}"))
        for digest, platform in _platforms(document)
    }
    return next(iter(found_ones.values())) if len(found_ones) == 1 else found_ones


def _platforms(document: Item) -> list[tuple[str, str]]:
    """Digests and platforms of an index's images."""
    return [
        (entry["digest"], platform_text(entry["platform"]))
        for entry in document.get("manifests") or ()
        if entry.get("platform", {}).get("os", "unknown") != "unknown"
    ]


_PREDICATES = {"SLSA": "https://slsa.dev/provenance/", "SPDX": "https://spdx.dev/Document"}


def _attested(session: Session, name: str, document: Item, kind: str) -> Item:
    """The attestations of an image, under ``kind``; of several images by platform. Of several
    SBOMs the first, and the others as AdditionalSPDXs."""
    bare = references.split(name)[0]
    platforms = dict(_platforms(document))
    found: Item = {}
    for entry in document.get("manifests") or ():
        about = (entry.get("annotations") or {}).get("vnd.docker.reference.digest")
        if about not in platforms:
            continue
        manifest = fetched(session, f"{bare}@{entry['digest']}", statements=True)
        said = [jsontext.loads(binascii.a2b_base64(text)) for text in manifest["Statements"]]
        said = [_plain(one["predicate"]) for one in said
                if one.get("predicateType", "").startswith(_PREDICATES[kind])]  # fmt: skip
        if said:
            found[platforms[about]] = GoStruct({kind: said[0]})
            if len(said) > 1:
                found[platforms[about]][f"Additional{kind}s"] = said[1:]
    if len(platforms) < 2:
        return next(iter(found.values()), GoStruct())
    return GoMap(found)


def _plain(value: Any) -> Any:
    """A document whose fields templates name as it does."""
    if isinstance(value, dict):
        return GoMap((key, _plain(item)) for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _config(found: Item) -> Item:
    config: Item = jsontext.loads(binascii.a2b_base64(found.get("Config") or b"")) or {}
    return config
