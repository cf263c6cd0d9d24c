"""``kill -9`` of a builder in the middle of a commit or a push: the next build continues from the
cache, and nothing is left over."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from buildkit import builder
from imagekit import docker_registry

from portside.builder.results import ExportRequest
from portside.builder.solver.operations import OperationSet
from portside.store import failpoints

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")
STEPS = 4
TEXT = "FROM scratch\n" + "".join(f"COPY f{number} /f{number}\n" for number in range(STEPS))


async def build(root: Path, context: Path, *requests: ExportRequest) -> list[dict[str, str]]:
    async with builder(root) as engine:
        return await engine.build(TEXT, context, *requests)


def die_at(point: str, count: int) -> None:
    """End this process the hard way when ``point`` is reached for the ``count``-th time."""
    seen = 0

    def hook(name: str) -> None:
        nonlocal seen
        seen += name == point
        if name == point and seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook
    if point == "push":
        from portside.builder.exporters import delivery

        async def push(*_: Any, **__: Any) -> None:
            hook("push")

        delivery.ImageService.push_image = push  # type: ignore[method-assign]


def killed(root: Path, context: Path, point: str, count: int, name: str) -> None:
    """A build in a process of its own that is killed on its way."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import asyncio, pathlib, test_build_crash as t\n"
        f"t.die_at({point!r}, {count})\n"
        f"request = t.ExportRequest(type='registry', attrs={{'name': {name!r}}})\n"
        f"asyncio.run(t.build(pathlib.Path({str(root)!r}), pathlib.Path({str(context)!r}), "
        "request))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, timeout=100)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("point", "count", "known", "size"),
    [
        ("blobs.adopt:before-rename", 2, 1, 100),
        ("blobs.adopt:renamed", 3, 2, 100),
        ("layers.record:before-rename", 2, 1, 100),
        ("layers.record:renamed", 3, 2, 100),
        ("layers.record:recorded", 3, 2, 100),
        ("push", 1, STEPS, 100),
        # layers whose blobs have no file
        ("layers.record:before-rename", 2, 1, 5 << 20),
        ("layers.record:renamed", 3, 2, 5 << 20),
        ("layers.record:recorded", 3, 2, 5 << 20),
        ("push", 1, STEPS, 5 << 20),
    ],
)
def test_the_next_build_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, count: int, known: int, size: int
) -> None:
    root, context = tmp_path / "root", tmp_path / "context"
    context.mkdir()
    for number in range(STEPS):
        (context / f"f{number}").write_bytes(os.urandom(size))
    ran: list[str] = []
    original = OperationSet.run

    async def run(self: Any, vertex: Any, *args: Any) -> Any:
        ran.append(vertex.label) if vertex.inputs else None
        return await original(self, vertex, *args)

    with docker_registry(tmp_path / "registry") as host:
        name = f"{host}/crash/x:1"
        killed(root, context, point, count, name)
        monkeypatch.setattr(OperationSet, "run", run)

        async def again() -> None:
            async with builder(root) as engine:
                store = engine.service.store
                for entry in store.writables.containers_dir.iterdir():
                    # as the engine's start does with what belongs to no container
                    store.writables.forget(entry.name)
                    store.trash.discard(entry)
                await store.recover()
                assert store.db.query("SELECT id FROM leases") == []
                request = ExportRequest(type="registry", attrs={"name": name})
                await engine.build(TEXT, context, request)
                assert len(ran) == STEPS - known
                assert await engine.images.pull(name) is not None
                await engine.images.remove(name, force=True)
                await engine.service.prune(all=True)
                assert store.layers.all() == [] and list(store.blobs.all()) == []
                assert store.db.query("SELECT container FROM writables") == []
                for place in ("ingest", "containers", "contexts"):
                    assert list((root / place).iterdir()) == []

        asyncio.run(again())
