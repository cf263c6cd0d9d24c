"""Exporters: every type and attribute, compared with what the formats promise."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from buildkit import Builder, MemorySink, builder

from portside.builder.exporters.export_options import parse_export
from portside.builder.results import ExportRequest
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.platform import Platform

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")
TEXT = """FROM scratch
COPY small /small
COPY big /big
LABEL a=b
"""


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[Builder]:
    context = tmp_path / "context"
    context.mkdir()
    (context / "small").write_text("small\n")
    (context / "big").write_bytes(os.urandom(100) * 60_000)
    async with builder(tmp_path / "root") as found:
        yield found


def context_of(built: Builder) -> Path:
    return built.root.parent / "context"


async def image(built: Builder, epoch: int | None = None, **attrs: str) -> tuple[Any, Any, Any]:
    """(target document, manifest, configuration) of one image export."""
    request = ExportRequest(type="image", attrs=attrs)
    (answer,) = await built.build(TEXT, context_of(built), request, epoch=epoch)
    target = built.document(answer["containerimage.digest"])
    manifest = target
    if "manifests" in target:
        manifest = built.document(target["manifests"][0]["digest"])
    return target, manifest, built.document(manifest["config"]["digest"])


def check_layers(built: Builder, manifest: Any, config: Any, unpack: Any) -> list[bytes]:
    """Every layer is of its digest, size and diff ID; the tars."""
    tars = []
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = built.blob(layer["digest"])
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer["digest"]
        assert len(data) == layer["size"]
        plain = unpack(data)
        assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == diff_id
        tars.append(plain)
    return tars


def members(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


@pytest.mark.parametrize(
    ("kind", "suffix", "unpack"),
    [
        ("gzip", "+gzip", gzip.decompress),
        (
            "zstd",
            "+zstd",
            lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
        ),
        ("uncompressed", "", lambda data: data),
        ("estargz", "+gzip", gzip.decompress),
    ],
)
async def test_layers_are_compressed_as_asked(
    built: Builder, kind: str, suffix: str, unpack: Any
) -> None:
    _, manifest, config = await image(built, compression=kind)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar" + suffix
    }
    tars = check_layers(built, manifest, config, unpack)
    names = [member.name for tar in tars for member in members(tar)]
    assert "small" in names and "big" in names
    assert [line["created_by"].split()[0] for line in config["history"]] == [
        "COPY", "COPY", "LABEL",
    ]  # fmt: skip
    assert config["history"][0]["comment"] == "buildkit.dockerfile.v0"
    assert [line.get("empty_layer", False) for line in config["history"]] == [False, False, True]


async def test_estargz_has_a_table_of_contents_that_leads_to_every_file(built: Builder) -> None:
    _, manifest, _ = await image(built, compression="estargz")
    layer = manifest["layers"][1]
    data = built.blob(layer["digest"])
    footer = data[-51:]
    assert footer[12:14] == b"SG" and footer[32:38] == b"STARGZ"
    toc_tar = gzip.decompress(data[int(footer[16:32], 16) : -51])
    with tarfile.open(fileobj=io.BytesIO(toc_tar)) as archive:
        toc_file = archive.extractfile("stargz.index.json")
        assert toc_file is not None
        toc = toc_file.read()
    annotation = layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"]
    assert annotation == f"sha256:{hashlib.sha256(toc).hexdigest()}"
    chunks = [item for item in json.loads(toc)["entries"] if item["name"] == "big"]
    content = (context_of(built) / "big").read_bytes()
    assert len(chunks) == 2 and chunks[0]["size"] == len(content)
    assert chunks[0]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    for chunk in chunks:
        at = chunk.get("chunkOffset", 0)
        piece = zlib.decompressobj(31).decompress(data[chunk["offset"] :])[: chunk["chunkSize"]]
        assert piece == content[at : at + chunk["chunkSize"]]


async def test_levels_and_docker_types(built: Builder) -> None:
    _, best, _ = await image(built, **{"compression-level": "9"})
    _, fast, _ = await image(built, **{"compression-level": "0"})
    assert best["layers"][1]["size"] < fast["layers"][1]["size"]
    target, manifest, _ = await image(built, **{"oci-mediatypes": "false"})
    assert target["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert manifest["layers"][0]["mediaType"].endswith("rootfs.diff.tar.gzip")


async def test_times_are_rewritten_and_the_image_is_reproducible(built: Builder) -> None:
    epoch = 1_000_000_000
    found = []
    for _ in range(2):
        found.append(await image(built, epoch=epoch, **{"rewrite-timestamp": "true"}))
        await built.service.prune(all=True)
        for path in context_of(built).iterdir():
            os.utime(path)
    assert found[0] == found[1]
    _, _, config = found[0]
    assert config["created"] == "2001-09-09T01:46:40Z"
    assert {line["created"] for line in config["history"]} == {"2001-09-09T01:46:40Z"}
    _, again, config = await image(built, epoch=epoch, **{"rewrite-timestamp": "true"})
    for tar in check_layers(built, again, config, gzip.decompress):
        for member in members(tar):
            assert member.mtime <= epoch
    _, _, plain = await image(built, epoch=epoch)
    assert plain["rootfs"] != config["rootfs"]


async def test_annotations_go_where_they_belong(built: Builder) -> None:
    attrs = {"name": "x", "annotation.a": "1", "annotation-index.b": "2",
             "annotation-manifest-descriptor.c": "3",
             "annotation-manifest[linux/arm64].d": "4"}  # fmt: skip
    request = ExportRequest(type="image", attrs=attrs)
    (answer,) = await built.build(
        TEXT, context_of(built), request, platforms=["linux/amd64", "linux/arm64"]
    )
    index = built.document(answer["containerimage.digest"])
    assert index["annotations"] == {"b": "2"}
    assert [item["annotations"] for item in index["manifests"]] == [{"c": "3"}] * 2
    found = [built.document(item["digest"])["annotations"] for item in index["manifests"]]
    assert found == [{"a": "1"}, {"a": "1", "d": "4"}]
    with pytest.raises(InvalidParameter, match="index annotations not supported for single"):
        await image(built, **{"annotation-index.b": "2"})


@pytest.mark.parametrize("attrs", [{"annotation.a": "b"}, {"compression": "zstd"}])
async def test_what_docker_types_lack_needs_oci_types(
    built: Builder, attrs: dict[str, str]
) -> None:
    _, manifest, _ = await image(built, **attrs, **{"oci-mediatypes": "false"})
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


async def test_a_level_above_the_highest_of_zstd_is_the_highest(built: Builder) -> None:
    _, best, _ = await image(built, **{"compression": "zstd", "compression-level": "99"})
    assert best["layers"][0]["mediaType"].endswith("+zstd")


async def test_by_digest_alone_is_no_push(built: Builder) -> None:
    _, manifest, _ = await image(built, **{"name": "localhost:1/x", "push-by-digest": "true"})
    assert manifest["layers"]
    options = parse_export(ExportRequest(type="image", attrs={"push-by-digest": "1", "name": "x"}))
    assert options.push_by_digest and not options.push


async def test_several_platforms_make_one_index(built: Builder) -> None:
    request = ExportRequest(type="image", attrs={"name": "multi"})
    (answer,) = await built.build(
        TEXT, context_of(built), request, platforms=["linux/amd64", "linux/arm64/v8"]
    )
    index = built.document(answer["containerimage.digest"])
    assert [item["platform"]["architecture"] for item in index["manifests"]] == ["amd64", "arm64"]
    found = await built.images.inspect("multi")
    assert answer["containerimage.digest"] in str(found)
    with pytest.raises(InvalidParameter, match="manifest lists"):
        await built.build(
            TEXT, context_of(built), ExportRequest(type="docker", sink=MemorySink()),
            platforms=["linux/amd64", "linux/arm64"],
        )  # fmt: skip


async def test_archives_and_trees(built: Builder) -> None:
    sinks = {kind: MemorySink() for kind in ("oci", "docker", "tar", "local")}
    requests = [
        ExportRequest(type=kind, attrs={"name": "x/y:z"}, sink=sink) for kind, sink in sinks.items()
    ]
    answers = await built.build(TEXT, context_of(built), *requests)
    assert built.images.catalogue.records.ids() == []
    layout = sinks["oci"].members()
    index = json.loads(layout["index.json"])
    digest = index["manifests"][0]["digest"]
    assert digest == answers[0]["containerimage.digest"]
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/x/y:z"
    assert layout["blobs/sha256/" + digest[7:]]
    item = json.loads(sinks["docker"].members()["manifest.json"])[0]
    assert item["RepoTags"] == ["x/y:z"] and len(item["Layers"]) == 2
    for kind in ("tar", "local"):
        assert sorted(sinks[kind].members()) == ["big", "small"]

    async def archive() -> AsyncIterator[bytes]:
        yield bytes(sinks["docker"].data)

    assert list(await built.images.load(archive()))


async def test_a_layout_without_a_tar(built: Builder) -> None:
    sink = MemorySink()
    (answer,) = await built.build(
        TEXT, context_of(built), ExportRequest(type="oci", attrs={"tar": "false"}, sink=sink)
    )
    manifest = json.loads(sink.store.blobs[answer["containerimage.digest"]])
    assert {layer["digest"] for layer in manifest["layers"]} < set(sink.store.blobs)


async def test_trees_of_several_platforms_have_folders(built: Builder) -> None:
    sink, flat = MemorySink(), MemorySink()
    await built.build(
        TEXT, context_of(built), ExportRequest(type="local", sink=sink),
        platforms=["linux/amd64", "linux/arm64"],
    )  # fmt: skip
    assert set(sink.members()) == {
        f"linux_{arch}/{name}" for arch in ("amd64", "arm64") for name in ("big", "small")
    }
    await built.build(TEXT, context_of(built), ExportRequest(type="local", sink=flat))
    assert set(flat.members()) == {"big", "small"}
    forced = MemorySink()
    split = ExportRequest(type="tar", sink=forced, attrs={"platform-split": "true"})
    await built.build(TEXT, context_of(built), split)
    folder = str(Platform.host()).replace("/", "_")
    assert set(forced.members()) == {f"{folder}/big", f"{folder}/small"}
    merged = ExportRequest(type="tar", sink=MemorySink(), attrs={"platform-split": "false"})
    with pytest.raises(InvalidParameter, match=r"cannot overwrite .* of another"):
        await built.build(TEXT, context_of(built), merged, platforms=["linux/amd64", "linux/arm64"])


@pytest.mark.parametrize(
    ("kind", "attrs", "text"),
    [
        ("nope", {}, "could not be found"),
        ("image", {"compression": "lz4"}, "unsupported compression type lz4"),
        ("image", {"compression-level": "many"}, "non-int value many"),
        ("image", {"compression-level": "12"}, "levels 0 to 9"),
        ("image", {"push": "perhaps", "name": "x"}, "non-bool value specified for push"),
        ("image", {"push": "true"}, "needs a name"),
        ("image", {"name": "UPPER"}, "lowercase"),
        ("image", {"annotation-index[linux/amd64].a": "b"}, "no platform"),
        ("image", {"annotation-layer.a": "b"}, "unrecognized annotation type layer"),
        ("image", {"oci-artifact": "x"}, "non-bool value specified for oci-artifact"),
        ("image", {"name-canonical": "x"}, "non-bool value specified for name-canonical"),
        ("image", {"attestation-inline": "x"}, "non-bool value specified for attestation-inline"),
        ("tar", {}, "dest="),
    ],
)
async def test_bad_attributes_say_what_is_wrong(
    built: Builder, kind: str, attrs: dict[str, str], text: str
) -> None:
    with pytest.raises(PortsideError, match=text):
        await built.build(TEXT, context_of(built), ExportRequest(type=kind, attrs=attrs))
    assert parse_export(ExportRequest(type="cacheonly")).names == ()
