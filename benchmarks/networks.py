"""Compare Portside's networks with a dockerd's on this machine, in one run.

    sudo python benchmarks/networks.py [--rounds 3] [--runs 5] [--seconds 1] [--json]

Each engine has a network namespace of its own, so that neither one's packets pass the firewall of
anybody else, and they take turns, so that what else runs on the machine meets both; figures
are medians of the rounds.

Traffic is made by this interpreter inside the containers' network namespaces, so that only the
way of the packets differs. ``plain`` is a pair of namespaces joined by a veth pair, without any
engine: the kernel's own limit. Dockerd's published ports are also reached over loopback, where
it copies in user space.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare import IMAGE, Client, Daemon, daemons, timed

SERVER = """
import socket, sys, threading
server = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=1024)
data = bytes(1 << 18)
def serve(c):
    try:
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = c.recv(1)
        if kind == b"t":
            while True: c.sendall(data)
        while kind:
            c.sendall(kind); kind = c.recv(1)
    except OSError: pass
    c.close()
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
host, port, kind, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
count, end = 0, time.perf_counter() + seconds
begin = time.perf_counter()
if kind == "connect":
    while time.perf_counter() < end:
        with socket.create_connection((host, port)) as s:
            s.sendall(b"p"); s.recv(1)
        count += 1
else:
    s = socket.create_connection((host, port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind == "bytes":
        s.sendall(b"t"); buffer = bytearray(1 << 18)
        while time.perf_counter() < end: count += s.recv_into(buffer)
        count /= 1 << 20
    else:
        while time.perf_counter() < end:
            s.sendall(b"p"); s.recv(1); count += 1
print(count / (time.perf_counter() - begin))
"""
APART = "PORTSIDE_BENCH_APART"
"""Set in the process that has a network namespace of its own."""
KINDS = {"bytes": "MiB/s", "requests": "requests/s on one connection", "connect": "connections/s"}


def inside(pid: int, program: str, *arguments: str) -> subprocess.Popen[str]:
    enter = ["nsenter", "-t", str(pid), "-n", sys.executable, "-I", "-c", program]
    return subprocess.Popen([*enter, *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def serving(pid: int, port: int) -> Iterator[None]:
    server = inside(pid, SERVER, str(port))
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        server.kill()
        server.wait()


def traffic(pid: int, host: str, port: int, seconds: float) -> dict[str, float]:
    found = {}
    for kind, unit in KINDS.items():
        client = inside(pid, CLIENT, host, str(port), kind, str(seconds))
        out, _ = client.communicate()
        if client.returncode:
            raise SystemExit(f"no {kind} to {host}:{port}")
        found[unit] = float(out)
    return found


def container(client: Client, network: str, port: int = 0) -> str:
    host: dict[str, Any] = {"NetworkMode": network}
    if port:
        host["PortBindings"] = {"80/tcp": [{"HostPort": str(port)}]}
    exposed: dict[str, Any] = {"80/tcp": {}} if port else {}
    body = {"Image": IMAGE, "ExposedPorts": exposed, "Cmd": ["sleep", "1000"], "HostConfig": host}
    identifier = client("POST", "/containers/create", body)["Id"]
    client("POST", f"/containers/{identifier}/start")
    return str(identifier)


def measure(daemon: Daemon, runs: int, seconds: float) -> dict[str, float]:
    client, found = daemon.client(), {}
    for name in ("bench1", "bench2"):
        client("POST", "/networks/create", {"Name": name})
    web, peer = container(client, "bench1", 18080), container(client, "bench1")
    pids = [client("GET", f"/containers/{c}/json")["State"]["Pid"] for c in (web, peer)]
    seen = client("GET", f"/containers/{web}/json")["NetworkSettings"]["Networks"]["bench1"]
    here = daemon.process.pid if daemon.name == "dockerd" else os.getpid()
    with serving(pids[0], 80):
        for unit, value in traffic(pids[1], seen["IPAddress"], 80, seconds).items():
            found[f"between containers, {unit}"] = value
        for unit, value in traffic(here, "127.0.0.1", 18080, seconds).items():
            found[f"published port over loopback, {unit}"] = value
        for unit, value in traffic(here, seen["Gateway"], 18080, seconds).items():
            found[f"published port at the host's address, {unit}"] = value

    def connect(action: str) -> Callable[[], Any]:
        return lambda: client("POST", f"/networks/bench2/{action}", {"Container": peer})

    both = timed(lambda: (connect("connect")(), connect("disconnect")()), runs)
    found["connect and disconnect, ms"] = both
    client("DELETE", f"/containers/{web}?force=1")

    def start() -> None:
        made.append(container(client, "bench1", 18080))
        client("DELETE", f"/containers/{made.pop()}?force=1")

    made: list[str] = []
    found["create, start and remove with a user network and a port, ms"] = timed(start, runs)
    found["network create and remove, ms"] = timed(
        lambda: (
            client("POST", "/networks/create", {"Name": "bench3"}),
            client("DELETE", "/networks/bench3"),
        ),
        runs,
    )
    client("DELETE", f"/containers/{peer}?force=1")
    for name in ("bench1", "bench2"):
        client("DELETE", f"/networks/{name}")
    return found


def plain(seconds: float) -> dict[str, float]:
    """Two namespaces and a veth pair."""
    ends = [subprocess.Popen(["unshare", "-n", "sleep", "1000"]) for _ in range(2)]
    try:
        own = Path("/proc/self/ns/net").stat().st_ino
        while any(Path(f"/proc/{end.pid}/ns/net").stat().st_ino == own for end in ends):
            time.sleep(0.01)
        one, two = (str(end.pid) for end in ends)
        for command in (
            f"nsenter -t {one} -n ip link add name va type veth peer name vb netns {two}",
            f"nsenter -t {one} -n ip addr add 192.0.2.1/24 dev va",
            f"nsenter -t {two} -n ip addr add 192.0.2.2/24 dev vb",
            f"nsenter -t {one} -n ip link set va up",
            f"nsenter -t {two} -n ip link set vb up",
        ):
            subprocess.run(command.split(), check=True)
        with serving(ends[0].pid, 80):
            found = traffic(ends[1].pid, "192.0.2.1", 80, seconds)
        return {f"plain veth pair, {unit}": value for unit, value in found.items()}
    finally:
        for end in ends:
            end.kill()
            end.wait()


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not os.environ.get(APART):
        enter = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
        os.environ[APART] = "1"
        os.execvp(enter[0], [*enter, sys.executable, *sys.argv])
    bases: list[dict[str, float]] = []
    rounds: dict[str, list[dict[str, float]]] = {"portside": [], "dockerd": []}
    with daemons() as both:
        for _ in range(options.rounds):
            bases.append(plain(options.seconds))
            for daemon in both:
                rounds[daemon.name].append(measure(daemon, options.runs, options.seconds))
    base = medians(bases)
    table = {name: medians(found) for name, found in rounds.items()}
    if options.json:
        print(json.dumps({"plain": base, **table}, indent=1))
        return
    for name, value in base.items():
        print(f"{name:62}{value:12,.1f}")
    for name, value in table["portside"].items():
        other = table["dockerd"][name]
        print(f"{name:62}{value:12,.1f}{other:12,.1f}{value / other:8.2f}")


if __name__ == "__main__":
    main()
