"""kill -9 of the engine while clients create, start and remove; the restart tells the truth."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginekit import RunningEngine

from portside.kernel.cgroup import Cgroup

BASE = "portside/base"


def pull(engine: RunningEngine) -> None:
    status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    assert status == 200, body


def create(engine: RunningEngine, *command: str, **host: Any) -> str:
    body = {"Image": BASE, "Cmd": list(command), "HostConfig": host}
    return str(engine.json("POST", "/containers/create", body, 201)["Id"])


def test_containers_live_through_kill_and_restart(private_engine: RunningEngine) -> None:
    engine = private_engine
    pull(engine)
    script = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done"
    running = create(engine, "sh", "-c", script)
    engine.json("POST", f"/containers/{running}/start", status=204)
    ends = create(engine, "sh", "-c", "sleep 1; exit 7")
    engine.json("POST", f"/containers/{ends}/start", status=204)
    before = engine.json("GET", f"/containers/{running}/json")
    engine.kill()
    time.sleep(1.5)
    engine.start()
    after = engine.json("GET", f"/containers/{running}/json")
    assert after["State"]["Running"] and after["State"]["Pid"] == before["State"]["Pid"]
    was, now = (found["NetworkSettings"]["Networks"]["bridge"] for found in (before, after))
    assert now["IPAddress"] == was["IPAddress"]
    assert engine.json("GET", f"/containers/{ends}/json")["State"]["ExitCode"] == 7
    _, _, raw = engine.request("GET", f"/containers/{running}/logs?stdout=1&tail=1000")
    numbers = [int(line.rsplit(b" ", 1)[1]) for line in raw.split(b"\n") if b"line " in line]
    assert numbers == list(range(1, len(numbers) + 1)), "lines were lost while the engine was down"
    made = engine.json(
        "POST", f"/containers/{running}/exec", {"Cmd": ["true"], "AttachStdout": True}, 201
    )
    engine.json("POST", f"/exec/{made['Id']}/start", {"Detach": True}, 200)
    engine.json("DELETE", f"/containers/{running}?force=1", status=204)


_IN_A_GROUP = (
    "import sys; [open(file, 'w').write('0') for file in sys.argv.pop(1).split(':')];"
    "import runpy; runpy.run_module('portside.daemon', run_name='__main__', alter_sys=True)"
)


def test_all_processes_of_the_service_are_killed(private_engine: RunningEngine) -> None:
    """What systemctl kill does, and the kernel when the unit is out of memory: SIGKILL for all in
    the service's control group. Containers are not among them."""
    engine = private_engine
    engine.stop()
    service = Cgroup.create(f"/portside-service-{os.getpid()}", None)
    usual = engine.entry
    files = ":".join(f"{directory}/cgroup.procs" for directory in service.directories())
    engine.entry = ["-c", _IN_A_GROUP, files]
    try:
        engine.start()
        pull(engine)
        names = [create(engine, "sleep", "1000") for _ in range(2)]
        for name in names:
            engine.json("POST", f"/containers/{name}/start", status=204)
        assert engine.pid in service.pids()
        service.kill()
        assert engine.process is not None
        engine.process.wait(30)
        engine.entry = usual
        engine.start()
        for name in names:
            state = engine.json("GET", f"/containers/{name}/json")["State"]
            assert state["Running"] and Path(f"/proc/{state['Pid']}/cmdline").exists()
            engine.json("DELETE", f"/containers/{name}?force=1", status=204)
    finally:
        engine.entry = usual
        service.delete()


def test_killed_at_random_moments(private_engine: RunningEngine) -> None:
    engine = private_engine
    pull(engine)
    stop = threading.Event()

    def work(seed: int) -> None:
        choice = random.Random(seed)
        while not stop.is_set():
            try:
                name = create(engine, "sleep", choice.choice(("0", "0.05", "60")))
                if choice.random() < 0.8:
                    engine.request("POST", f"/containers/{name}/start")
                if choice.random() < 0.7:
                    engine.request("DELETE", f"/containers/{name}?force=1")
            except (OSError, AssertionError, json.JSONDecodeError, ValueError):
                time.sleep(0.05)
            except Exception as err:
                if "http.client" not in type(err).__module__:
                    raise
                time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            time.sleep(random.uniform(0.2, 0.8))
            engine.kill()
            engine.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for item in engine.json("GET", "/containers/json?all=1"):
        found = engine.json("GET", f"/containers/{item['Id']}/json")
        if found["State"]["Running"]:
            # The words of inspect are true: such a process exists in such a state.
            # (One that ends in this moment is a zombie, and soon told to have ended.)
            with suppress(FileNotFoundError):
                text = Path(f"/proc/{found['State']['Pid']}/cmdline").read_text()
                assert "sleep" in text or ended_soon(engine, item["Id"])
        engine.json("DELETE", f"/containers/{item['Id']}?force=1", status=204)
    assert engine.json("GET", "/containers/json?all=1") == []
    report = engine.json("POST", "/portside/check")
    assert report["problems"] == []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any("cgroup" in item for item in engine.remains()):
        time.sleep(0.1)
    assert not [item for item in engine.remains() if item.startswith(("cgroup", "mount"))]
    directories = list((engine.data_root / "containers").iterdir())
    assert directories == []
    assert list((engine.exec_root / "containers").iterdir()) == []


def ended_soon(engine: RunningEngine, name: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not engine.json("GET", f"/containers/{name}/json")["State"]["Running"]:
            return True
        time.sleep(0.05)
    return False
