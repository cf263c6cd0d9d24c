"""Copying of a build while links are swapped in both trees: nothing outside is read or written."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from portside.builder.llb import CopyAction
from portside.builder.solver.content_hash import hash_copies
from portside.builder.solver.file_digests import FileDigests
from portside.builder.solver.file_worker import FileWorker, Source
from portside.builder.solver.tree_copier import Copies, WritableRoot
from portside.model.errors import PortsideError
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.roots import OPEN_DIR

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are kept")
ROUNDS = 300


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """A worker does many jobs: one that fails leaves no descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    left = set(os.listdir("/proc/self/fd")) - before
    assert not left, [os.readlink(f"/proc/self/fd/{fd}") for fd in left][:5]


@contextmanager
def swapping(place: Path, outside: Path) -> Iterator[None]:
    """Exchange a directory for a link that leads outside, and back, all the time."""
    link, kept = place.with_name("link"), place.with_name("kept")
    link.symlink_to(outside)
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            with suppress(OSError):
                place.rename(kept)
                link.rename(place)
                place.rename(link)
                kept.rename(place)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def copy(root: Path, source: Path, action: CopyAction) -> None:
    """One copy as a job makes it; what fails because of the swapping may fail."""
    target = WritableRoot(Rootfs("bind", upper=str(root)))
    fd = os.open(source, OPEN_DIR)
    try:
        with suppress(PortsideError, OSError):
            FileWorker(target, Source(fd), Limits(), [], Copies(FileDigests())).run(action)
    finally:
        os.close(fd)
        target.close()


@pytest.mark.parametrize("src", ["/d/a", "/d", "/d/a/f", "/d/*/f"])
def test_a_source_that_becomes_a_link_is_not_followed_outside(tmp_path: Path, src: str) -> None:
    outside, source, root = tmp_path / "outside", tmp_path / "source", tmp_path / "root"
    for path in (outside, source / "d" / "a", root):
        path.mkdir(parents=True)
    (outside / "f").write_text("secret")
    (source / "d" / "a" / "f").write_text("inside")
    action = CopyAction(src=src, dest="/to/", dir_copy_contents=True, create_dest_path=True,
                        follow_symlink=True, allow_wildcard=True)  # fmt: skip
    taken = 0
    copied = False
    with swapping(source / "d" / "a", outside):
        for number in range(20 * ROUNDS):
            if number >= ROUNDS and copied:
                break  # of a directory one copy of a hundred succeeds
            target = root / str(number)
            target.mkdir()
            copy(target, source, action)
            with suppress(PortsideError, OSError):
                hash_copies(Rootfs("bind", upper=str(source)), (action,))
            copied = copied or any(target.rglob("f"))
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            taken += 1
            assert path.read_text() == "inside"
    assert taken, "nothing was copied at all"


def test_a_destination_that_becomes_a_link_is_not_written_through(tmp_path: Path) -> None:
    outside, source, root = tmp_path / "outside", tmp_path / "source", tmp_path / "root"
    for path in (outside, source / "d", root / "to"):
        path.mkdir(parents=True)
    for number in range(20):
        (source / "d" / f"f{number}").write_text("x")
    action = CopyAction(src="/d", dest="/to/in", dir_copy_contents=True, create_dest_path=True)
    with swapping(root / "to", outside):
        for _ in range(ROUNDS):
            copy(root, source, action)
    assert not list(outside.iterdir())
    assert any(path.name == "f0" for path in root.rglob("f0"))
