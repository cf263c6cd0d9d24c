"""``portside monitor`` beside Debian's cadvisor: CPU time and memory for many containers, and
whether both say the same.

    python benchmarks/monitor.py [--containers 100] [--seconds 30] [--cadvisor PATH]

Both run at the same time on the same containers of a private engine, with samples every second
and dynamic housekeeping off, which is the expensive case; then ours once more with it on. Needs
root. ``cadvisor``: the program of Debian's package, found on the PATH or given.
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


def compare(a: Watched, b: Watched, identifiers: list[str], engine: RunningEngine) -> None:
    """Pause containers, wait for a sample of both, and compare what stands still."""
    chosen = identifiers[:: max(1, len(identifiers) // 10)][:10]
    for identifier in chosen:
        engine.json("POST", f"/containers/{identifier}/pause")
    time.sleep(4)
    wrong = 0
    paths = {row["container"]: row["name"] for row in json.loads(
        a.get("/api/portside/v1/groups?containers=1"))}  # fmt: skip
    for identifier in chosen:
        found = []
        for one in (a, b):
            info = json.loads(one.get(f"/api/v1.3/containers{paths[identifier]}"))
            found.append(info["stats"][-1])
        for path in (
            ("cpu", "usage", "total"), ("memory", "usage"), ("memory", "cache"), ("memory", "rss"),
            ("memory", "working_set"), ("memory", "mapped_file"), ("memory", "failcnt"),
            ("cpu", "cfs", "throttled_periods"), ("network", "rx_bytes"), ("network", "tx_bytes"),
            ("network", "rx_packets"), ("processes", "process_count"),
        ):  # fmt: skip
            values = []
            for stats in found:
                value: Any = stats
                for key in path:
                    value = value.get(key, {}) if isinstance(value, dict) else value
                values.append(value)
            if values[0] != values[1]:
                wrong += 1
                print(f"  {identifier[:12]} {'.'.join(path)}: {values[0]} | {values[1]}")
    print(f"compared {len(chosen)} paused containers, 12 values each: {wrong} differ")
    for identifier in chosen:
        engine.json("POST", f"/containers/{identifier}/unpause")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--containers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30)
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
        if given.cadvisor:
            compare(*running, identifiers, engine)
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
