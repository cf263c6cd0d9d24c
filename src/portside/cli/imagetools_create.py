"""buildx imagetools create: an index of images that registries have already."""

from __future__ import annotations

import binascii

from portside.cli import auth, references
from portside.cli.build.build_outputs import ANNOTATION
from portside.cli.imagetools import fetched, platform_text
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.model import jsontext
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

    Item = dict[str, Any]

_INDEX = "application/vnd.oci.image.index.v1+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_ABOUT = "vnd.docker.reference.digest"
_ORDER = ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")


@verb("buildx imagetools create", usage="[OPTIONS] [SOURCE...]", completes="image",
      arguments=(0, None),
      about="Make an image, or an index, of images that registries have", flags="""
      --annotation list    An annotation of the index (index:KEY=VALUE) or of its
                           entries (manifest-descriptor[PLATFORM]:KEY=VALUE)
      --append             Add to the image that the first tag names
      --dry-run            Print the result and push nothing
  -f, --file list          Read a source (a name, a digest or a descriptor) from a file
  -p, --platform list      Only this platform of the sources
      --prefer-index       Make an index also of a single image (default true)
      --progress string    Accepted and ignored: there is no progress to show
  -t, --tag list           Name of the result
""")  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> None:
    sources = [*map(_read, options.many("file")), *arguments]
    if not sources:
        raise Failed(1, "ERROR: no sources specified")
    tags = options.many("tag")
    if not tags and not options.flag("dry-run"):
        raise Failed(1, "ERROR: can't push with no tags specified, please set --tag or --dry-run")
    for tag in tags:
        references.check(tag)
    if options.flag("append") and tags:
        sources = [tags[0], *sources]
    entries = [_resolved(session, source, _repository(sources, tags)) for source in sources]
    made = _Result(entries)
    made.combine(
        wanted=_platforms(options.many("platform")), annotations=options.many("annotation"),
        prefer_index=options.flag("prefer-index"),
    )  # fmt: skip
    if options.flag("dry-run"):
        session.out(made.data.decode())
        return
    for tag in tags:
        name = references.canonical(tag)
        body = {"Manifests": [_part(session, *each) for each in made.parts],
                "Raw": binascii.b2a_base64(made.data, newline=False).decode(),
                "MediaType": made.media_type}  # fmt: skip
        path = path_of("portside", "manifests", name, "push")
        answer = session.client.post(path, body=body, headers=auth.header(session.config, tag))
        session.warn(f"pushed {answer['Digest']} to {name}")


def _part(session: Session, ref: str, entry: Item) -> Item:
    known = auth.header(session.config, ref).get("X-Registry-Auth", "")
    return {"Ref": ref, "Descriptor": entry, "Auth": known}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as err:
        raise Failed(1, f"ERROR: open {path}: {(err.strerror or str(err)).lower()}") from None


def _platforms(texts: list[str]) -> set[str]:
    from portside.model.platform import Platform

    return {str(Platform.parse(word)) for text in texts for word in text.split(",")}


def _is_bare(source: str) -> bool:
    """A digest or a descriptor: of the repository that the others are of."""
    return source.startswith(("sha256:", "{"))


def _repository(sources: list[str], tags: list[str]) -> str:
    """Where digests and descriptors without a name are looked for."""
    named = [source for source in sources if not _is_bare(source)]
    found = {references.split(references.canonical(name))[0] for name in named or tags[:1]}
    if len(found) == 1:
        return found.pop()
    if len(named) == len(sources):
        return ""
    if not found:
        raise Failed(1, "ERROR: no repositories specified, please set a reference in tag or source")
    raise Failed(1, "ERROR: multiple repositories currently not supported, found "
                    f"{' '.join(sorted(found))}")  # fmt: skip


def _resolved(session: Session, source: str, repository: str) -> tuple[str, Item]:
    """A source's repository and what the registry has there; of a descriptor with what it says
    itself."""
    own: Item = {}
    name = source
    if source.startswith("{"):
        try:
            own = jsontext.loads(source)
            name = own["digest"]
        except (ValueError, KeyError, TypeError):
            raise Failed(1, f"ERROR: {source}: not a descriptor with a digest") from None
    if _is_bare(source):
        name = f"{repository}@{name}"
    try:
        references.check(name)
    except InvalidParameter as err:
        raise Failed(1, f'ERROR: failed to parse source "{source}", valid sources are digests, '
                        f"references and descriptors: {err}") from None  # fmt: skip
    found = fetched(session, references.canonical(name))
    descriptor = {**found["Descriptor"], **own}
    return references.split(references.canonical(name))[0], {**found, "Descriptor": descriptor}


class _Result:
    """The manifest to push, and the content that it refers to."""

    def __init__(self, sources: list[tuple[str, Item]]) -> None:
        self._sources = sources
        self._entries: dict[str, tuple[str, Item]] = {}
        self.data, self.media_type = b"", ""

    @property
    def parts(self) -> list[tuple[str, Item]]:
        """Name and descriptor of each manifest that must be in the target's repository."""
        return [(f"{repository}@{entry['digest']}", entry)
                for repository, entry in self._entries.values()]  # fmt: skip

    def combine(self, *, wanted: set[str], annotations: list[str], prefer_index: bool) -> None:
        for repository, found in self._sources:
            document = jsontext.loads(binascii.a2b_base64(found["Raw"]))
            for entry in document.get("manifests") or [found["Descriptor"]]:
                self._add(repository, entry)
        if wanted:
            self._select(wanted)
        if len(self._sources) == 1 and not (wanted or annotations):
            _, found = self._sources[0]
            media_type = found["Descriptor"]["mediaType"]
            if media_type in (_INDEX, _LIST) or not prefer_index:
                self.data = binascii.a2b_base64(found["Raw"])
                self.media_type = media_type
                return
        self._index(annotations)

    def _add(self, repository: str, entry: Item) -> None:
        """The same manifest twice is one entry, with what either says of it."""
        known = self._entries.get(entry["digest"])
        if known is not None:
            repository, before = known
            notes = {**(before.get("annotations") or {}), **(entry.get("annotations") or {})}
            entry = {**before, **entry, **({"annotations": notes} if notes else {})}
        self._entries[entry["digest"]] = repository, entry

    def _select(self, wanted: set[str]) -> None:
        """Images of these platforms, and what is attested of them."""
        found = {digest for digest, (_, entry) in self._entries.items()
                 if platform_text(entry.get("platform") or {}) in wanted}  # fmt: skip
        self._entries = {
            digest: pair for digest, pair in self._entries.items()
            if digest in found or (pair[1].get("annotations") or {}).get(_ABOUT) in found
        }  # fmt: skip
        if not found:
            raise Failed(1, f"ERROR: no image of the sources is for {', '.join(sorted(wanted))}")

    def _index(self, annotations: list[str]) -> None:
        entries = [dict(entry) for _, entry in self._entries.values()]
        is_docker = all(entry["mediaType"] == _DOCKER_MANIFEST for entry in entries)
        self.media_type = _LIST if is_docker else _INDEX
        notes: dict[str, str] = {}
        for text in annotations if not is_docker else ():
            _annotate(text, notes, entries)
        index: Item = {
            "schemaVersion": 2, "mediaType": self.media_type,
            "manifests": [_ordered(entry) for entry in entries],
        }  # fmt: skip
        if notes:
            index["annotations"] = dict(sorted(notes.items()))
        self.data = jsontext.dumps(index, "  ").encode()


def _annotate(text: str, notes: dict[str, str], entries: list[Item]) -> None:
    name, equals, value = text.partition("=")
    match = ANNOTATION.fullmatch(name)
    if not equals or match is None:
        raise Failed(1, f'ERROR: invalid annotation "{text}", expected key=value')
    place, platform, key = match[1] or "", (match[2] or "").strip("[]"), match[3]
    if place == "index":
        notes[key] = value
    elif place == "manifest-descriptor":
        for entry in entries:
            if not platform or platform_text(entry.get("platform") or {}) == platform:
                entry["annotations"] = {**(entry.get("annotations") or {}), key: value}
    elif place == "index-descriptor":
        raise Failed(1, f'ERROR: "{place}" annotations are invalid while creating an image')
    else:
        raise Failed(1, f'ERROR: "{place}" annotations are not supported yet')


def _ordered(entry: Item) -> Item:
    """A descriptor in image-spec's order, its maps sorted."""
    first = {key: entry[key] for key in _ORDER if key in entry}
    if "annotations" in first:
        first["annotations"] = dict(sorted(first["annotations"].items()))
    return {**first, **{key: value for key, value in entry.items() if key not in first}}
