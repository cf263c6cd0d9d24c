"""The attributes of ``-o``, as BuildKit names them, read once into values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from portside.builder.layers.layer_blobs import Compression, LayerForm
from portside.builder.results import ExportRequest
from portside.images.image_store import require_name
from portside.model.errors import InvalidParameter
from portside.model.platform import Platform
from portside.model.reference import Reference

IMAGE_TYPES = frozenset({"image", "moby", "registry"})
ARCHIVE_TYPES = frozenset({"oci", "docker"})
TREE_TYPES = frozenset({"tar", "local"})
TYPES = IMAGE_TYPES | ARCHIVE_TYPES | TREE_TYPES | {"cacheonly"}
KINDS = ("gzip", "zstd", "estargz", "uncompressed")
_ANNOTATION = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([^]]+)\])?\.(.+)")
INDEX, INDEX_DESCRIPTOR = "index", "index-descriptor"
MANIFEST, MANIFEST_DESCRIPTOR = "manifest", "manifest-descriptor"
_PLACES = (INDEX, INDEX_DESCRIPTOR, MANIFEST, MANIFEST_DESCRIPTOR)


DANGLING = "moby-dangling"
"""Docker's prefix of the names of images that have none."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """``place`` is index, index-descriptor, manifest or manifest-descriptor."""

    place: str
    platform: Platform | None
    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """See BuildKit's README, "Output", for what each means."""

    type: str
    names: tuple[Reference, ...] = ()
    dangling: str = ""
    """What answers call an image without names: this and its digest."""
    push: bool = False
    push_by_digest: bool = False
    store: bool = True
    unpack: bool = True
    tar: bool = True
    oci_types: bool = True
    oci_artifact: bool = False
    """Attestations are artifacts that refer to their image (``subject``)."""
    compression: Compression = field(default_factory=Compression)
    epoch: int | None = None
    """SOURCE_DATE_EPOCH, seconds."""
    rewrite_timestamp: bool = False
    annotations: tuple[Annotation, ...] = ()
    platform_split: bool | None = None
    """Trees are written to a folder for each platform; None: where there are several."""
    attestation_inline: bool = False
    """Attestations that are wanted only within an image make it an index in an archive, too."""
    attestation_prefix: str = ""
    squash: bool = False
    """One layer of all that the build added (the classic builder's ``--squash``)."""

    @property
    def form(self) -> LayerForm:
        """How layers are wanted."""
        rewrites = self.rewrite_timestamp and self.epoch is not None
        latest = (self.epoch or 0) * 10**9 if rewrites else None
        return LayerForm(compression=self.compression, oci_types=self.oci_types, latest=latest)

    def annotated(self, place: str, platform: Platform | None = None) -> dict[str, str]:
        """The annotations of one place, sorted by key."""
        found = {
            item.key: item.value
            for item in self.annotations
            if item.place == place
            and (item.platform is None or platform is None or item.platform.matches(platform))
        }
        return dict(sorted(found.items()))


def parse_export(request: ExportRequest, epoch: int | None = None) -> ExportOptions:
    """InvalidParameter for an unknown type or a malformed value; unknown attributes are
    ignored, as BuildKit does. ``epoch`` is the build's own SOURCE_DATE_EPOCH."""
    kind, attrs = request.type, request.attrs
    if kind not in TYPES:
        raise InvalidParameter(
            f'exporter "{kind}" could not be found: use one of {", ".join(sorted(TYPES))}'
        )
    names = [name for name in attrs.get("name", "").split(",") if name]
    if attrs.get("name") == "*":
        raise InvalidParameter("names from the result's metadata (name=*) are not supported")
    push = flag(attrs, "push", kind == "registry")
    by_digest = flag(attrs, "push-by-digest", False)
    if push and not names:
        raise InvalidParameter("pushing needs a name: give --tag or name=REGISTRY/NAME:TAG")
    given = attrs.get("source-date-epoch", "")
    if given and not given.isdecimal():
        raise InvalidParameter(f"invalid source-date-epoch {given!r}: expected seconds")
    flag(attrs, "name-canonical", False)
    compression, annotations = _compression(attrs), tuple(_annotations(attrs))
    return ExportOptions(
        type=kind,
        names=tuple(require_name(name) for name in names),
        dangling=attrs.get("dangling-name-prefix", DANGLING) if kind in IMAGE_TYPES else "",
        push=push,
        push_by_digest=by_digest,
        store=flag(attrs, "store", True),
        unpack=flag(attrs, "unpack", True),
        tar=flag(attrs, "tar", True),
        # Docker's types have no annotations and no zstd
        oci_types=flag(attrs, "oci-mediatypes", kind != "docker")
        or bool(annotations)
        or compression.kind == "zstd",
        oci_artifact=flag(attrs, "oci-artifact", False),
        compression=compression,
        epoch=int(given) if given else epoch,
        rewrite_timestamp=flag(attrs, "rewrite-timestamp", False),
        annotations=annotations,
        platform_split=(flag(attrs, "platform-split", True) if "platform-split" in attrs else None),
        attestation_inline=flag(attrs, "attestation-inline", kind in IMAGE_TYPES),
        attestation_prefix=attrs.get("attestation-prefix", ""),
    )


def flag(attrs: Mapping[str, str], key: str, default: bool) -> bool:
    """An attribute that is true or false; InvalidParameter for another value."""
    text = attrs.get(key)
    if text is None:
        return default
    if text == "" or text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidParameter(f"non-bool value specified for {key}: {text!r}")


def _compression(attrs: Mapping[str, str]) -> Compression:
    kind = attrs.get("compression") or "gzip"
    if kind not in KINDS:
        raise InvalidParameter(f"unsupported compression type {kind}: use {', '.join(KINDS)}")
    text = attrs.get("compression-level", "")
    try:
        level = int(text) if text else None
    except ValueError:
        raise InvalidParameter(f"non-int value {text} specified for compression-level") from None
    most = 22 if kind == "zstd" else 9
    if level is not None and kind == "zstd":
        level = min(level, most)
    if level is not None and not 0 <= level <= most:
        raise InvalidParameter(f"compression-level {level}: {kind} has levels 0 to {most}")
    force = flag(attrs, "force-compression", False)
    return Compression(kind=kind, level=level, force=force, is_asked="compression" in attrs)


def _annotations(attrs: Mapping[str, str]) -> list[Annotation]:
    found = []
    for name, value in attrs.items():
        match = _ANNOTATION.fullmatch(name)
        if match is None:
            continue
        place = match[1] or MANIFEST
        if place not in _PLACES:
            raise InvalidParameter(
                f"unrecognized annotation type {place}: use {', '.join(_PLACES)}"
            )
        platform = Platform.parse(match[2]) if match[2] else None
        if platform is not None and place in (INDEX, INDEX_DESCRIPTOR):
            raise InvalidParameter(f"{name}: an index has no platform")
        found.append(Annotation(place=place, platform=platform, key=match[3], value=value))
    return found
