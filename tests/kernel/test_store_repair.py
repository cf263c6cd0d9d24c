"""kill -9, a full disk, damage: what is there is whole, and the next try finishes the work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from fakeregistry import fake_registry
from imagekit import build_image, layer_tar

from portside.images.service import ImageService
from portside.model.digest import Digest
from portside.model.errors import Conflict, NotFound, PortsideError
from portside.model.image import OCI_LAYER
from portside.model.progress import Progress
from portside.registry.client.options import RegistryOptions
from portside.store import gc
from portside.store.compare import first_difference
from portside.store.db import Lease, Ref
from portside.store.roots import open_root
from portside.store.store import Store
from portside.store.store_check import check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

POINTS = (
    "blobs.adopt:before-rename", "blobs.adopt:renamed", "blobs.adopt:recorded",
    "blobs.delete:forgotten", "layers.record:before-rename", "layers.record:renamed",
    "layers.record:recorded", "layers.delete:forgotten", "writables.remove:forgotten",
)  # fmt: skip

_LIFE = """
import asyncio, os, signal, sys
from pathlib import Path
from portside.images.service import ImageService
from portside.registry.client.options import RegistryOptions
from portside.store import failpoints
from portside.store.db import Ref
from portside.store.store import Store

root, name, point, after = sys.argv[1:5]
left = int(after)

def hook(reached):
    global left
    if reached == point:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = Store.open(Path(root))
    images = ImageService(store, RegistryOptions(retry_delay=0.01))
    await images.start()
    failpoints.hook = hook
    image = await images.pull(name)
    store.writables.create("box", image.chain)
    images.acquire(image, "box")
    store.db.refs.drop(Ref.container("box"))
    store.writables.remove("box")
    await images.remove(name)
    await store.collect()
    failpoints.hook = None
    print("alive")
    await images.close()
    await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [0, 2])
async def test_killed_at_any_point(tmp_path: Path, point: str, after: int) -> None:
    """An engine dies there; the next one finds nothing half done, and pulls and removes."""
    async with fake_registry() as registry:
        image = build_image([{"a": b"1" * 50_000}, {"b": b"2"}, {"c": b"3"}])
        registry.add("app", "latest", image)
        name = f"{registry.host}/app"
        process = await _in_background(
            [sys.executable, "-c", _LIFE, str(tmp_path / "root"), name, point, str(after)]
        )
        assert process in (0, -signal.SIGKILL)
        store = Store.open(tmp_path / "root")
        images = ImageService(store, RegistryOptions(retry_delay=0.01))
        await images.start()
        await store.recover()
        found = await check(store)
        wrong = [p for p in found.problems if p.kind not in ("orphan", "leftover")]
        assert wrong == []
        pulled = await images.pull(name)
        assert pulled is not None and pulled.id == image.id
        assert (await check(store)).blobs >= 5
        await images.remove(name)
        store.writables.remove("box")
        await check(store, repair=True)
        await images.close()
        await store.close()


async def _in_background(command: list[str]) -> int:
    import asyncio

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, env=environment
    )
    return await asyncio.wait_for(process.wait(), 60)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store.open(tmp_path / "root")
    yield made
    await made.close()


async def stacked(store: Store, count: int, owner: Ref) -> Digest:
    """``count`` small layers on top of each other; the topmost one's chain."""
    chain: Digest | None = None
    for number in range(count):
        tar = layer_tar({f"file-{number}": str(number).encode()})
        blob = store.blobs.put(tar, owner=owner)
        chain = await store.layers.ensure(chain, Digest.of(tar), blob, OCI_LAYER, owner=owner)
    assert chain is not None
    return chain


async def test_three_hundred_layers(store: Store) -> None:
    """Far more than fit into one page of mount options."""
    with store.lease("test") as lease:
        chain = await stacked(store, 300, lease.ref)
        rootfs = store.writables.create("box", chain)
        fd = open_root(rootfs)
        try:
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            found = set(os.listdir(listed))
            os.close(listed)
            assert {f"file-{number}" for number in range(300)} <= found
        finally:
            os.close(fd)
        store.writables.remove("box")


async def test_twice_is_harmless(store: Store) -> None:
    with store.lease("test") as lease:
        chain = await stacked(store, 2, lease.ref)
        store.writables.create("box", chain)
        with pytest.raises(Conflict):
            store.writables.create("box", chain)
        store.writables.remove("box")
        store.writables.remove("box")
        with pytest.raises(NotFound):
            store.writables.rootfs("box")
        blob = Digest(store.layers.info(chain).blob)
        assert store.blobs.delete(blob) and not store.blobs.delete(blob)
        store.layers.delete(chain)
        store.layers.delete(chain)


async def test_removed_while_mounted(store: Store) -> None:
    """A mounted root stays whole for its user; its files go, and the name can be used again."""
    with store.lease("test") as lease:
        chain = await stacked(store, 2, lease.ref)
        fd = open_root(store.writables.create("box", chain))
        try:
            made = os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            store.writables.remove("box")
            os.write(made, b"still written")
            os.close(made)
            store.writables.create("box", chain)
        finally:
            os.close(fd)
        store.writables.remove("box")
    assert store.trash is not None


async def test_collection_spares_what_is_needed(store: Store) -> None:
    """Layers beneath a needed one and beneath a container stay; the rest goes."""
    lease = store.lease("test")
    chain = await stacked(store, 3, lease.ref)
    other = await stacked(store, 4, lease.ref)
    store.writables.create("box", chain)
    lease.release()
    await store.collect()
    assert store.layers.has(chain) and not store.layers.has(other)
    assert len(store.layers.all()) == 3
    store.writables.remove("box")
    await store.collect()
    assert store.layers.all() == [] and list(store.blobs.all()) == []
    assert gc.unreachable(store) == ([], [])


async def test_one_engine_at_a_time(store: Store, tmp_path: Path) -> None:
    """A POSIX lock is the process's: ask from another one."""
    program = (
        "import sys; from pathlib import Path; from portside.store.store import Store\n"
        "from portside.model.errors import Conflict\n"
        "try: Store.open(Path(sys.argv[1]))\n"
        "except Conflict: sys.exit(9)"
    )
    assert await _in_background([sys.executable, "-c", program, str(tmp_path / "root")]) == 9


async def test_damage_is_found_and_repaired(store: Store) -> None:
    images = ImageService(store)
    owner = Ref.image("an image")
    chain = await stacked(store, 2, owner)
    top, bottom = store.layers.stack(chain)
    assert (await check(store)).problems == []
    shutil.rmtree(store.layers.layers_dir / top.chain.hex)
    path = store.blobs.path(Digest(bottom.blob))
    path.write_bytes(b"damaged")
    (store.writables.containers_dir / "stray").mkdir()
    kinds = sorted(problem.kind for problem in (await check(store)).problems)
    assert kinds == ["blob", "layer", "leftover"]
    await check(store, repair=True)
    assert (store.layers.layers_dir / top.chain.hex / "diff" / "file-1").exists()
    assert not store.blobs.has(bottom.blob)
    kinds = sorted(problem.kind for problem in (await check(store)).problems)
    assert kinds == ["reference"]  # the damaged blob is missed, and said so
    await images.close()


async def test_changed_files_of_a_layer_are_found_and_made_again(store: Store) -> None:
    owner = Ref.image("an image")
    chain = await stacked(store, 3, owner)
    stack = store.layers.stack(chain)
    trees = [store.layers.layers_dir / info.chain.hex / "diff" for info in stack]
    before = (trees[0] / "file-2").stat()
    (trees[0] / "file-2").write_bytes((trees[0] / "file-2").read_bytes()[::-1] + b"!")
    os.utime(trees[0] / "file-2", ns=(before.st_mtime_ns, before.st_mtime_ns))
    (trees[1] / "file-1").unlink()
    (trees[2] / "added").write_text("by hand")
    found = {problem.subject: problem.text for problem in (await check(store)).problems}
    says = [found[str(info.chain)] for info in stack]
    for text, end in zip(
        says, ("has other content", "is missing", "is not from its image"), strict=True
    ):
        assert text.startswith("its files are not its blob's") and text.endswith(end)
    await check(store, repair=True)
    assert (await check(store)).problems == []
    assert not (trees[2] / "added").exists() and (trees[1] / "file-1").exists()


async def test_files_without_a_record_are_found_and_removed(store: Store) -> None:
    blob = store.blobs.root / "sha256" / ("0" * 64)
    blob.write_bytes(b"nobody's")
    layer = store.layers.layers_dir / ("1" * 64)
    layer.mkdir()
    assert (await check(store)).problems == []  # just come: they may get a record yet
    for path in (blob, layer):
        os.utime(path, (1, 1))
    assert [p.kind for p in (await check(store)).problems] == ["leftover", "leftover"]
    await check(store, repair=True)
    assert not blob.exists() and not layer.exists()
    assert (await check(store)).problems == []


async def test_power_cut_verifies_what_was_not_settled(tmp_path: Path) -> None:
    """Another boot: unsettled blobs are read again, unsettled layers made again."""
    store = Store.open(tmp_path / "root")
    lease = store.lease("pull test")
    chain = await stacked(store, 2, lease.ref)
    bottom = store.layers.stack(chain)[1]
    (store.layers.layers_dir / bottom.chain.hex / "diff" / "file-0").write_text("zeros")
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "root/metadata.db")) as sql:
        sql.execute("UPDATE blobs SET boot='earlier'")
        sql.execute("UPDATE layers SET boot='earlier'")
        sql.commit()
    store = Store.open(tmp_path / "root")
    await store.recover()
    assert (store.layers.layers_dir / bottom.chain.hex / "diff" / "file-0").read_text() == "0"
    assert (await check(store)).problems == []
    await store.close()


async def test_a_check_beside_an_engine_at_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blobs, layers and files that are removed while it looks are no problem, and no failure."""
    owner = Ref("image", "x")
    top = await stacked(store, 2, owner)
    digests = [store.blobs.put(bytes([number]) * 100, owner=owner) for number in range(8)]
    listed = Path.iterdir

    def iterdir(directory: Path) -> Iterator[Path]:
        yield from listed(directory)
        yield directory / "gone-meanwhile"

    def tell(progress: Progress) -> None:
        if progress.id == "blobs" and digests:
            for digest in digests:
                store.blobs.delete(digest)
            digests.clear()
        if progress.id == "layers" and store.layers.has(top):
            store.db.refs.drop(owner)
            store.layers.delete(top)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = await check(store, progress=tell)
    kinds = {problem.kind for problem in found.problems}
    assert not kinds & {"blob", "layer", "reference"}, found.problems
    assert "orphan" in kinds and msgspec.json.encode(found)  # as the API answers it
    assert not [problem for problem in found.problems if "gone-meanwhile" in problem.subject
                and problem.kind != "leftover"]  # fmt: skip


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place])
    if done.returncode:
        pytest.skip("cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("where", ["blob", "layer"])
async def test_a_full_disk_leaves_nothing_half_done(small_disk: Path, where: str) -> None:
    """Pulls that do not fit say so and give the space back; smaller ones still work."""
    content = os.urandom(6_000_000) if where == "layer" else os.urandom(9_000_000)
    async with fake_registry() as registry:
        registry.add("big", "latest", build_image([{"x": content}], compression=""))
        registry.add("small", "latest", build_image([{"y": b"fits"}]))
        store = Store.open(small_disk / "root")
        images = ImageService(store, RegistryOptions(retry_delay=0.01))
        try:
            await images.start()
            with pytest.raises(PortsideError, match=r"[Nn]o space left"):
                await images.pull(f"{registry.host}/big")
            assert await images.list(all=True) == []
            await store.trash.wait()
            for (lease,) in store.db.query("SELECT id FROM leases"):
                Lease(store.db, lease).release()
            await store.collect()
            assert [p for p in (await check(store)).problems if p.kind != "leftover"] == []
            assert await images.pull(f"{registry.host}/small") is not None
        finally:
            await images.close()
            await store.close()


def test_the_times_of_whiteouts_are_not_compared(tmp_path: Path) -> None:
    """Archives have none: each unpacking makes its own."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        os.mknod(tmp_path / name / "gone", stat.S_IFCHR, 0)
        (tmp_path / name / "file").write_text("x")
        os.utime(tmp_path / name / "file", (1, 1))
    os.utime(tmp_path / "one/gone", (1, 1))
    assert first_difference(str(tmp_path / "one"), str(tmp_path / "two")) == ""
    os.utime(tmp_path / "one/file", (2, 2))
    assert first_difference(str(tmp_path / "one"), str(tmp_path / "two")) == "/file was changed"
