"""Reading what clients send: query parameters, filters, JSON bodies. Docker's texts."""

from __future__ import annotations

import re
from typing import TypeVar

from portside.model import filters as filtering
from portside.model.errors import InvalidParameter, InvalidText
from portside.model.golang import json_reading
from portside.model.golang.numbers import atoi
from portside.model.golang.timestamps import parse_moment, parse_unix
from portside.model.reference import Reference
from portside.serving.http.messages import MAX_JSON, Request

_T = TypeVar("_T")
_FALSE = frozenset(("", "0", "no", "false", "none"))
_MEDIA_TYPE = re.compile(r"\s*([^\s/;]+/[^\s;]+)\s*(?:;.*)?", re.S)


def text(request: Request, name: str, default: str = "") -> str:
    """The first value of a query parameter."""
    values = request.query.get(name)
    return values[0] if values else default


def texts(request: Request, name: str) -> list[str]:
    """All values of a repeated query parameter."""
    return request.query.get(name, [])


def boolean(request: Request, name: str, default: bool = False) -> bool:
    """Docker's reading of truth: everything but ``0``, ``no``, ``false``, ``none`` and nothing."""
    values = request.query.get(name)
    if values is None:
        return default
    return values[0].strip().lower() not in _FALSE


def tagged(name: str, tag: str) -> Reference:
    """A reference with the tag of a query, which overrules one in the name."""
    reference = Reference.parse(name)
    return reference.with_tag(tag) if tag else reference


def new_name(request: Request) -> str:
    """The name an image is to get (``repo`` and ``tag``); empty when there is no ``repo``."""
    name = text(request, "repo")
    if not name:
        return ""
    reference = tagged(name, text(request, "tag"))
    if reference.digest is not None:
        raise InvalidParameter("cannot import digest reference")
    return str(reference)


def number(request: Request, name: str, default: int | None = None) -> int | None:
    """An integer parameter; an empty one counts as absent."""
    value = text(request, name)
    if not value:
        return default
    return atoi(value)


def filters(request: Request, name: str = "filters") -> dict[str, list[str]]:
    """Filters in both of Docker's JSON forms: a map of maps and the older map of lists."""
    value = text(request, name)
    return filtering.parse(value) if value else {}


def timestamp(value: str) -> int | None:
    """Nanoseconds since the epoch of ``SECONDS[.NANOS]``, which is what Docker's clients send,
    of RFC 3339 or of a duration ago. None when it is empty. Raises InvalidParameter.
    """
    if not value:
        return None
    try:
        return parse_unix(value)
    except InvalidText as unix:
        try:
            return parse_moment(value)
        except InvalidText:
            raise unix from None


async def json_bytes(request: Request, *, limit: int = MAX_JSON) -> bytes:
    """The body of a request that must be JSON; empty when there is none."""
    content_type = request.header("content-type")
    length = request.head.length
    if not content_type and length == 0:
        return b""
    match = _MEDIA_TYPE.fullmatch(content_type)
    if match is None:
        reason = "no media type" if not content_type else "expected slash after first token"
        raise InvalidParameter(f"malformed Content-Type header ({content_type}): mime: {reason}")
    if match[1].lower() != "application/json":
        raise InvalidParameter(
            f"unsupported Content-Type header ({content_type}): must be 'application/json'"
        )
    if length == 0:
        return b""
    data = await request.body.read(limit)
    if not data.strip():
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return data


async def json(request: Request, cls: type[_T], *, limit: int = MAX_JSON) -> _T:
    """The JSON body as ``cls``; no body is an empty one, as it is for dockerd.

    Raises InvalidParameter.
    """
    return json_reading.decode_body(await json_bytes(request, limit=limit) or b"{}", cls)
