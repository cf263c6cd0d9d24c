"""Writable layers of builds: nothing is synced on the way, and the kernel mounts them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portside.kernel import overlay
from portside.kernel.syncfs import EARLY
from portside.store.roots import closing, mount_overlay
from portside.store.store import Store
from portside.store.trees import copy_data

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts overlays")


@pytest.mark.skipif(not overlay.can_be_volatile(), reason="needs Linux 5.10")
async def test_a_volatile_overlay_is_mounted_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    try:
        found = store.writables.create("step", None, for_build=True)
        assert found == store.writables.rootfs("step")
        for name in ("first", "second"):
            with closing(mount_overlay(found)) as root:
                flags = os.O_WRONLY | os.O_CREAT
                with closing(os.open(name, flags, 0o644, dir_fd=root)) as file:
                    os.write(file, name.encode())
                    os.fsync(file)
        assert {path.name for path in Path(found.upper).iterdir()} == {"first", "second"}
        store.writables.remove("step")
        store.writables.create("step", None)
        assert overlay.VOLATILE not in store.writables.rootfs("step").options
        store.writables.create("removed", None, is_volatile=True)
        assert overlay.VOLATILE in store.writables.rootfs("removed").options
    finally:
        await store.close()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 2 * EARLY + 12345])
def test_copies_have_the_bytes_and_the_holes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    hole = 16 << 20
    with (tmp_path / "source").open("wb") as file:
        file.write(data)
        file.seek(hole, os.SEEK_CUR)
        file.write(b"end")
        file.truncate(size + hole + 3 + (8 << 20))
    with (tmp_path / "source").open("rb") as source, (tmp_path / "copy").open("xb") as target:
        copy_data(source.fileno(), target.fileno(), os.fstat(source.fileno()).st_size)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < size + hole
