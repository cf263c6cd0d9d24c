"""Names, options and filters of volumes."""

from __future__ import annotations

import pytest

from portside.kernel import mount as mnt
from portside.model.errors import InvalidParameter
from portside.model.volume import Volume
from portside.volumes import filters, local_driver_options


def volume(name: str = "data", labels: dict[str, str] | None = None) -> Volume:
    return Volume(
        name=name,
        driver="local",
        mountpoint="/x",
        labels=labels,
        options=None,
        created_at="",
    )


def test_general_flags_are_distinguished_from_the_file_systems_own() -> None:
    wanted = local_driver_options.parse(
        "v", {"type": "ext4", "device": "/dev/x", "o": "ro,noatime,data=journal"}
    )
    assert wanted is not None
    assert wanted.flags == mnt.MS_RDONLY | 0x400 and wanted.data == "data=journal"
    bind = local_driver_options.parse("v", {"type": "none", "device": "/d", "o": "bind,defaults"})
    assert bind is not None and bind.is_bind and bind.data == ""
    assert local_driver_options.parse("v", {}) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"color": "red"}, 'invalid option: "color"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"o": "bind"}, "missing required option"),
        ({"size": "much"}, "invalid size"),
    ],
)
def test_refused_options(given: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        local_driver_options.parse("v", given)


@pytest.mark.parametrize("name", ["a", "a/b", "../x", ".hidden", "-x", "ü", "x" * 256, ""])
def test_refused_names(name: str) -> None:
    with pytest.raises(InvalidParameter):
        local_driver_options.check_name(name)


def test_sizes() -> None:
    assert local_driver_options.parse_size("v", "10M") == 10 << 20
    assert local_driver_options.parse_size("v", "1GiB") == 1 << 30
    assert local_driver_options.parse_size("v", "512") == 512
    assert local_driver_options.parse_size("v", "1.5g") == 3 << 29
    with pytest.raises(InvalidParameter, match="create v: invalid size: 'abc'"):
        local_driver_options.parse_size("v", "abc")


def test_filters() -> None:
    one = volume(labels={"a": "b"})
    assert filters.matches(one, {"label": ["a"]}, used=False)
    assert not filters.matches(one, {"label": ["a=c"]}, used=False)
    assert filters.matches(one, {"name": ["dat"], "dangling": ["true"]}, used=False)
    assert not filters.matches(one, {"dangling": ["1"]}, used=True)
    assert not filters.matches(one, {"label!": ["a"]}, used=False)
    assert filters.matches(one, {"name": ["(broken"]}, used=False) is False
    for wrong in ({"dangling": ["perhaps"]}, {"color": ["red"]}):
        with pytest.raises(InvalidParameter, match="invalid filter"):
            filters.check(wrong, filters.LIST)
            filters.matches(one, wrong, used=False)
