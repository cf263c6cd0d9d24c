"""Control groups on this kernel, whatever its layout: version 1, 2 or both."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from portside.kernel.cgroup import (
    Cgroup,
    Layout,
    detect,
    files,
    own_path,
    parents,
    prepare,
    warm_up,
)
from portside.kernel.cgroup.devices import DEFAULT_DEVICES
from portside.kernel.cgroup.stats import collect_all
from portside.kernel.polling import readable
from portside.model import ociruntime as oci
from portside.model.errors import Conflict, InvalidParameter, PortsideError, SystemFailure

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")

MIB = 1 << 20
Spawn = Callable[..., int]


@pytest.fixture
def layout() -> Layout:
    return detect()


@pytest.fixture
def parent(layout: Layout) -> Iterator[str]:
    name = f"/portside-test-{uuid.uuid4().hex[:12]}"
    yield name
    Cgroup(name).delete()
    parents.forget(layout, name)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Runs a function in a child that first waits for a byte; returns its pid."""
    started: list[int] = []
    ends: list[int] = []

    def start(function: Callable[[], None] = signal.pause, group: Cgroup | None = None) -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(write)
                os.read(read, 1)
                function()
                code = 0
            finally:
                os._exit(code)
        os.close(read)
        started.append(pid)
        if group is not None:
            group.add(pid)
        os.write(write, b"x")
        ends.append(write)
        return pid

    yield start
    for end in ends:
        os.close(end)
    for pid in started:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _need(layout: Layout, controller: str) -> None:
    if not layout.has(controller):
        pytest.skip(f"the {controller} controller is not available here")


def _use(mib: int) -> Callable[[], None]:
    def touch() -> None:
        data = bytearray(mib * MIB)
        for page in range(0, len(data), 4096):
            data[page] = 1

    return touch


def test_a_group_is_made_in_every_hierarchy_and_removed_again(
    layout: Layout, parent: str, spawn: Spawn
) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    assert all(os.path.isdir(d) for d in group.directories())
    assert len(group.directories()) == len(layout.mounts())
    pid = spawn(group=group)
    assert group.pids() == [pid]
    with open(f"/proc/{pid}/cgroup") as file:
        paths = {line.rstrip("\n").split(":", 2)[2] for line in file}
    assert paths == {f"{parent}/one"}
    group.kill()
    assert group.pids() == []
    group.delete()
    assert not group.exists()
    group.delete()  # once more is no error


def test_limits_are_what_the_kernel_says(layout: Layout, parent: str) -> None:
    for controller in ("memory", "cpu", "pids", "cpuset"):
        _need(layout, controller)
    group = Cgroup.create(
        f"{parent}/one",
        oci.Resources(
            memory=oci.Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
            cpu=oci.CPU(shares=512, quota=50_000, period=100_000, cpus="0", mems="0"),
            pids=oci.Pids(limit=77),
        ),
    )
    stats = collect_all(group)
    assert stats.memory.limit == 64 * MIB
    expected_swap = 96 if layout.v1("memory") else 32
    assert stats.memory.swap_limit == expected_swap * MIB
    assert stats.memory.reservation == 32 * MIB
    assert (stats.cpu.quota, stats.cpu.period) == (50_000, 100_000)
    assert stats.cpu.shares == (512 if layout.v1("cpu") else 59)
    assert stats.pids.limit == 77
    assert (stats.cpuset_cpus, stats.cpuset_mems) == ("0", "0")


def test_update_changes_limits_in_either_direction(layout: Layout, parent: str) -> None:
    _need(layout, "memory")
    _need(layout, "cpu")
    group = Cgroup.create(
        f"{parent}/one", oci.Resources(memory=oci.Memory(limit=64 * MIB, swap=128 * MIB))
    )
    for limit in (256, 32, 512, 16):
        group.update(
            oci.Resources(
                memory=oci.Memory(limit=limit * MIB, swap=limit * 2 * MIB),
                cpu=oci.CPU(quota=limit * 1000, period=limit * 1000),
            )
        )
        stats = collect_all(group)
        assert stats.memory.limit == limit * MIB
        assert (stats.cpu.quota, stats.cpu.period) == (limit * 1000, limit * 1000)
    group.update(oci.Resources(memory=oci.Memory(limit=-1, swap=-1), cpu=oci.CPU(quota=-1)))
    stats = collect_all(group)
    assert (stats.memory.limit, stats.memory.swap_limit) == (-1, -1)
    assert stats.cpu.quota == -1


def test_memory_beyond_the_limit_is_an_oom_kill_and_reported_as_one(
    layout: Layout, parent: str, spawn: Spawn
) -> None:
    _need(layout, "memory")
    memory = oci.Memory(limit=16 * MIB, swap=16 * MIB)
    group = Cgroup.create(f"{parent}/one", oci.Resources(memory=memory))
    watch = group.watch_oom()
    try:
        assert watch.kills() == 0
        pid = spawn(_use(64), group)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert group.oom_kills() == 1
        assert readable(watch, timeout=10), "no notification"
        assert watch.kills() == 1
        assert watch.kills() == 0
    finally:
        watch.close()
    assert group.stats().memory.oom_kills == 1


def test_another_death_is_no_oom_kill(layout: Layout, parent: str, spawn: Spawn) -> None:
    _need(layout, "memory")
    group = Cgroup.create(f"{parent}/one", oci.Resources(memory=oci.Memory(limit=64 * MIB)))
    pid = spawn(group=group)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert group.oom_kills() == 0


def test_pids_limit_makes_fork_fail(layout: Layout, parent: str, spawn: Spawn) -> None:
    _need(layout, "pids")
    group = Cgroup.create(f"{parent}/one", oci.Resources(pids=oci.Pids(limit=2)))
    result_read, result_write = os.pipe()

    def fork_until_it_fails() -> None:
        count = 0
        try:
            while count < 10:
                if os.fork() == 0:
                    signal.pause()
                count += 1
        except OSError as error:
            os.write(result_write, f"{count} {error.errno}".encode())

    spawn(fork_until_it_fails, group)
    try:
        assert os.read(result_read, 64) == b"1 11"  # EAGAIN at the third process
    finally:
        os.close(result_read)
        os.close(result_write)
        group.kill()


def test_frozen_processes_stand_still_and_go_on(parent: str, spawn: Spawn) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    read, write = os.pipe()
    os.set_blocking(read, False)

    def tick() -> None:
        while True:
            os.write(write, b".")
            time.sleep(0.001)

    spawn(tick, group)
    try:
        assert readable(read, timeout=10)
        group.freeze()
        assert group.frozen()
        with contextlib.suppress(BlockingIOError):
            while os.read(read, 65536):
                pass
        assert not readable(read, timeout=0.05)
        group.thaw()
        assert not group.frozen()
        assert readable(read, timeout=10)
    finally:
        group.kill()
        os.close(read)
        os.close(write)


def test_kill_ends_a_frozen_group_with_forking_children(parent: str, spawn: Spawn) -> None:
    group = Cgroup.create(f"{parent}/one", oci.Resources(pids=oci.Pids(limit=64)))

    def breed() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            with contextlib.suppress(OSError):
                if os.fork() == 0 and os.fork() == 0:
                    os._exit(0)

    spawn(breed, group)
    spawn(group=group)
    group.freeze()
    group.kill()
    assert group.pids() == []


def test_groups_below_are_counted_killed_and_removed(
    layout: Layout, parent: str, spawn: Spawn
) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    below = Cgroup.create(f"{parent}/one/a/b", None)
    pid = spawn(group=below)
    assert group.pids() == [pid]
    group.delete()
    assert not group.exists()
    assert not below.exists()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    parents.forget(layout, f"{parent}/one/a")


def test_an_empty_group_of_the_same_name_is_taken_over(parent: str) -> None:
    first = Cgroup.create(f"{parent}/one", oci.Resources(pids=oci.Pids(limit=5)))
    again = Cgroup.create(f"{parent}/one", None)
    assert again.stats().pids.limit == -1, "limits of the old group are left"
    assert first.path == again.path


def test_a_group_with_processes_is_a_conflict_and_left_alone(parent: str, spawn: Spawn) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    pid = spawn(group=group)
    with pytest.raises(Conflict, match="has processes in it"):
        Cgroup.create(f"{parent}/one", None)
    assert group.pids() == [pid]
    group.kill()


def test_a_failed_create_leaves_nothing(layout: Layout, parent: str) -> None:
    _need(layout, "cpuset")
    with pytest.raises(SystemFailure, match=r"cannot set cpuset\.cpus to '4095'") as raised:
        Cgroup.create(f"{parent}/one", oci.Resources(cpu=oci.CPU(cpus="4095")))
    assert f"{parent}/one" in str(raised.value)
    assert not Cgroup(f"{parent}/one").exists()


def test_a_parent_that_vanished_is_made_again(layout: Layout, parent: str) -> None:
    prepare(layout, parent)
    Cgroup(parent).delete()
    group = Cgroup.create(f"{parent}/one", None)
    assert group.exists()


def test_deep_parents_pass_their_limits_down(layout: Layout, parent: str, spawn: Spawn) -> None:
    _need(layout, "cpuset")
    _need(layout, "pids")
    group = Cgroup.create(
        f"{parent}/x/y/z", oci.Resources(pids=oci.Pids(limit=9), cpu=oci.CPU(cpus="0"))
    )
    spawn(group=group)
    assert group.stats().pids.current == 1
    group.kill()


def test_devices_outside_the_list_are_refused(parent: str, spawn: Spawn) -> None:
    rules = tuple(
        oci.DeviceCgroup(allow, kind, None if a < 0 else a, None if b < 0 else b, access)
        for allow, kind, a, b, access in DEFAULT_DEVICES
    )
    group = Cgroup.create(f"{parent}/one", oci.Resources(devices=rules))
    assert _open_devices(group, spawn) == {
        "/dev/null": 0,
        "/dev/zero": 0,
        "/dev/kmsg": 1,
        "mknod 1:3": 0,
    }
    kmsg = oci.DeviceCgroup(True, "c", 1, 11, "r")
    group.update(oci.Resources(devices=(*rules, kmsg)))
    assert _open_devices(group, spawn)["/dev/kmsg"] == 0
    everything = oci.DeviceCgroup(True, "a", None, None, "rwm")
    group.update(oci.Resources(devices=(everything, oci.DeviceCgroup(False, "c", 1, 5, "r"))))
    assert _open_devices(group, spawn) == {
        "/dev/null": 0,
        "/dev/zero": 1,
        "/dev/kmsg": 0,
        "mknod 1:3": 0,
    }
    group.update(oci.Resources(devices=(everything,)))
    assert set(_open_devices(group, spawn).values()) == {0}


def _open_devices(group: Cgroup, spawn: Spawn) -> dict[str, int]:
    """errno of opening some devices for reading, and of making a node, from inside the group."""
    read, write = os.pipe()

    def attempt() -> None:
        found = {}
        for path in ("/dev/null", "/dev/zero", "/dev/kmsg"):
            try:
                os.close(os.open(path, os.O_RDONLY))
                found[path] = 0
            except OSError as error:
                found[path] = error.errno or 0
        path = f"/tmp/portside-test-node-{os.getpid()}"
        try:
            os.mknod(path, 0o020600, os.makedev(1, 3))
            os.unlink(path)
            found["mknod 1:3"] = 0
        except OSError as error:
            found["mknod 1:3"] = error.errno or 0
        os.write(write, repr(found).encode())

    pid = spawn(attempt, group)
    os.waitpid(pid, 0)
    os.close(write)
    try:
        answer = eval(os.read(read, 4096).decode())
    finally:
        os.close(read)
    assert isinstance(answer, dict)
    return answer


def test_stats_count_time_memory_and_processes(layout: Layout, parent: str, spawn: Spawn) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    read, write = os.pipe()

    def work() -> None:
        data = bytearray(8 * MIB)
        end = time.process_time() + 0.1
        while time.process_time() < end:
            data[0] += 1
            data[0] %= 100
        os.write(write, b"done")
        signal.pause()

    spawn(work, group)
    assert os.read(read, 4) == b"done"
    os.close(read)
    os.close(write)
    stats = group.stats()
    assert stats.cpu.total >= 90_000_000
    assert 0 < stats.cpu.user + stats.cpu.kernel <= stats.cpu.total * 1.5
    if layout.has("memory"):
        assert stats.memory.usage >= 8 * MIB
        assert stats.memory.stat
    if layout.has("pids"):
        assert stats.pids.current == 1
    if layout.v1("cpuacct"):
        assert sum(stats.cpu.percpu) > 0
    group.kill()


def test_quota_is_felt_as_throttling(layout: Layout, parent: str, spawn: Spawn) -> None:
    _need(layout, "cpu")
    cpu = oci.CPU(quota=5_000, period=50_000)
    group = Cgroup.create(f"{parent}/one", oci.Resources(cpu=cpu))

    def burn() -> None:
        while True:
            pass

    spawn(burn, group)
    deadline = time.monotonic() + 30
    while group.stats().cpu.throttled_periods < 3:
        assert time.monotonic() < deadline, "never throttled"
        time.sleep(0.02)
    group.kill()


def test_what_the_kernel_refuses_is_named(layout: Layout, parent: str) -> None:
    group = Cgroup.create(f"{parent}/one", None)
    if layout.has("memory"):
        with pytest.raises(InvalidParameter, match="range is 0 to 100"):
            group.update(oci.Resources(memory=oci.Memory(swappiness=101)))
    if layout.mode == "hybrid":
        with pytest.raises(SystemFailure, match="controller 'nothing' not available"):
            group.update(oci.Resources(unified={"nothing.max": "1"}))
    if not layout.has("rdma"):
        with pytest.raises(PortsideError):
            group.update(oci.Resources(unified={"rdma.max": "mlx hca_handle=1"}))
    with pytest.raises((InvalidParameter, SystemFailure)):
        group.update(oci.Resources(unified={"../cgroup.procs": "1"}))


def test_exec_joins_beside_a_process_that_went_below(
    layout: Layout, parent: str, spawn: Spawn
) -> None:
    if layout.mode != "v2":
        pytest.skip("version 1 allows processes in every group")
    group = Cgroup.create(f"{parent}/one", None)
    init = spawn(group=group)
    below = f"{group.directory('unified')}/init"
    os.mkdir(below)
    files.write(f"{below}/cgroup.procs", str(init))
    files.write(f"{group.directory('unified')}/cgroup.subtree_control", "+pids")
    second = spawn()
    with pytest.raises(SystemFailure):
        group.add(second)
    group.add(second, beside=init)
    assert set(group.pids()) == {init, second}
    group.kill()


def test_a_parent_with_foreign_processes_is_refused_by_name(
    layout: Layout, parent: str, spawn: Spawn
) -> None:
    if layout.mode != "v2":
        pytest.skip("only version 2 has the no-internal-process constraint")
    occupied = Cgroup.create(f"{parent}/occupied", None)
    pid = spawn(group=occupied)
    with pytest.raises(Conflict, match=rf"processes of its own \({pid} .*another --cgroup-parent"):
        Cgroup.create(f"{parent}/occupied/one", None)
    occupied.kill()


def test_the_engine_makes_room_when_it_sits_in_the_parent_itself(
    layout: Layout, parent: str
) -> None:
    if layout.mode != "v2":
        pytest.skip("only version 2 has the no-internal-process constraint")
    program = f"""
import os
from portside.kernel.cgroup import Cgroup, own_path
group = Cgroup.create({parent + "/service"!r}, None)
group.add(0)
child = Cgroup.create({parent + "/service/one"!r}, None)
assert own_path() == {parent + "/service/" + parents.OWN_LEAF!r}, own_path()
child.delete()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_warm_up_changes_nothing(layout: Layout) -> None:
    before = own_path()
    warm_up()
    assert own_path() == before


@pytest.mark.parametrize("path", ["", "/", "a/../b", "/a/\n"])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidParameter):
        Cgroup(path)
