"""The stock of network namespaces: those that belong to user namespaces expected next."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from runtimekit import is_root

from portside.model.idmap import IDMappings
from portside.model.instance import Instance
from portside.model.ociruntime import IDMapping
from portside.networks.netns_pool import EXPECTED, NamespacePool, NamespaceWorker

pytestmark = pytest.mark.skipif(not is_root(), reason="makes namespaces, which needs root")
TIMEOUT = 60


def mappings(number: int) -> IDMappings:
    return IDMappings(*((IDMapping(0, (1 << 31) + number * 1000, 1000),) for _ in "ug"))


def links() -> set[str]:
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return {line.split()[1].split("@")[0].rstrip(":") for line in listed.stdout.splitlines()}


async def ready(pool: NamespacePool, wanted: list[IDMappings]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while any(pool._expected.get(key) is None for key in wanted):
            await asyncio.sleep(0.02)


def test_what_is_expected_is_there_and_is_given_up_again(tmp_path: Path) -> None:
    async def body() -> None:
        instance = Instance.of(tmp_path / "d", tmp_path / "x")
        worker = NamespaceWorker()
        pool = NamespacePool(worker, instance)
        await pool.start()
        for number in range(EXPECTED + 2):
            pool.expect(mappings(number))
        kept = [mappings(number) for number in range(2, EXPECTED + 2)]
        assert list(pool._expected) == kept
        await ready(pool, kept)
        made = pool._expected[kept[0]]
        space = await pool.take(mappings=kept[0])
        assert space is made and space.userns >= 0
        with open(f"/proc/self/fdinfo/{space.userns}"):
            pass
        assert space.link in links()
        other = await pool.take(mappings=mappings(99))
        assert other.link != space.link
        before = len(os.listdir("/proc/self/fd"))
        for one in (space, other):
            one.close()
        await pool.close()
        worker.close()
        assert len(os.listdir("/proc/self/fd")) < before
        async with asyncio.timeout(TIMEOUT):  # the kernel takes namespaces down by itself
            while links() & {space.link, other.link, made.link}:
                await asyncio.sleep(0.1)

    asyncio.run(body())
