"""Deaths at the wrong moment: of the launcher, the monitor, the engine's socket."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from runtimekit import Bench, Box, bench, is_root, private

from portside.kernel.cgroup import Cgroup
from portside.model.errors import SystemFailure, Unavailable
from portside.runtime.monitor_client import MonitorClient

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root here"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


def state(box: Box) -> dict[str, int]:
    found: dict[str, int] = json.loads((box.state_dir / "state.json").read_text())
    return found


async def test_the_launcher_killed_is_replaced_and_containers_go_on(made: Bench) -> None:
    box = await made.start("sleep", "60")
    before = made.launcher.pid
    os.kill(before, signal.SIGKILL)
    os.waitpid(before, 0)
    assert (await made.run("echo", "again")) == (0, "again\n")
    assert made.launcher.pid != before
    assert await box.exec("echo", "still here") == (0, b"still here\n")
    await box.client.signal(9)
    assert (await box.ended()).code == 137


async def test_the_monitor_killed_is_reported(made: Bench) -> None:
    box = await made.start("sleep", "60")
    os.kill(state(box)["monitor_pid"], signal.SIGKILL)
    with pytest.raises(Unavailable):
        await box.ended()
    with pytest.raises(Unavailable):
        await box.client.signal(9)
    with pytest.raises(Unavailable, match="no monitor answers"):
        MonitorClient.connect(box.state_dir)
    group = Cgroup(box.request.cgroup)
    group.kill()
    group.delete()  # the engine's work, which it does when it is told


async def test_an_engine_that_went_is_followed_by_another(made: Bench) -> None:
    box = await made.start("sh", "-c", "cat; exit 3", stdin=True)
    box.client.close()
    box.client = MonitorClient.connect(box.state_dir)
    assert box.client.pid == state(box)["pid"]
    assert await box.exec("echo", "hello") == (0, b"hello\n")
    assert box.sock is not None
    box.sock.send(b"typed\n")
    assert await box.until(b"typed\n") == b"typed\n"
    box.sock.shutdown(1)
    assert (await box.ended()).code == 3


async def test_an_end_that_nobody_heard_is_written_down(made: Bench) -> None:
    box = await made.start("sleep", "60")
    box.client.close()
    os.kill(box.client.pid, signal.SIGTERM)  # PID 1 without a handler ignores it
    os.kill(box.client.pid, signal.SIGKILL)
    exit_file = box.state_dir / "exit.json"
    async with asyncio.timeout(20):
        while not exit_file.exists():
            await asyncio.sleep(0.01)
    assert json.loads(exit_file.read_text())["code"] == 137
    async with asyncio.timeout(20):
        while Cgroup(box.request.cgroup).exists():
            await asyncio.sleep(0.01)


async def test_a_start_nobody_waits_for_is_undone(made: Bench) -> None:
    """The engine dies in the middle of a start: no container that nobody knows of."""
    box = await made.start("sleep", "60")
    from runtimekit import specification

    request = made.request(specification("sleep", "61"))
    task = asyncio.create_task(made.launcher.start(request))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        while Cgroup(request.cgroup).pids() or "sleep\x0061" in _commands():
            await asyncio.sleep(0.01)
    await box.client.signal(9)
    await box.ended()


def _commands() -> str:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return "\n".join(found)


async def test_a_container_killed_while_it_starts(made: Bench) -> None:
    """The child is killed before its execve: an error, not a container that never was."""
    for delay in (0.0, 0.002, 0.004, 0.006):
        from runtimekit import specification

        request = made.request(specification("sleep", "60"))
        task = asyncio.create_task(made.launcher.start(request))
        await asyncio.sleep(delay)
        group = Cgroup(request.cgroup)
        for pid in group.pids():
            os.kill(pid, signal.SIGKILL)
        try:
            client = await task
        except SystemFailure as err:
            assert "killed" in str(err)
            continue
        if group.exists():
            for pid in group.pids():
                os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert (await client.exited).code == 137
        client.close()


async def test_an_oversized_request_is_refused_alone(made: Bench) -> None:
    from portside.model.errors import TooLarge

    box = await made.start("sleep", "60")
    with pytest.raises(TooLarge):
        await box.exec("echo", "x" * 300_000)
    assert await box.exec("echo", "fine") == (0, b"fine\n")
    await box.client.signal(9)
    await box.ended()


async def test_nonsense_on_the_monitors_socket(made: Bench) -> None:
    import socket

    box = await made.start("sleep", "60")
    directory = os.open(box.state_dir, os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(f"/proc/self/fd/{directory}/monitor.sock")
        sock.settimeout(10)
        for junk in (b"{", b"\xff" * 100, b'{"number":1,"request":{"type":"Moon"}}'):
            sock.send(junk)
            assert b"Failed" in sock.recv(1 << 16)
        sock.send(b'{"number":5,"request":{"type":"Attach","streams":{}}}')  # no descriptor
        assert b'"number":5' in sock.recv(1 << 16)
    os.close(directory)
    assert await box.exec("echo", "fine") == (0, b"fine\n")
    await box.client.signal(9)
    await box.ended()


async def test_a_monitor_is_small(made: Bench) -> None:
    """Private memory of the process beside a waiting container."""
    box = await made.start("sleep", "60")
    assert private(state(box)["monitor_pid"]) < 2 << 20
    await box.client.signal(9)
    await box.ended()


async def test_the_launcher_holds_no_descriptor_of_others(made: Bench) -> None:
    await made.run("true")
    await asyncio.sleep(0.1)
    names = [os.readlink(f"/proc/{made.launcher.pid}/fd/{fd}")
             for fd in os.listdir(f"/proc/{made.launcher.pid}/fd") if int(fd) > 2]  # fmt: skip
    assert all(name.startswith("socket:") for name in names) and len(names) <= 2, names


async def test_containers_start_from_a_process_with_many_files(made: Bench) -> None:
    """The launcher's socket and what it passes on have numbers beyond FD_SETSIZE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"needs 4096 open files, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1100:
            taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        async with bench() as other:
            first = other.launcher.pid
            box = await other.start("sleep", "60")
            other.launcher.refill()
            assert await box.exec("echo", "hello") == (0, b"hello\n")
            await asyncio.sleep(0.3)
            assert await other.run("echo", "again") == (0, "again\n")
            assert other.launcher.pid == first, "the launcher ended"
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_nothing_is_left(made: Bench) -> None:
    async with asyncio.timeout(20):
        while True:
            groups = [p for p in Path("/sys/fs/cgroup").glob(f"*{made.parent}/*") if p.is_dir()]
            if not groups:
                break
            await asyncio.sleep(0.01)
    assert str(made.directory) not in Path("/proc/self/mountinfo").read_text()
