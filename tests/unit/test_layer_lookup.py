"""What a path leads to in a stack of layers, beside a mount of the same layers as overlayfs."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from portside.store.layer_lookup import kind_at

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes whiteouts")


def _layer(top: Path, name: str, **entries: str) -> str:
    """Entries: ``d`` a directory, ``o`` an opaque one, ``w`` a whiteout, ``>x`` a link, ``f``."""
    layer = top / name
    layer.mkdir()
    for key, kind in entries.items():
        path = layer / key.replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in "do":
            path.mkdir(exist_ok=True)
            if kind == "o":
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        elif kind == "w":
            os.mknod(path, stat.S_IFCHR, 0)
        elif kind == "f":
            path.touch()
        else:
            path.symlink_to(kind[1:])
    link = top / f"{name}.link"  # as the store's short names are
    link.symlink_to(layer)
    return str(link)


@ROOT_ONLY
def test_layers_are_merged(tmp_path: Path) -> None:
    upper = _layer(
        tmp_path, "u", a_file="f", gone="w", hidden="o", now="d", was="f", link=">/a/low", up=">..",
        loop=">loop", out=">../../../../a/file", host=">/../../a/low",
    )  # fmt: skip
    lower = _layer(tmp_path, "l", a_low="d", gone="d", hidden_x="f", now="f", was="d", only="f")
    layers = [upper, lower]

    def kind(path: str) -> str:
        mode = kind_at(layers, path)
        return "" if mode is None else {stat.S_IFDIR: "d", stat.S_IFREG: "f"}[mode]

    found = {p: kind(p) for p in ("/", "a", "a/file", "a/low", "gone", "hidden", "hidden/x", "now",
             "was", "only", "link", "up", "up/only", "loop", "out", "host",
             "no/where")}  # fmt: skip
    assert found == {
        "/": "d", "a": "d", "a/file": "f", "a/low": "d", "gone": "", "hidden": "d", "hidden/x": "",
        "now": "d", "was": "f", "only": "f", "link": "d", "up": "d", "up/only": "f", "loop": "",
        "out": "f", "host": "d", "no/where": "",
    }  # fmt: skip
    with pytest.raises(NotADirectoryError):
        kind_at(layers, "/only/x")


@ROOT_ONLY
def test_a_deep_tree_in_many_layers_costs_no_more_descriptors_than_allowed(tmp_path: Path) -> None:
    deep = "/".join("d" * 60)
    for number in range(20):
        (tmp_path / str(number) / deep).mkdir(parents=True)
    layers = [str(tmp_path / str(number)) for number in range(20)]
    assert kind_at(layers, "d/d/d") == stat.S_IFDIR
    assert kind_at(layers, deep) is None


@ROOT_ONLY
def test_it_is_what_overlayfs_shows(tmp_path: Path) -> None:
    """Random stacks of three layers: every path of two names."""
    chance = random.Random(7)
    names = ("a", "b", "c")
    for number in range(20):
        top = tmp_path / str(number)
        top.mkdir()
        layers = []
        for level in range(3):
            entries: dict[str, str] = {}
            for name in names:
                kind = chance.choice(["", "d", "d", "o", "f", "w", ">b", ">/c"])
                if kind:
                    entries[name] = kind
                if kind in ("d", "o"):
                    for below in names:
                        if what := chance.choice(["", "", "d", "f", "w", ">../a", ">/b"]):
                            entries[f"{name}_{below}"] = what
            layers.append(_layer(top, f"l{level}", **entries))
        merged = top / "merged"
        merged.mkdir()
        options = f"ro,lowerdir={':'.join(layers)}"
        made = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, merged],
            check=False, capture_output=True,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"overlay cannot be mounted here: {made.stderr.decode()}")
        try:
            for path in [*names, *(f"{one}/{two}" for one in names for two in names)]:
                try:
                    expected: object = _in_root(merged, path)
                    assert kind_at(layers, path) == expected, (number, path)
                except NotADirectoryError:
                    with pytest.raises(NotADirectoryError):
                        kind_at(layers, path)
        finally:
            subprocess.run(["umount", merged], check=True)


def _in_root(root: Path, path: str) -> int | None:
    """The kernel's answer, with links that stay beneath ``root``."""
    from portside.kernel.openat2 import IN_ROOT, openat2

    top = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = openat2(top, path, os.O_PATH, resolve=IN_ROOT)
    except NotADirectoryError:
        raise
    except OSError:
        return None
    finally:
        os.close(top)
    try:
        return stat.S_IFMT(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
