"""kill -9 of engine, launcher and monitor at named points; the next engine tells the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crashkit import BASE, PATIENCE, Fragile


@pytest.fixture(scope="module")
def fragile() -> Iterator[Fragile]:
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    engine = Fragile()
    engine.start()
    status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    assert status == 200, body
    yield engine
    engine.armed.unlink(missing_ok=True)
    engine.remove()


@pytest.fixture
def engine(fragile: Fragile) -> Iterator[Fragile]:
    yield fragile
    fragile.armed.unlink(missing_ok=True)
    if fragile.process is not None and fragile.process.poll() is not None:
        fragile.start()
    fragile.clean()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


# -- create ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "volumes"),
    [("recorded", {}), ("recorded", {"/data": {}}), ("mounted", {"/data": {}})],
)
def test_create(engine: Fragile, point: str, volumes: dict[str, Any]) -> None:
    engine.arm(f"container.create:{point}")
    body = {"Image": BASE, "Cmd": ["sleep", "100"], "Volumes": volumes}
    assert engine.try_request("POST", "/containers/create?name=half", body) == 0
    engine.reborn()
    if engine.names():  # made whole: then it works
        assert engine.state("half")["Status"] == "created"
        engine.json("POST", "/containers/half/start", status=204)
    else:
        assert (engine.json("GET", "/volumes")["Volumes"] or []) == []
        engine.create("half", "true")


# -- start -----------------------------------------------------------------------------------------


def test_start_before_the_launch(engine: Fragile) -> None:
    engine.create("begun", "sleep", "100")
    engine.arm("container.start:networked")
    assert engine.try_request("POST", "/containers/begun/start") == 0
    engine.reborn()
    assert engine.state("begun")["Status"] == "created"
    engine.json("POST", "/containers/begun/start", status=204)
    assert engine.state("begun")["Running"]


def test_start_after_the_launch(engine: Fragile) -> None:
    engine.create("begun", "sleep", "100")
    engine.arm("container.start:launched")
    assert engine.try_request("POST", "/containers/begun/start") == 0
    engine.reborn()
    state = engine.state("begun")
    if state["Running"]:
        assert b"sleep" in Path(f"/proc/{state['Pid']}/cmdline").read_bytes()
    else:
        assert state["Pid"] == 0
        engine.json("POST", "/containers/begun/start", status=204)
    made = engine.json("POST", "/containers/begun/exec", {"Cmd": ["true"]}, 201)["Id"]
    engine.json("POST", f"/exec/{made}/start", {"Detach": True}, 200)


def test_the_launcher_dies_at_a_start(engine: Fragile) -> None:
    engine.create("first", "sleep", "100")
    engine.arm("container.start:networked", "launcher")
    status = engine.try_request("POST", "/containers/first/start")
    assert status in (204, 500)
    if status != 204:
        assert engine.state("first")["Status"] in ("created", "exited")
        engine.json("POST", "/containers/first/start", status=204)
    assert engine.state("first")["Running"]
    engine.create("second", "sleep", "100")
    engine.json("POST", "/containers/second/start", status=204)


def test_the_monitor_dies_at_a_start(engine: Fragile) -> None:
    engine.create("bare", "sleep", "100")
    engine.arm("container.start:launched", "monitors")
    status = engine.try_request("POST", "/containers/bare/start")
    assert status in (204, 500)
    engine.until(lambda: not engine.state("bare")["Running"])
    assert engine.state("bare")["ExitCode"] != 0
    engine.json("POST", "/containers/bare/start", status=204)


def test_all_die_at_a_start(engine: Fragile) -> None:
    engine.create("bare", "sleep", "100", host={"RestartPolicy": {"Name": "no"}})
    engine.arm("container.start:launched", "monitors", "launcher", "engine")
    assert engine.try_request("POST", "/containers/bare/start") == 0
    engine.reborn()
    assert not engine.state("bare")["Running"]
    engine.json("POST", "/containers/bare/start", status=204)


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["reported", "recorded"])
@pytest.mark.parametrize("host", [{}, {"AutoRemove": True}], ids=["kept", "rm"])
def test_exit_that_was_half_handled(engine: Fragile, point: str, host: dict[str, Any]) -> None:
    engine.create("short", "sh", "-c", "echo said; exit 9", host=host, Volumes={"/v": {}})
    engine.arm(f"container.exit:{point}")
    engine.try_request("POST", "/containers/short/start")
    engine.reborn()
    if host:
        engine.until(lambda: engine.names() == set())
        return
    state = engine.state("short")
    assert (state["Status"], state["ExitCode"]) == ("exited", 9)
    assert b"said" in engine.request("GET", "/containers/short/logs?stdout=1")[2]


def test_stop_was_signalled(engine: Fragile) -> None:
    policy = {"RestartPolicy": {"Name": "unless-stopped"}}
    engine.create(
        "polite", "sh", "-c", "trap 'exit 3' TERM; echo set; sleep 100 & wait", host=policy
    )
    engine.json("POST", "/containers/polite/start", status=204)
    engine.printed("polite", "set")
    engine.arm("container.stop:signalled")
    assert engine.try_request("POST", "/containers/polite/stop") == 0
    engine.reborn()
    engine.until(lambda: bool(engine.state("polite")["Status"] == "exited"))
    assert engine.state("polite")["ExitCode"] == 3


def test_a_monitor_dies_alone(engine: Fragile) -> None:
    identifier = engine.create("bare", "sleep", "1000")
    engine.json("POST", "/containers/bare/start", status=204)
    pid = engine.state("bare")["Pid"]
    os.kill(engine.monitor_of(identifier), signal.SIGKILL)
    engine.until(lambda: not engine.state("bare")["Running"])
    state = engine.state("bare")
    assert state["ExitCode"] == 137 and "monitor" in state["Error"]
    engine.until(lambda: gone(pid))
    engine.json("POST", "/containers/bare/start", status=204)


def test_a_monitor_that_stands_still_keeps_nobody_from_removing(engine: Fragile) -> None:
    identifier = engine.create("stuck", "sleep", "1000")
    other = engine.create("other", "sleep", "1000")
    for name in (identifier, other):
        engine.json("POST", f"/containers/{name}/start", status=204)
    os.kill(engine.monitor_of(identifier), signal.SIGSTOP)
    try:
        assert len(engine.json("GET", "/containers/json")) == 2
        engine.json("DELETE", f"/containers/{identifier}?force=1", status=204)
    finally:
        engine.json("DELETE", f"/containers/{other}?force=1", status=204)
    assert engine.json("GET", "/containers/json?all=1") == []


def test_a_monitor_dies_while_no_engine_runs(engine: Fragile) -> None:
    identifier = engine.create("bare", "sleep", "1000")
    engine.json("POST", "/containers/bare/start", status=204)
    pid = engine.state("bare")["Pid"]
    engine.kill()
    os.kill(engine.monitor_of(identifier), signal.SIGKILL)
    engine.start()
    state = engine.state("bare")
    assert not state["Running"] and state["ExitCode"] == 137 and "monitor" in state["Error"]
    engine.until(lambda: gone(pid))


def test_an_exec_whose_monitor_dies_has_not_succeeded(engine: Fragile) -> None:
    identifier = engine.create("bare", "sleep", "1000")
    engine.json("POST", "/containers/bare/start", status=204)
    made = engine.json("POST", "/containers/bare/exec", {"Cmd": ["sleep", "1000"]}, 201)["Id"]
    engine.json("POST", f"/exec/{made}/start", {"Detach": True}, 200)
    assert engine.json("GET", f"/exec/{made}/json")["Running"]
    os.kill(engine.monitor_of(identifier), signal.SIGKILL)
    engine.until(lambda: not engine.json("GET", f"/exec/{made}/json")["Running"])
    assert engine.json("GET", f"/exec/{made}/json")["ExitCode"] == 137


def engine_monitor(engine: Fragile, identifier: str) -> int:
    return engine.monitor_of(identifier)


# -- beside ----------------------------------------------------------------------------------------


def test_exec(engine: Fragile) -> None:
    engine.create("host", "sleep", "1000")
    engine.json("POST", "/containers/host/start", status=204)
    made = engine.json("POST", "/containers/host/exec", {"Cmd": ["sleep", "77"]}, 201)["Id"]
    engine.arm("container.exec:started")
    assert engine.try_request("POST", f"/exec/{made}/start", {"Detach": True}) == 0
    engine.reborn()
    assert engine.state("host")["Running"]
    rows = engine.json("GET", "/containers/host/top?ps_args=-o+pid,args")["Processes"]
    assert sorted((row[1] for row in rows), reverse=True) == ["sleep 77", "sleep 1000"]
    again = engine.json("POST", "/containers/host/exec", {"Cmd": ["true"]}, 201)["Id"]
    engine.json("POST", f"/exec/{again}/start", {"Detach": True}, 200)


def test_logs_followed_over_a_crash(engine: Fragile) -> None:
    script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.02; done"
    engine.create("talker", "sh", "-c", script)
    engine.json("POST", "/containers/talker/start", status=204)
    engine.printed("talker", "line 5\n")
    engine.kill()
    time.sleep(0.3)
    engine.start()
    _, _, data = engine.request("GET", "/containers/talker/logs?stdout=1&follow=1")
    numbers = [int(line.rsplit(b" ", 1)[1]) for line in data.split(b"\n") if b"line " in line]
    assert numbers == list(range(1, 61))


def test_rename(engine: Fragile) -> None:
    engine.create("before", "true")
    engine.arm("container.rename:written")
    assert engine.try_request("POST", "/containers/before/rename?name=after") == 0
    engine.reborn()
    (name,) = engine.names()
    assert name in ("before", "after")
    other = "after" if name == "before" else "before"
    engine.create(other, "true")


@pytest.mark.parametrize("point", ["marked", "forgotten"])
def test_remove(engine: Fragile, point: str) -> None:
    engine.create("going", "true", Volumes={"/data": {}})
    engine.arm(f"container.remove:{point}")
    assert engine.try_request("DELETE", "/containers/going?v=1") == 0
    engine.reborn()
    assert engine.names() == set()
    engine.create("going", "true")


def test_remove_of_a_running_one(engine: Fragile) -> None:
    engine.create("going", "sleep", "1000", Volumes={"/data": {}})
    engine.json("POST", "/containers/going/start", status=204)
    pid = engine.state("going")["Pid"]
    engine.arm("container.exit:reported")
    assert engine.try_request("DELETE", "/containers/going?v=1&force=1") == 0
    engine.reborn()
    assert gone(pid)
    if engine.names():
        assert engine.state("going")["Status"] == "exited"


@pytest.mark.parametrize("point", ["quiet", "made"])
def test_commit(engine: Fragile, point: str) -> None:
    engine.create("source", "sh", "-c", "while true; do sleep 0.05; done")
    engine.json("POST", "/containers/source/start", status=204)
    engine.arm(f"container.commit:{point}")
    assert engine.try_request("POST", "/commit?container=source&repo=copy&tag=1", {}) == 0
    engine.reborn()
    state = engine.state("source")
    assert (state["Running"], state["Paused"]) == (True, False), "what a commit paused continues"
    status, _, _ = engine.request("GET", "/images/copy:1/json")
    assert status == (200 if point == "made" else 404)
    if status == 200:
        engine.json("DELETE", "/images/copy:1")
    engine.json("POST", "/containers/source/stop?t=0", status=204)


def test_pause(engine: Fragile) -> None:
    engine.create("still", "sleep", "1000")
    engine.json("POST", "/containers/still/start", status=204)
    engine.arm("container.pause:frozen")
    assert engine.try_request("POST", "/containers/still/pause") == 0
    engine.reborn()
    assert engine.state("still")["Paused"], "the kernel has it frozen"
    engine.json("POST", "/containers/still/unpause", status=204)


def test_update(engine: Fragile) -> None:
    engine.create("limited", "sleep", "1000", host={"Memory": 64 << 20})
    engine.json("POST", "/containers/limited/start", status=204)
    engine.arm("container.update:applied")
    asked = {"Memory": 96 << 20, "MemorySwap": 192 << 20}
    assert engine.try_request("POST", "/containers/limited/update", asked) == 0
    engine.reborn()
    engine.json("POST", "/containers/limited/update", asked, 200)
    host = engine.json("GET", "/containers/limited/json")["HostConfig"]
    assert host["Memory"] == 96 << 20


def test_a_container_with_rm_that_ended_unseen(engine: Fragile) -> None:
    engine.create("fleeting", "sleep", "0.3", host={"AutoRemove": True})
    engine.json("POST", "/containers/fleeting/start", status=204)
    engine.kill()
    time.sleep(0.5)
    engine.start()
    engine.until(lambda: engine.names() == set())


def test_policies_go_on_after_a_crash(engine: Fragile) -> None:
    always = {"RestartPolicy": {"Name": "always"}}
    engine.create("kept", "sleep", "0.2", host=always)
    engine.json("POST", "/containers/kept/start", status=204)
    engine.kill()
    time.sleep(0.4)
    engine.start()
    count = engine.json("GET", "/containers/kept/json")["RestartCount"]
    engine.until(lambda: engine.json("GET", "/containers/kept/json")["RestartCount"] > count)


def test_monitor_killed_between_a_start_and_its_answer(engine: Fragile) -> None:
    """The command runs, nobody watches it, and the start has failed: it is ended there and then."""
    name = engine.create("unanswered", "sleep", "1000")
    engine.arm("container.start:launched", "monitors", "fail")
    assert engine.try_request("POST", f"/containers/{name}/start") == 500
    state = engine.state("unanswered")
    assert (state["Running"], state["ExitCode"]) == (False, 128)
    assert groups_of(engine, name) == []
    assert engine.try_request("POST", f"/containers/{name}/start") == 204
    assert engine.try_request("DELETE", f"/containers/{name}?force=1") == 204


def test_processes_that_no_container_accounts_for_are_ended(engine: Fragile) -> None:
    """Also when only some hierarchies have the group, and when the group is empty."""
    name = engine.create("left", "sleep", "1000")
    assert engine.try_request("POST", f"/containers/{name}/start") == 204
    assert engine.process is not None
    engine.process.kill()
    engine.process.wait()
    parent = groups_of(engine, name)[0].parent
    orphan, empty = parent / ("0a" * 32), parent / ("0b" * 32)
    orphan.mkdir()
    empty.mkdir()
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (orphan / "cgroup.procs").write_text(str(process.pid))
        engine.start()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    assert not orphan.exists()
    assert not empty.exists()
    assert engine.state("left")["Running"]  # whose monitor lives, stays
    assert "no container; killed 1" in engine.log.read_text()


def groups_of(engine: Fragile, identifier: str) -> list[Path]:
    """The control groups of a container, in all hierarchies."""
    return [p for root in ("/sys/fs/cgroup",) for p in Path(root).glob(f"**/{identifier}")]
