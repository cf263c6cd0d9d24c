"""Attacks on the registry server: tokens, logins, headers, other sites, other users.

Classes: tokens without end or for nobody (RFC 6750, 5.2), user enumeration by time
(CWE-208), header injection through a proxy's headers (CWE-644), cross-site requests
(CWE-352), a site's name for this address (DNS rebinding, CWE-350), settings that fail open
(CWE-636), files of others (CWE-732).
"""

# ruff: noqa: F811

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from aiohttp import ClientConnectionError
from imagekit import free_port
from registry.conftest import Client, Serve, serve  # noqa: F401 (a fixture)

from portside.model.errors import InvalidParameter
from portside.registry.server.auth import Robots
from portside.registry.server.config import load
from portside.serving import htpasswd


def users(tmp_path: Path, **passwords: str) -> str:
    path = tmp_path / "htpasswd"
    entries = {
        user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        for user, password in passwords.items()
    }
    path.write_text("".join(f"{user}:{entry}\n" for user, entry in entries.items()))
    return str(path)


def basic(user: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def token_of(registry: Client, headers: dict[str, str], scope: str) -> dict[str, str]:
    status, _, body = await registry.ask("GET", "/token", params={"scope": scope}, headers=headers)
    assert status == 200, body
    return {"Authorization": f"Bearer {json.loads(body)['token']}"}


async def test_a_token_does_not_renew_itself(serve: Serve, tmp_path: Path) -> None:
    registry = await serve(
        REGISTRY_AUTH_HTPASSWD_PATH=users(tmp_path, alice="secret"),
        REGISTRY_AUTH_BEARER_ENABLED="true",
        REGISTRY_AUTH_BEARER_EXPIRATION="2",
    )
    scope = "repository:app:pull,push"
    token = await token_of(registry, basic("alice", "secret"), scope)
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=token))[0] == 202
    for method, given in (
        ("GET", {"params": {"scope": scope}}),
        ("POST", {"data": {"scope": scope}}),
    ):
        status, headers, _ = await registry.ask(method, "/token", headers=token, **given)
        assert status == 401 and headers["WWW-Authenticate"].startswith("Basic ")
    claims = jwt.decode(
        token["Authorization"].removeprefix("Bearer "), options={"verify_signature": False}
    )
    while time.time() <= claims["exp"]:
        await asyncio.sleep(0.1)
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=token))[0] == 401


@pytest.mark.parametrize("change", ["deleted", "another password"])
async def test_a_token_ends_with_its_user(serve: Serve, tmp_path: Path, change: str) -> None:
    registry = await serve(
        REGISTRY_AUTH_HTPASSWD_PATH=users(tmp_path, alice="secret", bob="b"),
        REGISTRY_AUTH_BEARER_ENABLED="true",
    )
    robots = Robots(tmp_path / "data/portside/robots.json")
    key = robots.create("ci", "app", ("pull", "push"))
    scope = "repository:app:pull,push"
    alice = await token_of(registry, basic("alice", "secret"), scope)
    robot = await token_of(registry, basic("robot$ci", key), scope)
    bob = await token_of(registry, basic("bob", "b"), scope)
    for token in (alice, robot, bob):
        assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=token))[0] == 202
    path = Path(tmp_path, "htpasswd")
    kept = [line for line in path.read_text().splitlines() if line.startswith("bob:")]
    if change == "deleted":
        robots.remove("ci")
    else:
        robots.create("ci", "app", ("pull", "push"))
        users(tmp_path, alice="other")
        kept = [*path.read_text().splitlines(), *kept]
    path.write_text("\n".join(kept))
    for token in (alice, robot):
        assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=token))[0] == 401
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=bob))[0] == 202


async def test_forged_tokens(serve: Serve, tmp_path: Path) -> None:
    """None, another key, another audience, the empty key, no end, a pattern as a name."""
    state = tmp_path / "data/portside"
    state.mkdir(parents=True)
    (state / "token.key").touch()  # as a full disk or a crash leaves it
    registry = await serve(
        REGISTRY_AUTH_HTPASSWD_PATH=users(tmp_path, alice="secret"),
        REGISTRY_AUTH_BEARER_ENABLED="true",
    )
    key = (state / "token.key").read_text()
    assert len(key) >= 64
    good = await token_of(registry, basic("alice", "secret"), "repository:app:pull,push")
    claims = jwt.decode(
        good["Authorization"].removeprefix("Bearer "), options={"verify_signature": False}
    )
    without_end = {name: value for name, value in claims.items() if name != "exp"}
    forged = [
        jwt.encode(claims, None, "none"),
        jwt.encode(claims, "0" * 64, "HS256"),
        jwt.encode(claims, key, "HS512"),
        jwt.encode({**claims, "aud": "other"}, key, "HS256"),
        jwt.encode({**claims, "sub": "root"}, key, "HS256"),
        jwt.encode(without_end, key, "HS256"),
    ]
    for token in forged:
        headers = {"Authorization": f"Bearer {token}"}
        assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=headers))[0] == 401
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=good))[0] == 202


async def test_metrics_need_rights(serve: Serve, tmp_path: Path) -> None:
    rights = """
portside:
  rights:
    - {user: prometheus, actions: [pull]}
    - {user: alice, repository: "secret/*", actions: []}
    - {user: alice, actions: [pull, push]}
    - {user: anonymous, repository: "public/*", actions: [pull]}
    - {user: bob, repository: "team/*", actions: [pull]}
"""
    path = users(tmp_path, prometheus="p", alice="a", bob="b")
    registry = await serve(rights, REGISTRY_AUTH_HTPASSWD_PATH=path)
    robots = Robots(tmp_path / "data/portside/robots.json")
    narrow, wide = robots.create("narrow", "team/*", ("pull",)), robots.create("w", "**", ("pull",))
    bearer = await token_of(registry, basic("prometheus", "p"), "repository:team/a:pull")
    expected: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        (bearer, 401),
        (basic("bob", "b"), 403),
        (basic("alice", "a"), 403),
        (basic("robot$narrow", narrow), 403),
        (basic("robot$w", wide), 200),
        (basic("prometheus", "p"), 200),
    ]
    for headers, status in expected:
        assert (await registry.ask("GET", "/metrics", headers=headers))[0] == status, headers


BAD_HOSTS = ['a"b', "a b", "a/b", "a\tb", "user@a", "a:b", "[::1", "a;b", "", "a\\b", "<a>"]


@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_a_proxys_headers_are_not_believed_blindly(
    serve: Serve,
    tmp_path: Path,
    host: str,
) -> None:
    registry = await serve(
        REGISTRY_AUTH_HTPASSWD_PATH=users(tmp_path, alice="secret"),
        REGISTRY_AUTH_BEARER_ENABLED="true",
    )
    escaped = host.replace("\\", "\\\\").replace('"', '\\"')
    for headers in (
        {"X-Forwarded-Host": host},
        {"X-Forwarded-Proto": f"javascript:{host}"},
        {"Forwarded": f'host="{escaped}";proto="{escaped}"'},
    ):
        status, answer, _ = await registry.ask("GET", "/v2/", headers=headers)
        realm = f'Bearer realm="{registry.base}/token",service="portside-registry"'
        assert (status, answer["WWW-Authenticate"]) == (401, realm), headers


async def test_a_host_that_is_none(serve: Serve) -> None:
    registry = await serve()
    for host in ('a"b', "a b", "a/../b", "a@b"):
        assert (await registry.ask("POST", "/v2/a/blobs/uploads/", headers={"Host": host}))[
            0
        ] == 400


async def test_what_proxies_report(serve: Serve) -> None:
    registry = await serve()
    for headers, base in (
        ({"Forwarded": "for=1.2.3.4;proto=https;host=reg.example"}, "https://reg.example"),
        (
            {"Forwarded": 'host="[2001:db8::1]:5000";proto=HTTPS, host=b'},
            "https://[2001:db8::1]:5000",
        ),
        ({"Forwarded": "host=a.example", "X-Forwarded-Host": "b.example"}, "http://a.example"),
        ({"Forwarded": "for=_hidden", "X-Forwarded-Host": "b.example"}, registry.base),
        (
            {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "a.b:8443, c"},
            "https://a.b:8443",
        ),
    ):
        _, answer, _ = await registry.ask("POST", "/v2/a/blobs/uploads/", headers=headers)
        assert answer["Location"].startswith(f"{base}/v2/a/blobs/uploads/"), headers


async def test_a_refused_login_does_the_same_work_for_everybody(
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the user exists, has an entry of another kind, or there are no users at all."""
    compared: list[bytes] = []
    real = htpasswd._compare

    def counting(secret: bytes, entry: bytes) -> bool:
        compared.append(entry)
        return real(secret, entry)

    monkeypatch.setattr(htpasswd, "_compare", counting)
    path = Path(users(tmp_path, alice="secret"))
    with path.open("a") as file:
        file.write("old:$apr1$x$y\nbroken:$2y$10$short\n")
    registry = await serve(REGISTRY_AUTH_HTPASSWD_PATH=str(path))
    for user in ("alice", "nobody", "old", "broken", ""):
        compared.clear()
        assert (await registry.ask("GET", "/v2/", headers=basic(user, "guess")))[0] == 401
        assert len(compared) == 1, user
    # the decoy is somebody else's entry: its own password opens nothing
    assert (await registry.ask("GET", "/v2/", headers=basic("nobody", "secret")))[0] == 401
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "secret")))[0] == 200
    path.write_text("")
    compared.clear()
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "secret")))[0] == 401
    assert len(compared) == 1 and compared[0].startswith(b"$2b$10$")


async def test_pages_of_other_sites_change_nothing(serve: Serve) -> None:
    registry = await serve()
    await registry.push_image("app", "v1")
    evil: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
        {"Origin": registry.base.replace("127.0.0.1", "localhost")},
        {"Origin": registry.base + "1"},
    ]
    tries = [
        ("POST", "/v2/app/blobs/uploads/"),
        ("POST", "/token"),
        ("DELETE", "/v2/app/manifests/v1"),
        ("DELETE", "/portside/registry/tags/app/v1"),
        ("PUT", "/v2/app/manifests/v2"),
    ]
    for headers in evil:
        for method, path in tries:
            assert (await registry.ask(method, path, headers=headers))[0] == 403, (headers, path)
    assert (await registry.ask("GET", "/v2/app/manifests/v1"))[0] == 200
    for own in ({"Origin": registry.base}, {"Sec-Fetch-Site": "same-origin"}):
        assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=own))[0] == 202
    path = "/portside/registry/tags/app/v1"
    assert (await registry.ask("DELETE", path, headers={"Origin": registry.base}))[0] == 202


async def test_an_origin_that_the_settings_name(serve: Serve) -> None:
    named = "http: {headers: {Access-Control-Allow-Origin: ['https://ui.example']}}"
    registry = await serve(named)
    ui = {"Origin": "https://ui.example", "Sec-Fetch-Site": "cross-site"}
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=ui))[0] == 202
    everybody = await serve("http: {headers: {Access-Control-Allow-Origin: ['*']}}", root="b")
    assert (await everybody.ask("POST", "/v2/app/blobs/uploads/", headers=ui))[0] == 403
    assert (await everybody.ask("DELETE", "/v2/app/manifests/v1", headers=ui))[0] == 404


@pytest.mark.parametrize(
    "name",
    ["REGISTRY_HTPASSWD", "REGISTRY_HTPASSWD_PATH", "REGISTRY_AUTHENTICATION", "REGISTRY_AUHT",
     "REGISTRY_AUTH_TOKEN_REALM", "REGISTRY_AUTHENTICATION_HTPASSWD_PATH", "REGISTRY_PASSWORD",
     "REGISTRY_HTTP_TLSKEY_CERTIFICATE", "REGISTRY_HTTP_AUTH", "REGISTRY_STORAGE_READONLY",
     "REGISTRY_STORAGE_MAINTENANCE_READ_ONLY_READONLY", "REGISTRY_PORTSIDE_RIGHT",
     "REGISTRY_BASIC_AUTH_USER", "REGISTRY_X_Y_BEARER", "REGISTRY_RIGHTS"],
)  # fmt: skip
def test_an_unknown_variable_that_reads_like_authentication_stops(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"registry settings: .*"):
        load(None, {name: "true"})


def test_an_unknown_key_of_a_file_that_reads_like_authentication_stops(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    for text in ("authentication: {htpasswd: {path: /a}}", "http: {basicauth: x}", "users: [a]"):
        path.write_text(text)
        with pytest.raises(InvalidParameter, match="restricted access"):
            load(str(path), {})


def test_variables_of_services_stop_nothing() -> None:
    """Those of links and of Kubernetes services named registry, registry-auth, registry-token."""
    load(
        None,
        {
            "REGISTRY_PORT": "tcp://10.0.0.1:5000",
            "REGISTRY_NAME": "/web/registry",
            "REGISTRY_ENV_PASSWORD": "x",
            "REGISTRY_AUTH_SERVICE_HOST": "10.0.0.2",
            "REGISTRY_AUTH_PORT_5001_TCP_ADDR": "10.0.0.2",
            "REGISTRY_TOKEN_SERVICE_PORT_HTTPS": "443",
            "REGISTRY_SOMETHING": "x",
        },
    )


@asynccontextmanager
async def process_of(root: Path, **environ: str) -> AsyncIterator[tuple[Client, Any]]:
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": address,
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root),
        **environ,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "portside.registry.server", "serve"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, umask=0o022,
    )  # fmt: skip
    client = Client(f"http://{address}")
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    await client.ask("GET", "/v2/")
                    break
                except ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield client, process
    finally:
        await client.session.close()
        process.kill()
        process.wait()


async def test_nobody_else_reads_the_storage(tmp_path: Path) -> None:
    root = tmp_path / "data"
    environ = {
        "REGISTRY_AUTH_HTPASSWD_PATH": users(tmp_path, alice="a"),
        "REGISTRY_AUTH_BEARER_ENABLED": "true",
        "REGISTRY_PORTSIDE_AUDIT": str(tmp_path / "log" / "audit"),
    }
    async with process_of(root, **environ) as (registry, _):
        alice = Client(registry.base, basic("alice", "a")["Authorization"])
        try:
            await alice.push_image("app", "v1")
            await alice.ask("POST", "/v2/app/blobs/uploads/")
        finally:
            await alice.session.close()
        found = [root, tmp_path / "log", *root.rglob("*"), *(tmp_path / "log").rglob("*")]
        assert len(found) > 20
        for path in found:
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path


async def test_killed_uploads_leave_no_temporary_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    left = root / "docker/registry/v2/blobs/sha256/ab" / ("ab" * 32) / ".tmp-abc"
    async with process_of(root) as (_, process):
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half")  # what a kill between two steps leaves
        async with process_of(root) as (second, _):
            await second.push_image("app", "v1")
        assert left.exists()  # another server that runs may be writing it
        process.send_signal(signal.SIGKILL)
        process.wait()
    async with process_of(root) as (registry, _):
        async with asyncio.timeout(60):
            while left.exists():
                await asyncio.sleep(0.05)
        assert (await registry.ask("GET", "/v2/app/manifests/v1"))[0] == 200


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ("", "attacker.example", 421),
        ("", "attacker.example:5000", 421),
        ("", "127.0.0.1.attacker.example", 421),
        ("", "localhost.attacker.example", 421),
        ("", "registry.example:443", 200),  # http.host
        ("", "mirror.example.", 200),  # portside.hosts
        ("", "localhost:5000", 200),
        ("", "a.localhost", 200),
        ("", "127.0.0.1:5000", 200),
        ("", "[::1]:5000", 200),
        ("", "192.0.2.7", 200),
        ("\n  rights: [{user: anonymous, actions: [pull]}]", "attacker.example", 421),
        ("\n  rights: [{user: alice, actions: [pull]}]", "attacker.example", 401),
    ],
)
async def test_a_sites_own_name_for_this_address_is_not_answered(
    serve: Serve, settings: str, host: str, status: int
) -> None:
    """A page whose name resolves to loopback reads what everybody on this machine may read."""
    registry = await serve(
        "http: {addr: '127.0.0.1:5000', host: 'https://registry.example'}\n"
        f"portside:\n  hosts: [Mirror.example]{settings}\n"
    )
    for path in ("/v2/", "/v2/_catalog"):
        found, _, body = await registry.ask("GET", path, headers={"Host": host})
        assert found in (status, 401 if status == 200 else status), body
    assert (await registry.ask("GET", "/", headers={"Host": host}))[0] != 500


async def test_names_do_not_matter_where_others_come_in_anyway(serve: Serve) -> None:
    for addr in (":5000", "0.0.0.0:5000"):
        registry = await serve(f"http: {{addr: '{addr}'}}")
        assert (await registry.ask("GET", "/v2/", headers={"Host": "any.example"}))[0] == 200
