"""SELinux labels of containers: contexts, categories, options, and trees that are labelled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.containers import container_jobs, selinux_labels
from portside.kernel import selinux
from portside.model import selinux_label
from portside.model.errors import InvalidParameter, SystemFailure
from portside.model.ociruntime import Linux, Mount, Spec
from portside.model.selinux_label import CATEGORIES, UNUSED_LEVEL, Context, Labels
from portside.runtime.mounts import label_mounts, label_options

PROCESS, FILE = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"
numbers = st.integers(0, CATEGORIES - 1)
pairs = st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1])


def choose(*options: str, taken: tuple[str, ...] = ()) -> Labels:
    return selinux_label.choose(options, PROCESS, FILE, taken)


@given(st.text(max_size=60))
def test_wild_contexts_are_read_or_refused(text: str) -> None:
    try:
        assert str(Context.parse(text)).startswith(text.rstrip(":"))
    except InvalidParameter as err:
        assert repr(text) in str(err)


@given(st.text(alphabet="s0123456789c.,:-x", max_size=30))
def test_wild_levels_are_read_or_not(text: str) -> None:
    found = selinux_label.categories(text)
    assert found is None or all(0 <= number < CATEGORIES for number in found)


@given(st.sets(numbers, min_size=1, max_size=12))
def test_categories_are_those_written(wanted: set[int]) -> None:
    assert selinux_label.categories("s0:" + ",".join(f"c{n}" for n in wanted)) == wanted
    low, high = min(wanted), max(wanted)
    assert selinux_label.categories(f"s0-s0:c{low}.c{high}") == set(range(low, high + 1))


@given(st.lists(pairs, max_size=40), st.randoms())
def test_no_pair_is_given_twice(taken: list[tuple[int, int]], random: st.random.Random) -> None:
    """Whatever order and form the taken ones are written in."""
    forms = ["s0:c{},c{}".format(*random.sample(pair, 2)) for pair in taken]
    level = selinux_label.unused_level(forms, lambda below: random.choice(random.choice(taken))
                                       if taken and random.random() < 0.5
                                       else random.randrange(below))  # fmt: skip
    found = selinux_label.categories(level)
    assert found is not None and len(found) == 2
    assert found not in [frozenset(pair) for pair in taken]
    assert level != UNUSED_LEVEL


def test_the_last_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux_label, "CATEGORIES", 4)
    monkeypatch.setattr(selinux_label, "UNUSED_LEVEL", "s0:c2,c3")
    taken: list[str] = []
    for _ in range(5):
        taken.append(selinux_label.unused_level(taken))
    assert len(set(taken)) == 5 and "s0:c2,c3" not in taken
    with pytest.raises(SystemFailure, match="every pair of SELinux categories is taken"):
        selinux_label.unused_level(taken)


def test_what_the_options_change() -> None:
    plain = choose()
    level = selinux_label.level_of(plain.process)
    assert plain == (f"system_u:system_r:container_t:{level}",
                     f"system_u:object_r:container_file_t:{level}")  # fmt: skip
    assert choose("disable") == ("", f"system_u:object_r:container_file_t:{UNUSED_LEVEL}")
    assert choose("level:s0:c1,c2") == (
        "system_u:system_r:container_t:s0:c1,c2",
        "system_u:object_r:container_file_t:s0:c1,c2",
    )
    typed = choose("type:spc_t", "user:u", "role:r", "filetype:f_t", "level:s0")
    assert typed == ("u:r:spc_t:s0", "u:object_r:f_t:s0")
    assert selinux_label.level_of(choose("nested").process) != "s0"
    for option in ("color:red", "type", ""):
        with pytest.raises(InvalidParameter, match=r"[Bb]ad label option"):
            choose(option)


def test_a_policy_without_levels() -> None:
    found = selinux_label.choose((), "u:r:container_t", "u:object_r:file_t", ())
    assert found == ("u:r:container_t", "u:object_r:file_t")
    assert selinux_labels.shared_label(found.mount) == found.mount


def test_the_options_that_copy_a_label() -> None:
    label = choose().process
    options = selinux_label.same_options(label)
    assert options[:3] == ("label=user:system_u", "label=role:system_r", "label=type:container_t")
    assert choose(*(option.removeprefix("label=") for option in options)).process == label
    assert selinux_label.same_options("") == ()


def test_the_policys_file() -> None:
    text = '# a comment\n; another\n\nprocess = "a:b:c:s0"\nfile="d:e:f:s0"\nbroken\n'
    assert selinux.parse_contexts(text) == {"process": "a:b:c:s0", "file": "d:e:f:s0"}


def test_the_policys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "_TOP", tmp_path)
    monkeypatch.setattr(selinux, "_CONFIG", tmp_path / "config")
    monkeypatch.setattr(selinux, "_CONTEXTS", tmp_path / "none")
    assert selinux.container_contexts() is None
    for name in ("mine", "targeted"):
        (tmp_path / name / "contexts").mkdir(parents=True)
        lines = f'process = "u:r:{name}_t:s0"\nfile = "u:r:file_t:s0"\n'
        (tmp_path / name / "contexts/lxc_contexts").write_text(lines)
    found = selinux.container_contexts()
    assert found is not None and found.process == "u:r:targeted_t:s0"
    assert found.read_only == found.file
    (tmp_path / "config").write_text("# SELINUXTYPE=no\nSELINUXTYPE=mine\n")
    found = selinux.container_contexts()
    assert found is not None and found.process == "u:r:mine_t:s0"


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/", "/usr/../etc", "/home", "/var/lib"])
def test_the_system_is_not_relabelled(path: str) -> None:
    with pytest.raises(SystemFailure, match="is not allowed"):
        selinux_labels.check_source(path)
    selinux_labels.check_source("/srv/data")


def test_which_mounts_take_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "enabled", lambda: True)
    kinds = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "overlay", "bind")
    mounts = tuple(Mount(f"/{kind}", kind, "x", ("nosuid",)) for kind in kinds)
    spec = Spec(mounts=mounts, linux=Linux(mount_label=FILE))
    label_mounts(spec)
    added = {mount.type: mount.options[1:] for mount in spec.mounts}
    context = (f"context={FILE}",)
    assert added["tmpfs"] == added["devpts"] == added["cgroup"] == added["overlay"] == context
    assert added["proc"] == added["sysfs"] == added["bind"] == ()
    assert added["mqueue"] == (f"io.portside.label={FILE}",)
    label_mounts(spec)
    assert spec.mounts[2].options == ("nosuid", *context)  # not twice
    spec.annotations["run.oci.mount_context_type"] = "rootcontext"
    assert label_options(spec) == (f"rootcontext={FILE}",)


@pytest.mark.skipif(os.geteuid() != 0, reason="sets attributes of the class security")
def test_a_tree_is_labelled_and_nothing_beyond_it(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    deep = tree
    for _ in range(40):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (tree / "link").symlink_to(outside / "file")
    (tree / "dirlink").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    (tmp_path / "top").symlink_to(tree)
    container_jobs.Relabel(
        trees=(container_jobs.Tree(path=str(tmp_path / "top"), label=FILE),)
    ).run([], lambda _: None)
    for path in (tree, *tree.rglob("*")):
        assert selinux.label_of(str(path)) == FILE, path
    for path in (outside, outside / "file"):
        assert selinux.label_of(str(path)) != FILE, path
    container_jobs.label_tree(container_jobs.Tree(path=str(deep / "file"), label=PROCESS))
    assert selinux.label_of(str(deep / "file")) == PROCESS


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    job = container_jobs.Relabel(trees=(container_jobs.Tree(path=f"{tmp_path}/none", label=FILE),))
    with pytest.raises(SystemFailure, match=r"error setting label on mount source .*none"):
        job.run([], lambda _: None)
