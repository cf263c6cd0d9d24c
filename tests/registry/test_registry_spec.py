"""The distribution-spec, request by request, over HTTP."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from portside.model.digest import Digest
from portside.registry.server.content import Content
from portside.registry.server.gc import Collector
from portside.registry.server.storage import FilesystemStorage
from registry.conftest import OCI_MANIFEST, Serve


def code(body: bytes) -> str:
    return str(json.loads(body)["errors"][0]["code"])


async def test_pull_what_was_pushed(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_image("team/app", "v1", b"hello")
    for reference in ("v1", digest):
        status, headers, body = await registry.ask("GET", f"/v2/team/app/manifests/{reference}")
        assert status == 200
        assert headers["Content-Type"] == OCI_MANIFEST
        assert headers["Docker-Content-Digest"] == digest == Digest.of(body)
        status, headers, body = await registry.ask("HEAD", f"/v2/team/app/manifests/{reference}")
        assert (status, body) == (200, b"")
        assert headers["Docker-Content-Digest"] == digest
    layer = Digest.of(b"hello")
    status, headers, body = await registry.ask("GET", f"/v2/team/app/blobs/{layer}")
    assert (status, body) == (200, b"hello")
    status, headers, _ = await registry.ask("HEAD", f"/v2/team/app/blobs/{layer}")
    assert (status, headers["Content-Length"]) == (200, "5")


async def test_ranges_and_conditions(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_blob("a/b", b"0123456789")
    path = f"/v2/a/b/blobs/{digest}"
    for asked, expected in (("2-4", b"234"), ("7-", b"789"), ("-3", b"789"), ("5-99", b"56789")):
        status, headers, body = await registry.ask("GET", path, headers={"Range": f"bytes={asked}"})
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith("/10")
    status, headers, _ = await registry.ask("GET", path, headers={"Range": "bytes=10-"})
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    status, headers, body = await registry.ask("GET", path, headers={"Range": "bytes=0-99"})
    assert (status, body, headers["Content-Range"]) == (206, b"0123456789", "bytes 0-9/10")
    for tags in (f'"{digest}"', f'W/"{digest}"', "*", f'"x", "{digest}"'):
        status, headers, body = await registry.ask("GET", path, headers={"If-None-Match": tags})
        assert (status, body, headers["ETag"]) == (304, b"", f'"{digest}"')
    for tag, expected in ((digest, 206), ("other", 200)):
        asked = {"Range": "bytes=2-4", "If-Range": f'"{tag}"'}
        assert (await registry.ask("GET", path, headers=asked))[0] == expected


async def test_chunked_upload_resumes_and_keeps_order(serve: Serve) -> None:
    registry = await serve()
    status, headers, _ = await registry.ask("POST", "/v2/a/blobs/uploads/")
    assert status == 202
    where = headers["Location"]
    status, headers, _ = await registry.ask(
        "PATCH", where, data=b"01234", headers={"Content-Range": "0-4"}
    )
    assert (status, headers["Range"]) == (202, "0-4")
    status, headers, body = await registry.ask(
        "PATCH", where, data=b"xx", headers={"Content-Range": "7-8"}
    )
    assert (status, headers["Range"], code(body)) == (416, "0-4", "RANGE_INVALID")
    status, headers, _ = await registry.ask("GET", where)
    assert (status, headers["Range"]) == (204, "0-4")
    digest = Digest.of(b"0123456789")
    status, headers, _ = await registry.ask("PUT", f"{where}?digest={digest}", data=b"56789")
    assert (status, headers["Docker-Content-Digest"]) == (201, digest)
    status, _, body = await registry.ask("GET", f"/v2/a/blobs/{digest}")
    assert (status, body) == (200, b"0123456789")
    assert (await registry.ask("GET", where))[0] == 404


async def test_upload_survives_the_process(serve: Serve) -> None:
    first = await serve()
    _, headers, _ = await first.ask("POST", "/v2/a/blobs/uploads/")
    where = headers["Location"]
    await first.ask("PATCH", where, data=b"half")
    second = await serve()  # the same data, another application that knows nothing of it
    status, headers, _ = await second.ask("GET", where)
    assert (status, headers["Range"]) == (204, "0-3")
    digest = Digest.of(b"half and half")
    status, _, _ = await second.ask("PUT", f"{where}?digest={digest}", data=b" and half")
    assert status == 201


async def test_wrong_digest_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    registry = await serve()
    wrong = Digest.of(b"something else")
    status, _, body = await registry.ask(
        "POST", f"/v2/a/blobs/uploads/?digest={wrong}", data=b"data"
    )
    assert (status, code(body)) == (400, "DIGEST_INVALID")
    assert (await registry.ask("HEAD", f"/v2/a/blobs/{wrong}"))[0] == 404
    assert not list((tmp_path / "data/portside/uploads").iterdir())


async def test_sha512(serve: Serve) -> None:
    registry = await serve()
    digest = f"sha512:{hashlib.sha512(b'long').hexdigest()}"
    status, _, body = await registry.ask(
        "POST", f"/v2/a/blobs/uploads/?digest={digest}", data=b"long"
    )
    assert status == 201, body
    assert (await registry.ask("GET", f"/v2/a/blobs/{digest}"))[2] == b"long"


async def test_mount_only_what_the_other_repository_has(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_blob("one", b"shared")
    status, _, _ = await registry.ask("POST", f"/v2/two/blobs/uploads/?mount={digest}&from=one")
    assert status == 201
    assert (await registry.ask("HEAD", f"/v2/two/blobs/{digest}"))[0] == 200
    # bytes that are stored, but not in the repository that is named
    status, headers, _ = await registry.ask(
        "POST", f"/v2/three/blobs/uploads/?mount={digest}&from=nobody"
    )
    assert status == 202 and "uploads" in headers["Location"]
    assert (await registry.ask("HEAD", f"/v2/three/blobs/{digest}"))[0] == 404
    for query in (f"mount={digest}&from=BAD", "mount=nonsense&from=one", "mount="):
        status, headers, _ = await registry.ask("POST", f"/v2/three/blobs/uploads/?{query}")
        assert status == 202 and "uploads" in headers["Location"], query


async def test_mount_from_wherever_it_is(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_blob("one", b"shared")
    status, headers, _ = await registry.ask("POST", f"/v2/two/blobs/uploads/?mount={digest}")
    assert (status, headers["Location"]) == (201, f"{registry.base}/v2/two/blobs/{digest}")
    assert (await registry.ask("GET", f"/v2/two/blobs/{digest}"))[2] == b"shared"
    for name in ("one", "two"):
        await registry.ask("DELETE", f"/v2/{name}/blobs/{digest}")
    status, _, _ = await registry.ask("POST", f"/v2/three/blobs/uploads/?mount={digest}")
    assert status == 202  # stored still, but in no repository


async def test_manifest_never_names_a_missing_blob(serve: Serve) -> None:
    registry = await serve()
    missing = Digest.of(b"never pushed")
    config = await registry.push_blob("a", b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "x/y", "digest": config, "size": 2},
        "layers": [{"mediaType": "x/y", "digest": missing, "size": 5}],
    }
    data = json.dumps(manifest).encode()
    status, _, body = await registry.ask("PUT", "/v2/a/manifests/v1", data=data)
    assert (status, code(body)) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert json.loads(body)["errors"][0]["detail"] == {"digest": str(missing)}
    assert (await registry.ask("GET", "/v2/a/manifests/v1"))[0] == 404


async def test_bad_manifests_and_names(serve: Serve) -> None:
    registry = await serve()
    for data in (b"", b"{", b"[]", b'{"schemaVersion": 1}', b'{"schemaVersion": 2}'):
        status, _, body = await registry.ask("PUT", "/v2/a/manifests/v1", data=data)
        assert (status, code(body)) == (400, "MANIFEST_INVALID"), data
    status, _, body = await registry.ask("PUT", "/v2/a/manifests/v1", data=b" " * (5 << 20))
    assert (status, code(body)) == (413, "MANIFEST_INVALID")
    for method, path, expected in (
        ("GET", "/v2/UPPER/tags/list", (404, "NAME_INVALID")),
        ("POST", "/v2/UPPER/blobs/uploads/", (404, "NAME_INVALID")),
        ("GET", "/v2/a/manifests/.bad", (404, "MANIFEST_UNKNOWN")),
        ("DELETE", "/v2/a/manifests/.bad", (404, "MANIFEST_UNKNOWN")),
        ("PUT", "/v2/a/manifests/.bad", (400, "TAG_INVALID")),
        ("PUT", "/v2/a/manifests/sha256:nonsense", (400, "DIGEST_INVALID")),
        ("GET", "/v2/a/blobs/sha256:abc", (400, "DIGEST_INVALID")),
        ("GET", "/v2/a/referrers/sha256:abc", (400, "DIGEST_INVALID")),
        ("GET", "/v2/nope/manifests/v1", (404, "MANIFEST_UNKNOWN")),
        ("GET", "/v2/nope/tags/list", (404, "NAME_UNKNOWN")),
        ("PATCH", "/v2/a/manifests/v1", (405, "UNSUPPORTED")),
    ):
        data = IMAGE if method == "PUT" else None
        status, headers, body = await registry.ask(method, path, data=data, headers=OCI)
        assert (status, code(body)) == expected, (method, path)
        assert headers["Content-Type"] == "application/json; charset=utf-8"


IMAGE = b'{"schemaVersion": 2, "config": {"digest": "sha256:%s", "size": 2}}' % (
    hashlib.sha256(b"{}").hexdigest().encode()
)
OCI = {"Content-Type": OCI_MANIFEST}


async def test_a_manifest_is_what_its_sender_says(serve: Serve) -> None:
    """No document may be an image to one reader and an index to another."""
    registry = await serve()
    config = {"digest": await registry.push_blob("a", b"{}"), "size": 2}
    index = "application/vnd.oci.image.index.v1+json"
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    cases: list[tuple[dict[str, object], str, int]] = [
        ({"config": config}, OCI_MANIFEST, 201),
        ({"config": config, "mediaType": OCI_MANIFEST}, OCI_MANIFEST, 201),
        ({"config": config, "mediaType": OCI_MANIFEST}, "", 201),
        ({"config": config, "mediaType": OCI_MANIFEST}, docker, 400),
        ({"config": config}, docker, 400),
        ({"config": config}, "application/json", 400),
        ({"config": config, "mediaType": "text/plain"}, "", 400),
        ({"config": config, "manifests": []}, OCI_MANIFEST, 400),
        ({"manifests": [], "layers": []}, index, 400),
        ({"manifests": []}, index, 201),
    ]
    for fields, content_type, expected in cases:
        data = json.dumps({"schemaVersion": 2, **fields}).encode()
        headers = {"Content-Type": content_type or "application/octet-stream"}
        status, _, body = await registry.ask(
            "PUT", "/v2/a/manifests/v1", data=data, headers=headers
        )
        assert status == expected, (fields, content_type, body)


async def test_layers_kept_elsewhere(serve: Serve, tmp_path: Path) -> None:
    """One with URLs of a kind not to be distributed may be missing; if it is here, it stays."""
    registry = await serve()
    config = {"mediaType": "x/y", "digest": await registry.push_blob("a", b"{}"), "size": 2}
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    layer = {"mediaType": kind, "digest": str(Digest.of(b"foreign")), "size": 7}
    elsewhere = {**layer, "urls": ["https://example.org/layer"]}
    for given, expected in (
        (layer, 404),
        ({**elsewhere, "mediaType": "application/vnd.oci.image.layer.v1.tar"}, 404),
        (elsewhere, 201),
    ):
        data = json.dumps({"schemaVersion": 2, "config": config, "layers": [given]}).encode()
        status, _, _ = await registry.ask("PUT", "/v2/a/manifests/v1", data=data, headers=OCI)
        assert status == expected, given
    digest = await registry.push_blob("a", b"foreign")
    await Collector(Content(FilesystemStorage(tmp_path / "data")), grace=0).run()
    assert (await registry.ask("GET", f"/v2/a/blobs/{digest}"))[0] == 200


async def test_push_by_digest_with_tags(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_image("a", "first")
    _, _, data = await registry.ask("GET", f"/v2/a/manifests/{digest}")
    path = f"/v2/a/manifests/{digest}?tag=one&tag=two"
    status, headers, _ = await registry.ask("PUT", path, data=data, headers=OCI)
    assert (status, headers.getall("OCI-Tag")) == (201, ["one", "two"])
    for tag in ("one", "two"):
        _, headers, _ = await registry.ask("HEAD", f"/v2/a/manifests/{tag}")
        assert headers["Docker-Content-Digest"] == digest
    path = f"/v2/a/manifests/{digest}?tag=good&tag=.bad"
    status, _, body = await registry.ask("PUT", path, data=data, headers=OCI)
    assert (status, code(body)) == (400, "TAG_INVALID")
    assert (await registry.ask("GET", "/v2/a/manifests/good"))[0] == 404


async def test_headers_of_every_answer(serve: Serve) -> None:
    registry = await serve("http: {headers: {Access-Control-Allow-Origin: ['*']}}")
    digest = await registry.push_blob("a", b"x" * 100_000)
    for method, path in (
        ("GET", "/v2/"),
        ("GET", f"/v2/a/blobs/{digest}"),
        ("HEAD", f"/v2/a/blobs/{digest}"),
        ("GET", "/v2/a/manifests/none"),
        ("POST", "/v2/a/blobs/uploads/"),
        ("GET", "/elsewhere"),
    ):
        _, headers, _ = await registry.ask(method, path)
        assert headers["Docker-Distribution-Api-Version"] == "registry/2.0", path
        assert headers["Access-Control-Allow-Origin"] == "*", path
    status, headers, _ = await registry.ask("OPTIONS", "/v2/a/manifests/none")
    assert status == 200 and "DELETE" in headers["Allow"]


async def test_paging(serve: Serve) -> None:
    registry = await serve()
    for tag in ("c", "a", "e", "b", "d"):
        await registry.push_image("x/y", tag)
    status, headers, body = await registry.ask("GET", "/v2/x/y/tags/list?n=2")
    seen = json.loads(body)["tags"]
    while "Link" in headers:
        path = headers["Link"].partition("<")[2].partition(">")[0]
        status, headers, body = await registry.ask("GET", path)
        assert status == 200
        seen += json.loads(body)["tags"]
    assert seen == ["a", "b", "c", "d", "e"]
    for wrong in ("-1", "x", "1.5", "²"):
        status, _, body = await registry.ask("GET", f"/v2/x/y/tags/list?n={wrong}")
        assert (status, code(body)) == (400, "PAGINATION_NUMBER_INVALID")
    assert json.loads((await registry.ask("GET", "/v2/x/y/tags/list?n=0"))[2])["tags"] == []
    await registry.push_image("x/y", "B2")  # the order is that of letters, not of bytes
    _, _, body = await registry.ask("GET", "/v2/x/y/tags/list?n=3&last=a")
    assert json.loads(body)["tags"] == ["b", "B2", "c"]
    await registry.push_image("other", "v1")
    _, headers, body = await registry.ask("GET", "/v2/_catalog?n=1")
    assert json.loads(body)["repositories"] == ["other"] and "Link" in headers


async def test_referrers_with_filter(serve: Serve, tmp_path: Path) -> None:
    registry = await serve()
    subject = await registry.push_image("app", "v1")
    described = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
    for kind in ("application/sbom", "application/signature"):
        await registry.push_image(
            "app", kind[12:], subject=described, artifactType=kind, annotations={"kind": kind}
        )
    _, headers, body = await registry.ask("GET", f"/v2/app/referrers/{subject}")
    assert headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
    assert {m["artifactType"] for m in json.loads(body)["manifests"]} == {
        "application/sbom",
        "application/signature",
    }
    _, headers, body = await registry.ask(
        "GET", f"/v2/app/referrers/{subject}?artifactType=application/sbom"
    )
    assert headers["OCI-Filters-Applied"] == "artifactType"
    assert [m["annotations"]["kind"] for m in json.loads(body)["manifests"]] == ["application/sbom"]
    # listed by a client at a registry that did not do it
    data = (await registry.ask("GET", "/v2/app/manifests/sbom"))[2]
    listed = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(data)), "size": len(data)}
    kept = tmp_path / "data/docker/registry/v2/repositories/app/_manifests/revisions/sha256"
    shutil.rmtree(kept / subject.partition(":")[2] / "referrers")
    index = {"schemaVersion": 2, "manifests": [listed, {**listed, "digest": subject}]}
    path = f"/v2/app/manifests/{subject.replace(':', '-')}"
    assert (await registry.ask("PUT", path, data=json.dumps(index).encode()))[0] == 201
    _, _, body = await registry.ask("GET", f"/v2/app/referrers/{subject}")
    assert [m["digest"] for m in json.loads(body)["manifests"]] == [listed["digest"]]
    nothing = Digest.of(b"no such subject")
    status, _, body = await registry.ask("GET", f"/v2/app/referrers/{nothing}")
    assert (status, json.loads(body)["manifests"]) == (200, [])


async def test_deletes(serve: Serve) -> None:
    registry = await serve()
    digest = await registry.push_image("app", "v1")
    await registry.push_image("app", "v2", b"other")
    assert (await registry.ask("DELETE", "/v2/app/manifests/v2"))[0] == 202
    assert (await registry.ask("GET", "/v2/app/manifests/v2"))[0] == 404
    assert (await registry.ask("DELETE", f"/v2/app/manifests/{digest}"))[0] == 202
    for reference in ("v1", digest):
        assert (await registry.ask("GET", f"/v2/app/manifests/{reference}"))[0] == 404
    layer = Digest.of(b"layer")
    assert (await registry.ask("DELETE", f"/v2/app/blobs/{layer}"))[0] == 202
    assert (await registry.ask("DELETE", f"/v2/app/blobs/{layer}"))[0] == 404


async def test_deletes_are_off_unless_enabled(serve: Serve) -> None:
    registry = await serve(REGISTRY_STORAGE_DELETE_ENABLED="false")
    digest = await registry.push_image("app", "v1")
    status, _, body = await registry.ask("DELETE", f"/v2/app/manifests/{digest}")
    assert (status, code(body)) == (405, "UNSUPPORTED")
    assert (await registry.ask("GET", "/v2/app/manifests/v1"))[0] == 200


async def test_schema_2_for_clients_that_accept_nothing_else(serve: Serve) -> None:
    registry = await serve()
    gzip = "application/vnd.oci.image.layer.v1.tar+gzip"
    digest = await registry.push_image("app", "oci")
    _, _, data = await registry.ask("GET", "/v2/app/manifests/oci")
    image = json.loads(data)
    image["layers"][0]["mediaType"] = gzip
    body = json.dumps(image)
    headers = {"Content-Type": OCI_MANIFEST}
    _, answer, _ = await registry.ask("PUT", "/v2/app/manifests/v1", data=body, headers=headers)
    digest = answer["Docker-Content-Digest"]
    platform = {"os": "linux", "architecture": "amd64"}
    child = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body), "platform": platform}
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": [child]}
    _, answer, _ = await registry.ask(
        "PUT", "/v2/app/manifests/all", json=index, headers={"Content-Type": kind}
    )
    schema2 = "application/vnd.docker.distribution.manifest.v2+json"
    old = {"Accept": f"{schema2}, application/vnd.docker.distribution.manifest.v1+prettyjws"}
    for tag in ("v1", "all"):
        status, got, data = await registry.ask("GET", f"/v2/app/manifests/{tag}", headers=old)
        assert (status, got["Content-Type"]) == (200, schema2)
        assert got["Docker-Content-Digest"] == str(Digest.of(data))
        document = json.loads(data)
        assert document["mediaType"] == schema2
        assert document["layers"][0]["mediaType"].endswith(".rootfs.diff.tar.gzip")
        assert document["layers"][0]["digest"] == image["layers"][0]["digest"]
    # an uncompressed layer has no name in schema 2; a digest means its own bytes
    assert (await registry.ask("GET", "/v2/app/manifests/oci", headers=old))[0] == 404
    _, got, _ = await registry.ask("GET", f"/v2/app/manifests/{digest}", headers=old)
    assert got["Docker-Content-Digest"] == digest
    for accept in ({}, {"Accept": "*/*"}, {"Accept": f"{schema2}, {OCI_MANIFEST}"}):
        _, got, _ = await registry.ask("GET", "/v2/app/manifests/v1", headers=accept)
        assert got["Docker-Content-Digest"] == digest
