"""Save, load, import and commit: archives in every form, good and bad."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from imagekit import OCI_INDEX, BuiltImage, build_image, build_index, digest, layer_tar

from portside.images.service import ImageService
from portside.model.errors import InvalidParameter, NotFound, PortsideError
from portside.model.image import RunConfig
from portside.model.platform import Platform
from portside.model.progress import Progress
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    images = await opened(tmp_path / "root")
    yield images
    await closed(images)


async def opened(root: Path) -> ImageService:
    images = ImageService(Store.open(root))
    await images.start()
    return images


async def closed(images: ImageService) -> None:
    await images.close()
    await images.store.close()


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def saved(images: ImageService, *names: str) -> bytes:
    return b"".join([piece async for piece in images.save(names)])


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return out.getvalue()


def archive_id(image: BuiltImage) -> str:
    """ID of an image that came without a manifest: that of the one Docker makes, too."""
    made = json.loads(image.manifest)
    for layer in made["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar"
    return digest(json.dumps(made, separators=(",", ":")).encode())


def diff_ids(image: BuiltImage) -> tuple[str, ...]:
    return tuple(json.loads(image.config)["rootfs"]["diff_ids"])


def docker_archive(
    tags: dict[str, list[dict[str, bytes | None]]], system: str = "linux"
) -> tuple[bytes, dict[str, str]]:
    """As ``docker save`` wrote before version 25: layers in directories; IDs by tag."""
    files: dict[str, bytes] = {}
    items, ids = [], {}
    for tag, layers in tags.items():
        image = build_image(layers, compression="")
        config_name = image.config_digest.partition(":")[2] + ".json"
        files[config_name] = image.config.replace(b'"os": "linux"', f'"os": "{system}"'.encode())
        names = []
        for entry in json.loads(image.manifest)["layers"]:
            name = f"{entry['digest'][7:]}/layer.tar"
            files[name] = image.blobs[entry["digest"]]
            names.append(name)
        items.append({"Config": config_name, "RepoTags": [tag], "Layers": names})
        ids[tag] = archive_id(image)
    files["manifest.json"] = json.dumps(items).encode()
    return tar_of(files), ids


def oci_layout(
    image: BuiltImage, annotations: dict[str, str] | None = None, **more: bytes
) -> dict[str, bytes]:
    blobs = {**image.blobs, image.digest: image.manifest}
    files = {f"blobs/sha256/{key[7:]}": data for key, data in blobs.items()}
    entry: dict[str, Any] = {
        "mediaType": image.manifest_type,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": annotations or {},
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return {**files, **more}


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.compress(data),
}


@pytest.mark.parametrize("compression", COMPRESS)
async def test_docker_archive_with_several_images(service: ImageService, compression: str) -> None:
    base: dict[str, bytes | None] = {"base": os.urandom(100_000)}
    archive, ids = docker_archive({"one:1": [base, {"a": b"1"}], "x.example/two:2": [base]})
    said: list[Progress] = []
    loaded = await service.load(pieces(COMPRESS[compression](archive)), said.append)
    assert loaded == ["one:1", "x.example/two:2"]
    assert service.get("one:1").id == ids["one:1"]
    assert service.get("x.example/two:2").id == ids["x.example/two:2"]
    assert [p.stream for p in said if p.stream] == [
        "Loaded image: one:1\n",
        "Loaded image: x.example/two:2\n",
    ]
    assert list(service.store.blobs.ingest_dir.iterdir()) == []


async def test_layers_through_links(service: ImageService) -> None:
    image = build_image([{"a": b"1"}], compression="")
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    item = {"Config": "c.json", "RepoTags": None, "Layers": ["two/layer.tar"]}
    files = {
        "c.json": image.config,
        "one/layer.tar": image.blobs[layer],
        "manifest.json": json.dumps([item]).encode(),
    }
    links = {"two/layer.tar": "../one/layer.tar"}
    said: list[Progress] = []
    identifier = archive_id(image)
    assert await service.load(pieces(tar_of(files, links)), said.append) == [identifier]
    assert said[-1].stream == f"Loaded image ID: {identifier}\n"
    assert service.get(image.config_digest[7:20]).id == identifier, "the old kind of ID"


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"org.opencontainers.image.ref.name": "joe/app:3"}, "joe/app:3"),
        ({"io.containerd.image.name": "docker.io/library/app:4"}, "app:4"),
        ({"org.opencontainers.image.ref.name": "latest"}, None),
    ],
)
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_oci_layout(
    service: ImageService, annotations: dict[str, str], name: str | None, compression: str
) -> None:
    image = build_image([{"a": b"1"}], oci=True, compression=compression)
    loaded = await service.load(pieces(tar_of(oci_layout(image, annotations))))
    assert loaded == [name or image.id]
    assert service.get(image.id).id == image.id
    assert service.get(image.config_digest).id == image.digest, "kept as it came"


async def test_layout_with_sha512(service: ImageService) -> None:
    image = build_image([{"a": b"1"}], oci=True)
    manifest = json.loads(image.manifest)
    layer = manifest["layers"][0]
    data = image.blobs.pop(layer["digest"])
    layer["digest"] = f"sha512:{hashlib.sha512(data).hexdigest()}"
    image.manifest = json.dumps(manifest).encode()
    files = oci_layout(image) | {f"blobs/sha512/{layer['digest'][7:]}": data}
    await service.load(pieces(tar_of(files)))
    again = await saved(service, image.id)
    await service.remove(image.id)
    assert list(await service.load(pieces(again))) == [image.id]
    files[f"blobs/sha512/{layer['digest'][7:]}"] += b"?"
    await service.remove(image.id)
    with pytest.raises(InvalidParameter, match="damaged"):
        await service.load(pieces(tar_of(files)))


async def test_layout_of_several_platforms(service: ImageService) -> None:
    mine = build_image([{"m": b""}], oci=True, architecture=Platform.host().architecture)
    other = build_image([{"o": b""}], oci=True, architecture="s390x")
    index = build_index(
        [
            (other, {"os": "linux", "architecture": "s390x"}),
            (mine, {"os": "linux", "architecture": Platform.host().architecture}),
        ]
    )
    files = {**oci_layout(mine), **oci_layout(other)}
    files[f"blobs/sha256/{digest(index)[7:]}"] = index
    entry = {
        "mediaType": OCI_INDEX,
        "digest": digest(index),
        "size": len(index),
        "annotations": {"io.containerd.image.name": "multi:1"},
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    archive = tar_of(files)
    await service.load(pieces(archive))
    s390x = Platform.parse("linux/s390x")
    image = service.get("multi:1")
    assert image.id == digest(index) and image.config.rootfs.diff_ids == diff_ids(mine)
    assert service.get("multi:1", s390x).config.rootfs.diff_ids == diff_ids(other)
    assert [v.unpacked for v in service.catalogue.record(image.id).variants] == [False, True]
    again = await saved(service, "multi:1")
    await service.remove("multi:1")
    await service.load(pieces(archive), platforms=[s390x])
    assert service.get("multi:1").config.rootfs.diff_ids == diff_ids(other)
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        service.get("multi:1", Platform.parse("linux/amd64"))
    await service.load(pieces(again))
    assert service.get("multi:1").config.rootfs.diff_ids == diff_ids(mine)
    with pytest.raises(NotFound, match="linux/mips64le"):
        await service.load(pieces(archive), platforms=[Platform.parse("linux/mips64le")])


async def test_descriptors_are_those_of_the_archive(service: ImageService) -> None:
    """With the annotations of ``index.json``, and each platform as the image's index names it."""
    mine, arm = build_image([{"a": b"1"}], oci=True), build_image([{"b": b"2"}], oci=True)
    v8 = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    host = {"os": "linux", "architecture": Platform.host().architecture}
    index = build_index([(mine, host), (arm, v8)])
    files = {**oci_layout(mine), **oci_layout(arm)}
    files[f"blobs/sha256/{digest(index)[7:]}"] = index
    annotations = {"io.containerd.image.name": "docker.io/library/noted:1", "x": "y"}
    entry = {"mediaType": OCI_INDEX, "digest": digest(index), "size": len(index)}
    files["index.json"] = json.dumps(
        {"schemaVersion": 2, "manifests": [{**entry, "annotations": annotations}]}
    ).encode()
    await service.load(pieces(tar_of(files)))
    await service.load(
        pieces(tar_of(oci_layout(mine, {"io.containerd.image.name": "single:1", "z": "1"})))
    )
    found = await service.inspect("noted:1", manifests=True)
    assert found.descriptor is not None and found.descriptor.annotations == annotations
    for summary, platform in zip(found.manifests or (), (host, v8), strict=True):
        assert summary.image is not None
        for shown in (summary.image.platform, summary.descriptor.platform):
            assert msgspec.to_builtins(shown) == platform
    of_platform = (await service.inspect("noted:1", platform=Platform.host())).descriptor
    assert of_platform is not None and msgspec.to_builtins(of_platform.platform) == host
    single = (await service.inspect("single:1", platform=Platform.host())).descriptor
    assert single is not None and single.platform is None and single.annotations["z"] == "1"


async def test_saved_is_both_forms_and_loads_again(service: ImageService, tmp_path: Path) -> None:
    gz, plain = build_image([{"a": os.urandom(9000)}, {"b": b"2"}], oci=True), {"c": b"3"}
    await service.load(
        pieces(tar_of(oci_layout(gz, {"io.containerd.image.name": "docker.io/joe/gz:1"})))
    )
    archive, ids = docker_archive({"plain:1": [plain]})
    await service.load(pieces(archive))
    service.tag("plain:1", "plain:2")
    data = await saved(service, "joe/gz:1", "plain")
    assert data == await saved(service, "joe/gz:1", "plain"), "the same bytes each time"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        items = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        for member in tar.getmembers():
            if member.name.startswith("blobs/sha256/") and member.isfile():
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                assert hashlib.sha256(content).hexdigest() == member.name[13:]
    assert [item["RepoTags"] for item in items] == [["joe/gz:1"], ["plain:1", "plain:2"]]
    assert [e["annotations"]["io.containerd.image.name"] for e in index["manifests"]] == [
        "docker.io/joe/gz:1",
        "docker.io/library/plain:1",
        "docker.io/library/plain:2",
    ]
    other = await opened(tmp_path / "other")
    try:
        assert sorted(await other.load(pieces(data))) == ["joe/gz:1", "plain:1", "plain:2"]
        assert other.get("joe/gz:1").id == gz.id
        assert other.get("plain:2").id == ids["plain:1"]
        assert other.get("joe/gz:1").repo_digests == (f"joe/gz@{gz.digest}",)
    finally:
        await closed(other)


async def test_unknown_names_are_reported_before_the_first_byte(service: ImageService) -> None:
    with pytest.raises(NotFound, match="No such image: nope:latest"):
        service.save(["nope"])


async def test_a_name_moves_to_the_loaded_image(service: ImageService) -> None:
    first, _ = docker_archive({"app:1": [{"a": b"1"}]})
    second, _ = docker_archive({"app:1": [{"a": b"2"}]})
    await service.load(pieces(first))
    old = service.get("app:1").id
    said: list[Progress] = []
    await service.load(pieces(second), said.append)
    assert [item.stream for item in said if item.stream] == ["Loaded image: app:1\n"]
    assert service.get(old).repo_tags == ()


def damaged(image: BuiltImage) -> bytes:
    files = oci_layout(image)
    name = max((n for n in files if n.startswith("blobs/")), key=lambda n: len(files[n]))
    files[name] = files[name][:-1] + b"?"
    return tar_of(files)


GOOD = build_image([{"a": os.urandom(5000)}], oci=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "manifest.json"),
        (lambda: b"x" * 2000, "archive|tar"),
        (lambda: tar_of({"readme": b"hi"}), "does not contain a manifest.json"),
        (lambda: tar_of({"manifest.json": b"{"}), "malformed"),
        (lambda: tar_of({"manifest.json": b'[{"Config":"x.json"}]'}), "x.json is missing"),
        (lambda: docker_archive({"two": [{"a": b"1"}]})[0], 'invalid tag "two"'),
        (lambda: docker_archive({f"two@{GOOD.digest}": [{"a": b"1"}]})[0], "invalid tag"),
        (lambda: docker_archive({"two:1": [{"a": b"1"}]}, "windows")[0], '"windows" cannot be'),
        (lambda: tar_of({"../../evil": b"x"}), "outside"),
        (lambda: tar_of({"manifest.json": b"[]"}, {"m": "../../../etc/passwd"}), "outside"),
        (lambda: damaged(GOOD), "damaged"),
        (lambda: tar_of(oci_layout(GOOD))[:4000], "truncated"),
        (lambda: gzip.compress(tar_of(oci_layout(GOOD)))[:3000], "truncated"),
        (
            lambda: tar_of({n: d for n, d in oci_layout(GOOD).items() if len(d) < 4000}),
            "is missing",
        ),
    ],
)
async def test_bad_archives_are_refused_and_leave_nothing(
    service: ImageService, make: Callable[[], bytes], message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        await service.load(pieces(make(), 700))
    store = service.store
    await store.collect()
    assert await service.list(all=True) == []
    assert list(store.blobs.ingest_dir.iterdir()) == []
    assert list((store.blobs.root / "sha256").iterdir()) == []
    assert list(store.layers.layers_dir.iterdir()) == []


async def test_a_stream_that_fails_is_not_an_image(service: ImageService) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield tar_of(oci_layout(GOOD))[:5000]
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await service.load(broken())
    with pytest.raises(ConnectionResetError):
        await service.import_(broken(), "x")
    assert list(service.store.blobs.ingest_dir.iterdir()) == []


@pytest.mark.parametrize("compression", COMPRESS)
async def test_import(service: ImageService, compression: str) -> None:
    tar = layer_tar({"etc": None, "etc/hostname": b"box\n"})
    said: list[Progress] = []
    identifier = await service.import_(
        pieces(COMPRESS[compression](tar)),
        "root:fs",
        message="from a test",
        changes=["CMD /bin/sh", "ENV A=b", 'LABEL x="y z"'],
        platform=Platform.parse("linux/arm/v7"),
        progress=said.append,
    )
    image = service.get("root:fs")
    assert image.id == identifier
    assert image.config.rootfs.diff_ids == (digest(tar),)
    assert image.run.cmd == ("/bin/sh", "-c", "/bin/sh") and image.run.labels == {"x": "y z"}
    assert image.config.comment == "from a test"
    assert str(image.platform) == "linux/arm/v7"


async def test_import_refuses_bad_changes_before_reading(service: ImageService) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    with pytest.raises(InvalidParameter, match="FROM is not a valid change command"):
        await service.import_(never(), changes=["FROM x"])


CONTAINER = "c" * 64


async def committed(service: ImageService, parent: str, **more: Any) -> str:
    return await service.commit(CONTAINER, parent, **more)


async def test_commit_adds_the_changes_and_is_reproducible(service: ImageService) -> None:
    base = await service.import_(pieces(layer_tar({"etc": None, "etc/a": b"1"})), "base")
    service.store.writables.create(CONTAINER, service.get(base).chain)
    upper = service.store.writables.containers_dir / CONTAINER / "upper"
    (upper / "new").write_bytes(b"x" * 5000)
    os.chown(upper / "new", 12, 34)
    (upper / "new").chmod(0o4755)
    os.setxattr(upper / "new", "user.note", b"kept")
    os.link(upper / "new", upper / "hard")
    (upper / "etc").mkdir()
    os.mknod(upper / "etc" / "a", 0o020000, 0)  # overlay's whiteout
    config = RunConfig(cmd=("run",), env=("A=1",))
    first = await committed(
        service, base, ref="joe/made:1", author="joe", comment="why", config=config,
        changes=["USER nobody"],
    )  # fmt: skip
    second = await committed(service, base, config=config)
    image = service.get("joe/made:1")
    assert image.id == first and image.parent == base
    assert image.run.user == "nobody" and image.run.env == ("A=1",)
    assert image.config.author == "joe"
    line = (await service.history(first))[0]
    assert (line.created_by, line.comment, line.tags) == ("run", "why", ("joe/made:1",))
    assert image.config.rootfs == service.get(second).config.rootfs, "same changes, same digest"
    manifests = [service.catalogue.manifest(identifier) for identifier in (first, second)]
    assert manifests[0].layers == manifests[1].layers
    chain = service.get(first).chain
    assert chain is not None
    diff = service.store.layers.layers_dir / chain.hex / "diff"
    found = (diff / "hard").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o4755, 12, 34)
    assert found.st_nlink == 2 and os.getxattr(diff / "new", "user.note") == b"kept"
    assert (diff / "etc" / "a").stat().st_rdev == 0 and (diff / "etc" / "a").is_char_device()


async def test_commit_without_changes_adds_no_layer(service: ImageService) -> None:
    base = await service.import_(pieces(layer_tar({"a": b"1"})), "base")
    service.store.writables.create(CONTAINER, service.get(base).chain)
    made = await committed(service, base, changes=["ENV X=1"])
    assert service.get(made).config.rootfs == service.get(base).config.rootfs
    assert (await service.history(made))[0].size == 0


async def test_commit_of_an_unknown_container_leaves_nothing(service: ImageService) -> None:
    base = await service.import_(pieces(layer_tar({"a": b"1"})), "base")
    before = set((service.store.blobs.root / "sha256").iterdir())
    with pytest.raises(PortsideError):
        await committed(service, base)
    await service.store.collect()
    assert set((service.store.blobs.root / "sha256").iterdir()) == before
    assert list(service.store.blobs.ingest_dir.iterdir()) == []


def version_1(*, loop: bool = False, layers: bool = True) -> tuple[dict[str, bytes], list[str]]:
    """An archive as Docker before 1.10 wrote it, and the identifiers of its two layers."""
    ids = ["a" * 64, "b" * 64]
    documents: list[dict[str, Any]] = [
        {"id": ids[0], "created": "2014-01-01T00:00:00Z", "config": {"Cmd": ["first"]},
         "container_config": {"Cmd": ["/bin/sh"]}, "architecture": "amd64", "os": "linux"},
        {"id": ids[1], "parent": ids[0], "created": "2014-01-02T00:00:00Z", "author": "me",
         "comment": "hi", "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) X"]},
         "config": {"Cmd": ["/bin/true"], "Env": ["A=<b>&"]}, "architecture": "amd64",
         "os": "linux", "docker_version": "1.9.1"},
    ]  # fmt: skip
    if loop:
        documents[0]["parent"] = ids[1]
    files = {"repositories": json.dumps({"old/v1": {"1": ids[1]}}).encode()}
    for identifier, document in zip(ids, documents, strict=True):
        files[f"{identifier}/VERSION"] = b"1.0"
        files[f"{identifier}/json"] = json.dumps(document).encode()
        if layers:
            name = f"f{identifier[0]}"
            files[f"{identifier}/layer.tar"] = tar_of({name: identifier[:3].encode()})
    return files, ids


async def test_archive_of_version_1(service: ImageService) -> None:
    assert list(await service.load(pieces(tar_of(version_1()[0])))) == ["old/v1:1"]
    image = service.get("old/v1:1")
    # dockerd 28.5.2 makes the same configuration of the same archive
    assert image.manifest is not None
    manifest = service.catalogue.manifest(image.manifest.digest)
    assert manifest.config.digest == (
        "sha256:9550eeda34067f1be7dfb8641ff4f0bb9be17d672e2c5d1c886ecf481d19ff47"
    )
    assert image.config.run.cmd == ("/bin/true",)
    lines = await service.history("old/v1:1")
    assert [line.created_by for line in lines] == ["/bin/sh -c #(nop) X", "/bin/sh"]
    assert [line.size for line in lines] == [3, 3]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (version_1(loop=True)[0], "has more than 1000 parents, or a circle"),
        (version_1(layers=False)[0], "layer.tar is missing"),
        ({"repositories": b"[]"}, "repositories is malformed"),
        ({"repositories": b'{"a": {"1": "../../etc/passwd"}}'}, "is not an image ID"),
        ({"repositories": b'{"a": {"1": "%s"}}' % (b"c" * 64)}, "json is missing"),
        ({**version_1()[0], "b" * 64 + "/json": b"[1"}, "json is malformed"),
        ({**version_1()[0], "b" * 64 + "/json": b"[1]"}, "an object is expected"),
        ({**version_1()[0], "b" * 64 + "/layer.tar": gzip.compress(b"x")}, "is compressed with"),
    ],
)  # fmt: skip
async def test_damaged_archives_of_version_1(
    service: ImageService, files: dict[str, bytes], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said):
        await service.load(pieces(tar_of(files)))
