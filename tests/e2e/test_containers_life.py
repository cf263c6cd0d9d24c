"""Lifecycle verbs through the docker CLI: transitions, refusals, policies, health, limits."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import until

Docker = Callable[..., "subprocess.CompletedProcess[str]"]
BASE = "portside/base"
PATIENCE = 40


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container's name; what begins with it is removed afterwards."""
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())[:50]
    yield chosen
    found = docker("ps", "-aq", "--filter", f"name=^{chosen}").stdout.split()
    if found:
        docker("rm", "-f", "-v", *found, check=False)


def inspect(docker: Docker, name: str) -> Any:
    return json.loads(docker("inspect", name).stdout)[0]


def state(docker: Docker, name: str) -> Any:
    return inspect(docker, name)["State"]


def refused(docker: Docker, *arguments: str) -> str:
    done = docker(*arguments, check=False)
    assert done.returncode != 0, f"docker {' '.join(arguments)} was not refused: {done.stdout}"
    return str(done.stderr)


# -- states ----------------------------------------------------------------------------------------


def test_every_state_and_its_refusals(docker: Docker, name: str) -> None:
    identifier = docker("create", "--name", name, BASE, "sleep", "1000").stdout.strip()
    assert state(docker, name)["Status"] == "created"
    assert f"container {identifier} is not running" in refused(docker, "kill", name)
    assert f"container {identifier} is not running" in refused(docker, "exec", name, "true")
    assert "is not running" in refused(docker, "pause", name)
    assert "is not running" in refused(docker, "top", name)
    docker("stop", name)  # of what does not run: nothing happens, no error
    docker("start", name)
    docker("start", name)
    now = state(docker, name)
    assert now["Running"] and now["Pid"] > 0 and not now["Paused"]
    assert "is not paused" in refused(docker, "unpause", name)
    assert "cannot remove container" in refused(docker, "rm", name)
    docker("pause", name)
    assert state(docker, name)["Status"] == "paused"
    assert "is already paused" in refused(docker, "pause", name)
    for called in (name, identifier[:12]):  # the error says it as the client does
        words = f"Container {called} is paused, unpause the container before exec"
        assert words in refused(docker, "exec", called, "true")
    assert "paused" in refused(docker, "start", name)
    assert "paused" in refused(docker, "attach", name)
    assert "(Paused)" in docker("ps", "--filter", f"name={name}", "--format", "{{.Status}}").stdout
    docker("unpause", name)
    docker("restart", "-t", "0", name)
    assert state(docker, name)["Pid"] != now["Pid"]
    docker("stop", "-t", "0", name)
    ended = state(docker, name)
    assert (ended["Status"], ended["ExitCode"], ended["Pid"]) == ("exited", 137, 0)
    assert ended["FinishedAt"] > ended["StartedAt"]
    assert docker("rm", name).stdout.strip() == name
    assert f"No such container: {name}" in refused(docker, "rm", name)
    assert docker("rm", "-f", name, check=False).returncode == 0


def test_several_at_once(docker: Docker, name: str) -> None:
    names = [f"{name}-{number}" for number in range(3)]
    for each in names:
        docker("create", "--name", each, BASE, "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait")
    assert docker("start", *names).stdout.split() == names
    assert docker("stop", *names).stdout.split() == names
    assert docker("wait", *names).stdout.split() == ["5"] * 3
    done = docker("rm", *names, "nothing-here", check=False)
    assert done.returncode == 1 and done.stdout.split() == names
    assert "No such container: nothing-here" in done.stderr


def test_a_paused_container_can_be_stopped_and_killed(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sh", "-c", "trap 'exit 3' TERM; sleep 100 & wait")
    docker("pause", name)
    docker("stop", name)
    assert state(docker, name)["ExitCode"] == 3
    docker("start", name)
    docker("pause", name)
    docker("kill", name)
    assert state(docker, name)["ExitCode"] == 137
    docker("start", name)
    docker("pause", name)
    docker("rm", "-f", name)
    assert name not in docker("ps", "-a", "--format", "{{.Names}}").stdout.split()


@pytest.mark.parametrize(
    ("signal", "code"), [("USR1", 10), ("SIGUSR2", 12), ("1", 1), ("SIGRTMIN+3", 37)]
)
def test_kill_delivers_the_signal(docker: Docker, name: str, signal: str, code: int) -> None:
    traps = "; ".join(f"trap 'exit {number}' {number}" for number in (1, 10, 12, 37))
    docker("run", "-d", "--name", name, BASE, "sh", "-c", f"{traps}; echo ready; sleep 100 & wait")
    until(lambda: "ready" in docker("logs", name).stdout)
    docker("kill", "-s", signal, name)
    assert docker("wait", name).stdout.strip() == str(code)


def test_stop_signal_and_timeout(docker: Docker, name: str) -> None:
    script = "trap 'exit 9' USR1; trap '' TERM; echo ready; while true; do sleep 0.1; done"
    options = ("--stop-signal", "SIGUSR1", "--stop-timeout", "30")
    docker("run", "-d", "--name", name, *options, BASE, "sh", "-c", script)
    config = inspect(docker, name)["Config"]
    assert (config["StopSignal"], config["StopTimeout"]) == ("SIGUSR1", 30)
    until(lambda: "ready" in docker("logs", name).stdout)
    docker("stop", name)
    assert state(docker, name)["ExitCode"] == 9
    docker("start", name)
    docker("stop", "-s", "TERM", "-t", "0", name)
    assert state(docker, name)["ExitCode"] == 137


def test_a_stop_before_the_program_handles_its_signal(
    engine: Any, docker: Docker, name: str
) -> None:
    """The kernel drops a signal that a container's first process does not handle yet."""
    late = "sleep 0.5; trap 'exit 3' TERM; while :; do sleep 0.1; done"
    docker("create", "--name", name, "portside/base", "sh", "-c", late)
    engine.json("POST", f"/containers/{name}/start")
    engine.json("POST", f"/containers/{name}/stop?t=60")
    assert engine.json("GET", f"/containers/{name}/json")["State"]["ExitCode"] == 3
    handled = "trap 'echo taken; sleep 1; exit' TERM; echo ready; while :; do sleep 0.1; done"
    docker("rm", name)
    docker("run", "-d", "--name", name, "portside/base", "sh", "-c", handled)
    engine.printed(name, "ready")
    docker("stop", "-t", "60", name)
    assert docker("logs", name).stdout.count("taken") == 1
    docker("rm", name)
    docker("create", "--name", name, "--init", "portside/base", "sh", "-c", "exec sleep 1000")
    for _ in range(5):
        engine.json("POST", f"/containers/{name}/start")
        engine.json("POST", f"/containers/{name}/stop?t=60")
        assert engine.json("GET", f"/containers/{name}/json")["State"]["ExitCode"] == 143


def test_names(docker: Docker, name: str) -> None:
    docker("create", "--name", name, BASE, "true")
    docker("create", "--name", f"{name}-2", BASE, "true")
    taken = refused(docker, "create", "--name", name, BASE, "true")
    assert f'The container name "/{name}" is already in use by container' in taken
    assert "is already in use" in refused(docker, "rename", f"{name}-2", name)
    assert "same name as its current name" in refused(docker, "rename", name, name)
    for bad in ("x", "_a", "a b", "a/b", ""):
        assert docker("rename", name, bad, check=False).returncode == 1, bad
    docker("rename", name, f"{name}.new")
    assert inspect(docker, f"{name}.new")["Name"] == f"/{name}.new"
    docker("create", "--name", name, BASE, "true")


def test_wait_for_the_removal(docker: Docker, docker_py: Any, name: str) -> None:
    container = docker_py.containers.run(
        BASE, ["sh", "-c", "sleep 0.3; exit 6"], name=name, detach=True, auto_remove=True
    )
    assert container.wait(condition="removed")["StatusCode"] == 6
    assert docker_py.containers.list(all=True, filters={"name": name}) == []


def test_a_container_that_removes_itself_may_be_restarted(
    docker: Docker, engine: Any, name: str
) -> None:
    """Its writable layer is not synced at its end; it is all the same there for the next start."""
    seen = "/seen"
    docker("run", "-d", "--rm", "--name", name, BASE, "sh", "-c", "date >> /seen; sleep 1000")
    until(lambda: docker("exec", name, "test", "-s", "/seen", check=False).returncode == 0)
    assert "volatile" in docker("exec", name, "cat", "/proc/mounts").stdout.splitlines()[0]
    docker("restart", "-t", "0", name)
    until(lambda: len(docker("exec", name, "cat", seen, check=False).stdout.splitlines()) == 2)
    engine.restart()
    docker("restart", "-t", "0", name)
    until(lambda: len(docker("exec", name, "cat", seen, check=False).stdout.splitlines()) == 3)
    assert "A /seen" in docker("diff", name).stdout
    docker("commit", name, f"{name}:kept")
    docker("stop", "-t", "0", name)
    until(lambda: not docker("ps", "-aq", "--filter", f"name={name}").stdout)
    assert len(docker("run", "--rm", f"{name}:kept", "cat", seen).stdout.splitlines()) == 3
    docker("rmi", f"{name}:kept")


def test_files_copied_before_the_first_start_are_synced(
    docker: Docker, engine: Any, name: str, tmp_path: Path
) -> None:
    """A container that removes itself stays after a power cut when it was never started."""
    identifier = docker("create", "--rm", "--name", name, BASE, "cat", "/f").stdout.strip()
    (tmp_path / "f").write_text("copied\n")
    docker("cp", str(tmp_path / "f"), f"{name}:/f")
    work = engine.data_root / "containers" / identifier / "work" / "work"
    assert work.is_dir() and not (work / "incompat").exists()  # a volatile mount's mark
    assert docker("start", "-a", name).stdout == "copied\n"


def test_removal_takes_anonymous_volumes_only(docker: Docker, name: str) -> None:
    docker("run", "--name", name, "-v", "/anonymous", "-v", f"{name}-vol:/named", BASE, "true")
    anonymous = [m["Name"] for m in inspect(docker, name)["Mounts"] if m["Name"] != f"{name}-vol"]
    docker("rm", "-v", name)
    left = docker("volume", "ls", "-q").stdout.split()
    assert f"{name}-vol" in left and anonymous[0] not in left
    docker("volume", "rm", f"{name}-vol")


# -- restart policies ------------------------------------------------------------------------------


def test_on_failure_gives_up(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--restart", "on-failure:2", BASE,
           "sh", "-c", "echo run; exit 4")  # fmt: skip
    until(lambda: state(docker, name)["Status"] == "exited")
    found = inspect(docker, name)
    assert (found["RestartCount"], found["State"]["ExitCode"]) == (2, 4)
    assert docker("logs", name).stdout.split() == ["run"] * 3


def test_always_restarts_until_it_is_stopped(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--restart", "always", BASE, "sleep", "0.1")
    until(lambda: inspect(docker, name)["RestartCount"] >= 2)
    docker("stop", name)
    count = inspect(docker, name)["RestartCount"]
    time.sleep(0.6)
    found = inspect(docker, name)
    assert (found["State"]["Status"], found["RestartCount"]) == ("exited", count)


def test_a_waiting_restart_can_be_removed_and_updated(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--restart", "always", BASE, "false")
    words = "is restarting, wait until the container is running"  # each wait is twice as long
    until(lambda: words in docker("exec", name, "true", check=False).stderr)
    docker("update", "--restart", "no", name)
    until(lambda: state(docker, name)["Status"] == "exited")
    docker("update", "--restart", "always", name)
    docker("start", name)
    docker("rm", "-f", name)


def test_rm_and_a_policy_exclude_each_other(docker: Docker) -> None:
    words = refused(docker, "run", "--rm", "--restart", "always", BASE, "true")
    assert "conflict" in words.lower()


# -- health ----------------------------------------------------------------------------------------


def test_health_from_starting_to_unhealthy(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--health-cmd", "cat /tmp/ok",
           "--health-interval", "100ms", "--health-retries", "2", "--health-timeout", "5s",
           BASE, "sleep", "1000")  # fmt: skip
    assert state(docker, name)["Health"]["Status"] == "starting"
    assert "(health: starting)" in docker("ps", "--format", "{{.Status}}").stdout
    until(lambda: bool(state(docker, name)["Health"]["Status"] == "unhealthy"))
    docker("exec", name, "touch", "/tmp/ok")
    until(lambda: bool(state(docker, name)["Health"]["Status"] == "healthy"))
    assert state(docker, name)["Health"]["FailingStreak"] == 0
    until(lambda: len(state(docker, name)["Health"]["Log"]) == 5)
    docker("exec", name, "rm", "/tmp/ok")
    until(lambda: state(docker, name)["Health"]["FailingStreak"] >= 2)
    probe = state(docker, name)["Health"]["Log"][-1]
    assert probe["ExitCode"] == 1 and "can't open '/tmp/ok'" in probe["Output"]
    assert probe["End"] >= probe["Start"]
    found = docker("ps", "-q", "--no-trunc", "--filter", "health=unhealthy").stdout.split()
    assert inspect(docker, name)["Id"] in found


def test_a_slow_probe_is_ended(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--health-cmd", "sleep 1000", "--health-interval", "50ms",
           "--health-timeout", "100ms", "--health-retries", "1", BASE, "sleep", "1000")  # fmt: skip
    until(lambda: bool(state(docker, name)["Health"]["Status"] == "unhealthy"))
    probe = state(docker, name)["Health"]["Log"][0]
    assert probe["ExitCode"] == -1 and "exceeded timeout" in probe["Output"]
    until(lambda: docker("top", name, "-o", "pid,args").stdout.count("sleep 1000") <= 2)


def test_start_period_and_start_interval(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--health-cmd", "test -e /tmp/ok",
           "--health-interval", "1h", "--health-start-period", "1h",
           "--health-start-interval", "50ms", "--health-retries", "1",
           BASE, "sleep", "1000")  # fmt: skip
    until(lambda: len(state(docker, name)["Health"].get("Log") or ()) >= 3)
    assert state(docker, name)["Health"]["Status"] == "starting", "failures do not count yet"
    docker("exec", name, "touch", "/tmp/ok")
    until(lambda: bool(state(docker, name)["Health"]["Status"] == "healthy"))


def test_no_healthcheck_switches_it_off(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--no-healthcheck", BASE, "sleep", "1000")
    assert inspect(docker, name)["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert "Health" not in state(docker, name)


def test_the_times_of_a_health_check_have_a_least(docker: Docker) -> None:
    words = refused(docker, "create", "--health-cmd", "true", "--health-interval", "1us", BASE)
    assert "Interval in Healthcheck cannot be less than 1ms" in words


def test_restart_when_unhealthy(engine: Any, docker: Docker, name: str) -> None:
    body = {
        "Image": BASE,
        "Cmd": ["sleep", "1000"],
        "StopTimeout": 0,
        "Healthcheck": {"Test": ["CMD", "false"], "Interval": 50_000_000, "Retries": 1},
        "HostConfig": {"RestartPolicy": {"Name": "on-unhealthy"}},
    }
    engine.json("POST", f"/containers/create?name={name}", body, 201)
    docker("start", name)
    until(lambda: inspect(docker, name)["RestartCount"] >= 2)
    docker("stop", "-t", "0", name)
    assert state(docker, name)["Status"] == "exited"


# -- limits ----------------------------------------------------------------------------------------


def test_update_is_live_and_shown(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "-m", "64m", BASE, "sleep", "1000")
    assert "update the memoryswap at the same time" in refused(docker, "update", "-m", "1g", name)
    docker("update", "-m", "96m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "33",
           "--cpuset-cpus", "0", "--restart", "unless-stopped", name)  # fmt: skip
    host = inspect(docker, name)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (96 << 20, 128 << 20)
    assert (host["NanoCpus"], host["PidsLimit"], host["CpusetCpus"]) == (500_000_000, 33, "0")
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    script = (
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpuset/cpuset.cpus "
        "cpu/cpu.cfs_quota_us 2>/dev/null || cat memory.max pids.max cpuset.cpus cpu.max"
    )
    seen = docker("exec", name, "sh", "-c", script).stdout.split()
    assert seen[:4] == [str(96 << 20), "33", "0", "50000"]
    assert "Minimum memory limit" in refused(docker, "update", "-m", "1m", name)
    assert "No such container" in refused(docker, "update", "-m", "64m", "nothing-here")
    assert "restart policy" in refused(docker, "update", "--restart", "sometimes", name)


def test_ports_and_labels_change_live(engine: Any, docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--label", "a=1", "--label", "c=3", BASE, "sleep", "1000")
    pid = state(docker, name)["Pid"]
    asked = {
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]},
        "Labels": {"b": "2", "c": None},
    }
    engine.json("POST", f"/portside/containers/{name}/update", asked, 200)
    assert state(docker, name)["Pid"] == pid, "nothing was restarted for it"
    assert docker("port", name, "80").stdout.startswith("127.0.0.1:")
    assert inspect(docker, name)["Config"]["Labels"] == {"a": "1", "b": "2"}
    engine.json("POST", f"/portside/containers/{name}/update", {"PortBindings": {"80/tcp": None}})
    assert docker("port", name).stdout == ""


def test_environment_and_mounts_change_with_the_same_identity(
    engine: Any, docker: Docker, name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("from the host")
    docker("run", "-d", "--name", name, "-e", "A=1", "-e", "B=2", BASE, "sleep", "1000")
    docker("exec", name, "touch", "/written")
    before = inspect(docker, name)
    asked = {"Env": ["A=9", "B"], "Binds": [f"{tmp_path}:/host:ro"]}
    status, _, body = engine.request("POST", f"/portside/containers/{name}/update", asked)
    assert status == 409 and b"restart" in body.lower(), body
    done = engine.json("POST", f"/portside/containers/{name}/update", {**asked, "Restart": True})
    after = inspect(docker, name)
    assert (after["Id"], after["Name"]) == (before["Id"], before["Name"])
    assert after["State"]["Running"] and after["State"]["Pid"] != before["State"]["Pid"], done
    script = "ls /written; cat /host/file; echo; echo $A-${B-none}"
    seen = docker("exec", name, "sh", "-c", script).stdout.split("\n")
    assert seen[:3] == ["/written", "from the host", "9-none"]
