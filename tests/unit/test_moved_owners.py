"""Owners, lists of access and capabilities of a copy for another range of identifiers."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.kernel import overlay
from portside.model.idmap import IDMappings
from portside.model.ociruntime import IDMapping
from portside.store.moved_owners import CAPABILITY, MovedOwners
from portside.store.trees import copy_tree

THERE = IDMappings((IDMapping(0, 100000, 65536),), (IDMapping(0, 200000, 65536),))
BACK = THERE.inverse()
there, back = MovedOwners(THERE.uids, THERE.gids), MovedOwners(BACK.uids, BACK.gids)
VERSION_2 = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@given(st.integers(0, 65533))
def test_there_and_back(number: int) -> None:
    assert there.uid(number) == 100000 + number and back.uid(there.uid(number)) == number
    assert there.gid(number) == 200000 + number and back.gid(there.gid(number)) == number


@given(st.integers(65536, 2**32 - 2))
def test_what_is_not_mapped_is_nobodys(number: int) -> None:
    assert there.uid(number) == 65534
    full = MovedOwners((IDMapping(0, 0, 65536),), (IDMapping(0, 65534, 1),))
    assert full.uid(number) == 65536 and full.gid(number) == 65535  # outside what is mapped


def test_capabilities_belong_to_the_namespaces_root() -> None:
    moved = there.attribute(CAPABILITY, VERSION_2)
    assert struct.unpack("<IIIIII", moved) == (0x03000001, 1 << 13, 0, 0, 0, 100000)
    assert back.attribute(CAPABILITY, moved) == VERSION_2


def test_lists_of_access() -> None:
    entries = [(1, 6, 2**32 - 1), (2, 4, 7), (8, 4, 9), (4, 4, 2**32 - 1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    moved = there.attribute("system.posix_acl_access", value)
    found = list(struct.iter_unpack("<HHI", moved[4:]))
    assert found == [(1, 6, 2**32 - 1), (2, 4, 100007), (8, 4, 200009), (4, 4, 2**32 - 1)]
    assert back.attribute("system.posix_acl_access", moved) == value


@given(st.sampled_from([CAPABILITY, "system.posix_acl_default", "user.x"]), st.binary(max_size=40))
def test_malformed_values_stay_or_keep_their_length(key: str, value: bytes) -> None:
    moved = there.attribute(key, value)
    assert moved == value if key == "user.x" else len(moved) in (len(value), 20, 24)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_tree_with_everything_in_it(tmp_path: Path) -> None:
    source, copy, again = (tmp_path / name for name in ("source", "copy", "again"))
    (source / "hidden").mkdir(parents=True)
    os.setxattr(source / "hidden", overlay.OPAQUE, b"y")
    os.mknod(source / "gone", stat.S_IFCHR, 0)
    (source / "tool").write_text("x")
    os.link(source / "tool", source / "same")
    os.chown(source / "tool", 3, 4)
    (source / "tool").chmod(0o6755)
    os.setxattr(source / "tool", CAPABILITY, VERSION_2)
    (source / "link").symlink_to("tool")
    os.chown(source / "link", 5, 6, follow_symlinks=False)
    (source / "theirs").write_text("x")
    os.chown(source / "theirs", 70000, 1)
    (source / "theirs").chmod(0o6711)
    copy_tree(str(source), str(copy), there)
    found = (copy / "tool").lstat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (100003, 200004, 2)
    assert stat.S_IMODE(found.st_mode) == 0o6755
    assert os.getxattr(copy / "tool", CAPABILITY)[:4] == struct.pack("<I", 0x03000001)
    found = (copy / "link").lstat()
    assert (found.st_uid, found.st_gid) == (100005, 200006)
    found = (copy / "theirs").lstat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (65534, 0o2711)
    found = (copy / "gone").lstat()
    assert stat.S_ISCHR(found.st_mode) and not found.st_rdev
    assert os.getxattr(copy / "hidden", overlay.OPAQUE) == b"y"
    copy_tree(str(copy), str(again), back)
    assert os.getxattr(again / "tool", CAPABILITY) == VERSION_2
    assert [(again / name).lstat().st_uid for name in ("tool", "same", "link")] == [3, 3, 5]
