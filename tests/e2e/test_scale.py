"""Many containers, one after the other and by several clients at once: none fails, none leaks.

What an engine holds on the machine (mounts, cgroups, links, rules, descriptors, processes,
files, tasks) is counted before and after; the counts must be equal.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine, UnixConnection

BASE = "portside/base"
TOTAL = 200
CLIENTS = 8
AT_ONCE = 40
SETTLE = 15
"""Seconds for what is cleaned up after the answer."""


class Client:
    """One kept connection."""

    def __init__(self, engine: RunningEngine) -> None:
        self._connection = UnixConnection(str(engine.socket))

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text!r}"
        return json.loads(text) if text.strip() else None

    def life(self, network: str, *, published: bool = False) -> float:
        """One container from creation to removal; seconds it took."""
        host: dict[str, Any] = {"NetworkMode": network}
        body: dict[str, Any] = {"Image": BASE, "Cmd": ["true"], "HostConfig": host}
        if published:
            body["ExposedPorts"] = {"80/tcp": {}}
            host["PortBindings"] = {"80/tcp": [{"HostPort": ""}]}
        begin = time.monotonic()
        name = self("POST", "/containers/create", body)["Id"]
        self("POST", f"/containers/{name}/start")
        assert self("POST", f"/containers/{name}/wait")["StatusCode"] == 0
        self("DELETE", f"/containers/{name}")
        return time.monotonic() - begin

    def close(self) -> None:
        self._connection.close()


def held(engine: RunningEngine) -> dict[str, int]:
    """How much of the machine the engine holds."""
    from portside.model.instance import Instance

    instance = Instance.of(engine.data_root, engine.exec_root)
    root = str(engine.root)
    mounts = Path(f"/proc/{engine.pid}/mountinfo").read_text().splitlines()
    cgroups = sum(
        1
        for top in Path("/sys/fs/cgroup").iterdir()
        if (top / instance.cgroup.strip("/")).is_dir()
        for _ in os.walk(top / instance.cgroup.strip("/"))
    )
    links = [name for name in os.listdir("/sys/class/net") if name.startswith("ps")]
    own = [name for name in links if instance.suffix[:4] in name]
    table = engine_table(instance.table)
    return {
        "mounts": sum(root in line for line in mounts),
        "cgroups": cgroups,
        "links": len(own),
        "firewall lines": table,
        "descriptors": len(os.listdir(f"/proc/{engine.pid}/fd")),
        "threads": len(os.listdir(f"/proc/{engine.pid}/task")),
        "processes": len(engine.processes()),
        "files of execution": sum(len(files) for _, _, files in os.walk(engine.exec_root)),
        "containers": len(list((engine.data_root / "containers").iterdir())),
        "layers": sum(path.parent.name != "backups" for path in engine.data_root.glob("*/*")),
        "tasks": int(engine.json("GET", "/info")["NGoroutines"]),
    }


def engine_table(name: str) -> int:
    """Lines of the engine's own firewall tables."""
    import subprocess

    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    lines, inside, count = done.stdout.splitlines(), False, 0
    for line in lines:
        if line.startswith("table "):
            inside = name in line
        count += inside
    return count


def settled(engine: RunningEngine, before: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What still differs from before, after time to settle: empty when nothing leaked."""
    deadline = time.monotonic() + SETTLE
    while True:
        now = held(engine)
        differs = {key: (before[key], now[key]) for key in before if now[key] != before[key]}
        if not differs or time.monotonic() > deadline:
            return differs
        time.sleep(0.2)


@pytest.fixture(scope="module")
def busy() -> Iterator[RunningEngine]:
    """An engine that has everything it ever makes once, so that counts can be compared."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an engine is started")
    engine = RunningEngine()
    engine.start()
    try:
        engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
        run_at_once(engine, CLIENTS)
        yield engine
    finally:
        engine.remove()


def run_at_once(engine: RunningEngine, total: int) -> list[str]:
    """``total`` lives shared by the clients; the failures."""
    failures: list[str] = []

    def work(first: int) -> None:
        client = Client(engine)
        try:
            for number in range(first, total, CLIENTS):
                network = ("bridge", "bridge", "none", "host")[number % 4]
                client.life(network, published=number % 8 == 0)
        except Exception as err:
            failures.append(f"{type(err).__name__}: {err}")
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_one_after_the_other(busy: RunningEngine) -> None:
    before = settled_counts(busy)
    client = Client(busy)
    try:
        for number in range(TOTAL):
            client.life("bridge" if number % 2 else "none", published=number % 10 == 1)
    finally:
        client.close()
    assert settled(busy, before) == {}


def test_by_clients_at_once(busy: RunningEngine) -> None:
    before = settled_counts(busy)
    assert run_at_once(busy, TOTAL) == []
    assert settled(busy, before) == {}


def test_many_that_run_at_the_same_time(busy: RunningEngine) -> None:
    """They start, are listed, execute commands, and go all at once."""
    before = settled_counts(busy)
    names: list[str] = []
    failures: list[str] = []

    def start() -> None:
        client = Client(busy)
        body = {"Image": BASE, "Cmd": ["sleep", "1000"], "Labels": {"scale": "1"}}
        try:
            for _ in range(AT_ONCE // CLIENTS):
                name = client("POST", "/containers/create", body)["Id"]
                names.append(name)
                client("POST", f"/containers/{name}/start")
                made = client("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
                client("POST", f"/exec/{made['Id']}/start", {"Detach": True})
        except Exception as err:
            failures.append(f"{type(err).__name__}: {err}")
        finally:
            client.close()

    def remove(mine: list[str]) -> None:
        client = Client(busy)
        try:
            for name in mine:
                client("DELETE", f"/containers/{name}?force=1")
        except Exception as err:
            failures.append(f"{type(err).__name__}: {err}")
        finally:
            client.close()

    together([(start, ())] * CLIENTS)
    assert failures == []
    assert len(busy.json("GET", "/containers/json")) == AT_ONCE
    addresses = {
        item["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        for item in busy.json("GET", "/containers/json")
    }
    assert len(addresses) == AT_ONCE
    together([(remove, (names[number::CLIENTS],)) for number in range(CLIENTS)])
    assert failures == []
    assert settled(busy, before) == {}


def together(calls: list[tuple[Any, tuple[Any, ...]]]) -> None:
    threads = [threading.Thread(target=call, args=arguments) for call, arguments in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settled_counts(engine: RunningEngine) -> dict[str, int]:
    """The counts once two looks in a row agree."""
    last = held(engine)
    for _ in range(SETTLE * 5):
        time.sleep(0.2)
        now = held(engine)
        if now == last:
            return now
        last = now
    return last
