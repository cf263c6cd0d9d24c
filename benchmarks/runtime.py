"""``portside-runtime`` beside runc and crun: the same bundle, by turns, in one run.

    sudo .venv/bin/python benchmarks/runtime.py [--runs 20] [--runtime PATH] [--json]

A cycle is what an engine asks of its runtime: create, start, wait for the process's end, delete.
``run`` is the same in one call. Medians; CPU is user and system time of all processes of a cycle.
A runtime that cannot run the bundle on this machine is left out, with what it said.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER (prctl(2)): containers become our children, so that we can wait."""


def make_bundle(place: Path) -> None:
    """A root of busybox, and runc's own example configuration."""
    (place / "rootfs/bin").mkdir(parents=True)
    busybox = shutil.which("busybox") or sys.exit("busybox-static is needed")
    shutil.copy(busybox, place / "rootfs/bin/busybox")
    (place / "rootfs/bin/true").symlink_to("busybox")
    subprocess.run(["runc", "spec"], cwd=place, check=True)
    config = json.loads((place / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["/bin/true"]}
    config["linux"]["cgroupsPath"] = f"/portside-benchmark-{os.getpid()}"
    (place / "config.json").write_text(json.dumps(config))


def call(command: list[str]) -> None:
    with tempfile.TemporaryFile() as said:
        if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                          check=False).returncode:  # fmt: skip
            said.seek(0)
            raise RuntimeError(f"{' '.join(command[:4])} …: {said.read().decode().strip()}")


class Runtime:
    """One runtime and its times."""

    def __init__(self, command: list[str], place: Path) -> None:
        self.command = [*command, "--root", str(place / f"state-{Path(command[0]).name}")]
        self.bundle = str(place / "bundle")
        self.pid_file = place / "pid"
        self.count = 0
        self.times: dict[str, list[float]] = {}

    def timed(self, name: str, step: Callable[[], None]) -> None:
        begin = time.perf_counter()
        step()
        self.times.setdefault(name, []).append((time.perf_counter() - begin) * 1000)

    def cycle(self) -> None:
        self.count += 1
        id = f"c{os.getpid()}-{self.count}"
        create = [*self.command, "create", "-b", self.bundle, "--pid-file", str(self.pid_file), id]

        def steps() -> None:
            self.timed("create", lambda: call(create))
            self.timed("start", lambda: call([*self.command, "start", id]))
            os.waitpid(int(self.pid_file.read_text()), 0)
            self.timed("delete", lambda: call([*self.command, "delete", id]))

        before = cpu()
        self.timed("cycle", steps)
        self.times.setdefault("CPU of cycle", []).append(cpu() - before)

    def run(self) -> None:
        self.count += 1
        words = [*self.command, "run", "-b", self.bundle, f"r{os.getpid()}-{self.count}"]
        self.timed("run", lambda: call(words))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def measure(place: Path, runs: int, ours: str) -> dict[str, dict[str, float]]:
    make_bundle(place / "bundle")
    commands = {"portside-runtime": [ours], "runc": ["runc"], "crun": ["crun"]}
    runtimes = {}
    for name, command in commands.items():
        try:
            one = Runtime(command, place)
            one.cycle()
            one.run()
        except (RuntimeError, OSError) as err:
            print(f"{name} is left out: {err}", file=sys.stderr)
            continue
        one.times.clear()
        runtimes[name] = one
    for turn in range(runs):
        order = list(runtimes.values())
        for one in order[turn % len(order) :] + order[: turn % len(order)]:
            one.cycle()
            one.run()
    return {
        name: {step: statistics.median(values) for step, values in one.times.items()}
        for name, one in runtimes.items()
    }


def show(found: dict[str, dict[str, float]]) -> None:
    ours = found["portside-runtime"]
    others = [name for name in found if name != "portside-runtime"]
    print(f"{'ms':14}{'portside':>10}" + "".join(f"{name:>10}{'ratio':>8}" for name in others))
    for step, value in ours.items():
        cells = (f"{found[o][step]:>10.1f}{value / found[o][step]:>8.2f}" for o in others)
        print(f"{step:14}{value:>10.1f}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--runtime", default=str(Path(sys.executable).parent / "portside-runtime"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # an installed package has its bytecode, a checkout perhaps not
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(HERE / "src")], check=True)
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="portside-benchmark-") as place:
        found = measure(Path(place), options.runs, options.runtime)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
