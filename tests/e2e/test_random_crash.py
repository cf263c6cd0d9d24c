"""Engine, launcher, monitors and starters are killed at random moments under a mixed load.

What was acknowledged is there afterwards, and nothing is left: mounts, control groups, links,
rules, namespaces, processes, files, descriptors. ``PORTSIDE_CRASH_ROUNDS`` sets how many rounds
(1,000 take about an hour), ``PORTSIDE_CRASH_SECONDS`` ends them earlier; ``PORTSIDE_CRASH_SEED``
repeats a choice of victims.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from enginekit import RunningEngine

BASE = "portside/base"
ROUNDS = int(os.environ.get("PORTSIDE_CRASH_ROUNDS", "12"))
SECONDS = float(os.environ.get("PORTSIDE_CRASH_SECONDS", "inf"))
SEED = int(os.environ.get("PORTSIDE_CRASH_SEED", "0")) or random.randrange(1 << 30)
GONE = (OSError, http.client.HTTPException, AssertionError, ValueError)
"""What a client meets whose engine dies."""


class Ledger:
    """What the engine has acknowledged. An object is taken off before its removal is asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.containers: dict[str, str] = {}
        """Name to identifier."""
        self.volumes: set[str] = set()
        self.networks: set[str] = set()
        self.acknowledged = 0

    def names(self) -> dict[str, set[str]]:
        with self.lock:
            return {"containers": set(self.containers.values()), "volumes": set(self.volumes),
                    "networks": set(self.networks)}  # fmt: skip

    def check(self, engine: RunningEngine) -> None:
        """Everything that was acknowledged is there. What is taken off while the engine lists it
        may be gone already."""
        before = self.names()
        found = {
            "containers": {item["Id"] for item in engine.json("GET", "/containers/json?all=1")},
            "volumes": {item["Name"] for item in engine.json("GET", "/volumes")["Volumes"]},
            "networks": {item["Name"] for item in engine.json("GET", "/networks")},
        }
        after = self.names()
        lost = {kind: (before[kind] & after[kind]) - found[kind] for kind in found}
        assert not any(lost.values()), f"lost {lost}"


class Load(threading.Thread):
    """One client that does anything, until it is told to stop."""

    def __init__(self, engine: RunningEngine, ledger: Ledger, seed: int, stop: threading.Event):
        super().__init__()
        self.engine, self.ledger, self.stop = engine, ledger, stop
        self.choice, self.number, self.seed = random.Random(seed), 0, seed
        self.failure: BaseException | None = None

    def run(self) -> None:
        works = (self.container, self.container, self.container, self.volume, self.network)
        while not self.stop.is_set():
            try:
                self.choice.choice(works)()
            except GONE:
                time.sleep(0.05)
            except BaseException as err:
                self.failure = err
                raise

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.seed}-{self.number}"

    def ask(self, method: str, path: str, body: object = None) -> int:
        return self.engine.request(method, path, body)[0]

    def container(self) -> None:
        name = self.name("c")
        command = self.choice.choice((["true"], ["sleep", "0.1"], ["sleep", "60"]))
        body = {
            "Image": BASE, "Cmd": command, "StopSignal": "KILL",
            "HostConfig": {"Binds": [f"{name}:/v"], "PublishAllPorts": True,
                           "AutoRemove": self.choice.random() < 0.2},
            "ExposedPorts": {"80/tcp": {}},
        }  # fmt: skip
        made = self.engine.json("POST", f"/containers/create?name={name}", body, 201)["Id"]
        with self.ledger.lock:
            self.ledger.acknowledged += 1
            self.ledger.volumes.add(name)
            if not body["HostConfig"]["AutoRemove"]:  # type: ignore[index]
                self.ledger.containers[name] = made
        if self.choice.random() < 0.9:
            self.ask("POST", f"/containers/{made}/start")
        if self.choice.random() < 0.4:
            exec_body = {"Cmd": ["true"], "AttachStdout": True}
            status, _, data = self.engine.request("POST", f"/containers/{made}/exec", exec_body)
            if status == 201:
                self.ask("POST", f"/exec/{json.loads(data)['Id']}/start", {"Detach": True})
        verb = self.choice.choice(("stop?t=0", "kill", "restart?t=0", "pause", ""))
        if verb:
            self.ask("POST", f"/containers/{made}/{verb}")
        if self.choice.random() < 0.2:
            self.ask("POST", f"/commit?container={made}&repo=committed&tag={self.number % 3}")
        if self.choice.random() < 0.8:
            with self.ledger.lock:
                self.ledger.containers.pop(name, None)
            self.ask("DELETE", f"/containers/{made}?force=1")

    def volume(self) -> None:
        name = self.name("v")
        self.engine.json("POST", "/volumes/create", {"Name": name}, 201)
        with self.ledger.lock:
            self.ledger.acknowledged += 1
            self.ledger.volumes.add(name)
        if self.choice.random() < 0.7:
            with self.ledger.lock:
                self.ledger.volumes.discard(name)
            self.ask("DELETE", f"/volumes/{name}")

    def network(self) -> None:
        name = self.name("n")
        self.engine.json("POST", "/networks/create", {"Name": name}, 201)
        with self.ledger.lock:
            self.ledger.acknowledged += 1
            self.ledger.networks.add(name)
        with self.ledger.lock:
            self.ledger.networks.discard(name)
        self.ask("DELETE", f"/networks/{name}")


def parents() -> dict[int, tuple[int, str]]:
    """Every process's parent and name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                before, _, after = (entry / "stat").read_text().rpartition(")")
                found[int(entry.name)] = (int(after.split()[1]), before.partition("(")[2])
    return found


def victims(engine: RunningEngine, known: set[int]) -> dict[str, list[int]]:
    """The engine's processes by what they are. ``known`` keeps the monitors of dead launchers."""
    family = parents()
    launchers = [pid for pid, (parent, name) in family.items()
                 if parent == engine.pid and name.startswith("portside-")]  # fmt: skip
    known &= set(family)
    known |= set(launchers)
    grown = True
    while grown:
        ours = {
            pid: parent for pid, (parent, name) in family.items() if name.startswith("portside-")
        }
        more = {pid for pid, parent in ours.items() if parent in known and pid not in known}
        known |= more
        grown = bool(more)
    monitors = [pid for pid in known if pid in family and pid not in launchers]
    workers = [pid for pid, (parent, name) in family.items()
               if parent == engine.pid and not name.startswith("portside-")]  # fmt: skip
    return {"engine": [engine.pid], "launcher": launchers, "monitors": monitors,
            "workers": workers}  # fmt: skip


def strike(engine: RunningEngine, choice: random.Random, known: set[int]) -> str:
    found = victims(engine, known)
    kind = choice.choice(("engine", "engine", "launcher", "monitors", "workers", "all"))
    if kind == "all":
        chosen = [pid for pids in found.values() for pid in pids]
    else:
        chosen = found[kind]
        if kind == "monitors" and chosen:
            chosen = choice.sample(chosen, min(len(chosen), 3))
    for pid in chosen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if engine.pid in chosen:
        assert engine.process is not None
        engine.process.wait()
        engine.start()
    return kind


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_killed_at_random(private_engine: RunningEngine) -> None:
    engine = private_engine
    status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    assert status == 200, body
    ledger, stop, choice = Ledger(), threading.Event(), random.Random(SEED)
    loads = [Load(engine, ledger, seed, stop) for seed in range(3)]
    known: set[int] = set()
    kinds: dict[str, int] = {}
    for load in loads:
        load.start()
    try:
        end = time.monotonic() + SECONDS
        for _ in range(ROUNDS):
            if time.monotonic() > end:
                break
            time.sleep(choice.uniform(0.05, 0.7))
            kind = strike(engine, choice, known)
            kinds[kind] = kinds.get(kind, 0) + 1
            ledger.check(engine)
    finally:
        print(f"seed {SEED}: {sum(kinds.values())} rounds {kinds}")
        stop.set()
        for load in loads:
            load.join(60)
    assert not [load.failure for load in loads if load.failure], f"seed {SEED}"
    print(f"{ledger.acknowledged} objects acknowledged")
    clean(engine, ledger)


def clean(engine: RunningEngine, ledger: Ledger) -> None:
    """Remove everything and look what stays."""
    ledger.check(engine)
    engine.restart()
    ledger.check(engine)
    for item in engine.json("GET", "/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{item['Id']}?force=1")
    assert engine.json("GET", "/containers/json?all=1") == []
    for item in engine.json("GET", "/volumes")["Volumes"]:
        engine.json("DELETE", f"/volumes/{item['Name']}", status=204)
    for item in engine.json("GET", "/networks"):
        if item["Name"].startswith("n-"):
            engine.json("DELETE", f"/networks/{item['Id']}", status=204)
    for item in engine.json("GET", "/images/json?all=1"):
        if f"{BASE}:latest" not in (item["RepoTags"] or ()):
            engine.request("DELETE", f"/images/{item['Id']}?force=1")
    problems = engine.json("POST", "/portside/check")["problems"] or []
    assert not [problem for problem in problems if problem["kind"] != "leftover"], problems
    deadline = time.monotonic() + 30
    while (left := files(engine)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, left
    descriptors = len(os.listdir(f"/proc/{engine.pid}/fd"))
    assert descriptors < 150, f"{descriptors} descriptors are open in an idle engine"


def files(engine: RunningEngine) -> list[str]:
    """What is left beneath both roots of containers and volumes."""
    places = [engine.data_root / name for name in ("containers", "volumes", "trash")]
    places += [engine.exec_root / "containers", engine.exec_root / "runtimes"]
    found = [str(path) for place in places if place.is_dir() for path in place.iterdir()]
    found += [str(path) for path in (engine.data_root / "layers").glob("tmp-*")]
    return found
