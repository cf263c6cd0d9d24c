"""Reading requests: the router, query parameters, filters, lenient JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from portside.api import params, routes
from portside.api.router import Router
from portside.model import filters
from portside.model.errors import InvalidParameter
from portside.model.golang import json_reading

ROUTER: Router[object] = Router()
routes.add_all(ROUTER)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/containers/json", ""),
        ("GET", "/containers/json/json", "json"),
        ("GET", "/images/docker.io/library/a/json", "docker.io/library/a"),
        ("POST", "/images/r:5000/a/b/push", "r:5000/a/b"),
        ("DELETE", "/images/r:5000/a/b", "r:5000/a/b"),
        ("GET", "/images/json/history", "json"),
        ("GET", "/containers/x/attach/ws", "x"),
        ("DELETE", "/containers/x", "x"),
        ("GET", "/networks/a", "a"),
        ("GET", "/distribution/a/b/json", "a/b"),
        ("POST", "/exec/e/start", "e"),
        ("GET", "/portside/containers/x/oci", "x"),
        ("POST", "/portside/volumes/v/clone", "v"),
    ],
)
def test_routes(method: str, path: str, name: str) -> None:
    found = ROUTER.find(method, path)
    assert found is not None
    assert found[1] == name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nope"),
        ("PATCH", "/info"),
        ("GET", "/containers/"),
        ("GET", "/images//json"),
        ("GET", "/portside/containers/"),
        ("POST", "/containers//start"),
    ],
)
def test_no_route(method: str, path: str) -> None:
    assert ROUTER.find(method, path) is None


def test_every_route_is_found_by_its_own_path() -> None:
    for method, path, route in ROUTER.routes():
        found = ROUTER.find(method, path.replace("{name}", "some/name"))
        assert found is not None, path
        assert found[0] is route, path


def test_no_endpoint_is_defined_twice() -> None:
    total = sum(
        len(__import__(f"portside.api.{name}", fromlist=["router"]).router.routes())
        for name in routes.GROUPS
    )
    assert total == len(ROUTER.routes())
    assert isinstance(ROUTER, Router)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"label":{"a=b":true,"c":true}}', {"label": ["a=b", "c"]}),
        ('{"label":["a","b"]}', {"label": ["a", "b"]}),
        ("{}", {}),
        ("null", {}),
        ('{"x":{}}', {"x": []}),
    ],
)
def test_filters_in_both_forms(text: str, found: dict[str, list[str]]) -> None:
    assert filters.parse(text) == found


@pytest.mark.parametrize("text", ["{", "[]", '"a"', '{"a":1}', '{"a":{"b":1}}', '{"a":[1]}', "x"])
def test_bad_filters(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid filter"):
        filters.parse(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("", None),
        ("0", 0),
        ("1700000000", 1700000000 * 10**9),
        ("1700000000.5", 1700000000 * 10**9 + 500000000),
        ("1700000000.000000001", 1700000000 * 10**9 + 1),
        ("2024-01-01T00:00:00Z", 1704067200 * 10**9),
        ("2024-01-01T00:00:00.123456789Z", 1704067200 * 10**9 + 123456789),
        ("2024-01-01T01:00:00+01:00", 1704067200 * 10**9),
    ],
)
def test_times(text: str, nanoseconds: int | None) -> None:
    assert params.timestamp(text) == nanoseconds


@pytest.mark.parametrize("text", ["yesterday", "12x", "2024-99-01T00:00:00Z"])
def test_bad_times(text: str) -> None:
    with pytest.raises(InvalidParameter):
        params.timestamp(text)


class Shape(msgspec.Struct):
    a: str = "unset"
    b: dict[str, str] = msgspec.field(default_factory=dict)
    c: int | None = None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":"x"}', Shape("x")),
        (b'{"a":null,"b":null}', Shape()),
        (b'{"unknown":[1,{"x":null}]}', Shape()),
    ],
)
def test_null_counts_as_absent(data: bytes, found: Shape) -> None:
    assert json_reading.decode_body(data, Shape) == found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":1}', "invalid JSON"),
        (b'{"a":', "unexpected EOF"),
        (b'{"a":"x"}}', "unexpected content after JSON"),
        (b"\xff\xfe", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_bad_json(data: bytes, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        json_reading.decode_body(data, Shape)


def test_every_error_has_a_status() -> None:
    from portside.api import errors
    from portside.model import errors as model

    kinds: list[Any] = [
        item
        for item in vars(model).values()
        if isinstance(item, type) and issubclass(item, model.PortsideError)
    ]
    for kind in kinds:
        if kind is not model.PortsideError:
            assert kind in errors.STATUS
    assert errors.status_of(ValueError()) == 500
