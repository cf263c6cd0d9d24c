"""Hostile registries: redirects, slow and endless answers, credentials that must not travel.

Repeats the published weaknesses CVE-2020-15157 (credentials sent to a host that the registry
names), CVE-2021-41103 and the class of endless or never-ending answers.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from fakeregistry import FakeRegistry, Fault, fake_registry
from imagekit import build_image, certificate, digest

from portside.images.service import ImageService
from portside.model.errors import PortsideError
from portside.model.registryauth import AuthConfig
from portside.registry.client import transport
from portside.registry.client.endpoints import Endpoint
from portside.registry.client.options import RegistryOptions
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AUTH = AuthConfig(username="user", password="secret")
BIG = os.urandom(200_000)


class Other:
    """Another host: remembers what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path_qs, dict(request.headers)))
        return web.Response(status=403)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    found = Other()
    async with serving(found.handle) as found.url:
        yield found


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as found:
        found.basic = ("user", "secret")
        yield found


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    store = Store.open(tmp_path / "root")
    # a long delay: whatever is tried again does not end within the test
    options = RegistryOptions(
        retry_delay=30, certs_dir=tmp_path / "certs.d", http_proxy="", https_proxy=""
    )
    images = ImageService(store, options)
    await images.start()
    yield images
    await images.close()
    await store.close()


async def refused(service: ImageService, ref: str) -> str:
    """What a pull that must fail at once says."""
    with pytest.raises(PortsideError) as failure:
        await asyncio.wait_for(service.pull(ref, auth=AUTH), 20)
    assert not service.store.db.query("SELECT 1 FROM documents WHERE kind='image'")
    return str(failure.value)


@pytest.mark.parametrize("what", ["manifest", "blob"])
@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("{self}", "stopped after 10 redirects"),
        ("ftp://127.0.0.1/x", 'unsupported protocol scheme "ftp"'),
        ("file:///etc/passwd", 'unsupported protocol scheme "file"'),
        ("gopher://127.0.0.1:70/x", "unsupported protocol scheme"),
        ("", "without a Location header"),
        ("https://", "invalid address"),
        ("http://[::1", "invalid address"),
        ("http://127.0.0.1:99999999/", "invalid address"),
        ("http://127.0.0.1/a b", "invalid address"),
        ("unix:///run/docker.sock", "unsupported protocol scheme"),
    ],
)
async def test_redirects_that_lead_nowhere_fail_at_once(
    service: ImageService, registry: FakeRegistry, what: str, location: str, said: str
) -> None:
    image = build_image([{"a": BIG}])
    registry.add("x", "1", image)
    key = "1" if what == "manifest" else next(d for d in image.blobs if d != image.config_digest)
    path = f"/v2/x/{what}s/{key}"
    target = location.replace("{self}", f"{registry.url}{path}")
    registry.faults[key] = Fault("status", status=307, headers={"Location": target})
    assert said in await refused(service, f"{registry.host}/x:1")


async def test_a_page_list_that_leads_to_itself(
    service: ImageService, registry: FakeRegistry
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        link = {"Link": '</v2/x/tags/list?n=1>; rel="next"'}
        is_list = request.path.endswith("/tags/list")
        return web.json_response({"tags": ["a"]} if is_list else {}, headers=link)

    async with serving(handle) as url:
        with pytest.raises(PortsideError, match="leads back"):
            await asyncio.wait_for(service.pull(f"{url[7:]}/x", all_tags=True), 20)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_credentials_do_not_follow_a_redirect(
    service: ImageService, registry: FakeRegistry, other: Other, status: int
) -> None:
    image = build_image([{"a": BIG}])
    registry.add("x", "1", image)
    where = other.url.replace("http://", "http://stolen:key@") + "/taken"
    registry.faults["1"] = Fault("status", status=status, headers={"Location": where})
    await refused(service, f"{registry.host}/x:1")
    assert other.seen and all("Authorization" not in headers for _, headers in other.seen)
    wanted = "Basic " + base64.b64encode(b"user:secret").decode()
    assert any(headers.get("Authorization") == wanted for *_, headers in registry.requests)


async def test_credentials_do_not_follow_an_upload_location(
    service: ImageService, other: Other
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        if request.method == "POST":
            return web.Response(status=202, headers={"Location": f"{other.url}/upload"})
        return web.json_response({}, status=404 if request.method == "HEAD" else 200)

    async with fake_registry() as source, serving(handle) as url:
        source.add("x", "1", build_image([{"a": b"1"}]))
        await service.pull(f"{source.host}/x:1")
        service.tag(f"{source.host}/x:1", f"{url[7:]}/x:1")
        with pytest.raises(PortsideError):
            await asyncio.wait_for(service.push(f"{url[7:]}/x:1", AUTH), 20)
    assert other.seen and all("Authorization" not in headers for _, headers in other.seen)


async def test_credentials_do_not_follow_a_foreign_layer(
    service: ImageService, registry: FakeRegistry, other: Other
) -> None:
    """CVE-2020-15157: the manifest names the URL of a layer, whose host asks for a password."""

    async def ask(request: web.Request) -> web.StreamResponse:
        other.seen.append((request.path_qs, dict(request.headers)))
        return web.Response(status=401, headers={"WWW-Authenticate": f'Basic realm="{other.url}"'})

    async with serving(ask) as url:
        image = build_image([{"a": BIG}])
        image.manifest = image.manifest.replace(
            b'"application/vnd.docker.image.rootfs.diff.tar.gzip"',
            b'"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["%s/l"]'
            % url.encode(),
        )
        registry.add("x", "1", image)
        await refused(service, f"{registry.host}/x:1")
    assert other.seen and all("Authorization" not in headers for _, headers in other.seen)


async def test_a_client_certificate_does_not_follow_a_redirect(
    service: ImageService, tmp_path: Path
) -> None:
    """The certificate of certs.d/HOST is shown to that host only, and a host that is not to be
    checked vouches for no other."""
    pair = certificate(tmp_path / "tls")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(*pair)
    seen: list[object] = []

    async def take(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("ssl_object").getpeercert(True))
        return web.Response(text="taken")

    greedy = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    greedy.load_cert_chain(*pair)
    greedy.verify_mode = ssl.CERT_OPTIONAL
    greedy.load_verify_locations(pair[0])
    async with serving(take, greedy) as target:

        async def lead(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{target}/x"})

        async with serving(lead, ours) as url:
            for host in (url[8:], target[8:]):
                directory = tmp_path / "certs.d" / host
                directory.mkdir(parents=True)
                (directory / "ca.crt").write_bytes(pair[0].read_bytes())
            mine = tmp_path / "certs.d" / url[8:]
            (mine / "client.cert").write_bytes(pair[0].read_bytes())
            (mine / "client.key").write_bytes(pair[1].read_bytes())
            sender = service.registries.transport
            async with sender.send("GET", f"{url}/v2/", Endpoint(url, url[8:])) as response:
                assert await response.text() == "taken"
    assert seen == [None]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds on progress, a hundred times shorter."""
    monkeypatch.setattr(transport, "WINDOW", 0.6)
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(transport, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(transport, "PIECE_TIMEOUT", 1.0)


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "token", "error"])
async def test_a_drip_is_not_waited_for(
    service: ImageService, registry: FakeRegistry, hasty: None, what: str
) -> None:
    """One byte at a time, always before any time-out of silence."""
    image = build_image([{"a": BIG}])
    layer = next(d for d in image.blobs if d != image.config_digest)
    ends = {
        "manifest": "/manifests/1",
        "config": image.config_digest,
        "layer": layer,
        "token": "/token",
        "error": "/manifests/1",
    }[what]
    registry.add("x", "1", image)
    registry.basic = None
    if what == "token":
        registry.token = "anonymous"
    dripped = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal dripped
        if not request.path.endswith(ends) or request.method != "GET":
            return await registry.handle(request)
        response = web.StreamResponse(status=403 if what == "error" else 200)
        response.content_length = 10_000
        await response.prepare(request)
        while dripped < 400:
            dripped += 1
            await response.write(b"{")
            await asyncio.sleep(0.05)
        return response

    async with serving(handle) as url:
        registry.url = url
        service.reconfigure(
            RegistryOptions(
                retry_delay=0.01, max_download_attempts=2, http_proxy="", https_proxy=""
            )
        )
        begun = time.monotonic()
        with pytest.raises(PortsideError):
            await asyncio.wait_for(service.pull(f"{url[7:]}/x:1"), 60)
        assert dripped < 400, f"waited for the whole drip, {time.monotonic() - begun:.0f} s"


async def test_headers_that_drip_are_not_waited_for(service: ImageService, hasty: None) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(400):
            writer.write(b"a")
            await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(PortsideError, match="timeout awaiting response headers"):
        async with asyncio.timeout(15):
            async with service.registries.transport.send("GET", url, Endpoint(url, url[7:])):
                pass
    server.close()


async def test_a_registry_that_takes_nothing_does_not_hold_a_push(
    service: ImageService, hasty: None
) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(60)

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1 << 10)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(PortsideError, match="timeout"):
        async with asyncio.timeout(20):
            async with service.registries.transport.send(
                "PATCH", url, Endpoint(url, url[7:]), body=body()
            ):
                pass
    server.close()


async def test_an_endless_refusal_is_not_read(service: ImageService) -> None:
    """A 401 with an endless body: its challenge is enough."""
    sent = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        if "Authorization" in request.headers or request.path == "/v2/":
            return web.json_response({}, status=404 if request.path != "/v2/" else 200)
        response = web.StreamResponse(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        await response.prepare(request)
        while sent < 1 << 28:
            await response.write(bytes(1 << 16))
            sent += 1 << 16
        return response

    async with serving(handle) as url:
        with pytest.raises(PortsideError):
            await asyncio.wait_for(service.pull(f"{url[7:]}/x:1", auth=AUTH), 20)
    assert sent < 1 << 25


async def test_progress_of_one_byte_for_each_connection_is_none(
    service: ImageService, registry: FakeRegistry
) -> None:
    """A blob that is cut after one more byte each time is given up, not tried 200,000 times."""
    image = build_image([{"a": BIG}])
    layer = next(d for d in image.blobs if d != image.config_digest)
    registry.add("x", "1", image)
    registry.basic = None
    registry.faults[layer] = Fault("cut", at=1)
    service.reconfigure(
        RegistryOptions(retry_delay=0.001, max_download_attempts=3, http_proxy="", https_proxy="")
    )
    with pytest.raises(PortsideError):
        await asyncio.wait_for(service.pull(f"{registry.host}/x:1"), 30)
    assert registry.served[layer] <= 4
    assert digest(BIG) != layer
