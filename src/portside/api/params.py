"""Reading what clients send: query parameters, filters, JSON bodies. Docker's texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from portside.api.http.messages import MAX_JSON, Request
from portside.model.decoding import why_not_json
from portside.model.errors import InvalidParameter
from portside.model.reference import Reference

_T = TypeVar("_T")
_FALSE = frozenset(("", "0", "no", "false", "none"))
_MEDIA_TYPE = re.compile(r"\s*([^\s/;]+/[^\s;]+)\s*(?:;.*)?", re.S)
_STAMP = re.compile(r"(-?[0-9]+)(?:\.([0-9]{1,9}))?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


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
    try:
        return int(value, 10)
    except ValueError:
        raise InvalidParameter(f'strconv.Atoi: parsing "{value}": invalid syntax') from None


def filters(request: Request, name: str = "filters") -> dict[str, list[str]]:
    """Filters in both of Docker's JSON forms: a map of maps and the older map of lists."""
    value = text(request, name)
    return parse_filters(value) if value else {}


def parse_filters(value: str) -> dict[str, list[str]]:
    try:
        found = msgspec.json.decode(value.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError):
        found = None
    if found is None and value.strip() == "null":
        return {}
    if not isinstance(found, dict):
        raise InvalidParameter("invalid filter")
    parsed: dict[str, list[str]] = {}
    for key, values in found.items():
        if isinstance(values, dict) and all(isinstance(v, bool) for v in values.values()):
            parsed[key] = list(values)
        elif isinstance(values, list) and all(isinstance(v, str) for v in values):
            parsed[key] = values
        elif values is None:
            parsed[key] = []
        else:
            raise InvalidParameter("invalid filter")
    return parsed


def accept_filters(filters: Mapping[str, object], allowed: frozenset[str]) -> None:
    """Raise InvalidParameter for the first filter that the endpoint does not know."""
    for key in filters:
        if key not in allowed:
            raise InvalidParameter(f"invalid filter '{key}'")


def timestamp(value: str, name: str = "timestamp") -> int | None:
    """Nanoseconds since the epoch of ``SECONDS[.NANOS]``, RFC 3339 or a duration ago.

    None when it is empty.
    """
    if not value:
        return None
    match = _STAMP.fullmatch(value)
    if match:
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    if _DURATION.match(value):
        import time

        return time.time_ns() - int(duration(value) * 1e9)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidParameter(f'invalid {name}: "{value}"') from None
    if moment.tzinfo is None:
        moment = moment.astimezone()
    fraction = re.search(r"\.([0-9]+)", value)
    nanos = int(fraction[1][:9].ljust(9, "0")) if fraction else 0
    return int(moment.replace(microsecond=0).timestamp()) * 10**9 + nanos


def duration(value: str) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``250ms``; raises InvalidParameter."""
    position, total = 0, 0.0
    while position < len(value):
        match = _DURATION.match(value, position)
        if match is None:
            raise InvalidParameter(f'time: invalid duration "{value}"')
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    return total


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


async def json(request: Request, cls: type[_T], *, limit: int = MAX_JSON) -> _T | None:
    """The JSON body as ``cls``; None when there is no body. Raises InvalidParameter."""
    data = await json_bytes(request, limit=limit)
    return decode(data, cls) if data else None


async def required(request: Request, cls: type[_T]) -> _T:
    """The JSON body as ``cls``; InvalidParameter when there is none."""
    body = await json(request, cls)
    if body is None:
        raise InvalidParameter("invalid JSON: got EOF while reading request body")
    return body


def decode(data: bytes, cls: type[_T]) -> _T:
    """Decode a body; ``null`` counts as absent, as it does for clients written in Go."""
    try:
        return msgspec.json.decode(data, type=cls)
    except (msgspec.ValidationError, RecursionError):
        pass
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise InvalidParameter(f"invalid JSON: {why_not_json(err, data)}") from None
    from portside.model import golike  # seldom needed, and slow to import

    try:
        return msgspec.convert(golike.settled(msgspec.json.decode(data), cls), type=cls)
    except (msgspec.ValidationError, RecursionError) as err:
        raise InvalidParameter(f"invalid JSON: {err}") from None
