"""BuildKit's cache manifest: layers, and records that lead to them.

An OCI image manifest (``image-manifest=true``, the default) or an index lists the layers and a
configuration of the type ``application/vnd.buildkit.cacheconfig.v0``; an image with an inline
cache has the list of the records in its configuration, whose layers are the image's own. A record's
``digest`` is a cache key; ``outputs`` is ours: for each output of the step its topmost layer (-1:
an empty root) and the digest of its content.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec

from portside.model.errors import InvalidParameter

CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"
MAX_CONFIG = 64 << 20
"""Bytes of a configuration that is read."""


class CacheLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    blob: str = ""
    parent: int = -1
    annotations: dict[str, str] = {}
    """``mediaType``, ``size`` and ``diffID`` of the blob."""


class CacheResult(msgspec.Struct, frozen=True):
    layer: int
    created_at: str = msgspec.field(name="createdAt", default="")


class CacheOutput(msgspec.Struct, frozen=True):
    layer: int
    content: str


class CacheRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One record."""

    digest: str
    layers: tuple[CacheResult, ...] = ()
    outputs: tuple[CacheOutput, ...] = ()
    description: str = ""
    sources: str = ""


class CacheConfig(msgspec.Struct, frozen=True):
    layers: tuple[CacheLayer, ...] = ()
    records: tuple[CacheRow, ...] = ()


def parse_config(data: bytes) -> CacheConfig:
    """InvalidParameter when it is malformed, or names layers that it does not have."""
    try:
        return _checked(msgspec.json.decode(data, type=CacheConfig))
    except msgspec.MsgspecError as err:
        raise InvalidParameter(f"the cache manifest is malformed: {err}") from err


def _checked(found: CacheConfig) -> CacheConfig:
    count = len(found.layers)
    for number, layer in enumerate(found.layers):
        if not -1 <= layer.parent < number:
            raise InvalidParameter("the cache manifest is malformed: a layer follows its child")
    for row in found.records:
        named = [item.layer for item in row.layers] + [item.layer for item in row.outputs]
        if any(not -1 <= number < count for number in named):
            raise InvalidParameter("the cache manifest is malformed: a record has no such layer")
    return found


def inline(rows: Sequence[CacheRow]) -> str:
    """Records that name an image's layers by position, as its configuration has them."""
    return base64.b64encode(msgspec.json.encode(rows)).decode()


def parse_inline(text: str, digests: Sequence[str]) -> CacheConfig:
    """The inline cache of an image with these layers, which stand one on another.
    InvalidParameter as :func:`parse_config`."""
    layers = tuple(CacheLayer(digest, number - 1) for number, digest in enumerate(digests))
    try:
        rows = msgspec.json.decode(base64.b64decode(text, validate=True), type=tuple[CacheRow, ...])
        return _checked(CacheConfig(layers, rows))
    except (binascii.Error, msgspec.MsgspecError) as err:
        raise InvalidParameter(f"the image's inline cache is malformed: {err}") from err
