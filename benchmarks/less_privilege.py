"""What less privilege costs: a mapping of its own, ``userns-remap``, an engine without root.

    sudo .venv/bin/python benchmarks/less_privilege.py [--runs 10] [--peer unix:///…/docker.sock]

``--peer`` is a dockerd that was started with ``--userns-remap``. Without root the peer is podman,
by runc, of the same user, who is made for this. Medians in milliseconds; peers take turns in one
run, and what counts is the ratio.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
from compare import Client  # noqa: E402
from enginekit import RunningEngine  # noqa: E402
from rootlesskit import OpenTun, RootlessUser, refuse_reason  # noqa: E402

IMAGE = "portside/base"
PAUSE = 0.1
"""Seconds between two measurements: the engine fills its stock up."""


def in_turn(works: dict[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """The median of each, after one run of each to warm up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(runs + 1):
        for name, work in works.items():
            value = work()
            if turn:
                found[name].append(value)
            time.sleep(PAUSE)
    return {name: statistics.median(values) for name, values in found.items()}


def show(title: str, found: dict[str, float], ours: str, peer: str) -> None:
    figures = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    print(f"{title}: {figures}; ratio {found[ours] / found[peer]:.2f}", flush=True)


def command(*words: str, **more: Any) -> Callable[[], float]:
    def work() -> float:
        begin = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True, **more)
        return (time.perf_counter() - begin) * 1000

    return work


def start_of(client: Client, mode: str) -> Callable[[], float]:
    """``POST /containers/ID/start`` alone."""

    def work() -> float:
        body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"UsernsMode": mode}}
        identifier = client("POST", "/containers/create", body)["Id"]
        begin = time.perf_counter()
        client("POST", f"/containers/{identifier}/start")
        took = (time.perf_counter() - begin) * 1000
        client("POST", f"/containers/{identifier}/wait")
        client("DELETE", f"/containers/{identifier}")
        return took

    return work


def life_of(client: Client) -> Callable[[], float]:
    """Create, start, wait and remove, without a command line."""

    def work() -> float:
        body = {"Image": IMAGE, "Cmd": ["true"]}
        begin = time.perf_counter()
        identifier = client("POST", "/containers/create", body)["Id"]
        client("POST", f"/containers/{identifier}/start")
        client("POST", f"/containers/{identifier}/wait")
        client("DELETE", f"/containers/{identifier}")
        return (time.perf_counter() - begin) * 1000

    return work


def engine(*options: str) -> RunningEngine:
    made = RunningEngine(*options)
    made.start()
    docker(made.host, "pull", "-q", IMAGE)
    return made


def docker(host: str, *words: str, data: bytes | None = None) -> bytes:
    environment = {**os.environ, "DOCKER_HOST": host}
    return subprocess.run(
        ["docker", *words], env=environment, input=data, check=True, capture_output=True
    ).stdout


def end(made: RunningEngine) -> None:
    made.stop(containers=True)
    shutil.rmtree(made.root, ignore_errors=True)


def mapping(runs: int) -> None:
    made = engine()
    try:
        client = Client(str(made.socket))
        works = {"auto": start_of(client, "auto"), "plain": start_of(client, "")}
        show("start with --userns=auto", in_turn(works, runs), "auto", "plain")
    finally:
        end(made)


def remapped(runs: int, peer: str, ids: str) -> None:
    made = engine("--userns-remap", ids)
    try:
        docker(peer, "load", data=docker(made.host, "save", IMAGE))
        lives = {
            "portside": life_of(Client(str(made.socket))),
            "dockerd": life_of(Client(peer.removeprefix("unix://"))),
        }
        title = "create, start, wait, remove with userns-remap"
        show(title, in_turn(lives, runs), "portside", "dockerd")
        for network in ("bridge", "none"):
            run = ("docker", "run", "--rm", "--network", network, IMAGE, "true")
            works = {
                name: command(*run, env={**os.environ, "DOCKER_HOST": host})
                for name, host in (("portside", made.host), ("dockerd", peer))
            }
            title = f"docker run --rm with userns-remap, network {network}"
            show(title, in_turn(works, runs), "portside", "dockerd")
    finally:
        end(made)


def rootless(runs: int) -> None:
    if reason := refuse_reason():
        print(f"without root: not measured: {reason}")
        return
    with OpenTun():
        user = RootlessUser()
        try:
            user.portside("pull", IMAGE)
            user.docker("save", "-o", str(user.home / "base.tar"), IMAGE)
            user.call("podman", "load", "-q", "-i", str(user.home / "base.tar"))
            as_user = {"user": user.uid, "group": user.gid, "extra_groups": [],
                       "env": user.environment(), "cwd": user.home}  # fmt: skip
            entry = (user.python, "-I", "-S", str(ROOT / "src/portside/__main__.py"))
            podman = ("podman", "--runtime", "runc")
            for network in ((), ("--network", "none")):
                run = ("run", "--rm", *network)
                works = {
                    "portside": command(*entry, *run, IMAGE, "true", **as_user),
                    "podman": command(*podman, *run, f"docker.io/{IMAGE}", "true", **as_user),
                }
                title = f"run --rm without root, network {network[1] if network else 'default'}"
                show(title, in_turn(works, runs), "portside", "podman")
        finally:
            user.call("podman", "system", "reset", "-f", check=False)
            user.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--peer", default="", help="socket of a dockerd with --userns-remap")
    parser.add_argument("--ids", default="default", help="what our --userns-remap is given")
    chosen = parser.parse_args()
    mapping(chosen.runs * 2)
    if chosen.peer:
        remapped(chosen.runs, chosen.peer, chosen.ids)
    rootless(chosen.runs)


if __name__ == "__main__":
    main()
