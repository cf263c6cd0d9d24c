"""Cache export and import: an engine with nothing continues where another one was."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from buildkit import Builder, MemoryContent, builder
from enginekit import PATIENCE
from imagekit import docker_registry

from portside.builder.cache.cache_manifest import parse_config
from portside.builder.results import CacheRequest, ExportRequest
from portside.builder.solver.operations import OperationSet
from portside.model.errors import InvalidParameter

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")
TEXT = """FROM scratch AS made
COPY a /a
COPY b /b
FROM scratch
COPY --from=made /b /c
"""


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Builder, Builder, Path]]:
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("a")
    (context / "b").write_bytes(os.urandom(1 << 20) * 5)
    async with builder(tmp_path / "one") as one, builder(tmp_path / "other") as other:
        yield one, other, context


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operations carried out, without sources."""
    found: list[str] = []
    original = OperationSet.run

    async def run(self: Any, vertex: Any, *args: Any) -> Any:
        if vertex.inputs:
            found.append(vertex.label)
        return await original(self, vertex, *args)

    monkeypatch.setattr(OperationSet, "run", run)
    return found


IMAGE = ExportRequest(type="image")


async def exported(
    one: Builder, context: Path, request: CacheRequest, *exports: ExportRequest
) -> list[dict[str, str]]:
    return await one.build(TEXT, context, *(exports or (IMAGE,)), cache_to=[request])


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("as_image", ["true", "false"])
async def test_a_local_cache(
    two: tuple[Builder, Builder, Path], ran: list[str], mode: str, as_image: str
) -> None:
    one, other, context = two
    content = MemoryContent()
    answers = await exported(
        one, context,
        CacheRequest(type="local", attrs={"mode": mode, "image-manifest": as_image},
                     content=content),
    )  # fmt: skip
    manifest = json.loads(answers[-1]["cache.manifest"])
    assert len(ran) == 3
    ran.clear()
    source = CacheRequest(type="local", attrs={"digest": manifest["digest"]}, content=content)
    (answer,) = await other.build(TEXT, context, IMAGE, inputs={"cache_from": (source,)})
    # the last step's inputs are known by content only with what max brings along
    assert len(ran) == (0 if mode == "max" else 2)
    before, after = (
        engine.document(found["containerimage.digest"])
        for engine, found in ((one, answers[0]), (other, answer))
    )
    assert before["layers"] == after["layers"]


async def test_registry_and_inline_caches(
    two: tuple[Builder, Builder, Path], ran: list[str], tmp_path: Path
) -> None:
    one, other, context = two
    with docker_registry(tmp_path / "registry") as host:
        ref = f"{host}/cache/x:1"
        await exported(
            one, context, CacheRequest(type="registry", attrs={"ref": ref, "mode": "max"})
        )
        push = ExportRequest(type="registry", attrs={"name": f"{host}/image/x:1"})
        await exported(one, context, CacheRequest(type="inline"), push)
        ran.clear()
        source = CacheRequest(type="registry", attrs={"ref": ref})
        await other.build(TEXT, context, IMAGE, inputs={"cache_from": (source,)})
        assert ran == []
        await other.service.prune(all=True)
        missing = CacheRequest(type="registry", attrs={"ref": f"{host}/no/such:1"})
        source = CacheRequest(type="registry", attrs={"ref": f"{host}/image/x:1"})
        await other.build(TEXT, context, IMAGE, inputs={"cache_from": (missing, source)})
        assert len(ran) == 2  # the other stage is not in the image


async def test_a_changed_file_is_not_found_in_an_imported_cache(
    two: tuple[Builder, Builder, Path], ran: list[str]
) -> None:
    one, other, context = two
    content = MemoryContent()
    answers = await exported(
        one, context, CacheRequest(type="local", attrs={"mode": "max"}, content=content)
    )
    digest = json.loads(answers[-1]["cache.manifest"])["digest"]
    ran.clear()
    (context / "a").write_text("changed")
    source = CacheRequest(type="local", attrs={"digest": digest}, content=content)
    await other.build(TEXT, context, IMAGE, inputs={"cache_from": (source,)})
    assert len(ran) == 3 - 1  # a and b are copied again; what is copied from b is the same


async def test_damaged_caches_count_as_empty(
    two: tuple[Builder, Builder, Path], ran: list[str]
) -> None:
    one, other, context = two
    content = MemoryContent()
    answers = await exported(
        one, context, CacheRequest(type="local", attrs={"mode": "max"}, content=content)
    )
    digest = json.loads(answers[-1]["cache.manifest"])["digest"]
    for layer in json.loads(content.blobs[digest])["layers"]:
        content.blobs[layer["digest"]] = b"damaged"
    ran.clear()
    source = CacheRequest(type="local", attrs={"digest": digest}, content=content)
    await other.build(TEXT, context, IMAGE, inputs={"cache_from": (source,)})
    assert len(ran) == 3


@pytest.mark.parametrize(
    "data",
    [
        b"{", b'{"layers":[{"blob":"sha256:x","parent":0}]}', b'{"layers":[{"parent":-2}]}',
        b'{"layers":[],"records":[{"digest":"k","outputs":[{"layer":0,"content":""}]}]}',
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_an_error(data: bytes) -> None:
    with pytest.raises(InvalidParameter, match="malformed"):
        parse_config(data)


@pytest.mark.parametrize(
    ("kind", "attrs", "told"),
    [
        ("s3", {}, "unknown cache exporter"), ("registry", {}, "needs ref"),
        ("local", {}, "dest=PATH"), ("inline", {"image-manifest": "x"}, "non-bool"),
        ("inline", {"oci-mediatypes": "x"}, "non-bool"),
    ],
)  # fmt: skip
async def test_bad_requests(
    two: tuple[Builder, Builder, Path], kind: str, attrs: dict[str, str], told: str
) -> None:
    one, _, context = two
    with pytest.raises(InvalidParameter, match=told):
        await exported(one, context, CacheRequest(type=kind, attrs=attrs))


async def test_a_stage_without_cache_is_made_again_below_cached_ones(
    two: tuple[Builder, Builder, Path], ran: list[str]
) -> None:
    """What stands on it is known by its content, here and in an imported cache."""
    one, other, context = two
    text = "FROM scratch AS made\nCOPY <<E /a\nx\nE\nFROM scratch\nCOPY --from=made /a /c\n"
    content = MemoryContent()
    cache = CacheRequest(type="local", attrs={"mode": "max"}, content=content)
    answers = await one.build(text, context, IMAGE, cache_to=[cache])
    digest = json.loads(answers[-1]["cache.manifest"])["digest"]
    source = CacheRequest(type="local", attrs={"digest": digest}, content=content)
    for engine, inputs in ((one, {}), (other, {"cache_from": (source,)})):
        ran.clear()
        await engine.build(text, context, IMAGE, no_cache_stages={"made"}, inputs=inputs)
        assert [label for label in ran if "made" in label] and not [
            label for label in ran if "--from=made" in label
        ]
        ran.clear()
        await engine.build(text, context, IMAGE)
        assert ran == []


async def test_clients_directories_count_for_the_limit(tmp_path: Path) -> None:
    """They were not measured before: nobody has asked for the cache's size."""
    policy = {"gc": {"policy": [{"all": True, "maxUsedSpace": "1MB"}]}}
    async with builder(tmp_path / "one", policy) as one:
        directories = one.service.directories
        for key, size in (("large", 2 << 20), ("small", 1 << 10)):
            with directories.use(key, "context") as path:
                path.mkdir(parents=True)
                (path / "file").write_bytes(os.urandom(size))
        await one.service.tidy()
        async with asyncio.timeout(60 * PATIENCE):
            while len(directories.idle()) > 1:
                await asyncio.sleep(0.05)
        (left,) = await one.service.usage()
        assert left.description == "local source for context" and left.size < 1 << 20
