"""Settings as people have them: files of other registries, variables, mistakes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from portside.model.errors import InvalidParameter
from portside.registry.server.app import make_app, watching_app
from portside.registry.server.config import Settings, load, seconds
from portside.registry.server.context import REGISTRY
from registry.conftest import Serve

Make = Callable[..., Settings]

FILE = """\
version: 0.1
log:
  level: debug
  accesslog: {disabled: true}
  fields: {service: registry}
storage:
  filesystem:
  cache: {blobdescriptor: inmemory}
  delete: {enabled: yes}
  maintenance: {uploadpurging: {enabled: true, age: 24h, interval: 12h, dryrun: false}}
http:
  addr: localhost:5001
  secret: 0123
  headers: {X-Content-Type-Options: [nosniff]}
  http2: {disabled: false}
  tls: {certificate: /c.pem, key: /k.pem, clientcas: [/ca.pem]}
auth:
  htpasswd: {realm: basic-realm, path: %s}
health: {storagedriver: {enabled: true, interval: 10s, threshold: 3}}
proxy: {remoteurl: "https://registry-1.docker.io", username: 123, password: 0777}
redis: {addr: "localhost:6379"}
compatibility: {schema1: {enabled: false}}
somethingnew: {a: 1}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Make:
    """``settings(text, VARIABLE=value)``"""

    def make(text: str = "", **environ: str) -> Settings:
        path = tmp_path / "config.yml"
        path.write_text(text)
        return load(str(path), environ)

    return make


def test_a_file_of_another_registry(
    settings: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "users").touch()
    with caplog.at_level(logging.WARNING):
        found = settings(FILE % (tmp_path / "users"))
    assert found.http.secret == "0123" and found.http.tls.clientcas == ("/ca.pem",)
    assert found.storage.delete.enabled and found.storage.filesystem.rootdirectory
    assert found.storage.maintenance.uploadpurging.age == "24h"
    assert (found.proxy.username, found.proxy.password) == ("123", "0777")
    assert "somethingnew" in caplog.text and "interval" in caplog.text


def test_variables_override_and_choose(settings: Make) -> None:
    found = settings(
        "storage: {filesystem: {rootdirectory: /a}, delete: {enabled: true}}\nauth: {htpasswd: {}}",
        REGISTRY_STORAGE="filesystem",
        REGISTRY_AUTH="none",
        REGISTRY_HTTP_ADDR=":7000",
        REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY="/b",
        REGISTRY_PROXY_PASSWORD="12345",
        REGISTRY_NOTIFICATIONS_ENDPOINTS="[{name: a, url: 'http://x', headers: {A: [b]}}]",
        REGISTRY_NOTIFICATIONS_ENDPOINTS_0_TIMEOUT="9s",
        REGISTRY_PORTSIDE_GC_GRACE="2h",
        # what Kubernetes and links put beside it
        REGISTRY_PORT="tcp://10.0.0.1:5000",
        REGISTRY_PORT_5000_TCP_ADDR="10.0.0.1",
        REGISTRY_SERVICE_HOST="10.0.0.1",
        PATH="/bin",
    )
    assert found.auth.htpasswd is None
    assert (found.http.addr, found.storage.filesystem.rootdirectory) == (":7000", "/b")
    assert found.storage.delete.enabled and found.proxy.password == "12345"
    (endpoint,) = found.notifications.endpoints
    assert (endpoint.headers, endpoint.timeout) == ({"A": ["b"]}, "9s")
    assert found.portside.gc_grace == "2h"


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("[", {}, "not YAML"),
        ("- a", {}, "expected a mapping"),
        ("storage: {delete: {enabled: maybe}}", {}, "storage.delete.enabled"),
        ("storage: {gcs: {bucket: b}}", {}, "storage.gcs"),
        ("", {"REGISTRY_STORAGE": "azure"}, "storage.azure"),
        ("", {"REGISTRY_STORAGE": "s3"}, "storage.s3.bucket"),
        ("http: {prefix: /x/}", {}, "http.prefix"),
        ("portside: {gc_grace: soon}", {}, "invalid duration"),
        ("portside: {retention: [{keep_pattern: '['}]}", {}, "keep_pattern|regular expression"),
        ("portside: {rights: [{actions: [write]}]}", {}, "'write'"),
        ("portside: {quota: []}", {}, "portside.quota"),
    ],
)
def test_mistakes_are_named(settings: Make, text: str, environ: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        settings(text, **environ)


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("auth: {token: {realm: 'https://auth'}}", {}),
        ("auth: {htpasswd: {realm: x}}", {}),
        ("auth: {htpasswd: {path: /nowhere/users}}", {}),
        ("", {"REGISTRY_AUTH": "htpasswd"}),
        ("", {"REGISTRY_AUTH": "silly"}),
        ("", {"REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL": "a@b"}),
    ],
)
def test_what_was_meant_to_be_closed_never_opens(
    settings: Make, text: str, environ: dict[str, str]
) -> None:
    with pytest.raises(InvalidParameter):
        settings(text, **environ)


def test_durations() -> None:
    with pytest.raises(InvalidParameter, match="invalid duration"):
        seconds("soon")
    assert seconds("1h30m") == 5400


async def test_locations_are_absolute_unless_set_otherwise(serve: Serve) -> None:
    registry = await serve()
    _, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/")
    assert headers["Location"].startswith(f"{registry.base}/v2/a/blobs/uploads/")
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "registry.example"}
    _, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/", headers=proxied)
    assert headers["Location"].startswith("https://registry.example/v2/a/blobs/uploads/")
    registry = await serve(REGISTRY_HTTP_RELATIVEURLS="true")
    _, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/")
    assert headers["Location"].startswith("/v2/a/blobs/uploads/")


async def test_a_second_address_for_those_who_watch(
    serve: Serve, settings: Make, tmp_path: Path
) -> None:
    registry = make_app(
        settings(
            "http: {debug: {addr: ':0', prometheus: {enabled: true, path: /m}}}",
            REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(tmp_path / "watched"),
        )
    )[REGISTRY]
    runner = web.AppRunner(watching_app(registry), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        other = await serve()
        assert b"portside_registry_in_flight_requests" in (await other.ask("GET", f"{base}/m"))[2]
        assert (await other.ask("GET", f"{base}/debug/health"))[0] == 200
        assert (await other.ask("GET", f"{base}/v2/"))[0] == 404
    finally:
        await runner.cleanup()
