"""Compose projects: `portside compose` on our engine beside `docker compose` on dockerd.

    sudo python benchmarks/compose.py [--runs 5] [--peer unix:///run/docker.sock] [--json]

Both engines have the same image. Measured: `up -d` of 20 services in 5 levels of dependency,
`up -d` with nothing to do, `ps`, `down`, and `config` of a file with 200 services. Medians; what
counts is the ratio. `--peer` is a dockerd that runs already; without it Debian's is started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from compare import IMAGE, ROOT, daemons

_LEVELS, _PER_LEVEL, _MANY = 5, 4, 200


def project(levels: int, per_level: int) -> str:
    """Services that each depend on all of the level below."""
    lines = ["name: bench", "services:"]
    for level in range(levels):
        below = [f"s{level - 1}x{index}" for index in range(per_level)] if level else []
        for index in range(per_level):
            lines += [
                f"  s{level}x{index}:", f"    image: {IMAGE}", "    command: sleep 1000",
                "    stop_grace_period: 0s", f"    environment: {{LEVEL: '{level}'}}",
                f"    depends_on: [{', '.join(below)}]",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def many() -> str:
    """Services in chains of ten; docker compose takes for ever where many ways lead down."""
    lines = ["name: many", "services:"]
    for index in range(_MANY):
        lines += [f"  s{index}:", f"    image: {IMAGE}", "    command: [sleep, '1000']",
                  "    environment: {A: '1', B: two}", f"    ports: ['{20000 + index}:80']",
                  "    volumes: ['data:/data', './src:/src:ro']"]  # fmt: skip
        if index % 10:
            lines.append(f"    depends_on: [s{index - 1}]")
    return "\n".join([*lines, "volumes: {data: {}}"]) + "\n"


def timed(command: list[str], folder: Path, host: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "DOCKER_HOST": host},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-500:]}")
    return time.perf_counter() - begin


def measure(command: list[str], folder: Path, host: str, runs: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}

    def note(name: str, *words: str) -> None:
        found.setdefault(name, []).append(timed([*command, *words], folder, host))

    large = str(folder / "many.yaml")
    for _ in range(runs):
        note("up -d, 20 services in 5 levels", "up", "-d")
        note("up -d, nothing to do", "up", "-d")
        note("ps", "ps")
        note("down", "down")
        note("config, 200 services", "-f", large, "config")
    return {name: statistics.median(values) * 1000 for name, values in found.items()}


@contextlib.contextmanager
def engines(peer: str) -> Iterator[tuple[str, str]]:
    """The addresses of our engine and of dockerd."""
    with daemons() as (ours, theirs):
        if peer:
            subprocess.run(
                ["docker", "-H", peer, "load"], input=ours.docker("save", IMAGE), check=True,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        yield f"unix://{ours.socket}", peer or f"unix://{theirs.socket}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with engines(options.peer) as (ours, theirs), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "compose.yaml").write_text(project(_LEVELS, _PER_LEVEL))
        (folder / "many.yaml").write_text(many())
        first = measure([str(ROOT / "portside"), "compose"], folder, ours, options.runs)
        second = measure(["docker", "compose"], folder, theirs, options.runs)
    if options.json:
        json.dump({"portside": first, "docker": second}, sys.stdout)
        return
    print("| | portside compose | docker compose | ratio |\n|---|---:|---:|---:|")
    for key, value in first.items():
        print(f"| {key} | {value:.0f} ms | {second[key]:.0f} ms | {value / second[key]:.2f} |")


if __name__ == "__main__":
    main()
