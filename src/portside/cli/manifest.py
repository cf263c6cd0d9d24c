"""manifest create, annotate, inspect, push, rm: one name for images of several platforms.

A list in the making is kept in the client's configuration directory, a file a manifest::

    ~/.docker/manifests/LIST/MANIFEST     {"Ref": …, "Descriptor": …, "Raw": base64}
"""

from __future__ import annotations

import os

from portside.cli import auth, references
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.model import jsontext
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Kept = dict[str, Any]

_INSECURE = """
      --insecure   Accepted and ignored: the engine knows its insecure registries
"""


def _file_name(name: str) -> str:
    return references.canonical(name).replace(":", "-").replace("/", "_")


def _directory(session: Session, name: str) -> str:
    references.check(name)
    return f"{session.config.directory}/manifests/{_file_name(name)}"


def _kept(session: Session, name: str) -> list[Kept]:
    """The manifests of a local list; empty when there is no such list."""
    directory = _directory(session, name)
    found = []
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        with open(f"{directory}/{entry}", "rb") as file:
            found.append(jsontext.loads(file.read()))
    return found


def _keep(session: Session, name: str, manifest: Kept) -> None:
    directory = _directory(session, name)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with open(f"{directory}/{_file_name(manifest['Ref'])}", "w") as file:
        file.write(jsontext.dumps(manifest))


def fetch(session: Session, name: str, *, statements: bool = False) -> Kept:
    """A registry's manifest of a name, also the statements of an attestation manifest."""
    references.check(name)
    known = auth.header(session.config, name)
    path = path_of("portside", "manifests", name, "json")
    query = {"statements": "1"} if statements else None
    found = session.client._value(session.client.request("GET", path, query, headers=known))
    return {"Ref": references.canonical(name), **found}


@verb("manifest create", usage="[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
      about="Create a local list of images that are in a registry", arguments=(2, None),
      completes="image", flags="""
  -a, --amend      Add to an existing list
""" + _INSECURE)  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> None:
    name, *images = arguments
    if _kept(session, name) and not options.flag("amend"):
        raise InvalidParameter("refusing to amend an existing manifest list with no --amend flag")
    for manifest in [fetch(session, image) for image in images]:
        if "platform" not in manifest["Descriptor"]:
            raise InvalidParameter(f"{manifest['Ref']} is a manifest list")
        _keep(session, name, manifest)
    session.out(f"Created manifest list {references.canonical(name)}")


@verb("manifest annotate", usage="[OPTIONS] MANIFEST_LIST MANIFEST", arguments=(2, 2),
      about="Correct the platform of an image in a list", completes="image", flags="""
      --arch string           Architecture
      --os string             Operating system
      --os-features strings   Features of the operating system that the image needs
      --os-version string     Version of the operating system
      --variant string        Variant of the architecture
""")  # fmt: skip
def annotate(session: Session, options: Options, arguments: list[str]) -> None:
    wanted = references.canonical(arguments[1])
    found = [manifest for manifest in _kept(session, arguments[0]) if manifest["Ref"] == wanted]
    if not found:
        raise Failed(1, f"manifest for image {arguments[1]} does not exist in {arguments[0]}")
    platform = found[0]["Descriptor"].setdefault("platform", {})
    for flag, key in (("arch", "architecture"), ("os", "os"), ("variant", "variant"),
                      ("os-version", "os.version")):  # fmt: skip
        if options.given(flag):
            platform[key] = options.text(flag)
    if options.given("os-features"):
        platform["os.features"] = options.many("os-features")
    _keep(session, arguments[0], found[0])


def _index(manifests: list[Kept]) -> Kept:
    """The list as it will be pushed."""
    is_oci = any("oci" in manifest["Descriptor"]["mediaType"] for manifest in manifests)
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json" if is_oci
        else "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [manifest["Descriptor"] for manifest in manifests],
    }  # fmt: skip


@verb("manifest inspect", usage="[OPTIONS] [MANIFEST_LIST] MANIFEST", arguments=(1, 2),
      about="Show a manifest or a manifest list as its registry has it", completes="image",
      flags=_INSECURE + """
  -v, --verbose    Also show the digest, and every image of a list
""")  # fmt: skip
def inspect(session: Session, options: Options, arguments: list[str]) -> None:
    import binascii

    verbose = options.flag("verbose")
    if len(arguments) == 2:
        wanted = references.canonical(arguments[1])
        kept = [entry for entry in _kept(session, arguments[0]) if entry["Ref"] == wanted]
        if not kept:
            raise Failed(1, f"{arguments[1]}: No such manifest in {arguments[0]}")
        session.out(jsontext.dumps(kept[0], "\t"))
        return
    if made := _kept(session, arguments[0]):
        session.out(jsontext.dumps(made if verbose else _index(made), "   "))
        return
    try:
        found = fetch(session, arguments[0])
    except Refused as err:
        if err.is_not_found:
            raise Failed(1, f"no such manifest: {references.canonical(arguments[0])}") from None
        raise
    document = jsontext.loads(binascii.a2b_base64(found["Raw"]))
    if "manifests" not in document:
        key = "OCIManifest" if "oci" in found["Descriptor"]["mediaType"] else "SchemaV2Manifest"
        session.out(jsontext.dumps({**found, key: document} if verbose else document, "\t"))
    elif verbose:
        repository = references.split(arguments[0])[0]
        parts = [fetch(session, f"{repository}@{entry['digest']}")
                 for entry in document["manifests"]]  # fmt: skip
        session.out(jsontext.dumps(parts, "\t"))
    else:
        document["manifests"] = [_in_order(entry) for entry in document["manifests"]]
        session.out(jsontext.dumps(document, "   "))


def _in_order(entry: Kept) -> Kept:
    """A list's entry as docker prints it."""
    first: Kept = {name: entry[name] for name in ("mediaType", "size", "digest") if name in entry}
    return {**first, **entry}


@verb("manifest push", usage="[OPTIONS] MANIFEST_LIST", arguments=(1, 1), completes="image",
      about="Upload a list to its registry", flags=_INSECURE + """
  -p, --purge      Delete the local list afterwards
""")  # fmt: skip
def push(session: Session, options: Options, arguments: list[str]) -> None:
    name = arguments[0]
    manifests = _kept(session, name)
    if not manifests:
        raise Failed(1, f"{name} not found")
    parts = [{"Ref": entry["Ref"], "Descriptor": entry["Descriptor"]} for entry in manifests]
    known = auth.header(session.config, name)
    path = path_of("portside", "manifests", references.canonical(name), "push")
    made = session.client.post(path, body={"Manifests": parts}, headers=known)
    session.out(made["Digest"])
    if options.flag("purge"):
        _forget(session, name)


@verb("manifest rm", usage="MANIFEST_LIST [MANIFEST_LIST...]", arguments=(1, None),
      about="Delete local lists", completes="image")  # fmt: skip
def rm(session: Session, options: Options, arguments: list[str]) -> None:
    for name in arguments:
        if not _kept(session, name):
            raise Failed(1, f"No such manifest: {references.canonical(name)}")
        _forget(session, name)


def _forget(session: Session, name: str) -> None:
    directory = _directory(session, name)
    for entry in os.listdir(directory):
        os.unlink(f"{directory}/{entry}")
    os.rmdir(directory)
