"""Where labels of processes are written: a real proc file system, whatever lies over /proc."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from runtimekit import is_root

from portside.kernel import mount
from portside.kernel.mount import PROC_SUPER_MAGIC, filesystem_of
from portside.kernel.process import CLONE_NEWNS, unshare
from portside.kernel.process_attributes import open_attribute

pytestmark = pytest.mark.skipif(not is_root(), reason="makes mounts, which needs root")
ATTRIBUTE = "thread-self/attr/exec"


def in_own_mounts(body: Callable[[], None]) -> str:
    """Run ``body`` in a child with mounts of its own; what went wrong there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            unshare(CLONE_NEWNS)
            mount.mount("", "/", "", mount.MS_PRIVATE | mount.MS_REC)
            body()
        except BaseException as err:
            text = repr(err)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = file.read()
    os.waitpid(pid, 0)
    return found


def expect_real() -> None:
    fd = open_attribute("exec")
    assert filesystem_of(fd) == PROC_SUPER_MAGIC
    assert os.fstat(fd).st_mode & 0o777 == 0o666  # a directory or an ordinary file it is not


def fake_tree(place: str) -> None:
    Path(f"{place}/thread-self/attr").mkdir(parents=True)
    Path(f"{place}/{ATTRIBUTE}").touch(0o666)


def over_proc() -> None:
    mount.mount("tmpfs", "/proc", "tmpfs")
    fake_tree("/proc")
    expect_real()


def over_the_task() -> None:
    """A mount within proc, as a hostile container with CAP_SYS_ADMIN could make it."""
    attr = f"/proc/{os.getpid()}/task/{os.getpid()}/attr"
    mount.mount("tmpfs", attr, "tmpfs")
    Path(f"{attr}/exec").touch(0o666)
    expect_real()


def other_part_of_proc() -> None:
    """A directory of proc in place of its root."""
    mount.mount("/proc/1", "/proc", "", mount.MS_BIND)
    expect_real()


def not_there() -> None:
    mount.mount("tmpfs", "/proc", "tmpfs")
    expect_real()


@pytest.mark.parametrize("body", [expect_real, over_proc, over_the_task, other_part_of_proc,
                                  not_there])  # fmt: skip
def test_the_attribute_is_the_kernels(body: Callable[[], None]) -> None:
    assert in_own_mounts(body) == ""


def test_the_first_name_that_is_there() -> None:
    fd = open_attribute("no-such-module/exec", "exec")
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_attribute("no-such-attribute")
