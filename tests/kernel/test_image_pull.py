"""Pulling into a real store: what arrives, what is shared, what faults leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakeregistry import FakeRegistry, Fault, fake_registry
from imagekit import build_image, build_index, certificate, digest

from portside.images.service import ImageService
from portside.model.errors import InvalidParameter, NotFound, PortsideError, Unauthorized
from portside.model.platform import Platform
from portside.model.progress import Progress
from portside.model.registryauth import AuthConfig
from portside.registry.client.options import RegistryOptions
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

BIG = os.urandom(300_000)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    async with fake_registry() as found:
        yield found


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    store = Store.open(tmp_path / "root")
    options = RegistryOptions(
        retry_delay=0.01, certs_dir=tmp_path / "certs.d", http_proxy="", https_proxy=""
    )
    images = ImageService(store, options)
    await images.start()
    yield images
    await images.close()
    await store.close()


async def leftovers(service: ImageService) -> dict[str, list[str]]:
    """Everything on the disk that belongs to images, once background deletion is done."""
    store = service.store
    await store.collect()
    found: dict[str, list[str]] = {}
    for _ in range(200):
        found = {
            "blobs": _names(store.blobs.root / "sha256"),
            "ingest": _names(store.blobs.ingest_dir),
            "layers": _names(store.layers.layers_dir),
            "leases": [row[0] for row in store.db.query("SELECT id FROM leases")],
        }
        if not any(found.values()):
            break
        await asyncio.sleep(0.02)
    return found


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


NOTHING: dict[str, list[str]] = {"blobs": [], "ingest": [], "layers": [], "leases": []}


async def test_docker_image_is_equal_and_unpacked(
    service: ImageService, registry: FakeRegistry
) -> None:
    image = build_image(
        [{"a": b"one", "d": None, "d/x": BIG}, {"d/y": b"two", "l -> d/y": None}],
        run={"Cmd": ["sh"], "Env": ["A=1"]},
    )
    registry.add("team/app", "v1", image)
    said: list[Progress] = []
    pulled = await service.pull(f"{registry.host}/team/app:v1", progress=said.append)
    assert pulled is not None
    assert pulled.id == image.id
    assert pulled.repo_tags == (f"{registry.host}/team/app:v1",)
    assert pulled.repo_digests == (f"{registry.host}/team/app@{image.digest}",)
    assert pulled.run.cmd == ("sh",)
    chain = pulled.chain
    assert chain is not None
    top, bottom = service.store.layers.stack(chain)
    diff = service.store.layers.layers_dir / bottom.chain.hex / "diff"
    assert (diff / "d" / "x").read_bytes() == BIG
    diff = service.store.layers.layers_dir / top.chain.hex / "diff"
    assert str((diff / "l").readlink()) == "d/y"
    statuses = [progress.status for progress in said]
    assert statuses[0] == "Pulling from team/app" and said[0].id == "v1"
    assert statuses.count("Pull complete") == 2
    assert statuses[-2:] == [
        f"Digest: {image.digest}",
        f"Status: Downloaded newer image for {registry.host}/team/app:v1",
    ]


async def test_second_pull_asks_only_whether_it_is_current(
    service: ImageService, registry: FakeRegistry
) -> None:
    old, new = build_image([{"a": b"1"}]), build_image([{"a": b"1"}, {"b": b"2"}])
    registry.add("app", "latest", old)
    await service.pull(f"{registry.host}/app")
    gets = registry.count("GET", "/manifests/")
    said: list[Progress] = []
    await service.pull(f"{registry.host}/app", progress=said.append)
    assert registry.count("GET", "/manifests/") == gets
    assert said[-1].status == f"Status: Image is up to date for {registry.host}/app:latest"
    registry.add("app", "latest", new)
    pulled = await service.pull(f"{registry.host}/app")
    assert pulled is not None and pulled.id == new.id
    assert registry.served[next(iter(old.blobs))] == 1, "the shared layer came once"
    assert service.get(old.id).repo_tags == ()


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
async def test_oci_compressions(
    service: ImageService, registry: FakeRegistry, compression: str
) -> None:
    image = build_image([{"x": BIG}], oci=True, compression=compression)
    registry.add("app", "latest", image)
    pulled = await service.pull(f"{registry.host}/app")
    assert pulled is not None and pulled.id == image.id and pulled.size > len(BIG)


async def test_index_gives_the_platform_that_fits(
    service: ImageService, registry: FakeRegistry
) -> None:
    mine, other = build_image([{"m": b"1"}]), build_image([{"o": b"2"}], architecture="s390x")
    mine_architecture = Platform.host().architecture
    index = build_index(
        [
            (other, {"os": "linux", "architecture": "s390x"}),
            (mine, {"os": "linux", "architecture": mine_architecture}),
        ]
    )
    registry.add("multi", "latest", mine, other, index=index)
    pulled = await service.pull(f"{registry.host}/multi")
    assert pulled is not None and pulled.id == digest(index)
    assert pulled.config.architecture == mine_architecture
    assert pulled.repo_digests == (f"{registry.host}/multi@{digest(index)}",)
    pulled = await service.pull(f"{registry.host}/multi", Platform.parse("linux/s390x"))
    assert pulled is not None and pulled.id == digest(index)
    assert pulled.config.architecture == "s390x"
    with pytest.raises(NotFound, match="no matching manifest for linux/mips64le in the manifest"):
        await service.pull(f"{registry.host}/multi", Platform.parse("linux/mips64le"))
    (summary,) = await service.list(manifests=True)
    assert summary.manifests is not None
    assert [m.available for m in summary.manifests] == [True, True]
    assert service.get(other.config_digest).config.architecture == "s390x"


async def test_attestations_are_kept_and_listed(
    service: ImageService, registry: FakeRegistry
) -> None:
    image = build_image([{"m": b"1"}], oci=True)
    attestation = build_image([{"p": b"{}"}], oci=True, architecture="unknown")
    index = json.loads(
        build_index([(image, {"os": "linux", "architecture": Platform.host().architecture})])
    )
    index["manifests"].append(
        {
            "mediaType": attestation.manifest_type,
            "digest": attestation.digest,
            "size": len(attestation.manifest),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.digest,
            },
        }
    )
    registry.add("att", "latest", attestation, image, index=json.dumps(index).encode())
    pulled = await service.pull(f"{registry.host}/att")
    assert pulled is not None and pulled.id == digest(json.dumps(index).encode())
    inspected = await service.inspect(pulled.id, manifests=True)
    assert inspected.manifests is not None
    assert [(m.kind, m.available) for m in inspected.manifests] == [
        ("image", True),
        ("attestation", True),
    ]


async def test_by_digest_and_all_tags(service: ImageService, registry: FakeRegistry) -> None:
    images = [build_image([{"n": str(number).encode()}]) for number in range(3)]
    for number, image in enumerate(images):
        registry.add("many", f"t{number}", image)
    pulled = await service.pull(f"{registry.host}/many@{images[1].digest}")
    assert pulled is not None and pulled.repo_tags == ()
    assert service.get(f"{registry.host}/many@{images[1].digest}").id == images[1].id
    assert await service.pull(f"{registry.host}/many", all_tags=True) is None
    assert [service.get(f"{registry.host}/many:t{n}").id for n in range(3)] == [
        image.id for image in images
    ]


async def test_same_pulls_are_one(service: ImageService, registry: FakeRegistry) -> None:
    image = build_image([{"x": BIG}])
    registry.add("app", "latest", image)
    registry.gate = asyncio.Event()
    said: list[list[Progress]] = [[], [], []]
    tasks = [
        asyncio.create_task(service.pull(f"{registry.host}/app", progress=log.append))
        for log in said
    ]
    while not registry.count("GET", "/blobs/"):
        await asyncio.sleep(0.01)
    tasks[0].cancel()
    registry.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(not isinstance(r, BaseException) for r in results[1:])
    assert set(registry.served.values()) == {1}
    assert said[2][-1].status.startswith("Status: Downloaded newer image")


async def test_two_images_share_one_download(service: ImageService, registry: FakeRegistry) -> None:
    shared = {"x": BIG}
    first, second = build_image([shared, {"1": b""}]), build_image([shared, {"2": b""}])
    registry.add("one", "latest", first)
    registry.add("two", "latest", second)
    await asyncio.gather(service.pull(f"{registry.host}/one"), service.pull(f"{registry.host}/two"))
    layer = next(key for key in first.blobs if key in second.blobs)
    assert registry.served[layer] == 1


async def test_cancelled_pull_stops_and_is_continued(
    service: ImageService, registry: FakeRegistry
) -> None:
    image = build_image([{"x": BIG * 20}], compression="")
    layer = next(iter(image.blobs))
    registry.add("app", "latest", image)
    registry.faults[layer] = Fault("hang", at=4_000_000, times=1)
    task = asyncio.create_task(service.pull(f"{registry.host}/app"))
    await registry.hanging.wait()
    path = service.store.blobs.ingest_dir / layer.replace(":", "-")
    while not path.exists() or path.stat().st_size < 1_000_000:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert path.stat().st_size > 0
    with pytest.raises(NotFound):
        service.get(f"{registry.host}/app")
    await service.pull(f"{registry.host}/app")
    ranged = [h["Range"] for m, p, h in registry.requests if layer in p and "Range" in h]
    assert len(ranged) == 1 and int(ranged[0].strip("bytes=-")) > 0
    assert service.get(f"{registry.host}/app").id == image.id


@pytest.mark.parametrize("kind", ["cut", "truncate"])
@pytest.mark.parametrize("ranges", [True, False])
async def test_broken_connections_are_repaired(
    service: ImageService, registry: FakeRegistry, kind: str, ranges: bool
) -> None:
    image = build_image([{"x": BIG}], compression="")
    layer = next(iter(image.blobs))
    registry.add("app", "latest", image)
    registry.ranges = ranges
    registry.faults[layer] = Fault(kind, at=123_457, times=2)
    pulled = await service.pull(f"{registry.host}/app")
    assert pulled is not None and pulled.id == image.id
    assert registry.served[layer] == 3


async def test_busy_registry_is_asked_again(service: ImageService, registry: FakeRegistry) -> None:
    image = build_image([{"x": b"1"}])
    layer = next(iter(image.blobs))
    registry.add("app", "latest", image)
    registry.faults[layer] = Fault("status", status=503, times=2)
    registry.faults["latest"] = Fault("status", status=429, headers={"Retry-After": "0"}, times=2)
    assert await service.pull(f"{registry.host}/app") is not None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("lie"), "filesystem layer verification failed for digest"),
        (Fault("endless"), "longer than the"),
        (Fault("truncate", at=1000), "broke off after"),
        (Fault("status", status=500), "unexpected status 500"),
        (Fault("status", status=404), "not found"),
        (Fault("status", status=429, headers={"Retry-After": "86400"}), "too many requests"),
    ],
)
async def test_bad_layers_are_refused_and_leave_nothing(
    service: ImageService, registry: FakeRegistry, fault: Fault, message: str
) -> None:
    image = build_image([{"good": b"1"}, {"x": BIG}], compression="")
    bad = max(image.blobs, key=lambda key: len(image.blobs[key]))
    registry.add("app", "latest", image)
    registry.faults[bad] = fault
    registry.ranges = False
    with pytest.raises(PortsideError, match=message):
        await service.pull(f"{registry.host}/app")
    with pytest.raises(NotFound):
        service.get(f"{registry.host}/app")
    assert await service.list(all=True) == []
    if fault.kind != "truncate":  # those bytes wait for the next try
        left = await leftovers(service)
        # the good layer may have been broken off by the bad one's failure: it waits, too
        left["ingest"] = [name for name in left["ingest"] if name == bad.replace(":", "-")]
        assert left == NOTHING
    registry.faults.clear()
    assert await service.pull(f"{registry.host}/app") is not None


async def test_a_lying_manifest_is_refused(service: ImageService, registry: FakeRegistry) -> None:
    image = build_image([{"x": b"1"}])
    registry.add("app", "latest", image)
    registry.faults["latest"] = Fault("lie")
    with pytest.raises(PortsideError, match="manifest verification failed"):
        await service.pull(f"{registry.host}/app")
    assert await leftovers(service) == NOTHING


def changed(image: Any, **fields: Any) -> bytes:
    return json.dumps({**json.loads(image.manifest), **fields}).encode()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda i: b"{", InvalidParameter, "malformed"),
        (lambda i: changed(i, layers=[]), InvalidParameter, "names 1 layers and its manifest 0"),
        (lambda i: changed(i, manifests=[]), InvalidParameter, "both"),
        (
            lambda i: changed(i, artifactType="application/vnd.x"),
            InvalidParameter,
            'Encountered remote "application/vnd.x"',
        ),
        (lambda i: changed(i, config={"digest": "../../x"}), InvalidParameter, "digest"),
    ],
)
async def test_bad_manifests(
    service: ImageService, registry: FakeRegistry, make: Any, error: type, message: str
) -> None:
    image = build_image([{"x": b"1"}])
    registry.add("app", "good", image)
    registry.manifests["app", "latest"] = (image.manifest_type, make(image))
    with pytest.raises(error, match=message):
        await service.pull(f"{registry.host}/app")
    assert await leftovers(service) == NOTHING


async def test_wrong_diff_id_is_refused(service: ImageService, registry: FakeRegistry) -> None:
    image, other = build_image([{"x": b"1"}]), build_image([{"x": b"2"}])
    config = image.config.replace(
        json.loads(image.config)["rootfs"]["diff_ids"][0].encode(),
        json.loads(other.config)["rootfs"]["diff_ids"][0].encode(),
    )
    registry.add("app", "latest", image)
    registry.blobs[digest(config)] = config
    manifest = changed(
        image,
        config={"mediaType": "", "digest": digest(config), "size": len(config)},
    )
    registry.manifests["app", "latest"] = (image.manifest_type, manifest)
    with pytest.raises(PortsideError, match="verification failed"):
        await service.pull(f"{registry.host}/app")
    assert await leftovers(service) == NOTHING


async def test_unknown_images_in_dockers_words(
    service: ImageService, registry: FakeRegistry
) -> None:
    with pytest.raises(NotFound) as caught:
        await service.pull(f"{registry.host}/no/such")
    assert str(caught.value) == (
        f"manifest for {registry.host}/no/such:latest not found: manifest unknown: manifest unknown"
    )
    registry.token = "secret"
    with pytest.raises(NotFound) as caught:
        await service.pull(f"{registry.host}/no/such")
    assert str(caught.value) == (
        f"pull access denied for {registry.host}/no/such, repository does not exist or may "
        "require 'docker login': denied: requested access to the resource is denied"
    )


async def test_registry_down(service: ImageService) -> None:
    with pytest.raises(PortsideError) as caught:
        await service.pull("127.0.0.1:1/x")
    assert str(caught.value) == (
        'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    )


async def test_authentication(service: ImageService, registry: FakeRegistry) -> None:
    image = build_image([{"x": b"1"}])
    registry.add("app", "latest", image)
    good = AuthConfig(username="user", password="password", serveraddress=registry.host)
    registry.basic = ("user", "password")
    with pytest.raises(PortsideError, match='manifests/latest": no basic auth credentials'):
        await service.pull(f"{registry.host}/app")
    with pytest.raises(PortsideError, match="unauthorized: authentication required"):
        await service.pull(f"{registry.host}/app", auth=AuthConfig(username="user", password="x"))
    assert await service.pull(f"{registry.host}/app", auth=good)
    assert (await service.login(good)).status == "Login Succeeded"
    with pytest.raises(Unauthorized, match="401 Unauthorized"):
        await service.login(AuthConfig(username="u", password="x", serveraddress=registry.host))


async def test_bearer_tokens(service: ImageService, registry: FakeRegistry) -> None:
    image = build_image([{"x": b"1"}, {"y": b"2"}])
    registry.add("app", "latest", image)
    registry.token = "secret"
    good = AuthConfig(username="user", password="password", serveraddress=registry.host)
    assert await service.pull(f"{registry.host}/app", auth=good)
    asked = [path for _, path, _ in registry.requests if path.startswith("/token")]
    assert len(asked) <= 2, "tokens are kept for a pull"
    assert "scope=repository%3Aapp%3Apull" in asked[0] and "account=user" in asked[0]
    result = await service.login(good)
    assert result.identity_token == "refresh-me"
    identity = AuthConfig(identitytoken="refresh-me", serveraddress=registry.host)
    await service.remove(f"{registry.host}/app")
    assert await service.pull(f"{registry.host}/app", auth=identity)
    assert registry.count("POST", "/token") == 1
    with pytest.raises(Unauthorized, match="incorrect username or password"):
        await service.login(AuthConfig(username="user", password="x", serveraddress=registry.host))
    await service.remove(f"{registry.host}/app")
    assert await service.pull(f"{registry.host}/app", auth=AuthConfig(registrytoken="secret"))


async def test_mirrors_come_first_and_failing_ones_are_passed_over(
    service: ImageService, registry: FakeRegistry
) -> None:
    image = build_image([{"x": b"1"}])
    async with fake_registry() as mirror:
        mirror.add("library/app", "latest", image)
        registry.add("app", "latest", image)
        service.reconfigure(
            RegistryOptions(
                mirrors=("http://127.0.0.1:1", mirror.url),
                upstream_mirrors={registry.host: (mirror.url,)},
                retry_delay=0.01,
            )
        )
        pulled = await service.pull("app")
        assert pulled is not None and pulled.repo_tags == ("app:latest",)
        auth = AuthConfig(username="user", password="password")
        assert await service.pull(f"{registry.host}/app", auth=auth)
        assert mirror.count("GET", "/v2/app/manifests/latest?ns=127.0.0.1") == 1
        assert registry.count("GET", "/v2/app/manifests/latest") == 1
        assert not any("Authorization" in headers for _, _, headers in mirror.requests)


async def test_tls_needs_a_known_authority(service: ImageService, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    image = build_image([{"x": b"1"}])
    async with fake_registry(context) as registry:
        registry.add("app", "latest", image)
        # as the mirror of another registry it is not excused for being on loopback
        client = service.registries
        from portside.registry.client.connection import Connection
        from portside.registry.client.endpoints import Endpoint

        strict = Endpoint(registry.url, registry.host)
        with pytest.raises(PortsideError) as caught:
            await Connection(client.transport, strict).ping()
        assert str(caught.value) == (
            f'Get "{registry.url}/v2/": tls: failed to verify certificate: '
            "x509: certificate signed by unknown authority"
        )
        assert await service.pull(f"{registry.host}/app"), "loopback is insecure by default"
        certs = client.options.certs_dir / registry.host
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(cert.read_bytes())
        service.reconfigure(client.options)
        await Connection(service.registries.transport, strict).ping()


async def test_plain_http_where_tls_is_wanted(
    service: ImageService, registry: FakeRegistry
) -> None:
    from portside.registry.client.connection import Connection
    from portside.registry.client.endpoints import Endpoint

    url = f"https://{registry.host}"
    with pytest.raises(PortsideError) as caught:
        await Connection(service.registries.transport, Endpoint(url, registry.host)).ping()
    assert str(caught.value) == (
        f'Get "{url}/v2/": http: server gave HTTP response to HTTPS client'
    )


async def test_base_needs_no_network(service: ImageService) -> None:
    first = await service.pull("portside/base")
    again = await service.pull("portside/base:latest")
    assert first is not None and again is not None and first.id == again.id
    assert service.get("portside/base").run.cmd == ("sh",)
