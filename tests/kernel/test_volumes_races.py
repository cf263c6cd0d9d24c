"""Volumes that containers take while somebody else removes them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from portside.model.volume import VolumeCreate
from portside.store.store import Store
from portside.volumes.service import VolumeService
from portside.volumes.volume_records import Record

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: volumes have owners")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[VolumeService]:
    store = Store.open(tmp_path / "root")
    made = VolumeService(store, lambda *about: None)
    await made.start()
    yield made
    await store.close()


async def test_a_prune_lets_go_of_what_is_taken_while_it_measures(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("taken", "free"):
        await service.create(VolumeCreate(name=name))
    Path(service.mountpoint("taken"), "file").write_text("precious")
    measure = service._size

    async def take(record: Record) -> int:
        size = await measure(record)
        if record.name == "taken":
            service.acquire("taken", "c" * 64)
        return size

    monkeypatch.setattr(service, "_size", take)
    report = await service.prune({"all": ["true"]})
    assert report.deleted == ["free"]
    assert Path(service.mountpoint("taken"), "file").read_text() == "precious"
