"""The stock of network namespaces: those that belong to user namespaces expected next."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from pathlib import Path

import pytest
from runtimekit import is_root

from portside.kernel import idmapped
from portside.model.idmap import IDMappings
from portside.model.instance import Instance
from portside.model.ociruntime import IDMapping
from portside.networks.netns_pool import EXPECTED, NamespacePool, NamespaceWorker
from portside.runtime.launcher_client import Launcher

pytestmark = pytest.mark.skipif(not is_root(), reason="makes namespaces, which needs root")
TIMEOUT = 60
NS_GET_USERNS = 0xB701
"""ioctl_ns(2)."""


def mappings(number: int) -> IDMappings:
    return IDMappings(*((IDMapping(0, (1 << 31) + number * 1000, 1000),) for _ in "ug"))


def links() -> set[str]:
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return {line.split()[1].split("@")[0].rstrip(":") for line in listed.stdout.splitlines()}


async def ready(pool: NamespacePool, wanted: list[IDMappings]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while any(pool._expected[key].space is None for key in wanted):
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
        made = pool._expected[kept[0]].space
        assert made is not None
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


def test_the_network_of_the_last_one_is_expected_again(tmp_path: Path) -> None:
    async def body() -> None:
        worker = NamespaceWorker()
        pool = NamespacePool(worker, Instance.of(tmp_path / "d", tmp_path / "x"))
        await pool.start()
        taken = [await pool.take_bare(mappings=mappings(0))]
        pool.expect(mappings(1))
        pool.expect(mappings(2))
        await ready(pool, [mappings(1), mappings(2)])
        made = pool._expected[mappings(1)].space
        assert made is not None and not made.link and made.userns >= 0
        taken.append(await pool.take_bare(mappings=mappings(1)))
        assert taken[-1] is made
        given_up = pool._expected[mappings(2)].space
        assert given_up is not None and given_up.userns >= 0
        taken.append(await pool.take(mappings=mappings(2)))
        assert taken[-1].link and not pool._expected
        assert given_up.userns == -1, "what was expected in vain is closed"
        for one in taken:
            one.close()
        await pool.close()
        worker.close()

    asyncio.run(body())


def made_by(helper: idmapped.Helper | None) -> None:
    """A user namespace with a network namespace, and another network namespace in it."""
    wanted = mappings(0)
    user, network = idmapped.user_and_network_namespace(wanted.uids, wanted.gids, helper)
    other = idmapped.network_namespace_of(user, helper)
    try:
        for fd in (network, other):
            owner = fcntl.ioctl(fd, NS_GET_USERNS)
            assert os.fstat(owner).st_ino == os.fstat(user).st_ino
            os.close(owner)
        assert os.fstat(network).st_ino != os.fstat(other).st_ino
        assert os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino
    finally:
        for fd in (user, network, other):
            os.close(fd)


def test_the_launcher_forks_for_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher.spawn()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", lambda: pytest.fail("a fork of the engine"))
            made_by(launcher.hold)
    finally:
        launcher.end()
    assert not launcher.hold([0])
    made_by(launcher.hold)  # by a fork of our own


def test_without_a_helper_the_engine_forks() -> None:
    made_by(None)
    made_by(lambda fds: True)  # it says yes, and dies
