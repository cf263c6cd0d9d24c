"""Containers by other OCI runtimes below our monitor."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from runtimekit import Bench, bench, is_root, process

from portside.kernel.cgroup import Cgroup, detect
from portside.model.errors import CommandNotFound, SystemFailure
from portside.runtime.messages import Identity
from portside.runtime.state_files import place_of

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")
OURS = f"{sys.executable} -m portside.runtime"
HYBRID = bool(detect().hierarchies and detect().unified)


@pytest.fixture(
    params=[
        pytest.param(
            "runc", marks=pytest.mark.skipif(not shutil.which("runc"), reason="no runc here")
        ),
        pytest.param(
            "crun",
            marks=pytest.mark.skipif(
                not shutil.which("crun") or HYBRID, reason="no crun, or control groups it refuses"
            ),
        ),
        OURS,
    ]
)
def runtime(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"runtime": request.param}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def made() -> AsyncIterator[Bench]:
    async with bench() as one:
        yield one


def spec(*args: str, **changes: object):  # type: ignore[no-untyped-def]
    from runtimekit import specification

    return specification(*args, **changes)


async def start(made: Bench, runtime: dict[str, object], *args: str, **changes: object):  # type: ignore[no-untyped-def]
    """Start with the specification's own control group path, as the engine writes it."""
    request = changes.pop("request", {})
    stdin = changes.pop("stdin", False)
    found = spec(*args, **changes)
    group = f"{made.parent}/x{len(made.boxes)}-{id(found)}"
    found.linux.cgroups_path = group
    return await made.start(spec=found, stdin=stdin, request=runtime | {"cgroup": group} | request)


@pytest.mark.asyncio(loop_scope="module")
async def test_run_and_end(made: Bench, runtime: dict[str, object]) -> None:
    box = await start(made, runtime, "sh", "-c", "id -u; hostname; echo err >&2; exit 7")
    output = (await box.output()).decode()
    assert sorted(output.split()) == ["0", "boxy", "err"]
    assert (await box.ended()).code == 7
    assert sorted(line["log"] for line in box.log()) == ["0\n", "boxy\n", "err\n"]
    async with asyncio.timeout(20):
        while Path(place_of(str(box.state_dir))).exists() or Cgroup(box.request.cgroup).exists():
            await asyncio.sleep(0.02)
    assert str(box.state_dir) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.asyncio(loop_scope="module")
async def test_exec_signals_and_users(made: Bench, runtime: dict[str, object]) -> None:
    script = "echo up; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    box = await start(made, runtime, "sh", "-c", script, request={"identity": Identity("bob")})
    await box.until(b"up\n")
    assert "Uid:\t1000" in Path(f"/proc/{box.client.pid}/status").read_text()
    code, text = await box.exec("sh", "-c", "ps; exit 4")
    assert code == 4 and b"trap" in text
    code, text, pid = await box.exec_as(Identity("bob"), process("id", "-u"))
    assert (code, text, pid > 0) == (0, b"1000\n", True)
    code, text = await box.exec("tty", terminal=True)
    assert (code, text) == (0, b"/dev/pts/0\r\n")
    with pytest.raises(CommandNotFound):
        await box.exec("nothing-here")
    await box.client.signal(15)
    assert (await box.ended()).code == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_input_and_terminal(made: Bench, runtime: dict[str, object]) -> None:
    box = await start(made, runtime, "cat", stdin=True)
    assert box.sock is not None
    box.sock.send(b"typed")
    box.sock.shutdown(1)
    assert await box.output() == b"typed"
    assert (await box.ended()).code == 0
    box = await start(
        made, runtime, "sh", "-c", "tty; read x; stty size", terminal=True, stdin=True
    )
    await box.until(b"/dev/pts/0")
    await box.client.resize(30, 90)
    assert box.sock is not None
    box.sock.send(b"\n")
    assert b"30 90" in await box.output()


@pytest.mark.asyncio(loop_scope="module")
async def test_start_errors(made: Bench, runtime: dict[str, object]) -> None:
    with pytest.raises(CommandNotFound, match="executable file not found"):
        await start(made, runtime, "nothing-here")
    with pytest.raises(SystemFailure, match="unable to find user moon"):
        await start(made, runtime, "true", request={"identity": Identity("moon")})


@pytest.mark.asyncio(loop_scope="module")
async def test_a_runtime_that_is_not_there(made: Bench) -> None:
    with pytest.raises(SystemFailure, match="/no/such/runtime: No such file"):
        await start(made, {"runtime": "/no/such/runtime"}, "true")


@pytest.mark.asyncio(loop_scope="module")
async def test_limits_are_the_runtimes(made: Bench, runtime: dict[str, object]) -> None:
    from portside.model.ociruntime import Memory, Pids, Resources

    resources = Resources(memory=Memory(limit=64 << 20), pids=Pids(40))
    box = await start(made, runtime, "sleep", "60", linux={"resources": resources})
    stats = Cgroup(box.request.cgroup).stats()
    assert (stats.memory.limit, stats.pids.limit) == (64 << 20, 40)
    assert json.loads((box.state_dir / "state.json").read_text())["pid"] == box.client.pid
    await box.client.signal(9)
    assert (await box.ended()).code == 137


@pytest.mark.asyncio(loop_scope="module")
async def test_init_below_another_runtime(made: Bench, runtime: dict[str, object]) -> None:
    box = await start(
        made, runtime, "sh", "-c", "cat /proc/1/comm; echo $$; exit 3", request={"init": True}
    )
    output = await box.output()
    assert ((await box.ended()).code, output.split()[0]) == (3, b"docker-init")
    assert output.split()[1] != b"1"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_terminal_below_a_long_path(
    tmp_path: Path, made: Bench, runtime: dict[str, object]
) -> None:
    """The console socket's address has room for 107 bytes, wherever the state lies."""
    place = tmp_path / ("a" * 100) / ("b" * 60)
    place.mkdir(parents=True)
    kept, made.directory = made.directory, place
    try:
        box = await start(made, runtime, "tty", terminal=True)
    finally:
        made.directory = kept
    assert (await box.output()).strip().startswith(b"/dev/")
    await box.ended()


def test_a_log_of_several_lines_an_entry(tmp_path: Path) -> None:
    from portside.model.rootfs import Rootfs
    from portside.runtime.external import External
    from portside.runtime.messages import StartRequest

    other = External(StartRequest("x", str(tmp_path / "containers/x"), Rootfs("bind"), "/x"))
    other.log = str(tmp_path / "log")
    entries = [{"msg": "fine", "level": "debug"}, {"msg": "exec: no such file", "level": "error"}]
    for indent in (None, 2):
        text = "\n".join(json.dumps(entry, indent=indent) for entry in entries)
        (tmp_path / "log").write_text(text + "\n{")
        assert other._logged() == "exec: no such file"


def test_a_runtime_is_named_once() -> None:
    from portside.runtime.external import _failure

    begin = "OCI runtime create failed: "
    for said, shown in (
        ("runc create failed: exec: no", "runc create failed: exec: no"),
        ("exec failed: exec: no", "exec failed: exec: no"),
        ("cannot do it", "runc: cannot do it"),
    ):
        assert str(_failure("/usr/sbin/runc", said)) == begin + shown
