"""``--output``: destinations of results, and writing the files of this machine."""

from __future__ import annotations

import os
import re
import stat

from portside.cli.build import csv_options
from portside.cli.build.build_connection import RefusedAnswer
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.build.build_connection import Channel
    from portside.cli.build.build_stores import Stores
    from portside.flags.table import Options

LOCAL = ("local", "tar")
"""Kinds whose files arrive over the connection."""
ANNOTATION = re.compile(
    r"(?:(index|index-descriptor|manifest|manifest-descriptor)(\[[^]]+\])?:)?(.+)"
)
FILES = ("tar", "oci", "docker")


class Outputs:
    """The requested outputs, in order."""

    def __init__(self, options: Options, tags: list[str], stores: Stores) -> None:
        """Raises Failed."""
        self._stores = stores
        self._layouts: list[tuple[str, str]] = []
        """Folders of outputs with ``tar=false``, with the name that the image has there."""
        self.request: list[dict[str, Any]] = []
        self._places: list[str] = []
        for text in options.many("output"):
            self._add(text)
        if options.flag("push"):
            self._shorthand("registry")
        if options.flag("load"):
            self._shorthand("image")
        self._annotate(options.many("annotation"))
        if options.text("iidfile") and any(o["type"] in LOCAL for o in self.request):
            raise Failed(1, "ERROR: local and tar exporters are incompatible with image ID file")
        pushes = any(o["type"] == "registry" or o["attrs"].get("push") == "true"
                     for o in self.request)  # fmt: skip
        named = tags or any(o["attrs"].get("name") for o in self.request)
        if pushes and not named:
            raise Failed(1, "ERROR: failed to build: tag is needed when pushing to registry")

    def _shorthand(self, kind: str) -> None:
        if not any(output["type"] == kind for output in self.request):
            self.request.append({"type": kind, "attrs": {}})
            self._places.append("")

    def _annotate(self, texts: list[str]) -> None:
        """Annotations are attributes of what has manifests."""
        if texts and not self.request:
            self._shorthand("image")
        for text in texts:
            key, equals, value = text.partition("=")
            match = ANNOTATION.fullmatch(key)
            if not equals or match is None:
                raise Failed(1, "ERROR: failed to build: parse annotations: invalid annotation "
                                f'"{text}", expected key=value')  # fmt: skip
            place = f"annotation{'-' if match[1] else ''}{match[1] or ''}{match[2] or ''}"
            for output in self.request:
                if output["type"] in ("image", "registry", "oci"):
                    output["attrs"][f"{place}.{match[3]}"] = value

    def _add(self, text: str) -> None:
        parts = csv_options.fields(text)
        if parts == [text] and not text.startswith("type="):
            kind = "tar" if parts[0] == "-" else "local"
            parts = [f"type={kind}", f"dest={parts[0]}"]
        attrs = csv_options.pairs(parts)
        kind = attrs.pop("type", "")
        if not kind:
            raise Failed(1, f"ERROR: type is required for output {text}")
        place = attrs.pop("dest", "") if kind in ("local", *FILES) else ""
        if kind == "oci" and attrs.get("tar", "true").lower() in ("0", "false"):
            self._layout(place, attrs)
            return
        self._check(kind, place)
        if kind == "docker" and not place:
            kind = "image"
        self.request.append({"type": kind, "attrs": attrs})
        self._places.append(place)

    def _layout(self, place: str, attrs: dict[str, str]) -> None:
        if not place or (os.path.exists(place) and not os.path.isdir(place)):
            raise Failed(1, "ERROR: failed to build: dest is required for oci exporter with "
                            "tar=false, and is a folder")  # fmt: skip
        self.request.append({"type": "oci", "attrs": attrs, "store": self._stores.add(place)})
        self._places.append(place)
        self._layouts.append((place, "latest"))

    def exported(self, metadata: dict[str, str]) -> None:
        """Write the indexes of layouts."""
        from binascii import a2b_base64

        from portside.cli.build.build_stores import write_index
        from portside.model import jsontext

        descriptor = metadata.get("containerimage.descriptor")
        if descriptor is None:
            return
        for place, name in self._layouts:
            write_index(place, jsontext.loads(a2b_base64(descriptor)), name)

    def _check(self, kind: str, place: str) -> None:
        if kind == "local" and not place:
            raise Failed(1, "ERROR: failed to build: dest is required for local exporter")
        if kind == "local" and place == "-":
            raise Failed(1, "ERROR: failed to build: dest cannot be stdout for local exporter")
        if kind == "local" and os.path.exists(place) and not os.path.isdir(place):
            raise Failed(1, "ERROR: failed to build: destination directory should not be a file: "
                            f"{place}")  # fmt: skip
        if kind in FILES and place not in ("", "-"):
            if os.path.isdir(place):
                raise Failed(1, f"ERROR: failed to build: destination file {place} is a directory")
            directory = os.path.dirname(place) or "."
            if not os.path.isdir(directory):
                raise Failed(1, f"ERROR: failed to build: failed to open open {place}: no such "
                                "file or directory")  # fmt: skip
        if kind in ("tar", "oci") and place in ("", "-") and os.isatty(1):
            raise Failed(1, "ERROR: failed to build: dest file is required for "
                            f"{kind} exporter. refusing to write to console")  # fmt: skip

    def write(self, channel: Channel, number: int) -> None:
        """Write what the engine sends for an output."""
        if not 0 <= number < len(self._places):
            raise RefusedAnswer(f"there is no output {number}")
        place = self._places[number]
        if self.request[number]["type"] == "local":
            _unpack(channel, place)
        elif place in ("", "-"):
            from portside.cli.stream_pump import write_all

            for piece in channel.pieces():
                write_all(1, piece)
        else:
            _file(channel, place)
        channel.end()


def _unpack(channel: Channel, place: str) -> None:
    from portside.cli import untar

    os.makedirs(place, exist_ok=True)
    keeps = os.geteuid() == 0
    try:
        untar.unpack(channel.pieces(), place, lambda name: name, keeps_owner=keeps)
    except Exception as err:
        raise RefusedAnswer(str(err)) from err


def _file(channel: Channel, place: str) -> None:
    """Whole or not at all; a device or a pipe is written where it is."""
    exists = os.path.exists(place)
    direct = exists and not stat.S_ISREG(os.stat(place).st_mode)
    directory, name = os.path.split(place)
    temporary = place if direct else os.path.join(directory or ".", f".tmp-{name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            for piece in channel.pieces():
                file.write(piece)
        if not direct:
            os.replace(temporary, place)
    finally:
        if not direct and os.path.exists(temporary):
            os.unlink(temporary)
