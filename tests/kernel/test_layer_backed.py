"""Layers that do not compress: their blob has no file, and reading it gives the promised bytes, or
fails when the layer's files were damaged."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from buildkit import Builder, MemorySink, builder
from imagekit import docker_registry

from portside.builder.results import ExportRequest
from portside.engine.rebuild import rebuild
from portside.images.service import ImageService
from portside.model.digest import Digest
from portside.model.errors import NotFound, PortsideError
from portside.model.image import DOCKER_LAYER, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from portside.store.blobs import DigestMismatch
from portside.store.db import Ref
from portside.store.store import Store
from portside.store.store_check import check
from portside.store.store_jobs import PackChanges

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")
TEXT = "FROM scratch\nCOPY noise /noise\n"
SIZE = 5 << 20


@pytest.fixture
def context(tmp_path: Path) -> Path:
    found = tmp_path / "context"
    found.mkdir()
    (found / "noise").write_bytes(os.urandom(SIZE))
    return found


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Builder]:
    async with builder(tmp_path / "root") as found:
        yield found


async def layers_of(
    engine: Builder, context: Path, text: str = TEXT, kind: str = "image", **attrs: str
) -> list[Any]:
    """Build an image; its layers as the manifest has them."""
    request = ExportRequest(type=kind, attrs={"name": "noisy", **attrs})
    (answer,) = await engine.build(text, context, request)
    manifest: Any = engine.document(answer["containerimage.digest"])
    return list(manifest["layers"])


async def read(engine: Builder, digest: str, offset: int = 0) -> bytes:
    layers = engine.service.store.layers
    return b"".join([piece async for piece in layers.read_blob(Digest(digest), offset)])


def files(store: Store) -> set[str]:
    return {f"sha256:{path.name}" for path in (store.blobs.root / "sha256").iterdir()}


def damage(store: Store, digest: str) -> None:
    """Change a byte of the layer's file."""
    layer = Digest(store.blobs.info(Digest(digest)).layer)
    with (store.layers.layers_dir / layer.hex / "diff" / "noise").open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


async def test_the_blob_is_made_when_it_is_read(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (layer,) = await layers_of(engine, context)
    digest = layer["digest"]
    assert layer["mediaType"] == OCI_LAYER
    assert digest not in files(store)
    data = await read(engine, digest)
    assert len(data) == layer["size"] == store.blobs.size(Digest(digest))
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    for offset in (1, 1 << 20, len(data) - 1, len(data)):
        assert await read(engine, digest, offset) == data[offset:]
    with pytest.raises(NotFound):
        store.blobs.open(Digest(digest))
    assert digest not in files(store)
    assert (await check(store)).problems == []
    (again,) = await layers_of(engine, context)
    assert again == layer


async def test_it_goes_with_the_image_and_the_cache(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (layer,) = await layers_of(engine, context)
    await engine.service.prune(all=True)  # the image still needs it
    assert len(await read(engine, layer["digest"])) == layer["size"]
    await engine.images.remove("noisy", force=True)
    await store.collect()
    assert store.layers.all() == [] and list(store.blobs.all()) == []
    assert store.db.query("SELECT * FROM refs") == []


async def test_the_cache_alone_keeps_it(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (layer,) = await layers_of(engine, context)
    await engine.images.remove("noisy", force=True)
    await store.collect()
    assert store.blobs.has(layer["digest"])
    assert await layers_of(engine, context) == [layer]


FORMS = [
    ("text", {}, OCI_LAYER_GZIP),
    ("holes", {}, OCI_LAYER_GZIP),
    ("small", {}, OCI_LAYER_GZIP),
    ("noise", {"compression": "gzip"}, OCI_LAYER_GZIP),
    ("noise", {"force-compression": "true"}, OCI_LAYER_GZIP),
    ("noise", {"compression": "zstd"}, OCI_LAYER_ZSTD),
]
"""What compresses, what has holes, and what is asked for in a compression."""


async def test_other_layers_have_files(engine: Builder, context: Path) -> None:
    (context / "text").write_bytes(b"".join(b"line %d\n" % n for n in range(600_000)))
    (context / "small").write_bytes(os.urandom(1000))
    with (context / "holes").open("wb") as file:
        file.write(os.urandom(SIZE))
        file.truncate(3 * SIZE)
    for what, attrs, media_type in FORMS:
        text = f"FROM scratch\nCOPY {what} /file\n"
        (layer,) = await layers_of(engine, context, text, **attrs)
        assert layer["mediaType"] == media_type, (what, attrs)
        assert layer["digest"] in files(engine.service.store), (what, attrs)
        data = await read(engine, layer["digest"])
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer["digest"]
        assert len(data) == layer["size"]


async def test_dockers_media_types(engine: Builder, context: Path) -> None:
    (layer,) = await layers_of(engine, context, **{"oci-mediatypes": "false"})
    assert layer["mediaType"] == DOCKER_LAYER
    assert layer["digest"] not in files(engine.service.store)


async def test_save_and_load(engine: Builder, context: Path, tmp_path: Path) -> None:
    (layer,) = await layers_of(engine, context)
    archive = [piece async for piece in engine.images.save(["noisy"])]
    assert layer["digest"] not in files(engine.service.store)
    other = ImageService(Store.open(tmp_path / "other"))
    await other.start()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in archive:
            yield piece

    try:
        await other.load(pieces())
        assert layer["digest"] in files(other.store)
        assert (await check(other.store)).problems == []
    finally:
        await other.close()
        await other.store.close()


async def test_push_and_pull(engine: Builder, context: Path, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as host:
        name = f"{host}/noisy/x:1"
        (layer,) = await layers_of(engine, context, kind="registry", name=name)
        assert layer["digest"] not in files(engine.service.store)
        await engine.images.remove(name, force=True)
        await engine.service.prune(all=True)
        assert not engine.service.store.blobs.has(layer["digest"])
        assert await engine.images.pull(name) is not None
        assert layer["digest"] in files(engine.service.store)
        assert (await check(engine.service.store)).problems == []


async def test_an_archive_has_its_bytes(engine: Builder, context: Path) -> None:
    sink = MemorySink()
    async with engine.session(TEXT, context) as session:
        from portside.builder.results import BuildResult

        result = BuildResult(platforms=(await engine.service.result(session),))
        request = ExportRequest(type="oci", attrs={}, sink=sink)
        await engine.service.deliver(result, [request], session.lease)
    blobs = [data for name, data in sink.members().items() if name.startswith("blobs/")]
    (data,) = [data for data in blobs if len(data) > SIZE]
    assert data == await read(engine, f"sha256:{hashlib.sha256(data).hexdigest()}")


async def test_the_same_layer_on_another_base_gets_a_file(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (context / "first").write_text("first")
    (layer,) = await layers_of(engine, context)
    below = await layers_of(engine, context, "FROM scratch\nCOPY first /first\n")
    (parent,) = [info.chain for info in store.layers.all() if info.blob == below[0]["digest"]]
    digest = Digest(layer["digest"])
    with store.lease("test") as lease:
        await store.layers.ensure(parent, digest, digest, OCI_LAYER, owner=lease.ref)
        assert layer["digest"] in files(store)
        assert store.db.refs.targets(Ref.blob(digest)) == []
        assert (await check(store)).problems == []


async def test_damage_is_noticed(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (layer,) = await layers_of(engine, context)
    damage(store, layer["digest"])
    with pytest.raises(DigestMismatch):
        await read(engine, layer["digest"])
    with pytest.raises(PortsideError):
        async for _ in engine.images.save(["noisy"]):
            pass
    (problem,) = (await check(store)).problems
    assert (problem.kind, problem.subject) == ("blob", layer["digest"])
    await check(store, repair=True)
    assert not store.blobs.has(layer["digest"])


async def test_missing_files_are_noticed(engine: Builder, context: Path) -> None:
    store = engine.service.store
    (layer,) = await layers_of(engine, context)
    info = store.blobs.info(Digest(layer["digest"]))
    (store.layers.layers_dir / Digest(info.layer).hex / "diff" / "noise").unlink()
    (problem,) = (await check(store)).problems
    assert (problem.kind, problem.subject) == ("blob", layer["digest"])


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_power_cut(tmp_path: Path, context: Path, damaged: bool) -> None:
    async with builder(tmp_path / "root") as engine:
        (layer,) = await layers_of(engine, context)
        if damaged:
            damage(engine.service.store, layer["digest"])
    with sqlite3.connect(tmp_path / "root" / "metadata.db") as sql:
        sql.execute("UPDATE blobs SET boot='another'")
        sql.execute("UPDATE layers SET boot='another'")
    sql.close()
    async with builder(tmp_path / "root") as engine:
        store = engine.service.store
        await store.recover()
        assert store.blobs.has(layer["digest"]) != damaged
        assert bool(store.layers.all()) != damaged
        (again,) = await layers_of(engine, context)  # from the cache, or built again
        assert again["size"] == layer["size"]
        wrong = {problem.kind for problem in (await check(store)).problems}
        assert wrong == ({"reference"} if damaged else set())  # of the image that was lost


@pytest.mark.parametrize("damaged", [False, True])
async def test_lost_metadata(tmp_path: Path, context: Path, damaged: bool) -> None:
    root = tmp_path / "root"
    async with builder(root) as engine:
        (layer,) = await layers_of(engine, context)
        if damaged:
            damage(engine.service.store, layer["digest"])
    for path in [*root.glob("metadata.db*"), *root.glob("backups/*")]:
        path.unlink()
    said: list[str] = []
    rebuild(root, tmp_path / "spill", said.append)
    async with builder(root) as engine:
        store = engine.service.store
        assert store.blobs.has(layer["digest"]) != damaged, said
        if damaged:
            return
        assert len(await read(engine, layer["digest"])) == layer["size"]
        assert len(engine.images.catalogue.records.ids()) == 1


async def test_a_root_of_layer_backed_blobs_alone_is_whole(tmp_path: Path) -> None:
    """The guard against a file system that is not mounted counts blobs with files."""
    context = tmp_path / "context"
    context.mkdir()
    for number in range(12):
        (context / f"f{number}").write_bytes(os.urandom(SIZE))
    text = "FROM scratch\n" + "".join(f"COPY f{n} /f{n}\n" for n in range(12))
    async with builder(tmp_path / "root") as engine:
        await layers_of(engine, context, text)
        await engine.images.remove("noisy", force=True)
        await engine.service.store.collect()
        assert files(engine.service.store) == set()
    async with builder(tmp_path / "root") as engine:
        assert len(list(engine.service.store.blobs.all())) == 12


async def test_the_tar_of_a_tree_is_what_it_always_was(engine: Builder, tmp_path: Path) -> None:
    """Blobs that were recorded are made again by later versions: the writer's bytes never change.
    A change here loses images that users have built."""
    store = engine.service.store
    store.writables.create("box", None)
    upper = tmp_path / "root" / "containers" / "box" / "upper"
    (upper / "dir").mkdir(mode=0o750)
    (upper / "dir" / "file").write_bytes(b"text")
    (upper / "dir" / ("long" * 30)).write_bytes(b"x" * 1000)
    (upper / "dir" / "großes").write_bytes(b"")
    os.chmod(upper / "dir" / "file", 0o4755)
    os.chown(upper / "dir" / "file", 1000, 3_000_000)
    os.setxattr(upper / "dir" / "file", "user.mark", b"value")
    os.link(upper / "dir" / "file", upper / "link")
    os.symlink("dir/file", upper / "symlink")
    os.mkfifo(upper / "fifo", 0o600)
    os.mknod(upper / "device", 0o020644, os.makedev(1, 3))
    os.mknod(upper / "gone", 0o020000, 0)
    (upper / "opaque").mkdir()
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    for path in (*upper.rglob("*"), upper):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o7777 & ~0o022)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789), follow_symlinks=False)
    os.utime(upper / "dir" / "file", ns=(0, 1_600_000_000_000_000_000))
    with (tmp_path / "tar").open("wb") as out:
        job = PackChanges(rootfs=store.writables.rootfs("box"), base="")
        await store.workers.run(job, (out.fileno(),))
    found = hashlib.sha256((tmp_path / "tar").read_bytes()).hexdigest()
    assert found == "4aae91bd6de2044198d4a1be60bad0e0845e37eb5ede42d894feecac3f6d8f18"
