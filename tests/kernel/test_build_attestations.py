"""Provenance and lists of packages: what they tell, and how they are attached to an index."""

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from buildkit import Builder, MemorySink, builder

from portside.builder import llb
from portside.builder.attestations.provenance import Capture, ProvenanceOptions, provenance
from portside.builder.attestations.sbom import check_generator
from portside.builder.results import BuildResult, ExportRequest
from portside.model.errors import InvalidParameter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")
TEXT = "FROM scratch\nARG TOKEN\nCOPY . /\nCOPY --link more /x/\n"
FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "var/lib/dpkg/status": (
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1+b1\n"
        "Description: a shell\n more\n\nPackage: gone\nStatus: deinstall ok config-files\n"
        "Version: 1\n"
    ),
    "lib/apk/db/installed": "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3\nA:x86_64\n",
    "usr/lib/python3/dist-packages/Foo_Bar-2.0.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 2.0\nLicense: MIT\n\nbody\n"
    ),
    "app/node_modules/left-pad/package.json": '{"name":"left-pad","version":"1.3.0"}',
    "app/node_modules/@o/p/package.json": '{"name":"@o/p","version":"2.0.0","license":"MIT"}',
    "app/node_modules/bad/package.json": "{",
    "app/package.json": '{"name":"mine","version":"1.0.0"}',
    "more": "",
}


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[Builder]:
    context = tmp_path / "context"
    for name, text in FILES.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (context / "app/node_modules/out").symlink_to("/")
    async with builder(tmp_path / "root") as found:
        yield found


async def attested(built: Builder, *requests: ExportRequest, **attests: str) -> list[Any]:
    context = built.root.parent / "context"
    attrs = {"build-arg:TOKEN": "hidden", "target": "", "vcs:revision": "abc"}
    async with built.session(TEXT, context, build_args={"TOKEN": "hidden"}) as session:
        result = await built.service.result(session)
        capture = Capture(
            output=session.plan.output, digests=session.digests, started=0, finished=0,
            invocation="i", attrs=attrs, dockerfile=TEXT.encode(),
        )  # fmt: skip
        result = await built.service.attested(session, result, attests, capture)
        whole = BuildResult(platforms=(result,))
        return await built.service.deliver(whole, requests, session.lease)


def statements(built: Builder, answer: dict[str, str]) -> dict[str, Any]:
    """The statements of an index, by predicate type."""
    index = built.document(answer["containerimage.digest"])
    image, attestation = index["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = built.document(attestation["digest"])
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        statement = built.document(layer["digest"])
        assert statement["subject"][0]["digest"]["sha256"] == image["digest"][7:]
        kind = layer["annotations"]["in-toto.io/predicate-type"]
        assert kind == statement["predicateType"]
        found[kind] = statement["predicate"]
    config = built.document(manifest["config"]["digest"])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    return found


async def test_packages_of_all_kinds(built: Builder) -> None:
    (answer,) = await attested(
        built, ExportRequest(type="image", attrs={"name": "with:sbom"}), sbom=""
    )
    document = statements(built, answer)["https://spdx.dev/Document"]
    assert document["spdxVersion"] == "SPDX-2.3"
    told = {item["externalRefs"][0]["referenceLocator"] for item in document["packages"]}
    assert told == {
        "pkg:deb/debian/bash@5.2-1%2Bb1?arch=amd64&distro=debian-12",
        "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/zlib@1.3?arch=x86_64&distro=debian-12",
        "pkg:pypi/foo-bar@2.0",
        "pkg:npm/left-pad@1.3.0",
        "pkg:npm/%40o/p@2.0.0",
    }
    licenses = {item["name"]: item["licenseDeclared"] for item in document["packages"]}
    assert licenses["musl"] == licenses["foo-bar"] == licenses["@o/p"] == "MIT"
    names = [item["SPDXID"] for item in document["packages"]]
    assert len(set(names)) == len(names)
    record = built.images.catalogue.record(answer["containerimage.digest"])
    assert len(record.attestations) == 1


@pytest.mark.parametrize("version", ["v0.2", "v1"])
async def test_provenance(built: Builder, version: str) -> None:
    requests = [ExportRequest(type="image")]
    (least,) = await attested(built, *requests, provenance=f"mode=min,version={version}")
    (most,) = await attested(built, *requests, provenance=f"mode=max,version={version}")
    url = f"https://slsa.dev/provenance/{version}"
    small, large = statements(built, least)[url], statements(built, most)[url]
    assert "hidden" not in json.dumps(small)
    if version == "v1":
        parameters = large["buildDefinition"]["externalParameters"]["request"]
        graph = large["buildDefinition"]["internalParameters"]["buildConfig"]
        metadata = large["runDetails"]["metadata"]["buildkit_metadata"]
        assert "buildConfig" not in small["buildDefinition"]["internalParameters"]
    else:
        parameters = large["invocation"]["parameters"]
        graph = large["buildConfig"]
        metadata = large["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]
        assert "buildConfig" not in small
        assert large["metadata"]["completeness"]["materials"] is False
    assert parameters["args"]["build-arg:TOKEN"] == "hidden"
    assert parameters["locals"] == [{"name": "context"}]
    assert len(graph["llbDefinition"]) == len(graph["digestMapping"]) == 5
    assert base64.b64decode(metadata["source"]["infos"][0]["data"]).decode() == TEXT
    assert metadata["vcs"] == {"revision": "abc"}


async def test_files_beside_a_tree(built: Builder) -> None:
    sink, bare = MemorySink(), MemorySink()
    await attested(built, ExportRequest(type="local", sink=sink), provenance="mode=min", sbom="")
    assert {"provenance.json", "sbom.spdx.json"} <= set(sink.members())
    await attested(
        built, ExportRequest(type="local", sink=bare), provenance="mode=min,inline-only=true"
    )
    assert "provenance.json" not in bare.members()


async def test_attestations_as_artifacts_name_their_image(built: Builder) -> None:
    (answer,) = await attested(
        built, ExportRequest(type="image", attrs={"oci-artifact": "true"}), provenance=""
    )
    image, attestation = built.document(answer["containerimage.digest"])["manifests"]
    manifest = built.document(attestation["digest"])
    assert manifest["artifactType"] == "application/vnd.docker.attestation.manifest.v1+json"
    assert manifest["subject"] == {key: image[key] for key in ("mediaType", "digest", "size")}
    config = manifest["config"]
    assert config["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert base64.b64decode(config["data"]) == built.blob(config["digest"]) == b"{}"


async def test_unknown_attestations_are_refused(built: Builder) -> None:
    with pytest.raises(InvalidParameter, match='unknown attestation type "other"'):
        await attested(built, ExportRequest(type="image"), other="")


def test_materials_and_secrets_of_a_graph() -> None:
    git = llb.Vertex(llb.SourceOp(identifier="git://https://h/r.git#main")).output()
    digest = f"sha256:{'a' * 64}"
    image = llb.image(f"busybox:1@{digest}")
    web = llb.Vertex(llb.SourceOp(identifier="https://h/f")).output()
    secret = llb.Mount(dest="/s", type="secret", secret=llb.SecretOpt(id="key"))
    mounts = (
        llb.Mount(dest="/", input=0, output=0), llb.Mount(dest="/g", input=1),
        llb.Mount(dest="/w", input=2), secret,
    )  # fmt: skip
    op = llb.ExecOp(meta=llb.Meta(args=("x",), proxy={"http_proxy": "http://u:p@h"}),
                    mounts=mounts, network="none")  # fmt: skip
    output = llb.Vertex(op, (image, git, web)).output()
    capture = Capture(
        output=output, started=0, finished=1, invocation="i",
        digests={git.vertex.digest: "b" * 40, web.vertex.digest: f"sha256:{'c' * 64}"},
    )  # fmt: skip
    options = ProvenanceOptions.parse("mode=max")
    assert options is not None
    found = provenance(capture, options).predicate
    assert [item["digest"] for item in found["materials"]] == [
        {"sha256": "c" * 64}, {"sha1": "b" * 40}, {"sha256": "a" * 64},
    ]  # fmt: skip
    assert found["materials"][1]["uri"] == "https://h/r.git#main"
    assert found["invocation"]["parameters"]["secrets"] == [{"id": "key"}]
    assert found["metadata"]["completeness"] == {
        "parameters": True, "environment": True, "materials": True,
    }  # fmt: skip
    step = next(s for s in found["buildConfig"]["llbDefinition"] if "exec" in s["op"]["Op"])
    assert step["op"]["Op"]["exec"]["meta"] == {"args": ["x"], "cwd": "/"}
    assert found["metadata"]["https://mobyproject.org/buildkit@v1#hermetic"] is True
    assert "u:p" not in json.dumps(found)
    small = ProvenanceOptions.parse("")
    assert small is not None
    assert "secrets" not in provenance(capture, small).predicate["invocation"]["parameters"]


def test_bad_options() -> None:
    assert ProvenanceOptions.parse("disabled=true") is None
    for text in ("mode=all", "version=2"):
        with pytest.raises(InvalidParameter, match=r"invalid (mode .* of )?provenance"):
            ProvenanceOptions.parse(text)
    with pytest.raises(InvalidParameter, match="non-bool value specified for reproducible"):
        ProvenanceOptions.parse("reproducible=maybe")
    check_generator("generator=docker/buildkit-syft-scanner:stable-1")
    with pytest.raises(InvalidParameter, match="other/scanner"):
        check_generator("generator=other/scanner")
