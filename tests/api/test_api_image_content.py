"""What API 1.52 to 1.55 tell of an image of several platforms and of the attestations about it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from buildxkit import PLUGINS
from enginekit import RunningEngine
from imagekit import OCI_INDEX, BuiltImage, build_image, digest, docker_registry

ARCHES = ("amd64", "arm64", "s390x")
SLSA, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
STATEMENTS = {SLSA: {"_type": "in-toto", "by": "a builder"}, SPDX: {"_type": "in-toto", "n": [1]}}
IN_TOTO = "application/vnd.in-toto+json"


def _blob(files: dict[str, bytes], data: bytes, kind: str) -> dict[str, Any]:
    files[f"blobs/sha256/{digest(data)[7:]}"] = data
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def _attestation(files: dict[str, bytes], subject: str) -> dict[str, Any]:
    """The entry of an index for statements about one of its manifests."""
    layers = []
    for predicate, statement in STATEMENTS.items():
        layer = _blob(files, json.dumps(statement).encode() + subject.encode()[:0], IN_TOTO)
        layers.append(layer | {"annotations": {"in-toto.io/predicate-type": predicate}})
    config = {"architecture": "unknown", "os": "unknown", "about": subject}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(
            files, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"
        ),
        "layers": layers,
    }
    entry = _blob(files, json.dumps(manifest).encode(), str(manifest["mediaType"]))
    notes = {"vnd.docker.reference.digest": subject,
             "vnd.docker.reference.type": "attestation-manifest"}  # fmt: skip
    platform = {"os": "unknown", "architecture": "unknown"}
    return entry | {"annotations": notes, "platform": platform}


def _archive() -> tuple[dict[str, BuiltImage], dict[str, str], str, bytes]:
    """Images and attestations by architecture, the index's digest, and the OCI layout's tar."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    images = {a: build_image([{a: a.encode()}], oci=True, architecture=a) for a in ARCHES}
    entries, about = [], {}
    for arch, image in images.items():
        for key, data in image.blobs.items():
            files[f"blobs/sha256/{key[7:]}"] = data
        entry = _blob(files, image.manifest, "application/vnd.oci.image.manifest.v1+json")
        entries.append(entry | {"platform": {"os": "linux", "architecture": arch}})
        attestation = _attestation(files, image.digest)
        about[arch] = str(attestation["digest"])
        entries.append(attestation)
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    top = _blob(files, json.dumps(document).encode(), OCI_INDEX)
    names = {"annotations": {"io.containerd.image.name": "docker.io/library/content:1"}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top | names]}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return images, about, str(top["digest"]), out.getvalue()


IMAGES, ABOUT, INDEX, ARCHIVE = _archive()


def platform(*arches: str) -> str:
    found = [quote(json.dumps({"os": "linux", "architecture": arch})) for arch in arches]
    return "&".join(f"platform={each}" for each in found)


def load(engine: RunningEngine, data: bytes, query: str = "", version: str = "1.55") -> None:
    status, _, said = engine.request("POST", f"/v{version}/images/load?{query}", data)
    assert status == 200 and b"errorDetail" not in said, said


@pytest.fixture
def image(engine: RunningEngine) -> Iterator[str]:
    load(engine, ARCHIVE)
    yield "content:1"
    engine.request("DELETE", "/images/content:1?force=1")


def here(engine: RunningEngine) -> set[str]:
    """Digests of the manifests that are here, attestations too."""
    found = engine.json("GET", "/v1.55/images/content:1/json?manifests=1")["Manifests"]
    return {entry["ID"] for entry in found if entry["Available"]}


def both(*arches: str) -> set[str]:
    return {digest for arch in arches for digest in (IMAGES[arch].digest, ABOUT[arch])}


def test_several_platforms_are_saved(engine: RunningEngine, image: str) -> None:
    assert here(engine) == both(*ARCHES)
    query = platform("amd64", "s390x")
    status, _, data = engine.request("GET", f"/v1.55/images/{image}/get?{query}")
    assert status == 200
    engine.json("DELETE", f"/images/{image}?force=1")
    load(engine, data)
    assert engine.json("GET", f"/images/{image}/json")["Id"] == INDEX, "the index stays whole"
    assert here(engine) == both("amd64", "s390x")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert f"blobs/sha256/{IMAGES['arm64'].digest[7:]}" not in tar.getnames()


def test_several_platforms_are_loaded(engine: RunningEngine) -> None:
    load(engine, ARCHIVE, platform("arm64", "s390x"))
    try:
        assert here(engine) == both("arm64", "s390x")
    finally:
        engine.json("DELETE", "/images/content:1?force=1")


@pytest.mark.parametrize("path", ["/images/content:1/get", "/images/get"])
def test_old_versions_take_one_platform(engine: RunningEngine, image: str, path: str) -> None:
    query = platform("amd64", "s390x") + "&names=content:1"
    status, _, said = engine.request("GET", f"/v1.51{path}?{query}")
    assert (status, json.loads(said)["message"]) == (
        400, "multiple platform parameters not supported",
    )  # fmt: skip
    status, _, said = engine.request("GET", f"/v1.55{path}?{platform('amd64', 'riscv64')}"
                                            "&names=content:1")  # fmt: skip
    assert status == 404 and b"riscv64" in said


def test_attestations(engine: RunningEngine, image: str) -> None:
    path = f"/v1.55/images/{image}/attestations"
    found = engine.json("GET", path)
    assert [entry["PredicateType"] for entry in found] == [SLSA, SPDX]
    assert all("Statement" not in entry for entry in found)
    assert found[0]["Descriptor"]["mediaType"] == IN_TOTO
    whole = engine.json("GET", f"{path}?statement=1&{platform('arm64')}")
    assert [entry["Statement"] for entry in whole] == list(STATEMENTS.values())
    one = engine.json("GET", f"{path}?type={quote(SPDX)}&type=%20")
    assert [entry["PredicateType"] for entry in one] == [SPDX]
    assert engine.json("GET", f"{path}?type=none") == []
    for query, status in ((platform("amd64", "arm64"), 400), (platform("riscv64"), 404)):
        assert engine.request("GET", f"{path}?{query}")[0] == status
    assert engine.request("GET", "/v1.55/images/none-such/attestations")[0] == 404
    assert engine.request("GET", f"/v1.54/images/{image}/attestations")[0] == 404


def test_an_image_without_attestations_has_an_empty_list(engine: RunningEngine) -> None:
    engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    assert engine.json("GET", "/v1.55/images/portside/base/attestations") == []


def test_identity_reports_the_build(
    engine: RunningEngine, docker_env: dict[str, str], tmp_path: Path
) -> None:
    """By the reference of its record, whichever client has asked for it."""
    (tmp_path / "Dockerfile").write_text("FROM portside/base\nRUN echo built > /built\n")
    (tmp_path / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": PLUGINS}))
    env = {**docker_env, "DOCKER_CONFIG": str(tmp_path)}
    for program in ([sys.executable, "-m", "portside"], ["docker"]):
        subprocess.run(
            [*program, "build", "-q", "-t", "identified", str(tmp_path)], env=env,
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        history = engine.json("GET", "/portside/builds")
        told = engine.json("GET", "/v1.53/images/identified/json")["Identity"]["Build"]
        assert told[-1]["Ref"] == history[0]["ref"]
        assert datetime.fromisoformat(told[-1]["CreatedAt"]).timestamp() == pytest.approx(
            history[0]["created"] / 10**9, abs=1e-3
        )
    assert "Identity" not in engine.json("GET", "/v1.52/images/identified/json")
    engine.request("DELETE", "/images/identified?force=1")


def test_identity_reports_where_an_image_comes_from(
    engine: RunningEngine, image: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From what the engine has seen, whatever the image is called."""
    assert "Identity" not in engine.json("GET", f"/v1.55/images/{image}/json")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        engine.request("POST", f"/images/{image}/tag?repo={host}/team/content&tag=1")
        _, _, said = engine.request("POST", f"/images/{quote(host)}/team/content/push?tag=1")
        assert b"errorDetail" not in said, said
    origin = {"Pull": [{"Repository": f"{host}/team/content"}]}
    assert engine.json("GET", f"/v1.53/images/{image}/json")["Identity"] == origin
    assert "Identity" not in engine.json("GET", f"/v1.52/images/{image}/json")
    listed = engine.json("GET", "/v1.54/images/json?manifests=1&identity=1")
    entries = next(i["Manifests"] for i in listed if i["Id"] == INDEX)
    told = [e["ImageData"].get("Identity") for e in entries if e["Kind"] == "image"]
    assert told == [origin] * len(ARCHES)
    assert b"Identity" not in engine.request("GET", "/v1.54/images/json?manifests=1")[2]
    status, _, said = engine.request("GET", "/v1.54/images/json?identity=1")
    assert (status, json.loads(said)["message"]) == (
        400, "conflicting options: identity requires manifests=1",
    )  # fmt: skip
    engine.request("DELETE", f"/images/{quote(host)}/team/content:1?force=1")
