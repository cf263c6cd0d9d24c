"""Data roots whose images are known by the digest of their configuration become ones of today."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from imagekit import BuiltImage, build_image, build_index, digest

from portside.images.service import ImageService
from portside.model.digest import Digest, chain_id
from portside.model.platform import Platform
from portside.store.db import Ref
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

HOST = Platform.host().architecture
CONTAINER, MOUNTER = "a" * 64, "b" * 64


async def put(store: Store, image: BuiltImage) -> list[Digest]:
    """An image's content, as the older engine kept it; its chain IDs."""
    with store.lease("test") as lease:
        for data in (*image.blobs.values(), image.manifest):
            store.blobs.put(data, owner=lease.ref)
        chains: list[Digest] = []
        layers = json.loads(image.manifest)["layers"]
        diff_ids = [Digest(text) for text in json.loads(image.config)["rootfs"]["diff_ids"]]
        owner = Ref.image(image.config_digest)
        for number, layer in enumerate(layers):
            parent = chains[-1] if chains else None
            chains.append(
                await store.layers.ensure(
                    parent, diff_ids[number], Digest(layer["digest"]), layer["mediaType"],
                    owner=lease.ref,
                )
            )  # fmt: skip
        blobs = [Ref.blob(key) for key in (*image.blobs, image.digest)]
        store.db.refs.add(owner, *blobs, Ref.layer(chain_id(diff_ids)))
    return chains


def write(store: Store, kind: str, key: str, document: dict[str, Any], *names: str) -> None:
    with store.db.transaction() as sql:
        body = json.dumps(document).encode()
        sql.execute("INSERT INTO documents VALUES(?,?,?)", (kind, key, body))
        for name in names:
            sql.execute("INSERT INTO names VALUES(?,?,?)", (kind, name, key))


async def old_root(root: Path) -> tuple[BuiltImage, BuiltImage, BuiltImage, bytes]:
    """Three images: one alone, two that came from one index; containers of two of them."""
    store = Store.open(root)
    alone = build_image([{"a": b"1"}, {"b": b"2"}])
    mine = build_image([{"m": b"1"}], oci=True, architecture=HOST)
    other = build_image([{"o": b"1"}], oci=True, architecture="s390x")
    index = build_index(
        [
            (other, {"os": "linux", "architecture": "s390x"}),
            (mine, {"os": "linux", "architecture": HOST}),
        ]
    )
    for image in (alone, mine, other):
        await put(store, image)
    for image in (mine, other):
        store.blobs.put(index, owner=Ref.image(image.config_digest))
    record = {"manifest": alone.digest, "manifest_type": alone.manifest_type, "size": 2}
    write(
        store, "image", alone.config_digest, record | {"stored_at": "2024-01-01T00:00:00Z"},
        "docker.io/library/alone:1", f"r.example/alone@{digest(b'x')}",
    )  # fmt: skip
    for image, names in ((mine, ["r.example/multi:1"]), (other, [])):
        record = {"manifest": image.digest, "manifest_type": image.manifest_type, "size": 1}
        record |= {
            "index": digest(index),
            "index_type": "application/vnd.oci.image.index.v1+json",
            "parent": alone.config_digest,
        }
        extra = [f"r.example/multi@{digest(index)}"] if image is other else []
        write(store, "image", image.config_digest, record, *names, *extra)
    write(store, "container", CONTAINER, {"id": CONTAINER, "image_id": other.config_digest})
    store.db.refs.add(Ref.container(CONTAINER), Ref.image(other.config_digest))
    points = [{"type": "image", "source": mine.config_digest, "destination": "/m"}]
    write(
        store, "container", MOUNTER,
        {"id": MOUNTER, "image_id": alone.config_digest, "mounts": points, "pid": 2**53 + 1},
    )  # fmt: skip
    for image in (alone, mine):
        store.db.refs.add(Ref.container(MOUNTER), Ref.image(image.config_digest))
    with store.db.transaction() as sql:
        sql.execute("UPDATE meta SET value='configuration' WHERE key='image-identity'")
    await store.close()
    return alone, mine, other, index


def container(store: Store, key: str) -> dict[str, Any]:
    row = store.db.row("SELECT body FROM documents WHERE kind='container' AND id=?", key)
    assert row is not None
    found: dict[str, Any] = json.loads(row[0])
    return found


async def check(
    root: Path, alone: BuiltImage, mine: BuiltImage, other: BuiltImage, index: bytes
) -> None:
    store = Store.open(root)
    images = ImageService(store)
    await images.start()
    found = {summary.id: summary for summary in await images.list(all=True, manifests=True)}
    assert set(found) == {alone.digest, digest(index)}
    assert found[alone.digest].repo_tags == ("alone:1",)
    multi = found[digest(index)]
    assert (multi.repo_tags, multi.parent_id) == (("r.example/multi:1",), alone.digest)
    assert multi.repo_digests == (f"r.example/multi@{digest(index)}",)
    assert multi.manifests is not None and [m.available for m in multi.manifests] == [True, True]
    for name in ("r.example/multi:1", f"r.example/multi@{digest(index)}", mine.config_digest):
        assert images.get(name).config.architecture == HOST
    assert images.get(other.config_digest[:19]).config.architecture == "s390x"
    assert images.get(alone.config_digest).id == alone.digest
    record = images.catalogue.record(digest(index))
    assert all(variant.unpacked and variant.size == 1 for variant in record.variants)
    assert images.catalogue.record(alone.digest).stored_at == "2024-01-01T00:00:00Z"
    assert images.users(digest(index)) == [CONTAINER, MOUNTER]
    one = container(store, CONTAINER)
    assert one["image_id"] == digest(index)
    assert one["image_manifest"]["digest"] == other.digest
    two = container(store, MOUNTER)
    assert two["mounts"][0]["source"] == digest(index) and two["pid"] == 2**53 + 1
    assert await store.collect() == 0, "nothing lost its owner"
    await images.remove("r.example/multi:1", force=True)
    assert images.get(digest(index)).repo_tags == ()
    await images.close()
    await store.close()


async def test_images_get_their_new_ids(tmp_path: Path) -> None:
    built = await old_root(tmp_path / "root")
    await check(tmp_path / "root", *built)


async def test_a_crash_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever write fails or is cut off, the next start finds all as it was and tries again."""
    from portside.images import image_repair

    built = await old_root(tmp_path / "root")
    for step in ("_migrate_one", "_migrate_names", "_migrate_containers"):
        store = Store.open(tmp_path / "root")
        images = ImageService(store)
        done = getattr(image_repair, step)

        def cut(*arguments: Any, done: Any = done) -> None:
            done(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(image_repair, step, cut)
        before = store.db.query("SELECT * FROM documents UNION SELECT * FROM names")
        with pytest.raises(KeyboardInterrupt):
            await images.start()
        assert store.db.query("SELECT * FROM documents UNION SELECT * FROM names") == before
        monkeypatch.setattr(image_repair, step, done)
        await images.close()
        await store.close()
    await check(tmp_path / "root", *built)


async def test_a_damaged_image_does_not_stop_the_start(tmp_path: Path) -> None:
    alone, *_ = await old_root(tmp_path / "root")
    (tmp_path / "root" / "blobs" / "sha256" / alone.digest[7:]).unlink()
    store = Store.open(tmp_path / "root")
    images = ImageService(store)
    await images.start()
    assert len(await images.list(all=True)) >= 1
    await images.close()
    await store.close()
