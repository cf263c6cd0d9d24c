"""Many containers at once, and much output: Portside beside a dockerd on this machine.

    sudo python benchmarks/containers.py [--only portside] [--running 200] [--created 500]
        [--megabytes 200] [--json]

Both daemons get private roots and sockets (see ``compare.py``), and the same image. Measured:
``exec true``; ``ps -a`` of many containers; ``stats --no-stream`` of all that run, also with
one that is frozen in the middle; the end of 100 at once; output in MB/s to the log alone and
to an attached client and the log. What counts is the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compare import IMAGE, Client, Daemon, daemons, timed

_YES = "yes 'The quick brown fox jumps over the lazy dog, and again, and again.'"


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def create(client: Client, *command: str, start: bool = False) -> str:
    body = {"Image": IMAGE, "Cmd": list(command), "HostConfig": {"NetworkMode": "none"}}
    name = str(client("POST", "/containers/create", body)["Id"])
    if start:
        client("POST", f"/containers/{name}/start")
    return name


def exec_once(client: Client, name: str) -> None:
    made = client("POST", f"/containers/{name}/exec", {"Cmd": ["true"], "AttachStdout": True})
    client("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    while client("GET", f"/exec/{made['Id']}/json")["Running"]:
        pass


def logged(daemon: Daemon, megabytes: int) -> float:
    """MB/s of a container that only its log listens to."""
    client = daemon.client()
    name = create(client, "sh", "-c", f"{_YES} | head -c {megabytes}000000")
    client("POST", f"/containers/{name}/start")
    spent = seconds(lambda: client("POST", f"/containers/{name}/wait"))
    client("DELETE", f"/containers/{name}?force=1")
    return megabytes / spent


def attached(daemon: Daemon, megabytes: int) -> float:
    """MB/s through the docker CLI, and into the log."""
    command = ["docker", "run", "--rm", "--network", "none", IMAGE]
    command += ["sh", "-c", f"{_YES} | head -c {megabytes}000000"]
    spent = seconds(
        lambda: subprocess.run(
            command, stdout=subprocess.DEVNULL, env=daemon.environment, check=True
        )
    )
    return megabytes / spent


def removed(daemon: Daemon, names: list[str]) -> None:
    def work(name: str) -> None:
        daemon.client()("DELETE", f"/containers/{name}?force=1")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, names))


def stopped(daemon: Daemon, names: list[str]) -> None:
    """Every one by a client of its own, all at once."""

    def work(name: str) -> None:
        daemon.client()("POST", f"/containers/{name}/stop?t=10")

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))


def measure(daemon: Daemon, options: argparse.Namespace) -> dict[str, float]:
    client = daemon.client()
    found: dict[str, float] = {}
    sleeper = create(client, "sleep", "100000", start=True)
    found["exec true, API (ms)"] = timed(lambda: exec_once(client, sleeper), 20)
    found["exec true, docker CLI (ms)"] = timed(lambda: daemon.docker("exec", sleeper, "true"), 10)
    found["to the log (MB/s)"] = logged(daemon, options.megabytes)
    found["to the log and a client (MB/s)"] = attached(daemon, options.megabytes)
    created = [create(client, "true") for _ in range(options.created)]
    path = "/containers/json?all=1"
    found[f"ps -a of {options.created}, API (ms)"] = timed(lambda: client("GET", path), 10)
    found[f"ps -a of {options.created}, docker CLI (ms)"] = timed(
        lambda: daemon.docker("ps", "-a"), 5
    )
    removed(daemon, created)
    script = "trap 'exit 0' TERM; sleep 100000 & wait"
    begin = time.perf_counter()
    running = [create(client, "sh", "-c", script, start=True) for _ in range(options.running)]
    spent = (time.perf_counter() - begin) / options.running
    found["create and start, each (ms)"] = spent * 1000
    key = f"stats --no-stream of {options.running}"
    found[f"{key} (ms)"] = timed(lambda: daemon.docker("stats", "--no-stream"), 1)
    client("POST", f"/containers/{running[0]}/pause")
    found[f"{key}, one frozen (ms)"] = timed(lambda: daemon.docker("stats", "--no-stream"), 1)
    client("POST", f"/containers/{running[0]}/unpause")
    hundred = running[:100]
    found[f"stop of {len(hundred)} at once (ms)"] = seconds(lambda: stopped(daemon, hundred)) * 1000
    removed(daemon, [*running, sleeper])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("portside", "dockerd"))
    parser.add_argument("--running", type=int, default=200)
    parser.add_argument("--created", type=int, default=500)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with daemons() as both:
        chosen = [each for each in both if options.only in (None, each.name)]
        found = {daemon.name: measure(daemon, options) for daemon in chosen}
    if options.json or len(found) < 2:
        print(json.dumps(found, indent=2))
        return
    print(f"{'':44}{'portside':>10}{'dockerd':>10}{'ratio':>8}")
    for key, mine in found["portside"].items():
        other = found["dockerd"][key]
        print(f"{key:44}{mine:>10.1f}{other:>10.1f}{mine / other:>8.2f}")


if __name__ == "__main__":
    main()
