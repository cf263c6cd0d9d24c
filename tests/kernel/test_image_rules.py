"""Names, removal, pruning and listing, by Docker's rules."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from imagekit import layer_tar

from portside.images.service import ImageService
from portside.model.errors import Conflict, InvalidParameter, NotFound
from portside.model.image import RunConfig
from portside.model.imageapi import DeleteItem
from portside.model.platform import Platform
from portside.store.db import Ref
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

RUNNING, STOPPED = "a1" * 32, "b2" * 32


class Events(list[tuple[str, str, str]]):
    def __call__(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> None:
        self.append((type, action, id))


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ImageService]:
    store = Store.open(tmp_path / "root")
    images = ImageService(store, publish=Events(), is_running=lambda c: c == RUNNING)
    await images.start()
    yield images
    await images.close()
    await store.close()


async def made(service: ImageService, *names: str, content: str = "", label: str = "") -> str:
    """An image of one small layer."""

    async def stream() -> AsyncIterator[bytes]:
        yield layer_tar({"f": (content or "".join(names)).encode()})

    changes = [f"LABEL {label}"] if label else []
    identifier = await service.import_(stream(), names[0] if names else "", changes=changes)
    for name in names[1:]:
        service.tag(identifier, name)
    return identifier


async def child_of(service: ImageService, parent: str, name: str) -> str:
    container = os.urandom(32).hex()
    service.store.writables.create(container, service.get(parent).chain)
    upper = service.store.writables.containers_dir / container / "upper"
    (upper / name.replace(":", "-").replace("/", "-")).write_text(name)
    identifier = await service.commit(container, parent, ref=name, config=RunConfig())
    service.store.writables.remove(container)
    return identifier


def untagged(*names: str) -> list[DeleteItem]:
    return [DeleteItem(untagged=name) for name in names]


async def test_resolution(service: ImageService) -> None:
    identifier = await made(service, "app:1")
    plain = identifier.removeprefix("sha256:")
    for name in ("app:1", "docker.io/library/app:1", identifier, plain, plain[:12], plain[:2]):
        assert service.get(name).id == identifier
    with pytest.raises(NotFound, match=r"^No such image: app:latest$"):
        service.get("app")
    with pytest.raises(NotFound, match=r"^No such image: sha256:0{64}$"):
        service.get("0" * 64)
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        service.get("A B")
    with pytest.raises(NotFound, match="does not provide the specified platform"):
        service.get("app:1", Platform.parse("linux/s390x"))
    hexname = plain[:8]
    other = await made(service, hexname)
    assert service.get(hexname).id == other, "a name comes before the prefix of an ID"


async def test_a_tag_moves(service: ImageService) -> None:
    first, second = await made(service, "app:1"), await made(service, "other", content="2")
    service.tag("other", "app:1")
    assert service.get("app:1").id == second
    assert service.get(first).repo_tags == ()
    with pytest.raises(InvalidParameter, match="digest reference"):
        service.tag("other", "x@sha256:" + "0" * 64)
    with pytest.raises(InvalidParameter, match="ambiguous tag using digest algorithm as name"):
        service.tag("other", "sha256:x")


async def test_untag_until_the_last_name(service: ImageService) -> None:
    identifier = await made(service, "app:1", "app:2", "joe/app")
    assert await service.remove("app:1") == untagged("app:1")
    assert await service.remove("joe/app") == untagged("joe/app:latest")
    assert await service.remove("app:2") == [
        *untagged("app:2"),
        DeleteItem(deleted=identifier),
    ]
    assert await service.list(all=True) == []
    assert list(service.store.blobs.all()) == []
    events = service._publish
    assert isinstance(events, Events)
    assert [action for _, action, _ in events][-4:] == ["untag", "untag", "untag", "delete"]


async def test_by_digest_a_repository_loses_all_its_names(service: ImageService) -> None:
    identifier = await made(service, "app:1", "app:2", "joe/app:1")
    assert service.get("app:1").repo_digests == (f"joe/app@{identifier}", f"app@{identifier}")
    assert await service.remove(f"app@{identifier}") == untagged("app:1", "app:2")
    items = await service.remove(f"joe/app@{identifier}")
    assert items == [*untagged("joe/app:1"), DeleteItem(deleted=identifier)]


async def test_by_id_with_names_in_several_repositories(service: ImageService) -> None:
    identifier = await made(service, "app:1", "joe/app:1")
    short = identifier[7:19]
    with pytest.raises(Conflict) as caught:
        await service.remove(short)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (must be forced) - "
        "image is referenced in multiple repositories"
    )
    items = await service.remove(short, force=True)
    assert items[:2] == untagged("joe/app:1", "app:1") and items[2].deleted == identifier


async def test_by_id_with_one_name(service: ImageService) -> None:
    identifier = await made(service, "app:1")
    items = await service.remove(identifier)
    assert items[0] == DeleteItem(untagged="app:1") and items[1].deleted == identifier


async def test_images_in_use(service: ImageService) -> None:
    identifier = await made(service, "app:1")
    short = identifier[7:19]
    service.acquire(service.get(identifier), STOPPED)
    assert service.users(identifier) == [STOPPED]
    with pytest.raises(Conflict) as caught:
        await service.remove("app:1")
    assert str(caught.value) == (
        "conflict: unable to delete app:1 (must be forced) - "
        f"container {STOPPED[:12]} is using its referenced image {short}"
    )
    with pytest.raises(Conflict) as caught:
        await service.remove(identifier)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (must be forced) - "
        f"image is being used by stopped container {STOPPED[:12]}"
    )
    image = service.get(identifier)
    service.acquire(image, RUNNING)
    with pytest.raises(Conflict) as caught:
        await service.remove(identifier, force=True)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (cannot be forced) - "
        f"image is being used by running container {RUNNING[:12]}"
    )
    assert await service.remove("app:1", force=True) == untagged("app:1"), "only its name goes"
    assert service.get(identifier).repo_tags == (), "it stays without a name"
    service.store.db.refs.drop(Ref.container(RUNNING))
    assert (await service.remove(identifier, force=True))[0].deleted == identifier
    with pytest.raises(NotFound):
        service.acquire(image, RUNNING)


async def test_a_container_keeps_the_layers_of_a_forced_image(service: ImageService) -> None:
    identifier = await made(service, "app:1")
    chain = service.get(identifier).chain
    assert chain is not None
    service.store.writables.create(STOPPED, chain)
    service.acquire(service.get(identifier), STOPPED)
    items = await service.remove(identifier, force=True)
    assert DeleteItem(deleted=identifier) in items
    assert service.store.layers.has(chain)
    service.store.writables.remove(STOPPED)
    service.store.db.refs.drop(Ref.container(STOPPED))
    await service.store.collect()
    assert not service.store.layers.has(chain)


async def test_nameless_parents_go_with_their_last_child(service: ImageService) -> None:
    parent = await made(service, "base")
    child = await child_of(service, parent, "child")
    assert (await service.history(child))[1].id == parent
    service.tag(await made(service, content="new"), "base")
    assert parent not in [summary.id for summary in await service.list()], "intermediate"
    items = await service.remove("child")
    assert [item.deleted for item in items if item.deleted] == [child, parent]


async def test_a_parent_can_go_before_its_child(service: ImageService) -> None:
    """They share layers; nothing else binds them."""
    parent = await made(service, "base")
    child = await child_of(service, parent, "child")
    assert (await service.remove(parent))[-1].deleted == parent
    assert (await service.history(child))[1].id == "<missing>"
    chain = service.get(child).chain
    assert chain is not None and len(service.store.layers.stack(chain)) == 2


async def test_no_prune_keeps_untagged_parents(service: ImageService) -> None:
    parent = await made(service, "base")
    await child_of(service, parent, "child")
    service.tag("child", "base")
    await service.remove("child")
    await service.remove("base", prune=False)
    assert [summary.id for summary in await service.list()] == [parent]


async def test_listing_and_filters(service: ImageService) -> None:
    first = await made(service, "app:1", label="tier=web")
    second = await made(service, "joe/app:2", content="2")
    dangling = await made(service, content="3")
    child = await child_of(service, dangling, "child:1")

    async def ids(all: bool = False, **filters: list[str]) -> set[str]:
        found = await service.list(all=all, filters={k.rstrip("_"): v for k, v in filters.items()})
        return {summary.id for summary in found}

    everything = {first, second, child}
    assert await ids() == everything
    assert await ids(all=True) == everything | {dangling}
    assert await ids(dangling=["true"], all=True) == {dangling}
    assert await ids(dangling=["false"], all=True) == everything
    assert await ids(label=["tier=web"]) == {first}
    assert await ids(label=["tier"], reference=["joe/*"]) == set()
    assert await ids(reference=["joe/*", "child"]) == {second, child}
    assert await ids(before=["joe/app:2"]) == {first}
    assert await ids(since=["joe/app:2"]) == {child}
    assert await ids(until=["1h"]) == set()
    assert await ids(until=["2100-01-01"]) == everything
    with pytest.raises(InvalidParameter, match="invalid filter 'color'"):
        await ids(color=["red"])
    with pytest.raises(NotFound):
        await ids(before=["nope"])
    newest = (await service.list())[0]
    assert newest.id == child


async def test_shared_sizes(service: ImageService) -> None:
    parent = await made(service, "base", content="x" * 1000)
    child = await child_of(service, parent, "child")
    await made(service, "alone", content="y" * 10)
    sizes = {s.repo_tags[0]: (s.size, s.shared_size) for s in await service.list(shared_size=True)}
    assert {name: shared for name, (_, shared) in sizes.items()} == {
        "base:latest": 1000,
        "child:latest": 1000,
        "alone:latest": 0,
    }
    content = sum(v.content for v in service.catalogue.record(child).variants)
    assert service.get(child).size == content + 1005


async def test_prune(service: ImageService) -> None:
    kept = await made(service, "kept")
    used = await made(service, "used", content="used")
    dangling = await made(service, content="dangling")
    service.acquire(service.get(used), STOPPED)
    report = await service.prune()
    assert report.images_deleted is not None
    assert next(item.deleted for item in report.images_deleted) == dangling
    assert report.space_reclaimed > 0
    report = await service.prune({"dangling": ["false"], "until": ["1h"]})
    assert report.images_deleted is None
    await service.prune({"dangling": ["false"]})
    assert [summary.id for summary in await service.list()] == [used]
    assert kept not in service.catalogue.records
    with pytest.raises(InvalidParameter, match="invalid filter 'x'"):
        await service.prune({"x": ["y"]})


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "root")
    images = ImageService(store)
    await images.start()
    identifier = await made(images, "app:1")
    before = await images.inspect("app:1")
    images.acquire(images.get(identifier), STOPPED)
    await images.close()
    await store.close()
    store = Store.open(tmp_path / "root")
    images = ImageService(store)
    await images.start()
    assert await images.inspect("app:1") == before
    assert images.users(identifier) == [STOPPED]
    await images.close()
    await store.close()
