"""The distribution-spec, request by request, over HTTP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from portside.model.digest import Digest
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
    status, _, body = await registry.ask("GET", path, headers={"If-None-Match": f'"{digest}"'})
    assert (status, body) == (304, b"")


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
    assert str(missing) in body.decode()
    assert (await registry.ask("GET", "/v2/a/manifests/v1"))[0] == 404


async def test_bad_manifests_and_names(serve: Serve) -> None:
    registry = await serve()
    for data in (b"", b"{", b"[]", b'{"schemaVersion": 1}', b'{"schemaVersion": 2}'):
        status, _, body = await registry.ask("PUT", "/v2/a/manifests/v1", data=data)
        assert (status, code(body)) == (400, "MANIFEST_INVALID"), data
    status, _, body = await registry.ask("PUT", "/v2/a/manifests/v1", data=b" " * (5 << 20))
    assert (status, code(body)) == (413, "MANIFEST_INVALID")
    assert code((await registry.ask("GET", "/v2/UPPER/tags/list"))[2]) == "NAME_INVALID"
    assert code((await registry.ask("GET", "/v2/a/manifests/.bad"))[2]) == "TAG_INVALID"
    assert code((await registry.ask("GET", "/v2/a/blobs/sha256:abc"))[2]) == "DIGEST_INVALID"
    assert code((await registry.ask("GET", "/v2/nope/manifests/v1"))[2]) == "NAME_UNKNOWN"


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
    status, _, body = await registry.ask("GET", "/v2/x/y/tags/list?n=-1")
    assert (status, code(body)) == (400, "PAGINATION_NUMBER_INVALID")
    assert json.loads((await registry.ask("GET", "/v2/x/y/tags/list?n=0"))[2])["tags"] == []
    await registry.push_image("other", "v1")
    _, headers, body = await registry.ask("GET", "/v2/_catalog?n=1")
    assert json.loads(body)["repositories"] == ["other"] and "Link" in headers


async def test_referrers_with_filter(serve: Serve) -> None:
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
