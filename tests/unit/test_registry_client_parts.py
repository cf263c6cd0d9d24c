"""The registry client's parts that need no network."""

from __future__ import annotations

import email.utils
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.model.errors import InvalidParameter, PortsideError, SystemFailure
from portside.registry.client.challenge import parse
from portside.registry.client.client import registry_of
from portside.registry.client.endpoints import endpoints
from portside.registry.client.errors import from_response
from portside.registry.client.options import RegistryOptions
from portside.registry.client.transport import Transport, tls_context, wait_before_retry


@pytest.mark.parametrize(
    ("headers", "schemes", "parameters"),
    [
        (['Basic realm="r"'], ["basic"], {"realm": "r"}),
        (
            ['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
            ["bearer"],
            {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"},
        ),
        (
            ['Bearer realm="a", error="insufficient_scope"'],
            ["bearer"],
            {"error": "insufficient_scope"},
        ),
        (['Negotiate, Basic realm="x\\"y"'], ["negotiate", "basic"], {"realm": 'x"y'}),
        (["Basic realm=x", "Bearer realm=y"], ["basic", "bearer"], {"realm": "y"}),
        ([""], [], {}),
    ],
)
def test_challenges(headers: list[str], schemes: list[str], parameters: dict[str, str]) -> None:
    found = parse(headers)
    assert [challenge.scheme for challenge in found] == schemes
    if found:
        assert parameters.items() <= found[-1].parameters.items()


@given(st.text(max_size=100))
def test_any_challenge_is_survived(text: str) -> None:
    parse([text, text])


def urls(options: RegistryOptions, domain: str, push: bool = False) -> list[str]:
    return [endpoint.url for endpoint in endpoints(options, domain, push=push)]


def test_endpoints_in_order() -> None:
    options = RegistryOptions(
        mirrors=("https://m.example/proxy/",),
        upstream_mirrors={"quay.io": ("http://q.example",)},
        insecure=("r.example:5000", "10.1.0.0/16"),
    )
    assert urls(options, "docker.io") == ["https://m.example/proxy", "https://registry-1.docker.io"]
    assert urls(options, "docker.io", push=True) == ["https://registry-1.docker.io"]
    assert urls(options, "quay.io") == ["http://q.example", "https://quay.io"]
    assert urls(options, "safe.example") == ["https://safe.example"]
    for host in ("r.example:5000", "10.1.2.3:99", "localhost:1", "127.9.9.9:5000", "[::1]:5000"):
        assert urls(options, host) == [f"https://{host}", f"http://{host}"]
    assert endpoints(options, "quay.io")[0].namespace == "quay.io"
    assert endpoints(options, "safe.example")[0].verify
    assert not endpoints(options, "10.1.2.3:99")[0].verify


def test_a_mirror_must_be_a_url() -> None:
    with pytest.raises(InvalidParameter, match=r"m\.example"):
        RegistryOptions(mirrors=("m.example",))


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://a.example/v2/", "", "http://s:1"),
        ("http://a.example/v2/", "", "http://p:1"),
        ("https://a.example/v2/", "a.example", None),
        ("https://x.a.example/v2/", "a.example", None),
        ("https://x.a.example/v2/", ".a.example", None),
        ("https://ba.example/v2/", "a.example", "http://s:1"),
        ("https://10.2.3.4/v2/", "10.0.0.0/8", None),
        ("https://a.example:5000/v2/", "a.example:5000", None),
        ("https://a.example:5001/v2/", "a.example:5000", "http://s:1"),
        ("https://a.example/v2/", "*", None),
        ("http://127.0.0.1:5000/v2/", "", None),
        ("http://localhost:5000/v2/", "", None),
    ],
)
def test_proxies(url: str, no_proxy: str, proxy: str | None) -> None:
    options = RegistryOptions(http_proxy="p:1", https_proxy="http://s:1", no_proxy=no_proxy)
    assert Transport(options).proxy_for(url) == proxy


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "no_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://env:3128")
    assert Transport(RegistryOptions()).proxy_for("https://a.example/") == "http://env:3128"
    monkeypatch.setenv("NO_PROXY", "a.example")
    assert Transport(RegistryOptions()).proxy_for("https://a.example/") is None
    assert Transport(RegistryOptions(https_proxy="")).proxy_for("https://b.example/") is None


def test_waits_double_and_honour_the_server() -> None:
    first, fourth = wait_before_retry(0, None, 1.0), wait_before_retry(3, None, 1.0)
    assert first is not None and 0.7 < first < 1.3
    assert fourth is not None and 5.9 < fourth < 10.1
    assert wait_before_retry(0, "7", 1.0) == 7.0
    assert wait_before_retry(0, "3600", 1.0) is None
    soon = email.utils.formatdate(time.time() + 5, usegmt=True)
    found = wait_before_retry(0, soon, 1.0)
    assert found is not None and 2.0 < found < 6.0
    assert wait_before_retry(0, "nonsense", 0.0) == 0.0


def test_error_bodies() -> None:
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
    assert str(from_response(404, body, [])) == "manifest unknown: manifest unknown"
    denied = from_response(401, b"", [{"error": "insufficient_scope"}])
    assert str(denied) == "denied: requested access to the resource is denied"
    assert str(from_response(401, b"<html>", [])) == "unauthorized: authentication required"
    assert from_response(503, b"\xff", []).status == 503


@given(st.integers(400, 599), st.binary(max_size=100))
def test_any_error_body_is_survived(status: int, body: bytes) -> None:
    assert str(from_response(status, body, []))


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(SystemFailure, match=r"ca\.crt"):
        tls_context(tmp_path, True)
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "client.cert").write_text("x")
    with pytest.raises(InvalidParameter, match=r"missing key client\.key"):
        tls_context(tmp_path, True)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://r.example:5000/v2/", "r.example:5000"),
        ("r.example", "r.example"),
    ],
)
def test_registry_of_a_server_address(address: str, domain: str) -> None:
    assert registry_of(address) == domain


async def test_a_registry_of_this_machine_may_be_starting() -> None:
    """A refused connection to loopback is tried again for a moment, and not for ever."""
    import asyncio
    import socket

    from portside.registry.client.endpoints import Endpoint

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    transport, refused = Transport(RegistryOptions()), Transport(RegistryOptions())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def ask(through: Transport) -> int:
        async with through.send("GET", f"{url}/v2/", Endpoint(url, f"127.0.0.1:{port}")) as got:
            return got.status

    try:
        with pytest.raises(PortsideError, match="refused"):
            await ask(refused)
        asking = asyncio.create_task(ask(transport))
        while not transport._refused:
            await asyncio.sleep(0.01)
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        async with server:
            assert await asking == 200
    finally:
        await transport.close()
        await refused.close()
