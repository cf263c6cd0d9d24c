"""Unpacking hostile and odd archives: exact inside, nothing outside, nothing left."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from peerkit import CAPABILITY, rich_layers, snapshot

from portside.model.digest import Digest
from portside.model.errors import PortsideError
from portside.model.image import OCI_LAYER, OCI_LAYER_GZIP
from portside.store.archive_values import Limits
from portside.store.db import Lease
from portside.store.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes overlay layers")

SMALL = Limits(
    total=1 << 20, logical=1 << 24, entries=100, name=4095, header=1 << 16, stream=4 << 20
)


@pytest.fixture(params=["overlay", "vfs"])
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made = Store.open(tmp_path / "root", driver=request.param, limits=SMALL)
    yield made
    await made.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What no archive may touch."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("untouched")
    return directory


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> bytes:
    """One member's blocks, whatever its name says."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    info.mode = more.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    for key, value in more.items():
        setattr(info, key, value)
    head = info.tobuf(tarfile.PAX_FORMAT)
    return head + data + bytes(-len(data) % 512)


def archive(*entries: bytes) -> bytes:
    return b"".join(entries) + bytes(1024)


def link(name: str, target: str) -> bytes:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> bytes:
    return entry(name, tarfile.LNKTYPE, linkname=target)


async def unpack(
    store: Store, tar: bytes, lease: Lease, parent: Digest | None = None, packed: bytes = b""
) -> Digest:
    blob = store.blobs.put(packed or tar, owner=lease.ref)
    media = OCI_LAYER_GZIP if packed else OCI_LAYER
    return await store.layers.ensure(parent, Digest.of(tar), blob, media, owner=lease.ref)


def root_of(store: Store, chain: Digest) -> Path:
    return store.layers.layers_dir / chain.hex / "diff"


def climbing(outside: Path) -> dict[str, bytes]:
    """Archives that try to get out, by name."""
    there = str(outside)
    up = "../" * 40 + there.lstrip("/")
    return {
        "dot-dot": archive(entry("../escaped", data=b"x")),
        "deep dot-dot": archive(entry(f"a/b/{up}/escaped", data=b"x")),
        "absolute": archive(entry(f"{there}/escaped", data=b"x")),
        "absolute dot-dot": archive(entry(f"/../../{there}/escaped", data=b"x")),
        "through a link": archive(link("a", there), entry("a/escaped", data=b"x")),
        "through a relative link": archive(link("a", up), entry("a/escaped", data=b"x")),
        "through two links": archive(
            link("a", ".."), link("b", f"a/{up}"), entry("b/escaped", data=b"x")
        ),
        "over a link": archive(link("a", f"{there}/secret"), entry("a", data=b"changed")),
        "link swapped in": archive(
            entry("d", tarfile.DIRTYPE), entry("d/f"), entry("d", tarfile.DIRTYPE),
            link("d", there), entry("d/escaped", data=b"x"),
        ),
        "hard link out": archive(hard("a", f"{up}/secret"), entry("a", data=b"changed")),
        "hard link absolute": archive(hard("a", f"{there}/secret"), entry("a", data=b"changed")),
        "hard link through a link": archive(
            link("s", there), hard("a", "s/secret"), entry("a", data=b"changed")
        ),
        "hard link to a link": archive(
            link("s", f"{there}/secret"), hard("a", "s"), entry("a", data=b"changed")
        ),
        "directory over a link": archive(link("a", there), entry("a/", tarfile.DIRTYPE, mode=0)),
        "whiteout through a link": archive(link("a", there), entry("a/.wh.secret")),
        "opaque through a link": archive(link("a", there), entry("a/.wh..wh..opq")),
        "whiteout of dot-dot": archive(entry("a/", tarfile.DIRTYPE), entry("a/.wh...")),
        "link loop": archive(link("a", "b"), link("b", "a"), entry("a/escaped", data=b"x")),
        "proc": archive(link("p", "/proc/self/root"), entry(f"p{there}/escaped", data=b"x")),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(climbing(Path("/x"))))
async def test_nothing_leads_outside(
    store: Store, outside: Path, tmp_path: Path, name: str
) -> None:
    before = outside.stat()
    with store.lease("test") as lease:
        try:
            chain = await unpack(store, climbing(outside)[name], lease)
        except PortsideError:
            chain = None
        assert os.listdir(outside) == ["secret"]
        assert (outside / "secret").read_text() == "untouched"
        assert (outside.stat().st_mode, outside.stat().st_uid) == (before.st_mode, before.st_uid)
        assert sorted(os.listdir(tmp_path)) == ["outside", "root"]
        if chain is None:  # refused: nothing of it stays
            assert os.listdir(store.layers.layers_dir) == []
            assert store.layers.all() == []


@pytest.mark.parametrize(
    ("tar", "said"),
    [
        (archive(*(entry(f"f{n}") for n in range(101))), "more than the 100 entries"),
        (archive(entry("big", data=bytes((1 << 20) + 1))), "larger than"),
        (archive(entry("a", data=bytes(1 << 19)), entry("b", data=bytes((1 << 19) + 1))), "larger"),
        (archive(entry("p", pax_headers={"comment": "x" * 70000})), "extended header"),
        (archive(entry("n" * 5000)), "name is longer"),
        (archive(entry("/".join(["d"] * 2500))), "name is longer|unpack"),
        (entry("cut", data=b"x" * 5000)[:2048], "truncated"),
        (b"no tar at all, just text" * 100, "malformed|truncated"),
        (archive(entry("x", b"Z")), "unsupported"),
        (archive(entry("d/", tarfile.DIRTYPE), hard("l", "d")), "hard link to directory"),
        (archive(hard("l", "missing")), "malformed"),
        (archive(entry("f"), entry("f/under", data=b"x")), "malformed"),
    ],
)  # fmt: skip
async def test_bombs_and_nonsense_are_refused(store: Store, tar: bytes, said: str) -> None:
    with store.lease("test") as lease:
        with pytest.raises(PortsideError, match=said):
            await unpack(store, tar, lease)
        assert os.listdir(store.layers.layers_dir) == []


async def test_sparse_bomb(store: Store) -> None:
    """A header that promises exabytes of holes."""
    tar = archive(
        entry("hole", data=b"", pax_headers={
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "",
            "GNU.sparse.size": str(1 << 60), "GNU.sparse.name": "hole",
        })
    )  # fmt: skip
    with store.lease("test") as lease, pytest.raises(PortsideError, match="larger than"):
        await unpack(store, tar, lease)


async def test_compression_bomb(store: Store) -> None:
    """4 KiB that become 64 MiB: the stream's bound holds though no file is large."""
    tar = archive(entry("f")) + bytes(64 << 20)
    with store.lease("test") as lease, pytest.raises(PortsideError, match="larger than"):
        await unpack(store, tar, lease, packed=gzip.compress(tar))


@pytest.mark.parametrize("cut", [10, 100, -20])
async def test_truncated_gzip(store: Store, cut: int) -> None:
    tar = archive(entry("f", data=os.urandom(5000)))
    with store.lease("test") as lease, pytest.raises(PortsideError, match=r"gzip|truncated"):
        await unpack(store, tar, lease, packed=gzip.compress(tar)[:cut])


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda tar: gzip.compress(tar[:700]) + gzip.compress(tar[700:]),
    "zstd": lambda tar: zstandard.compress(tar[:700]) + zstandard.compress(tar[700:]),
    "xz": lzma.compress,
    "lying": lambda tar: tar,
}


@pytest.mark.parametrize("how", COMPRESSORS)
async def test_compressions(store: Store, how: str) -> None:
    """Several members in one stream, and a media type that lies."""
    tar = archive(entry("f", data=b"content"))
    with store.lease("test") as lease:
        chain = await unpack(store, tar, lease, packed=COMPRESSORS[how](tar))
        assert (root_of(store, chain) / "f").read_bytes() == b"content"


async def test_duplicates_the_last_one_counts(store: Store) -> None:
    tar = archive(
        entry("a", data=b"1"), entry("a", data=b"2"),
        entry("b", data=b"1"), entry("b/", tarfile.DIRTYPE), entry("b/in"),
        entry("c/", tarfile.DIRTYPE), entry("c/in"), entry("c", data=b"file"),
        entry("d/", tarfile.DIRTYPE), entry("d/in"), link("d", "a"),
        link("e", "a"), entry("e", data=b"file"),
        entry("g/", tarfile.DIRTYPE, mode=0o700), entry("g/in"), entry("g/", tarfile.DIRTYPE),
    )  # fmt: skip
    with store.lease("test") as lease:
        root = root_of(store, await unpack(store, tar, lease))
        assert (root / "a").read_bytes() == b"2"
        assert os.listdir(root / "b") == ["in"]
        assert (root / "c").read_bytes() == b"file" == (root / "e").read_bytes()
        assert not (root / "e").is_symlink() and os.readlink(root / "d") == "a"
        assert os.listdir(root / "g") == ["in"]
        assert stat.S_IMODE((root / "g").stat().st_mode) == 0o755


async def test_overlay_marks_do_not_come_from_archives(store: Store) -> None:
    """An archive must not hide or redirect what overlayfs would believe."""
    tar = archive(
        entry("d/", tarfile.DIRTYPE, pax_headers={
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.trusted.overlay.redirect": "/etc",
            "SCHILY.xattr.user.fine": "1",
        })
    )  # fmt: skip
    with store.lease("test") as lease:
        root = root_of(store, await unpack(store, tar, lease))
        assert os.listxattr(root / "d") == ["user.fine"]


async def test_vfs_and_overlay_give_equal_trees(tmp_path: Path) -> None:
    """Whiteouts applied to a copy, or left to the kernel: the same root in the end."""
    trees = []
    for driver in ("overlay", "vfs"):
        store = Store.open(tmp_path / driver, driver=driver)
        with store.lease("test") as lease:
            chain = None
            for tar in rich_layers(b"both"):
                chain = await unpack(store, tar, lease, chain)
            assert chain is not None
            stack = store.layers.stack(chain) if driver == "overlay" else [store.layers.info(chain)]
            trees.append(snapshot([str(root_of(store, layer.chain)) for layer in stack]))
        await store.close()
    for path in trees[0]["tree"].keys() | trees[1]["tree"].keys():
        assert trees[0]["tree"].get(path) == trees[1]["tree"].get(path), path
    assert trees[0]["links"] == trees[1]["links"]


async def test_gnu_tar_sparse_files_stay_sparse(tmp_path: Path) -> None:
    """All of GNU tar's sparse formats."""
    import subprocess

    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "holes").open("wb") as file:
        for at in (0, 10 << 20, 50 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(64 << 20)
    wanted = (tmp_path / "in" / "holes").read_bytes()
    store = Store.open(tmp_path / "root")
    with store.lease("test") as lease:
        for form in ("gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"):
            done = subprocess.run(
                f"tar --sparse --format={form} -C {tmp_path}/in -cf - .".split(),
                capture_output=True, check=True,
            )  # fmt: skip
            file_made = root_of(store, await unpack(store, done.stdout, lease)) / "holes"
            assert file_made.read_bytes() == wanted, form
            assert file_made.stat().st_blocks * 512 < 1 << 20
    await store.close()


def test_entry_helper_keeps_hostile_names() -> None:
    """The tests above are about names that reach the reader as they are."""
    tar = archive(entry("../x"), hard("a", "../y"))
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        first, second = found.getmembers()
    assert [first.name, second.linkname] == ["../x", "../y"]


async def test_the_last_of_a_files_links_decides_what_it_is(store: Store) -> None:
    """As Docker has it; a capability survives when the owner stays."""
    able = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}
    tar = archive(
        entry("f", data=b"x", mode=0o644, uid=1, mtime=100),
        entry("l", tarfile.LNKTYPE, linkname="f", mode=0o4755, uid=2, gid=3, mtime=200),
        entry("able", data=b"x", mode=0o755, mtime=100, pax_headers=able),
        entry("linked", tarfile.LNKTYPE, linkname="able", mode=0o700, mtime=100),
        entry("s", tarfile.SYMTYPE, linkname="f", uid=1, mtime=100),
        entry("t", tarfile.LNKTYPE, linkname="s", uid=2, mtime=200),
    )
    with store.lease("test") as lease:
        root = root_of(store, await unpack(store, tar, lease))
        found = (root / "f").stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o4755, 2, 3)
        assert (found.st_mtime, found.st_nlink) == (200, 2)
        assert (root / "able").stat().st_mode & 0o7777 == 0o700
        assert os.getxattr(root / "able", "security.capability") == CAPABILITY
        assert (root / "s").lstat().st_uid == 2 and (root / "s").lstat().st_mtime == 100


async def test_a_slash_makes_no_directory_of_a_file(store: Store) -> None:
    """Only of the oldest kind of entry; the others' data would be taken for headers."""
    tar = archive(entry("file/", data=b"data"), entry("old/", tarfile.AREGTYPE), entry("after"))
    with store.lease("test") as lease:
        root = root_of(store, await unpack(store, tar, lease))
        assert (root / "file").read_bytes() == b"data"
        assert (root / "old").is_dir() and (root / "after").is_file()
