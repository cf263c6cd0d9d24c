"""Who a container's users are on the host: subordinate ranges, ``userns-remap``, ``auto``."""

from __future__ import annotations

import pwd
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.containers import kept_ids, user_mapping
from portside.engine import userns_remap
from portside.kernel import subordinate_ids
from portside.model.container import HostConfig
from portside.model.errors import InvalidParameter, PortsideError
from portside.model.idmap import IDMappings, composed, in_a_row, short
from portside.model.ociruntime import IDMapping


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    found = tmp_path / "subuid", tmp_path / "subgid"
    for path, name in zip(found, ("SUBUID", "SUBGID"), strict=True):
        path.write_text("root:100:5\nnobody:300000:1000\n# x:1:2\nnobody:200000:500\n7:9:9\n")
        monkeypatch.setattr(subordinate_ids, name, path)
    return found


def test_ranges_are_of_a_name_or_number(files: tuple[Path, Path]) -> None:
    found = subordinate_ids.ranges_of(files[0], "nobody")
    assert found == [(300000, 1000), (200000, 500)]
    assert subordinate_ids.ranges_of(files[0], "who", "7") == [(9, 9)]
    assert subordinate_ids.ranges_of(files[0], "missing") == []
    assert subordinate_ids.ranges_of(files[0].with_name("none"), "nobody") == []
    assert subordinate_ids.first_free(files[0]) == 301000


def test_lines_that_overlap_give_each_id_once(files: tuple[Path, Path]) -> None:
    files[0].write_text("u:1000:100\nu:1050:100\n5:900:400\nother:0:5000\nu:1000:100\nu:1300:1\n")
    found = subordinate_ids.ranges_of(files[0], "u", "5")
    assert found == [(1000, 100), (1100, 50), (900, 100), (1150, 150), (1300, 1)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6))
def test_no_id_is_given_twice(lines: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "subuid")
        file.write_text("".join(f"u:{start}:{size}\n" for start, size in lines))
        found = subordinate_ids.ranges_of(file, "u")
    numbers = [n for start, size in found for n in range(start, start + size)]
    assert sorted(numbers) == sorted({n for a, c in lines for n in range(a, a + c)})


@pytest.mark.parametrize("option", ["nobody", str(pwd.getpwnam("nobody").pw_uid), "nobody:root"])
def test_remap_takes_users_groups_and_numbers(files: tuple[Path, Path], option: str) -> None:
    found = userns_remap.mappings(option)
    assert found is not None
    assert short(found.uids) == ["0:200000:500", "500:300000:1000"]
    wanted = ["0:100:5"] if option.endswith("root") else ["0:200000:500", "500:300000:1000"]
    assert short(found.gids) == wanted
    assert found.root == (200000, found.gids[0].host_id)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("99999999999999", "there is no user"),
        ("nobody:no-such-group", "there is no group"),
        ("nobody:", "invalid user/group specification"),
        (":nobody", "invalid user/group specification"),
        ("nobody:a:b", "invalid user/group specification"),
        ("daemon", "has no range for 'daemon': usermod"),
    ],
)
def test_remap_says_what_is_wrong(files: tuple[Path, Path], option: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        userns_remap.mappings(option)


def test_remap_of_root_is_none(files: tuple[Path, Path]) -> None:
    assert userns_remap.mappings("root") is None
    assert userns_remap.mappings("") is None


def test_mappings_translate_both_ways() -> None:
    found = IDMappings(in_a_row([(1000, 10), (5000, 10)]), in_a_row([(7, 3)]))
    assert (found.host_uid(12), found.host_gid(2), found.last_gid()) == (5002, 9, 2)
    assert short(found.inverse().uids) == ["1000:0:10", "5000:10:10"]
    with pytest.raises(InvalidParameter, match="uid 20 is not mapped"):
        found.host_uid(20)


def test_composed_goes_through_both() -> None:
    disk = (IDMapping(1234, 0, 1), IDMapping(1, 1, 100))
    assert short(composed(disk, (IDMapping(0, 100000, 50),))) == ["1234:100000:1", "1:100001:49"]


# -- auto ------------------------------------------------------------------------------------


def core_of(*records: Any) -> Any:
    containers = {str(n): SimpleNamespace(record=r) for n, r in enumerate(records)}
    networks = SimpleNamespace(expected=[])
    networks.expect = networks.expected.append
    return SimpleNamespace(containers=containers, spare_ranges=[], networks=networks)


def asked(mode: str, core: Any, user: str = "") -> IDMappings:
    found = user_mapping.allocate(core, HostConfig(userns_mode=mode), user)
    assert found is not None
    return found


def test_the_next_range_is_chosen_before_it_is_asked_for() -> None:
    """It is nobody else's meanwhile, and not for who asks for something special."""
    core = core_of()
    first = asked("auto", core)
    core.containers["0"] = SimpleNamespace(
        record=SimpleNamespace(id_mappings=first, host=HostConfig(userns_mode="auto"))
    )
    user_mapping.expect_another(core, HostConfig(userns_mode="auto:size=10"))
    user_mapping.expect_another(core, HostConfig())
    assert not core.spare_ranges
    user_mapping.expect_another(core, HostConfig(userns_mode="auto"))
    user_mapping.expect_another(core, HostConfig(userns_mode="auto"))
    (spare,) = core.spare_ranges
    assert core.networks.expected == [spare]
    special, high = asked("auto:size=100", core), asked("auto", core, "70000")
    for mapping in (first, special, high):
        assert not hosts(mapping) & hosts(spare)
    assert core.spare_ranges == [spare]
    assert asked("auto", core) == spare and not core.spare_ranges


def hosts(mapping: IDMappings) -> set[int]:
    return {n for one in mapping.uids for n in range(one.host_id, one.host_id + one.size)}


def test_auto_without_a_line_takes_what_no_login_has(files: tuple[Path, Path]) -> None:
    found = asked("auto", core_of())
    assert short(found.uids) == ["0:2147483648:65536"] == short(found.gids)
    assert asked("auto", core_of(), user="100000:5").uids[0].size == 100001
    files[0].write_text("x:4000000000:5\n")
    with pytest.raises(InvalidParameter, match="gives identifiers above"):
        asked("auto", core_of())


def test_auto_with_fixed_mappings(files: tuple[Path, Path]) -> None:
    for file in files:
        file.write_text("containers:1000:2000\n")
    found = asked("auto:size=1000,uidmapping=33:500:2,gidmapping=0:7", core_of())
    assert short(found.uids) == ["0:1000:33", "33:500:2", "35:1033:965"]
    assert short(found.gids) == ["0:7:1", "1:1000:999"]


@pytest.mark.parametrize(
    "mode",
    ["auto:size=0", "auto:size=x", "auto:what=1", "auto:uidmapping=1", "auto:uidmapping=1:2:0",
     "auto:gidmapping=1:-2:3", "auto:size=5000000000", "auto:uidmapping=0:1:5,uidmapping=2:9:5"],
)  # fmt: skip
def test_auto_refuses_what_makes_no_sense(files: tuple[Path, Path], mode: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid USER mode"):
        asked(mode, core_of())


@given(
    actions=st.lists(
        st.tuples(st.booleans(), st.integers(1, 400), st.integers(0, 20)), min_size=1, max_size=60
    )
)
def test_auto_never_gives_an_identifier_twice(actions: list[tuple[bool, int, int]]) -> None:
    """Containers come and go; what is given out is disjoint, within the ranges, and complete."""
    ranges = ((1000, 700), (5000, 900))
    kept: list[IDMappings] = []
    for come, size, which in actions:
        used = sorted((m.uids[0].host_id, m.uids[0].host_id + m.uids[0].size) for m in kept)
        if not come and kept:
            kept.pop(which % len(kept))
            continue
        first = user_mapping.first_fit(ranges, used, size)
        if first is None:
            free = sorted({n for a, c in ranges for n in range(a, a + c)} - {
                n for low, high in used for n in range(low, high)})  # fmt: skip
            run, longest = 0, 0
            for before, number in zip([-2, *free], free, strict=False):
                run = run + 1 if number == before + 1 else 1
                longest = max(longest, run)
            assert longest < size
            continue
        made = IDMappings((IDMapping(0, first, size),), ())
        assert any(a <= first and first + size <= a + c for a, c in ranges)
        assert not any(hosts(made) & hosts(other) for other in kept)
        kept.append(made)


@given(st.text(max_size=30))
def test_wild_text_is_refused_or_read(text: str) -> None:
    try:
        user_mapping.parse_auto(f"auto:{text}")
    except PortsideError as err:
        assert str(err)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("uidmapping=0:5:2,uidmapping=10:6:2", "identifier 6 is mapped twice"),
        ("uidmapping=0:1:70000", "identifier 70000 is not among the 5000"),
        ("gidmapping=0:4999:2", "identifier 5000 is not among the 5000"),
        (",".join(f"uidmapping={2 * n}:{n + 1}:1" for n in range(161)), "more than 160 mappings"),
    ],
)
def test_fixed_mappings_are_what_the_kernel_takes(
    without_root: None, options: str, words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        asked(f"auto:{options}", core_of())


def test_keep_id_and_nomap_are_for_engines_without_root() -> None:
    assert kept_ids.parse_keep_id("auto") is None and not kept_ids.is_nomap("auto")
    for mode in ("keep-id", "nomap"):
        with pytest.raises(InvalidParameter, match=f"{mode} is only supported in rootless mode"):
            asked(mode, core_of())


@pytest.fixture
def without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of user 1000 with 4999 subordinate identifiers."""
    for module in (user_mapping, kept_ids):
        monkeypatch.setattr(module, "rootless_user", lambda: 1000)
    monkeypatch.setattr(subordinate_ids, "mapped_here", lambda kind: 5000)
    monkeypatch.setattr(subordinate_ids, "outside", lambda kind: 1000)


def test_nomap_has_the_subordinates_alone(
    without_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked("nomap", core_of())
    assert short(found.uids) == ["0:1:4999"] == short(found.gids)
    monkeypatch.setattr(subordinate_ids, "mapped_here", lambda kind: 1)
    with pytest.raises(InvalidParameter, match="has no subordinate uids: give its user more"):
        asked("nomap", core_of())


def test_keep_id_of_a_size(without_root: None) -> None:
    found = asked("keep-id:size=3000", core_of())
    assert short(found.uids) == ["0:1:1000", "1000:0:1", "1001:1001:1999"]
    assert short(asked("keep-id:uid=0,gid=4,size=5", core_of()).gids) == ["0:1:4", "4:0:1"]
    for mode, words in (
        ("size=5001", "size 5001 is more than the 5000 identifiers of this engine"),
        ("size=1000", "uid 1000 is not among the 1000 identifiers of the container: ask for a l"),
        ("uid=5000", "uid 5000 is not among the 5000 identifiers of this engine: give its user"),
        ("size=0", "the size must be greater than 0"),
        ("size=-1", "keep-id has the options"),
        ("", "keep-id has the options"),
        ("uid=١", "keep-id has the options"),
    ):
        with pytest.raises(InvalidParameter, match=words):
            asked(f"keep-id:{mode}", core_of())


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (1, 5), (1000, 1000), (4999, 0)])
def test_keep_id_maps_everything_once(without_root: None, uid: int, gid: int) -> None:
    assert kept_ids.parse_keep_id("keep-id:gid=7") == kept_ids.KeepId(1000, 7)
    found = kept_ids.keep_id(kept_ids.KeepId(uid, gid))
    assert found.host_uid(uid) == 0 and found.host_gid(gid) == 0
    for rows in (found.uids, found.gids):
        for first in ("container_id", "host_id"):
            numbers = [getattr(row, first) + n for row in rows for n in range(row.size)]
            assert sorted(numbers) == list(range(5000))
