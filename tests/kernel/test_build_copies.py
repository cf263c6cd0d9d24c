"""What COPY makes on an overlay: seen through a fresh mount, as the user's container sees it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from portside.builder.llb import ChownOpt, CopyAction, MakeDir, Remove, UserOpt
from portside.builder.solver.build_jobs import RunFileOp
from portside.builder.solver.content_hash import hash_copies
from portside.builder.solver.copied_layers import FEWEST
from portside.builder.solver.file_digests import FileDigests, beside
from portside.builder.solver.job_values import Earlier, Placed, Sealed
from portside.builder.solver.rebase import leading_to, parents_differ
from portside.builder.solver.tree_copier import SMALL
from portside.model.errors import SystemFailure
from portside.model.rootfs import Rootfs
from portside.store.archive_values import Limits
from portside.store.roots import OPEN_DIR, mount_overlay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlays and owners")
OPTIONS = ("index=off", "redirect_dir=off", "metacopy=off")


class Place:
    """Two lower layers, a writable one, and a source."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "source"
        self.bottom, self.middle = directory / "bottom", directory / "middle"
        self.upper, self.work = directory / "upper", directory / "work"
        for path in (self.source, self.bottom, self.middle, self.upper, self.work):
            path.mkdir()
        self.target, self.made = directory / "blob", directory / "made"

    @property
    def rootfs(self) -> Rootfs:
        lower = (str(self.middle), str(self.bottom))
        return Rootfs("overlay", lower=lower, upper=str(self.upper), work=str(self.work),
                      options=OPTIONS)  # fmt: skip

    def run(
        self, *actions: Any, digests: Sequence[str] = (), private: bool = False,
        earlier: Place | None = None,
    ) -> Sealed:  # fmt: skip
        placed = tuple(Placed(each, 0 if isinstance(each, CopyAction) else -1) for each in actions)
        job = RunFileOp(
            rootfs=self.rootfs, base="", target=str(self.target), limits=Limits(),
            actions=placed, sources=(Rootfs("bind", upper=str(self.source)),),
            digests=tuple(digests), private=(private,), made=str(self.made),
            earlier=Earlier(str(earlier.upper), str(earlier.made)) if earlier else None,
        )  # fmt: skip
        self.made.unlink(missing_ok=True)
        self.target.unlink(missing_ok=True)
        return job.run([], lambda _: None)

    def seen(self) -> dict[str, str]:
        """Every file of the merged root with its content, directories with nothing."""
        root = mount_overlay(self.rootfs)
        found = {}
        try:
            top = os.open(".", OPEN_DIR, dir_fd=root)
            for path, dirs, files, fd in os.fwalk(".", dir_fd=top):
                for name in (*dirs, *files):
                    kind = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                    text = ""
                    if stat.S_ISREG(kind):
                        with open(os.open(name, os.O_RDONLY, dir_fd=fd)) as file:
                            text = file.read()
                    elif stat.S_ISLNK(kind):
                        text = "-> " + os.readlink(name, dir_fd=fd)
                    found[os.path.normpath(f"{path}/{name}")] = text
            os.close(top)
        finally:
            os.close(root)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    mask = os.umask(0o022)  # which a job sets in its own process
    yield Place(tmp_path)
    os.umask(mask)


def copy(dest: str, src: str = "/", **more: Any) -> CopyAction:
    return CopyAction(src=src, dest=dest, dir_copy_contents=True, create_dest_path=True,
                      allow_wildcard=True, **more)  # fmt: skip


def fill(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_new_names_beside_old_ones(place: Place) -> None:
    fill(place.bottom, {"app/kept": "k", "app/old": "0", "app/d/below": "b", "else": "e"})
    fill(place.middle, {"app/d/mid": "m"})
    fill(place.source, {"old": "1", "new": "n", "d/f": "f", "x/y/z": "z"})
    place.run(copy("/app"))
    assert place.seen() == {
        "app": "", "app/kept": "k", "app/old": "1", "app/new": "n", "app/d": "", "app/d/f": "f",
        "app/d/mid": "m", "app/d/below": "b", "app/x": "", "app/x/y": "", "app/x/y/z": "z",
        "else": "e",
    }  # fmt: skip


def test_a_name_that_a_layer_removed_shows_nothing_of_before(place: Place) -> None:
    fill(place.bottom, {"app/gone/secret": "s", "app/file": "f"})
    (place.middle / "app").mkdir()
    os.mknod(place.middle / "app" / "gone", stat.S_IFCHR, os.makedev(0, 0))
    fill(place.source, {"gone/new": "n"})
    place.run(copy("/app"))
    assert place.seen() == {"app": "", "app/gone": "", "app/gone/new": "n", "app/file": "f"}


def test_actions_see_what_those_before_made(place: Place) -> None:
    fill(place.bottom, {"app/a": "0"})
    fill(place.source, {"one/a": "1", "one/b/c": "c", "two/b/c": "d", "two/e": "e"})
    place.run(
        copy("/app", "/one"), Remove(path="/app/a"), copy("/app", "/two"),
        copy("/app/b/", "/two/e"), copy("/late/", "/t*"),
    )  # fmt: skip
    assert place.seen() == {
        "app": "", "app/b": "", "app/b/c": "d", "app/b/e": "e", "app/e": "e",
        "late": "", "late/b": "", "late/b/c": "d", "late/e": "e",
    }  # fmt: skip


def test_a_destination_through_a_link_of_the_root(place: Place) -> None:
    fill(place.bottom, {"usr/lib/have": "h"})
    (place.bottom / "lib").symlink_to("usr/lib")
    fill(place.source, {"more/f": "f"})
    place.run(copy("/lib"))
    assert place.seen()["usr/lib/more/f"] == "f"
    assert place.seen()["lib"] == "-> usr/lib"


@pytest.mark.parametrize(
    ("link", "to", "dest", "made"),
    [
        ("t/link", "f", "/t/link", "t/f"),
        ("t/link", "none", "/t/link", "t/none"),
        ("t/link", "/new/none", "/t/link", "new/none"),
        ("t/link", "../new/none", "/t/link", "new/none"),
        ("t/link", "../../../up", "/t/link", "up"),
        ("t/link", "none", "/t/link/", "t/none/a"),
        ("t/link", "/new/none", "/t/link/x/", "new/none/x/a"),
    ],
)
def test_a_destination_that_is_a_link_is_followed(
    place: Place, link: str, to: str, dest: str, made: str
) -> None:
    """As in Docker, which writes to what a link leads to, also where that does not exist."""
    fill(place.bottom, {"t/f": "old"})
    (place.bottom / link).symlink_to(to)
    fill(place.source, {"a": "new"})
    place.run(CopyAction(src="/a", dest=dest, create_dest_path=True))
    assert place.seen()[made] == "new"
    assert place.seen()[link] == f"-> {to}"
    assert not (place.bottom.parent / "up").exists()


def test_a_link_in_the_destination_is_replaced(place: Place) -> None:
    fill(place.bottom, {"t/f": "old"})
    (place.bottom / "t/a").symlink_to("f")
    fill(place.source, {"a": "new"})
    place.run(CopyAction(src="/a", dest="/t/", create_dest_path=True))
    assert place.seen()["t/a"] == "new" and place.seen()["t/f"] == "old"


def test_links_without_end_in_a_destination(place: Place) -> None:
    (place.bottom / "loop").symlink_to("loop")
    fill(place.source, {"a": "new"})
    with pytest.raises(SystemFailure, match="Too many levels of symbolic links"):
        place.run(CopyAction(src="/a", dest="/loop", create_dest_path=True))


def test_links_and_kinds_of_files(place: Place) -> None:
    fill(place.bottom, {"app/second": "old"})
    fill(place.source, {"first": "x", "d/other": "y"})
    os.link(place.source / "first", place.source / "second")
    os.link(place.source / "first", place.source / "d" / "third")
    (place.source / "link").symlink_to("first")
    os.mkfifo(place.source / "pipe")
    os.setxattr(place.source / "first", "user.note", b"n")
    place.run(copy("/app", owner=ChownOpt(user=UserOpt(id=7), group=UserOpt(id=8))))
    app = place.upper / "app"
    made = [os.stat(app / name) for name in ("first", "second", "d/third")]
    assert len({each.st_ino for each in made}) == 1
    assert {(each.st_uid, each.st_gid) for each in made} == {(7, 8)}
    assert os.getxattr(app / "second", "user.note") == b"n"
    assert stat.S_ISFIFO(os.stat(app / "pipe").st_mode)
    assert os.readlink(app / "link") == "first"
    assert os.lstat(app / "link").st_uid == 7


def test_a_whiteout_of_the_source_is_not_taken(place: Place) -> None:
    fill(place.bottom, {"app/kept": "k"})
    os.mknod(place.source / "kept2", stat.S_IFCHR, os.makedev(0, 0))
    with pytest.raises(SystemFailure, match="whiteout"):
        place.run(copy("/app"))


def test_the_layer_is_the_same_whether_digests_were_known(place: Place, tmp_path: Path) -> None:
    fill(place.source, {"a": "a" * 10, "d/big": "b" * 600_000, "d/e/f": ""})
    known = beside(str(place.source))
    source = Rootfs("bind", upper=str(place.source))
    fresh = hash_copies(source, (copy("/app"),))
    digests = FileDigests(known, private=True)
    assert hash_copies(source, (copy("/app"),), digests=digests) == fresh
    digests.save()
    assert hash_copies(source, (copy("/app"),), digests=FileDigests(known)) == fresh
    first = place.run(copy("/app"))
    (tmp_path / "again").mkdir()
    other = Place(tmp_path / "again")
    other.source = place.source
    second = other.run(copy("/app"), digests=[known])
    assert (first.content, first.sources) == (second.content, second.sources)


def test_a_changed_file_has_another_digest(place: Place) -> None:
    fill(place.source, {"f": "one", "g": "g" * 100})
    known = beside(str(place.source))
    source = Rootfs("bind", upper=str(place.source))
    digests = FileDigests(known, private=True)
    before = hash_copies(source, (), digests=digests)
    digests.save()
    found = os.stat(place.source / "f")
    (place.source / "f").write_text("two")
    os.utime(place.source / "f", ns=(found.st_atime_ns, found.st_mtime_ns))
    after = hash_copies(source, (), digests=FileDigests(known))
    assert after != before
    assert after == hash_copies(source, ())


def test_a_file_that_was_just_changed_is_not_remembered(place: Place) -> None:
    fill(place.source, {"f": "one"})
    digests = FileDigests(beside(str(place.source)))
    hash_copies(Rootfs("bind", upper=str(place.source)), (), digests=digests)
    assert digests.find(os.stat(place.source / "f")) is None


def test_linked_copies_leave_the_directories_they_pass_through(place: Place) -> None:
    fill(place.bottom, {"usr/lib/have": "h", "srv/own/f": "0"})
    (place.bottom / "lib").symlink_to("usr/lib")
    os.chmod(place.bottom / "srv", 0o711)
    os.chown(place.bottom / "srv" / "own", 5, 6)
    fill(place.source, {"lib/more": "m", "srv/own/f": "1", "srv/own/new/g": "g"})
    os.chown(place.source / "srv" / "own" / "new", 7, 8)
    base = Rootfs("bind", upper=str(place.bottom))
    above = Rootfs("bind", upper=str(place.source))
    assert parents_differ(base, above, ["/lib"])
    assert parents_differ(base, above, ["/else", "/srv/own"])
    assert not parents_differ(base, above, ["/else"])
    assert not parents_differ(base, Rootfs("bind", upper=str(place.middle)), ["/srv/own"])
    keep = [path for dest in ("/lib", "/srv/own") for path in leading_to(dest)]
    job = RunFileOp(
        rootfs=place.rootfs, base="", target=str(place.target), limits=Limits(),
        actions=(Placed(copy("/"), 0),), sources=(above,), keep=tuple(keep),
    )  # fmt: skip
    job.run([], lambda _: None)
    assert place.seen() == {
        "lib": "-> usr/lib", "usr": "", "usr/lib": "", "usr/lib/have": "h", "usr/lib/more": "m",
        "srv": "", "srv/own": "", "srv/own/f": "1", "srv/own/new": "", "srv/own/new/g": "g",
    }  # fmt: skip
    found = [os.stat(place.upper / path) for path in ("srv", "srv/own", "srv/own/new")]
    assert [(stat.S_IMODE(each.st_mode), each.st_uid, each.st_gid) for each in found] == [
        (0o711, 0, 0), (0o755, 5, 6), (0o755, 7, 8),
    ]  # fmt: skip


def remembered(place: Place, *names: str) -> str:
    """The file with the digests of files of the source, as receiving them leaves it."""
    path = beside(str(place.source))
    digests = FileDigests(path, private=True)
    for name in names:
        data = (place.source / name).read_bytes()
        is_plain = not os.listxattr(place.source / name)
        found, digest = os.stat(place.source / name), hashlib.sha256(data).digest()
        digests.add(found, digest, is_plain=is_plain)
    digests.save()
    return path


def beyond(place: Place, name: str = "beyond") -> Place:
    """Another layer that copies from the same source."""
    directory = place.upper.parent / name
    directory.mkdir()
    found = Place(directory)
    found.source = place.source
    return found


LARGE = "x" * (SMALL + 1)


def test_a_large_file_of_the_engines_own_is_one_file_with_its_copy(place: Place) -> None:
    fill(place.source, {"large": LARGE, "small": "s", "d/large": LARGE})
    digests = [remembered(place, "large", "small", "d/large")]
    actions = copy("/", "/large"), copy("/", "/small"), copy("/d", "/d")
    place.run(*actions, digests=digests, private=True)
    for name, links in (("large", 2), ("small", 1), ("d/large", 2)):
        source, made = os.stat(place.source / name), os.stat(place.upper / name)
        assert (made.st_ino == source.st_ino, made.st_nlink) == (links == 2, links), name
        # what is known of the source is still known: its change time is another one now
        known = FileDigests(digests[0]).find(source)
        assert known == hashlib.sha256((place.source / name).read_bytes()).digest(), name
    assert place.seen() == {"large": LARGE, "small": "s", "d": "", "d/large": LARGE}


def test_the_layer_is_the_same_whether_a_file_is_linked_or_copied(place: Place) -> None:
    fill(place.source, {"large": LARGE})
    digests = [remembered(place, "large")]
    linked = place.run(copy("/", "/large"), digests=digests, private=True)
    other = beyond(place)
    copied = other.run(copy("/", "/large"), digests=digests)
    assert os.stat(other.upper / "large").st_nlink == 1
    assert (linked.diff_id, linked.content) == (copied.diff_id, copied.content)


def test_two_copies_are_two_files(place: Place) -> None:
    fill(place.source, {"large": LARGE})
    digests = [remembered(place, "large")]
    other = beyond(place)
    for each in (place, other):
        each.run(copy("/one", "/large"), copy("/two", "/large"), digests=digests, private=True)
    paths = [each.upper / name for each in (place, other) for name in ("one", "two")]
    assert len({os.stat(path).st_ino for path in paths}) == 4


@pytest.mark.parametrize("change", ["mode", "owner", "time", "unknown", "open"])
def test_what_is_to_be_another_file_is_copied(place: Place, change: str) -> None:
    fill(place.source, {"large": LARGE})
    digests = [remembered(place, *(["large"] if change != "unknown" else []))]
    wanted: dict[str, dict[str, Any]] = {
        "mode": {"mode": "0600"},
        "owner": {"owner": ChownOpt(user=UserOpt(id=5))},
        "time": {"timestamp": 10**18},
    }
    before = os.stat(place.source / "large")
    action = CopyAction(src="/large", dest="/large", **wanted.get(change, {}))
    place.run(action, digests=digests, private=change != "open")
    assert os.stat(place.upper / "large").st_ino != before.st_ino
    after = os.stat(place.source / "large")
    assert (after.st_ctime_ns, after.st_nlink) == (before.st_ctime_ns, 1)


def test_a_linked_file_replaces_what_the_root_has(place: Place) -> None:
    fill(place.bottom, {"large": "old", "gone": "old"})
    fill(place.source, {"large": LARGE, "gone": LARGE})
    digests = [remembered(place, "large", "gone")]
    actions = Remove(path="/gone"), copy("/", "/large"), copy("/", "/gone")
    place.run(*actions, digests=digests, private=True)
    assert place.seen() == {"large": LARGE, "gone": LARGE}


def test_a_symbolic_mode_is_not_for_the_directories_on_the_way(place: Place) -> None:
    fill(place.source, {"f": "1", "d/g": "2"})
    actions = tuple(
        Placed(copy(dest, mode=mode), 0) for dest, mode in (("/s/t/", "go-rwx"), ("/o/t/", "700"))
    )
    RunFileOp(
        rootfs=place.rootfs, base="", target=str(place.target), limits=Limits(), actions=actions,
        sources=(Rootfs("bind", upper=str(place.source)),),
    ).run([], lambda _: None)  # fmt: skip
    names = ("s", "s/t", "s/t/f", "s/t/d", "o", "o/t", "o/t/f")
    found = [stat.S_IMODE(os.stat(place.upper / name).st_mode) for name in names]
    assert found == [0o755, 0o755, 0o600, 0o700, 0o700, 0o700, 0o700]


def test_a_directory_of_an_unknown_user_is_roots(place: Place) -> None:
    fill(place.bottom, {"etc/passwd": "bob:x:15:16::/:/bin/sh\n", "etc/group": "staff:x:50:\n"})
    users = {"bob": (15, 16), "bob:staff": (15, 50), "bob:none": (15, 16), "none": (0, 0)}

    def made(number: int, name: str) -> Placed:
        user, colon, group = name.partition(":")
        owner = ChownOpt(user=UserOpt(name=user), group=UserOpt(name=group) if colon else None)
        return Placed(MakeDir(path=f"/{number}/a", make_parents=True, owner=owner), -1)

    RunFileOp(
        rootfs=place.rootfs, base="", target=str(place.target), limits=Limits(), sources=(),
        actions=tuple(made(number, name) for number, name in enumerate(users)),
    ).run([], lambda _: None)  # fmt: skip
    for number, expected in enumerate(users.values()):
        for path in (f"{number}", f"{number}/a"):
            seen = os.stat(place.upper / path)
            assert (seen.st_uid, seen.st_gid) == expected


MANY = {f"d{number % 7}/f{number}": f"{number}" for number in range(FEWEST)}
SAME, OTHER = "d1/f1", "d2/f2"


def copied_again(place: Place, *names: str, change: Callable[[Path], object]) -> Place:
    """A layer of a copy that is done again after ``change`` to a file of the source."""
    fill(place.source, {**MANY, **dict.fromkeys(names, "x")})
    place.run(copy("/"), digests=[remembered(place, *MANY, *names)])
    change(place.source)
    again = beyond(place)
    digests = [remembered(place, *MANY, *names)]
    made = again.run(copy("/"), digests=digests, earlier=place)
    fresh = beyond(place, "fresh")
    assert fresh.run(copy("/"), digests=digests) == made  # tar, content, sources
    assert fresh.seen() == again.seen()
    return again


def is_linked(again: Place, place: Place, name: str) -> bool:
    return os.stat(again.upper / name).st_ino == os.stat(place.upper / name).st_ino


def test_a_copy_that_is_done_again_links_what_has_not_changed(place: Place) -> None:
    again = copied_again(place, change=lambda top: (top / OTHER).write_text("new"))
    assert is_linked(again, place, SAME)
    assert (again.upper / OTHER).read_text() == "new"
    assert (place.upper / OTHER).read_text() == MANY[OTHER]
    assert sum(is_linked(again, place, name) for name in MANY) == len(MANY) - 1
    # and once more, from the one that was linked
    third = beyond(place, "third")
    third.run(copy("/"), digests=[beside(str(place.source))], earlier=again)
    assert all(is_linked(third, again, name) for name in MANY)


def _rewritten(path: Path) -> None:
    """Other bytes, the same size and modification time."""
    found = path.stat()
    path.write_text("9")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        _rewritten,
        lambda path: path.chmod(0o600),
        lambda path: os.chown(path, 5, 6),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.setxattr(path, "user.mark", b"1"),
    ],
    ids=["content", "mode", "owner", "time", "xattr"],
)
def test_what_has_changed_is_copied_again(place: Place, change: Callable[[Path], object]) -> None:
    again = copied_again(place, change=lambda top: change(top / SAME))
    assert not is_linked(again, place, SAME)
    assert is_linked(again, place, OTHER)


def test_names_of_one_file_that_are_two_files_now_are_two(place: Place) -> None:
    def part(top: Path) -> None:
        found = (top / "two").stat()
        (top / "two").unlink()
        (top / "two").write_text("x")
        os.utime(top / "two", ns=(found.st_atime_ns, found.st_mtime_ns))

    fill(place.source, {"one": "x"})
    os.link(place.source / "one", place.source / "two")
    again = copied_again(place, "one", "two", change=part)
    assert is_linked(again, place, "one")
    assert not is_linked(again, place, "two")


def test_a_layer_that_is_gone_is_no_obstacle(place: Place) -> None:
    fill(place.source, MANY)
    place.run(copy("/"), digests=[remembered(place, *MANY)])
    shutil.rmtree(place.upper)
    again = beyond(place)
    again.run(copy("/"), digests=[beside(str(place.source))], earlier=place)
    assert {name: (again.upper / name).read_text() for name in MANY} == MANY


def test_a_directory_that_was_made_anew_is_other_content_than_one_that_was_touched(
    place: Place,
) -> None:
    fill(place.bottom, {"d/old": "1"})
    (place.source / "d").mkdir()
    anew = place.run(Remove(path="/d"), MakeDir(path="/d"))
    assert "d/old" not in place.seen()
    other = beyond(place)
    other.bottom = place.bottom
    touched = other.run(copy("/d", "/d"))
    assert "d/old" in other.seen()
    assert anew.content != touched.content
