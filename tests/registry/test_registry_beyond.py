"""What the registry has beyond the spec: rights, tokens, quotas, collection, mirror, S3."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from aiohttp import web

from portside.model.digest import Digest
from portside.registry.server.auth import Robots
from portside.registry.server.config import S3, Retention
from portside.registry.server.content import Content, Tag
from portside.registry.server.gc import Collector, expired
from portside.registry.server.names import fits
from portside.registry.server.s3 import S3Storage
from portside.registry.server.storage import FilesystemStorage
from registry.conftest import Client, Serve


def users(tmp_path: Path, **passwords: str) -> str:
    path = tmp_path / "htpasswd"
    lines = [
        f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}"
        for user, password in passwords.items()
    ]
    path.write_text("\n".join(lines))
    return str(path)


def basic(user: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def test_htpasswd(serve: Serve, tmp_path: Path) -> None:
    path = users(tmp_path, alice="secret")
    registry = await serve(REGISTRY_AUTH="htpasswd", REGISTRY_AUTH_HTPASSWD_PATH=path)
    status, headers, _ = await registry.ask("GET", "/v2/")
    assert status == 401
    assert headers["WWW-Authenticate"] == 'Basic realm="Registry Realm"'
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "wrong")))[0] == 401
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "secret")))[0] == 200
    assert (await registry.ask("GET", "/v2/a/tags/list"))[0] == 401
    # the file is followed: a changed password counts at once, the old one no longer
    users(tmp_path, alice="other")
    os.utime(path, (time.time() + 5, time.time() + 5))
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "secret")))[0] == 401
    assert (await registry.ask("GET", "/v2/", headers=basic("alice", "other")))[0] == 200


RIGHTS = """
portside:
  rights:
    - {user: admin, actions: [pull, push, delete]}
    - {user: alice, repository: "team/**", actions: [pull, push]}
    - {user: anonymous, repository: "public/*", actions: [pull]}
    - {repository: "team/**", actions: [pull]}
"""


async def test_rights_by_repository(serve: Serve, tmp_path: Path) -> None:
    path = users(tmp_path, admin="a", alice="b", bob="c")
    registry = await serve(RIGHTS, REGISTRY_AUTH_HTPASSWD_PATH=path)
    admin = Client(registry.base, basic("admin", "a")["Authorization"])
    try:
        await admin.push_image("public/app", "v1")
        await admin.push_image("team/deep/app", "v1")
    finally:
        await admin.session.close()
    upload = "/v2/team/deep/app/blobs/uploads/"
    assert (await registry.ask("GET", "/v2/public/app/manifests/v1"))[0] == 200
    assert (await registry.ask("GET", "/v2/team/deep/app/manifests/v1"))[0] == 401
    for user, password, expected in (("alice", "b", 202), ("bob", "c", 403)):
        headers = basic(user, password)
        assert (await registry.ask("GET", "/v2/team/deep/app/manifests/v1", headers=headers))[
            0
        ] == 200
        assert (await registry.ask("POST", upload, headers=headers))[0] == expected
        assert (await registry.ask("DELETE", "/v2/team/deep/app/manifests/v1", headers=headers))[
            0
        ] == 403
    _, _, body = await registry.ask("GET", "/v2/_catalog")
    assert json.loads(body)["repositories"] == ["public/app"]
    # docker takes its way of identifying itself from /v2/: only tokens serve both sorts
    status, headers, _ = await registry.ask("GET", "/v2/")
    assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer ")
    _, _, body = await registry.ask("GET", "/token", params={"scope": "repository:public/app:pull"})
    token = {"Authorization": f"Bearer {json.loads(body)['token']}"}
    assert (await registry.ask("GET", "/v2/public/app/manifests/v1", headers=token))[0] == 200


async def test_bearer_tokens(serve: Serve, tmp_path: Path) -> None:
    path = users(tmp_path, alice="secret")
    registry = await serve(REGISTRY_AUTH_HTPASSWD_PATH=path, REGISTRY_AUTH_BEARER_ENABLED="true")
    status, headers, _ = await registry.ask("GET", "/v2/app/tags/list")
    challenge = headers["WWW-Authenticate"]
    assert status == 401 and 'scope="repository:app:pull"' in challenge
    realm = challenge.partition('realm="')[2].partition('"')[0]
    scope = {"scope": "repository:app:pull,push", "service": "portside-registry"}
    _, _, body = await registry.ask("GET", realm, params=scope, headers=basic("alice", "secret"))
    token = {"Authorization": f"Bearer {json.loads(body)['token']}"}
    assert (await registry.ask("POST", "/v2/app/blobs/uploads/", headers=token))[0] == 202
    assert (await registry.ask("POST", "/v2/else/blobs/uploads/", headers=token))[0] == 401
    # nobody gets a token for nothing, nor for a pattern
    for asked in ("repository:app:pull", "repository:**:pull", "repository:*:*"):
        _, _, body = await registry.ask("GET", realm, params={"scope": asked})
        empty = {"Authorization": f"Bearer {json.loads(body)['token']}"}
        assert (await registry.ask("GET", "/v2/app/tags/list", headers=empty))[0] == 401
    forged = {"Authorization": "Bearer " + json.loads(body)["token"][:-3] + "AAA"}
    assert (await registry.ask("GET", "/v2/", headers=forged))[0] == 401


async def test_catalog_with_tokens(serve: Serve, tmp_path: Path) -> None:
    """A token for the catalog lists what its holder may pull; others are sent for one."""
    path = users(tmp_path, admin="a", alice="b", bob="c")
    registry = await serve(
        RIGHTS, REGISTRY_AUTH_HTPASSWD_PATH=path, REGISTRY_AUTH_BEARER_ENABLED="true"
    )
    token = Robots(tmp_path / "data/portside/robots.json").create("ci", "secret/*", ("pull",))
    admin = Client(registry.base, basic("admin", "a")["Authorization"])
    try:
        for name in ("public/app", "team/app", "secret/app"):
            await admin.push_image(name, "v1")
    finally:
        await admin.session.close()

    async def listed(user: str, password: str) -> list[str]:
        asked = {"scope": "registry:catalog:*"}
        _, _, body = await registry.ask(
            "GET", "/token", params=asked, headers=basic(user, password)
        )
        bearer = {"Authorization": f"Bearer {json.loads(body)['token']}"}
        _, _, body = await registry.ask("GET", "/v2/_catalog", headers=bearer)
        return [str(name) for name in json.loads(body)["repositories"]]

    assert await listed("admin", "a") == ["public/app", "secret/app", "team/app"]
    assert await listed("alice", "b") == ["team/app"]
    assert await listed("robot$ci", token) == ["secret/app"]
    _, _, body = await registry.ask("GET", "/token", headers=basic("alice", "b"))
    bearer = {"Authorization": f"Bearer {json.loads(body)['token']}"}
    status, headers, _ = await registry.ask("GET", "/v2/_catalog", headers=bearer)
    assert status == 401
    challenge = headers["WWW-Authenticate"]
    assert 'scope="registry:catalog:*",error="insufficient_scope"' in challenge
    # who asks where tokens are issued is asked for a password, not sent there again
    status, headers, _ = await registry.ask("GET", "/token", headers=basic("alice", "x"))
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="Registry Realm"')
    refresh = {"grant_type": "refresh_token", "refresh_token": "x"}
    assert (await registry.ask("POST", "/token", data=refresh))[0] == 401


async def test_robots(serve: Serve, tmp_path: Path) -> None:
    path = users(tmp_path, alice="secret")
    registry = await serve(REGISTRY_AUTH_HTPASSWD_PATH=path)
    robots = Robots(tmp_path / "data/portside/robots.json")
    token = robots.create("ci", "team/*", ("pull", "push"))
    assert (tmp_path / "data/portside/robots.json").stat().st_mode & 0o777 == 0o600
    headers = basic("robot$ci", token)
    assert (await registry.ask("POST", "/v2/team/a/blobs/uploads/", headers=headers))[0] == 202
    assert (await registry.ask("POST", "/v2/else/blobs/uploads/", headers=headers))[0] == 401
    assert (await registry.ask("GET", "/v2/", headers=basic("robot$ci", "guess")))[0] == 401
    assert robots.remove("ci") and not robots.remove("ci")
    assert (await registry.ask("GET", "/v2/", headers=headers))[0] == 401


async def test_quota(serve: Serve) -> None:
    registry = await serve("portside: {quotas: [{repository: small, bytes: 100}]}")
    await registry.push_blob("small", b"x" * 60)
    digest = Digest.of(b"y" * 60)
    status, _, body = await registry.ask(
        "POST", f"/v2/small/blobs/uploads/?digest={digest}", data=b"y" * 60
    )
    assert status == 403 and b"quota exceeded" in body
    await registry.push_blob("large", b"y" * 60)
    status, _, body = await registry.ask(
        "POST", f"/v2/small/blobs/uploads/?mount={digest}&from=large"
    )
    assert status == 403 and b"quota exceeded" in body


async def test_collection_spares_what_is_named_or_young(serve: Serve, tmp_path: Path) -> None:
    registry = await serve()
    await registry.push_image("app", "v1", b"kept")
    gone = await registry.push_image("app", "v2", b"dropped")
    await registry.push_blob("app", b"uploaded, not yet named")
    await registry.ask("DELETE", f"/v2/app/manifests/{gone}")
    content = Content(FilesystemStorage(tmp_path / "data"))
    spared = await Collector(content, grace=3600).run()
    assert (spared.blobs, spared.links) == (0, 0)
    rehearsed = await Collector(content, grace=0).run(dry_run=True)
    assert rehearsed.links == 3
    done = await Collector(content, grace=0).run()
    assert done.links == 3 and done.blobs == 4  # config, layer, manifest of v2; the lone blob
    assert (await registry.ask("GET", f"/v2/app/blobs/{Digest.of(b'kept')}"))[0] == 200
    assert (await registry.ask("GET", f"/v2/app/blobs/{Digest.of(b'dropped')}"))[0] == 404


async def test_collection_while_pushing(serve: Serve, tmp_path: Path) -> None:
    """Pushes that race with collection are whole afterwards, or were refused."""
    registry = await serve("portside: {gc_grace: 1h}")
    content = Content(FilesystemStorage(tmp_path / "data"))
    stop = asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await Collector(content, grace=3600).run(untagged=True)

    task = asyncio.create_task(collect())
    for number in range(15):
        await registry.push_image("busy", f"t{number}", f"content {number}".encode())
    stop.set()
    await task
    for number in range(15):
        layer = Digest.of(f"content {number}".encode())
        assert (await registry.ask("GET", f"/v2/busy/manifests/t{number}"))[0] == 200
        assert (await registry.ask("GET", f"/v2/busy/blobs/{layer}"))[0] == 200


def test_retention_keeps_what_any_rule_keeps() -> None:
    digest = Digest.of(b"")
    now = 1_000_000.0
    tags = [Tag(f"t{i}", digest, now - i * 86400) for i in range(6)] + [
        Tag("release-1", digest, 0.0)
    ]
    rule = Retention(keep_tags=2, keep_days=4, keep_pattern="release-.*")
    assert [tag.name for tag in expired(rule, tags, now)] == ["t4", "t5"]
    assert expired(Retention(), tags, now) == []


async def test_retention_frees_what_only_old_tags_led_to(serve: Serve, tmp_path: Path) -> None:
    registry = await serve()
    old = await registry.push_image("app", "old", b"old layer")
    signature = await registry.push_image(
        "app", "by-digest", b"signature", subject={"mediaType": "x/y", "digest": old, "size": 1}
    )
    child = await registry.push_image("app", "child", b"child layer")
    data = json.dumps({"schemaVersion": 2, "manifests": [{"digest": child}]}).encode()
    assert (await registry.ask("PUT", "/v2/app/manifests/new", data=data))[0] == 201
    for tag in ("by-digest", "child"):
        await registry.ask("DELETE", f"/v2/app/manifests/{tag}")
    content = Content(FilesystemStorage(tmp_path / "data"))
    collector = Collector(content, 0, (Retention(keep_tags=1),))
    for dry_run in (True, False):
        done = await collector.run(dry_run=dry_run)
        assert (done.tags, done.manifests) == (1, 2), dry_run
    for digest, expected in ((old, 404), (signature, 404), (child, 200)):
        assert (await registry.ask("GET", f"/v2/app/manifests/{digest}"))[0] == expected
    for layer, expected in ((b"old layer", 404), (b"signature", 404), (b"child layer", 200)):
        assert (await registry.ask("GET", f"/v2/app/blobs/{Digest.of(layer)}"))[0] == expected


async def test_mirror_of_what_needs_a_login(serve: Serve, tmp_path: Path) -> None:
    path = users(tmp_path, alice="secret")
    upstream = await serve(
        root="upstream", REGISTRY_AUTH_HTPASSWD_PATH=path, REGISTRY_AUTH_BEARER_ENABLED="true"
    )
    pusher = Client(upstream.base, basic("alice", "secret")["Authorization"])
    try:
        await pusher.push_image("app", "v1")
    finally:
        await pusher.session.close()
    mirrors = {}
    for password in ("secret", "wrong"):
        mirrors[password] = await serve(
            root=password,
            REGISTRY_PROXY_REMOTEURL=upstream.base,
            REGISTRY_PROXY_USERNAME="alice",
            REGISTRY_PROXY_PASSWORD=password,
        )
    assert (await mirrors["secret"].ask("GET", "/v2/app/manifests/v1"))[0] == 200
    status, _, body = await mirrors["wrong"].ask("GET", "/v2/app/manifests/v1")
    assert status == 403 and b"upstream" in body


async def test_mirror_goes_on_without_its_client(serve: Serve) -> None:
    """A client that gives up finds the blob the next time: it is fetched once."""
    data, go_on, asked = b"slow" * 1000, asyncio.Event(), asyncio.Event()
    fetches = []

    async def answer(request: web.Request) -> web.Response:
        if "/blobs/" in request.path and request.method == "GET":
            fetches.append(request.path)
            asked.set()
            await go_on.wait()
            return web.Response(body=data)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        mirror = await serve(REGISTRY_PROXY_REMOTEURL=url)
        path = f"/v2/app/blobs/{Digest.of(data)}"
        impatient = asyncio.create_task(mirror.ask("GET", path))
        await asked.wait()
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        patient = asyncio.create_task(mirror.ask("GET", path))
        go_on.set()
        assert (await patient)[2] == data
        assert len(fetches) == 1
    finally:
        await runner.cleanup()


async def test_mirror(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(root="upstream")
    digest = await upstream.push_image("team/app", "v1", b"mirrored")
    mirror = await serve(root="mirror", REGISTRY_PROXY_REMOTEURL=upstream.base)
    status, headers, _ = await mirror.ask("GET", "/v2/team/app/manifests/v1")
    assert (status, headers["Docker-Content-Digest"]) == (200, digest)
    layer = f"/v2/team/app/blobs/{Digest.of(b'mirrored')}"
    status, headers, _ = await mirror.ask("HEAD", layer)
    assert (status, headers["Content-Length"]) == (200, "8")
    assert not list((tmp_path / "mirror").rglob(f"{Digest.of(b'mirrored').hex}/data"))
    bodies = await asyncio.gather(*(mirror.ask("GET", layer) for _ in range(5)))
    assert all(body == b"mirrored" for _, _, body in bodies)
    assert (await mirror.ask("GET", "/v2/team/app/manifests/nope"))[0] == 404
    for method in ("GET", "HEAD"):
        missing = f"/v2/team/app/blobs/{Digest.of(b'missing')}"
        assert (await mirror.ask(method, missing))[0] == 404
    assert (await mirror.ask("POST", "/v2/team/app/blobs/uploads/"))[0] == 405
    newer = await upstream.push_image("team/app", "v1", b"newer")
    _, headers, _ = await mirror.ask("GET", "/v2/team/app/manifests/v1")
    assert headers["Docker-Content-Digest"] == newer
    _, _, body = await mirror.ask("GET", "/v2/team/app/tags/list")
    assert json.loads(body)["tags"] == ["v1"]


async def test_webhooks_arrive_in_order_in_spite_of_failures(serve: Serve) -> None:
    got: list[dict[str, Any]] = []
    answers = iter([500, 200, 500])

    async def take(request: web.Request) -> web.Response:
        if (status := next(answers, 200)) == 200:
            got.extend((await request.json())["events"])
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        endpoint = (
            f"{{name: test, url: '{url}', ignore: {{mediatypes: [application/octet-stream]}}}}"
        )
        registry = await serve(f"notifications: {{endpoints: [{endpoint}]}}")
        digest = await registry.push_image("app", "v1")
        await registry.ask("GET", "/v2/app/manifests/v1")
        await registry.ask("HEAD", f"/v2/app/manifests/{digest}")
        await registry.ask("DELETE", f"/v2/app/manifests/{digest}")
        async with asyncio.timeout(20):
            while len(got) < 5:
                await asyncio.sleep(0.05)
    finally:
        await runner.cleanup()
    assert [(e["action"], e["target"].get("tag", "")) for e in got] == [
        ("push", "v1"), ("pull", "v1"), ("pull", ""), ("delete", ""), ("delete", "v1"),
    ]  # fmt: skip
    pushed = got[0]
    assert pushed["target"]["url"] == f"{registry.base}/v2/app/manifests/{digest}"
    assert pushed["actor"] == {} and pushed["source"]["instanceID"]
    assert pushed["request"]["addr"].startswith("127.0.0.1:")


async def test_metrics_and_audit(serve: Serve, tmp_path: Path) -> None:
    registry = await serve(REGISTRY_PORTSIDE_AUDIT=str(tmp_path / "audit.log"))
    digest = await registry.push_image("app", "v1")
    await registry.ask("DELETE", f"/v2/app/manifests/{digest}")
    entries = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [(e["action"], e["reference"]) for e in entries] == [("push", "v1"), ("delete", digest)]
    _, _, text = await registry.ask("GET", "/metrics")
    assert b'portside_registry_requests_total{method="PUT"' in text
    assert b"portside_registry_received_bytes_total 0.0" not in text


async def test_s3(serve: Serve, tmp_path: Path) -> None:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    try:
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(
            Bucket="images"
        )
        registry = await serve(
            f"storage: {{s3: {{bucket: images, regionendpoint: 'http://{host}:{port}',"
            " accesskey: k, secretkey: s, rootdirectory: reg}}"
        )
        digest = await registry.push_image("app", "v1", b"in a bucket")
        _, headers, _ = await registry.ask("GET", "/v2/app/manifests/v1")
        assert headers["Docker-Content-Digest"] == digest
        layer = f"/v2/app/blobs/{Digest.of(b'in a bucket')}"
        _, _, body = await registry.ask("GET", layer, headers={"Range": "bytes=3-"})
        assert body == b"a bucket"
        _, _, body = await registry.ask("GET", "/v2/_catalog")
        assert json.loads(body)["repositories"] == ["app"]
        assert (await registry.ask("DELETE", f"/v2/app/manifests/{digest}"))[0] == 202
        assert (await registry.ask("GET", "/v2/app/manifests/v1"))[0] == 404
        bucket = S3(
            bucket="images", regionendpoint=f"http://{host}:{port}",
            accesskey="k", secretkey="s", rootdirectory="reg",
        )  # fmt: skip
        done = await Collector(Content(S3Storage(bucket)), grace=0).run()
        assert (done.links, done.blobs) == (2, 3)
        assert (await registry.ask("GET", layer))[0] == 404
    finally:
        server.stop()


def test_patterns() -> None:
    assert fits("**", "a/b/c") and fits("a/*", "a/b") and not fits("a/*", "a/b/c")
    assert fits("a/**", "a/b/c") and not fits("a", "ab") and fits("a+", "a+")
