"""A process that joins its control groups by itself, without waiting for the kernel's lock."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from portside.kernel import process
from portside.kernel.cgroup import Cgroup, detect, path_of
from portside.model.errors import PortsideError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: control groups are made")


@pytest.fixture
def group() -> Iterator[Cgroup]:
    try:
        made = Cgroup.create(f"/portside-test-{os.getpid()}/one", None)
    except (PortsideError, OSError) as err:
        pytest.skip(f"control groups cannot be made here: {err}")
    yield made
    made.delete()
    Cgroup(made.path.rpartition("/")[0]).delete()


def places(group: Cgroup, cloned: bool) -> list[str]:
    """Where a child finds itself that joins: its group in every hierarchy."""
    reading, writing = os.pipe()
    if cloned:
        directory = group.open_dir()
        try:
            pid = process.fork_into(directory)
        except OSError as err:
            pytest.skip(f"clone3 into a control group is not possible here: {err}")
        finally:
            os.close(directory)
    else:
        pid = os.fork()
    if pid == 0:
        try:
            group.join(skip_unified=cloned)
            labels = [h.controllers[0] if h.controllers else h.label for h in detect().hierarchies]
            found = [path_of("self", label) for label in labels]
            if detect().unified:
                found.append(path_of("self", ""))
            os.write(writing, "\n".join(found).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text.split("\n")


@pytest.mark.parametrize("cloned", [False, True], ids=["by writing", "cloned into version 2"])
def test_a_process_joins_every_hierarchy(group: Cgroup, cloned: bool) -> None:
    if cloned and not detect().unified:
        pytest.skip("there is no version 2 hierarchy")
    found = places(group, cloned)
    assert len(found) == len(detect().hierarchies) + bool(detect().unified)
    assert set(found) == {group.path}
    assert group.pids() == []


def test_joining_a_group_that_is_gone_names_the_file(group: Cgroup) -> None:
    gone = Cgroup(f"{group.path}/gone")
    with pytest.raises(PortsideError, match="No such file"):
        gone.join()
