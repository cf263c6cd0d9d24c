"""``portside monitor`` beside Debian's cadvisor: CPU time and memory for many containers, and
whether both say the same.

    python benchmarks/monitor.py [--containers 100] [--seconds 120] [--starts 200]
        [--cadvisor PATH]

Both run at the same time on the same containers of a private engine, with samples every second
and dynamic housekeeping off, which is the expensive case; then ours once more with it on. Memory
grows until samples of two minutes are kept, so that shorter runs show less. For one minute in
between containers come and go (``--starts``), and are renamed, paused and restarted. Needs root.
``cadvisor``: the program of Debian's package, found on the PATH or given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from enginekit import RunningEngine  # noqa: E402
from monitorkit import free_port, until  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """One monitor as a process."""

    def __init__(self, name: str, command: list[str], port: int, directory: Path) -> None:
        self.name, self.base = name, f"http://127.0.0.1:{port}"
        log = (directory / f"{name.replace(' ', '-')}.log").open("wb")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
        )
        until(self._answers, f"{name} does not answer", 60)

    def _answers(self) -> bool:
        try:
            return self.get("/healthz") == b"ok"
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base + path, timeout=60) as answer:
            found: bytes = answer.read()
            return found

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def memory(self) -> float:
        """Proportional set size in MiB."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def ours(engine: RunningEngine, directory: Path, name: str, *options: str) -> Watched:
    port = free_port()
    command = [sys.executable, "-m", "portside", "monitor", "--listen", f"127.0.0.1:{port}",
               "--engine", engine.host, *options]  # fmt: skip
    return Watched(name, command, port, directory)


def cadvisor(program: str, engine: RunningEngine, directory: Path) -> Watched:
    port = free_port()
    command = [program, "-logtostderr", f"-port={port}", "-listen_ip=127.0.0.1",
               f"-docker={engine.host}", "-housekeeping_interval=1s",
               "-allow_dynamic_housekeeping=false"]  # fmt: skip
    return Watched("cadvisor", command, port, directory)


def start_containers(engine: RunningEngine, count: int) -> list[str]:
    """Idle ones, and every tenth busy with a small share of a processor."""
    engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    found = []
    for number in range(count):
        busy = number % 10 == 0
        body: dict[str, Any] = {
            "Image": "portside/base",
            "Cmd": ["sh", "-c", "while :; do :; done"] if busy else ["sleep", "100000"],
            "HostConfig": {"NanoCpus": 10_000_000} if busy else {},
        }
        made = engine.json("POST", f"/containers/create?name=c{number}", body)
        engine.json("POST", f"/containers/{made['Id']}/start")
        found.append(made["Id"])
    return found


def measure(watched: list[Watched], seconds: float) -> None:
    time.sleep(5)
    begun = [(time.monotonic(), one.cpu()) for one in watched]
    time.sleep(seconds)
    for one, (start, before) in zip(watched, begun, strict=True):
        share = 100 * (one.cpu() - before) / (time.monotonic() - start)
        moment, before = time.monotonic(), one.cpu()
        size = len(one.get("/metrics"))
        took, work = time.monotonic() - moment, one.cpu() - before
        cost = f"/metrics {size >> 10} KiB in {1000 * took:.0f} ms, {1000 * work:.0f} ms CPU"
        print(f"{one.name:<28} {share:6.2f} % of a core  {one.memory():7.1f} MiB   {cost}")


def paths_of(monitor: Watched) -> dict[str, str]:
    """Control groups of the containers that a monitor of ours sees."""
    rows = json.loads(monitor.get("/api/portside/v1/groups?containers=1"))
    return {row["container"]: row["name"] for row in rows}


def value_of(stats: Any, path: tuple[str, ...]) -> Any:
    """A value of cAdvisor's ``ContainerStats``; of block devices without their names."""
    for key in path:
        stats = stats.get(key) if isinstance(stats, dict) else None
    if path[0] == "diskio":
        return sorted((d["major"], d["minor"], *sorted(d["stats"].items())) for d in stats or ())
    return stats


def come_and_go(engine: RunningEngine, starts: int, seconds: float = 60) -> None:
    """Start and remove so many containers; of ten, one each is renamed, paused or restarted."""
    begun = time.monotonic()
    for number in range(starts):
        made = engine.json("POST", "/containers/create", {
            "Image": "portside/base", "Cmd": ["sleep", "100000"],
        })  # fmt: skip
        url = f"/containers/{made['Id']}"
        engine.json("POST", f"{url}/start")
        kind = number % 10
        if kind == 0:
            engine.json("POST", f"{url}/rename?name=renamed-{number}")
        elif kind == 1:
            engine.json("POST", f"{url}/pause")
            engine.json("POST", f"{url}/unpause")
        elif kind == 2:
            engine.json("POST", f"{url}/restart?t=0")
        if kind:
            engine.json("DELETE", f"{url}?force=1")
        rest = begun + (number + 1) * seconds / starts - time.monotonic()
        time.sleep(max(0.0, rest))
    took = time.monotonic() - begun
    print(f"{starts} containers came in {took:.0f} s, {starts - starts // 10} of them went")


def cpu_rate(watched: Watched, path: str) -> float:
    """Cores in use over the samples of the last minute, as a monitor reports them."""
    stats = json.loads(watched.get(f"/api/v1.3/containers{path}"))["stats"]
    first, last = stats[0], stats[-1]
    moments = [
        datetime.fromisoformat(one["timestamp"][:26].rstrip("Z") + "+00:00")
        for one in (first, last)
    ]
    used = last["cpu"]["usage"]["total"] - first["cpu"]["usage"]["total"]
    return float(used / 1e9 / (moments[1] - moments[0]).total_seconds())


def churn(watched: list[Watched], identifiers: list[str], engine: RunningEngine, n: int) -> None:
    """What monitors report after a minute in which containers came and went."""
    before = [(time.monotonic(), one.cpu()) for one in watched]
    come_and_go(engine, n)
    for one, (start, used) in zip(watched, before, strict=True):
        share = 100 * (one.cpu() - used) / (time.monotonic() - start)
        print(f"{one.name:<28} {share:6.2f} % of a core meanwhile  {one.memory():7.1f} MiB")
    names = {row["Id"]: row["Names"][0][1:] for row in engine.json("GET", "/containers/json")}
    for one in watched:

        def known(one: Watched = one) -> dict[str, str]:
            found = json.loads(one.get("/api/v1.3/docker/")).values()
            return {entry["aliases"][-1]: entry["aliases"][0] for entry in found}

        deadline = time.monotonic() + 20
        while not names.items() <= known().items() and time.monotonic() < deadline:
            time.sleep(1)
        seen = known()
        wrong = [name for key, name in names.items() if key in seen and seen[key] != name]
        lost = len(names.keys() - seen.keys())
        print(f"{one.name:<28} {lost} of {len(names)} missing, {len(wrong)} with an older name")
    paths, differences = paths_of(watched[0]), []
    for identifier in identifiers[::10]:
        rates = [cpu_rate(one, paths[identifier]) for one in watched]
        if len(rates) == 2 and min(rates):
            differences.append(100 * abs(rates[0] - rates[1]) / rates[1])
    if differences:
        print(f"CPU of {len(differences)} busy containers: {max(differences):.2f} % apart at most")


def compare(a: Watched, b: Watched, identifiers: list[str], engine: RunningEngine) -> None:
    """Pause containers, wait for a sample of both, and compare what stands still."""
    chosen = identifiers[:: max(1, len(identifiers) // 10)][:10]
    for identifier in chosen:
        engine.json("POST", f"/containers/{identifier}/pause")
    time.sleep(4)
    wrong = compared = 0
    paths = paths_of(a)
    for identifier in chosen:
        found = []
        for one in (a, b):
            info = json.loads(one.get(f"/api/v1.3/containers{paths[identifier]}"))
            found.append(info["stats"][-1])
        for path in (
            ("cpu", "usage", "total"), ("memory", "usage"), ("memory", "cache"), ("memory", "rss"),
            ("memory", "working_set"), ("memory", "mapped_file"), ("memory", "failcnt"),
            ("cpu", "cfs", "throttled_periods"), ("network", "rx_bytes"), ("network", "tx_bytes"),
            ("network", "rx_packets"), ("diskio", "io_service_bytes"), ("diskio", "io_serviced"),
        ):  # fmt: skip
            values = [value_of(stats, path) for stats in found]
            compared += 1
            if values[0] != values[1]:
                wrong += 1
                print(f"  {identifier[:12]} {'.'.join(path)}: {values[0]} | {values[1]}")
    print(f"compared {compared} values of {len(chosen)} paused containers: {wrong} differ")
    for identifier in chosen:
        engine.json("POST", f"/containers/{identifier}/unpause")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--cadvisor", default=shutil.which("cadvisor") or "")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ps-bench-"))
    engine = RunningEngine()
    engine.start()
    running: list[Watched] = []
    try:
        identifiers = start_containers(engine, given.containers)
        running.append(ours(engine, directory, "portside", "--dynamic=false"))
        if given.cadvisor:
            running.append(cadvisor(given.cadvisor, engine, directory))
        print(f"{given.containers} containers, {given.seconds:g} s, a sample each second")
        measure(running, given.seconds)
        if given.starts:
            churn(running, identifiers, engine, given.starts)
        if given.cadvisor:
            compare(running[0], running[1], identifiers, engine)
        while running:
            running.pop().close()
        running.append(ours(engine, directory, "portside, dynamic"))
        time.sleep(15)
        measure(running, given.seconds)
    finally:
        for one in running:
            one.close()
        engine.remove()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
