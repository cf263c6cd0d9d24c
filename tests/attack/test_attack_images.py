"""Hostile and damaged images: what they hold, what they say, and what is lost of them.

Repeats CVE-2021-21284 and 2021-41103 (paths and modes), CVE-2021-41190 (documents of two kinds) and
the class of archives that exhaust their reader.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from imagekit import OCI_INDEX, OCI_MANIFEST, BuiltImage, build_image, digest

from portside.images.service import ImageService
from portside.model.errors import PortsideError
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    store = Store.open(tmp_path / "root")
    images = ImageService(store)
    await images.start()
    yield images
    await images.close()
    await store.close()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nothing may change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "file").write_text("untouched")
    (place / "file").chmod(0o600)
    before = (place / "file").stat()
    yield place
    after = (place / "file").stat()
    assert sorted(path.name for path in place.iterdir()) == ["file"]
    assert (place / "file").read_text() == "untouched"
    assert (after.st_mode, after.st_uid, after.st_nlink) == (before.st_mode, before.st_uid, 1)


def entry(name: str, data: bytes = b"", **fields: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


def archive(layer: bytes, config: dict[str, Any] | bytes | None = None) -> bytes:
    """A docker archive of one image ``x:1`` with one layer."""
    if not isinstance(config, bytes):
        base = {"os": "linux", "architecture": "amd64"}
        base |= {"rootfs": {"type": "layers", "diff_ids": [digest(layer)]}, **(config or {})}
        config = json.dumps(base).encode()
    item = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}
    return tar(
        entry("c.json", config),
        entry("l.tar", layer),
        entry("manifest.json", json.dumps([item]).encode()),
    )


def layout(*documents: bytes, top: list[dict[str, Any]]) -> bytes:
    index = json.dumps({"schemaVersion": 2, "manifests": top}).encode()
    blobs = (entry(f"blobs/sha256/{digest(data)[7:]}", data) for data in documents)
    return tar(*blobs, entry("index.json", index), entry("oci-layout", b"{}"))


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def tree(service: ImageService) -> Path:
    chain = service.get("x:1").chain
    assert chain is not None
    return service.store.layers.layers_dir / chain.hex / "diff"


CLIMBING = [
    "{out}/new", "../../../../../../../../../..{out}/new", "a/../../../../../..{out}/new",
    "./../..{out}/new", "/..{out}/new",
]  # fmt: skip


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("kind", ["file", "directory", "link", "hard link", "node", "whiteout"])
async def test_entries_stay_in_their_layer(
    service: ImageService, outside: Path, name: str, kind: str
) -> None:
    path = name.format(out=outside)
    fields: dict[str, Any] = {
        "file": {},
        "directory": {"type": tarfile.DIRTYPE, "mode": 0o777},
        "link": {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        "hard link": {"type": tarfile.LNKTYPE, "linkname": f"{outside}/file"},
        "node": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        "whiteout": {},
    }[kind]
    if kind == "whiteout":
        path = path.removesuffix("new") + ".wh.file"
    try:
        await service.load(pieces(archive(tar(entry(path, b"", **fields)))))
    except PortsideError:
        assert await service.list(all=True) == []


@pytest.mark.parametrize("second", ["e/new", "e/file", "e/.wh.file", "e/.wh..wh..opq", "e"])
@pytest.mark.parametrize("target", ["{out}", "/proc/self/root{out}", "../../../../../../..{out}"])
async def test_links_are_not_followed(
    service: ImageService, outside: Path, second: str, target: str
) -> None:
    link = entry("e", type=tarfile.SYMTYPE, linkname=target.format(out=outside))
    for third in (entry(second, b"", mode=0o4777), entry(second, type=tarfile.DIRTYPE, mode=0o777)):
        try:
            await service.load(pieces(archive(tar(link, third))))
        except PortsideError:
            continue


@pytest.mark.parametrize("owner", [4294967294, 4294967295, 2**31, 65536])
async def test_owners_of_32_bits(service: ImageService, owner: int) -> None:
    """A PAX owner of 4294967295 is valid in the format; chown(2) takes it for "leave it"."""
    layer = tar(entry("f", b"1", uid=owner, gid=owner))
    await service.load(pieces(archive(layer)))
    found = (tree(service) / "f").stat()
    kept = 0 if owner == 4294967295 else owner
    assert (found.st_uid, found.st_gid) == (kept, kept)


@pytest.mark.parametrize("value", ["-1", "4294967296", "99999999999999999999", "x", ""])
@pytest.mark.parametrize("key", ["uid", "gid", "size", "mtime"])
async def test_pax_values_that_are_none(service: ImageService, key: str, value: str) -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {key: value}
    try:
        await service.load(pieces(archive(tar((info, b"")))))
    except PortsideError as err:
        assert "Traceback" not in str(err) and await service.list(all=True) == []


async def test_a_hundred_thousand_entries(service: ImageService) -> None:
    layer = tar(*(entry(f"d{n // 1000}/f{n}") for n in range(100_000)))
    await asyncio.wait_for(service.load(pieces(archive(layer))), 100)
    assert sum(1 for _ in tree(service).rglob("f*")) == 100_000


NULLS: list[dict[str, Any]] = [
    {"author": None}, {"history": None}, {"config": None}, {"created": None}, {"variant": ""},
    {"config": {"Env": None, "Cmd": None, "Entrypoint": None, "Labels": None, "Volumes": None,
                "ExposedPorts": None, "OnBuild": None, "Shell": None}},
    {"config": {"Cmd": "sh", "Entrypoint": "true"}},
    {"history": [{"created": None, "created_by": None, "comment": None}]},
    {"unknown": [[[[{}]]]]}, {"created": "not a time"}, {"os.features": None},
]  # fmt: skip
ODD: list[bytes] = [
    b"", b"null", b"[]", b"{}", b'{"rootfs":{}}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"os":5}', b'{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:../../x"]}}',
    b'{"os":"linux","rootfs":{"type":"layers","diff_ids":["\\u0000"]}}',
    b'{"os":"linux","rootfs":{"type":"layers","diff_ids":null}}',
]  # fmt: skip


@pytest.mark.parametrize("config", NULLS, ids=range(len(NULLS)))
async def test_configurations_as_go_writes_them(
    service: ImageService, config: dict[str, Any]
) -> None:
    await service.load(pieces(archive(tar(entry("f", b"1")), config)))
    assert (await service.list())[0].repo_tags == ("x:1",)
    assert (await service.inspect("x:1")).root_fs.type == "layers"
    await service.history("x:1")


@pytest.mark.parametrize("config", ODD, ids=range(len(ODD)))
async def test_odd_configurations_are_refused(service: ImageService, config: bytes) -> None:
    with pytest.raises(PortsideError) as failure:
        await service.load(pieces(archive(tar(entry("f", b"1")), config)))
    assert "Traceback" not in str(failure.value)
    assert await service.list(all=True) == []


def whole(image: BuiltImage) -> list[bytes]:
    return [image.manifest, *image.blobs.values()]


async def test_documents_of_two_kinds_are_refused(service: ImageService) -> None:
    """CVE-2021-41190: what is a manifest to one reader and an index to the next."""
    image = build_image([{"a": b"1"}], oci=True)
    both = json.loads(image.manifest) | {"manifests": []}
    for media_type in (OCI_MANIFEST, OCI_INDEX):
        data = json.dumps(both | {"mediaType": media_type}).encode()
        with pytest.raises(PortsideError, match="both an image manifest and an index"):
            await service.load(
                pieces(layout(data, *whole(image), top=[described(data, media_type)]))
            )


@pytest.mark.parametrize("depth", [4, 200])
async def test_indexes_in_indexes_end(service: ImageService, depth: int) -> None:
    image = build_image([{"a": b"1"}], oci=True)
    documents, inner = whole(image), described(image.manifest, OCI_MANIFEST)
    for _ in range(depth):
        data = json.dumps({"schemaVersion": 2, "manifests": [inner] * 3}).encode()
        documents.append(data)
        inner = described(data, OCI_INDEX)
    with pytest.raises(PortsideError, match="nested"):
        await asyncio.wait_for(service.load(pieces(layout(*documents, top=[inner]))), 60)


async def test_an_index_of_very_many_is_refused(service: ImageService) -> None:
    image = build_image([{"a": b"1"}], oci=True)
    one = described(image.manifest, OCI_MANIFEST)
    data = json.dumps({"schemaVersion": 2, "manifests": [one] * 10_000}).encode()
    with pytest.raises(PortsideError, match="more than 4096 manifests"):
        await service.load(pieces(layout(data, *whole(image), top=[described(data, OCI_INDEX)])))


@pytest.mark.parametrize("lost", ["config", "manifest", "layer"])
async def test_one_lost_blob_stops_nothing_else(service: ImageService, lost: str) -> None:
    """A lost or damaged document: lists, prunes and removals of it and of others work."""
    bad, good = build_image([{"a": b"1"}], oci=True), build_image([{"b": b"2"}], oci=True)
    tops = []
    for name, image in (("bad", bad), ("good", good)):
        names = {"io.containerd.image.name": f"docker.io/library/{name}:1"}
        tops.append(described(image.manifest, OCI_MANIFEST) | {"annotations": names})
    for _ in range(3):
        await service.load(pieces(layout(*whole(bad), *whole(good), top=tops)))
        victim = {
            "config": bad.config_digest,
            "manifest": bad.digest,
            "layer": next(key for key in bad.blobs if key != bad.config_digest),
        }[lost]
        service.catalogue._configs.clear()
        (service.store.blobs.root / "sha256" / victim[7:]).unlink()
        if _ == 2:
            with service.store.db.transaction() as sql:
                sql.execute("DELETE FROM blobs WHERE digest=?", (victim,))
        found = await service.list(all=True, shared_size=True, manifests=True)
        assert {summary.id for summary in found} == {bad.digest, good.digest}
        await service.prune()
        await service.inspect("good:1")
        items = await service.remove("bad:1" if _ else bad.digest, force=True)
        assert items[-1].deleted == bad.digest
        assert [summary.id for summary in await service.list(all=True)] == [good.digest]
        await service.store.collect()


async def test_a_lost_configuration_does_not_stop_prune(service: ImageService) -> None:
    await service.load(pieces(archive(tar(entry("f", b"1")))))
    variant = service.catalogue.record(service.get("x:1").id).variants[0]
    service.catalogue._configs.clear()
    (service.store.blobs.root / "sha256" / variant.config[7:]).unlink()
    report = await service.prune({"dangling": ["false"]})
    assert report.images_deleted is not None and await service.list(all=True) == []
