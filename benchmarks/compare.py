"""Compare Portside with a dockerd on this machine, in one run, with the same image.

    sudo python benchmarks/compare.py [--runs 20] [--json]

Both daemons get private roots and sockets. The image is Portside's base, given to dockerd by
``save`` and ``load``. Figures are medians; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

IMAGE = "portside/base"
ROOT = Path(__file__).resolve().parent.parent


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("bench", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Client:
    """One keep-alive connection to a daemon."""

    def __init__(self, path: str) -> None:
        self._connection = Connection(path)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = json.dumps(body) if body is not None else None
        self._connection.request(method, "/v1.40" + path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300 and answer.status != 304:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text) if text.strip().startswith((b"{", b"[")) else text


def _pss(process: str) -> float:
    """MiB; 0 when it has ended."""
    with contextlib.suppress(OSError):
        rollup = Path("/proc", process, "smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+)", rollup, re.M)
        return int(found[1]) / 1024 if found else 0
    return 0


class Daemon:
    """A daemon under test: how to start it, and its socket."""

    def __init__(self, name: str, command: list[str], root: Path) -> None:
        self.name, self.root = name, root
        self.socket = str(root / "s")
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{self.socket}"}
        log = (root / "log").open("wb")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError):
                Client(self.socket)("GET", "/_ping")
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"{self.name} did not start:\n{(self.root / 'log').read_text()[-3000:]}")

    def client(self) -> Client:
        return Client(self.socket)

    def docker(self, *arguments: str, data: bytes | None = None) -> bytes:
        done = subprocess.run(
            ["docker", *arguments],
            input=data,
            capture_output=True,
            env=self.environment,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: docker {arguments}: {done.stderr.decode()}")
        return done.stdout

    def pss(self, pattern: str) -> float:
        """MiB of the processes of this daemon's root, shared pages divided."""
        return sum(map(_pss, self._processes(pattern)))

    def pss_of_tree(self, pattern: str) -> float:
        """The same with all their descendants: helpers whose command does not name the root."""
        parents: dict[str, list[str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(fields[1], []).append(entry.name)
        found = set(self._processes(pattern))
        new = list(found)
        while new:
            children = [child for child in parents.get(new.pop(), ()) if child not in found]
            found.update(children)
            new += children
        return sum(map(_pss, found))

    def _processes(self, pattern: str) -> Iterator[str]:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if f"{self.root}/" in command and re.search(pattern, command):
                    yield entry.name

    def stop(self) -> None:
        if self.name == "portside":  # with its containers, bridge and rules
            with contextlib.suppress(OSError, RuntimeError):
                connection = Connection(self.socket)
                connection.request("POST", "/portside/daemon/stop?containers=1")
                connection.getresponse()
        else:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        if self.process.poll() is None:
            self.process.kill()


def unmount_below(directory: Path) -> None:
    """dockerd leaves the mount of its network namespace's name behind."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{directory}/"):
            subprocess.run(["umount", point], check=False)


@contextlib.contextmanager
def daemons() -> Iterator[tuple[Daemon, Daemon]]:
    base = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    volatile = Path(tempfile.mkdtemp(prefix="pb-", dir="/dev/shm"))  # as /run mostly is
    ours, theirs = base / "p", base / "d"
    ours.mkdir()
    theirs.mkdir()
    started: list[Daemon] = []
    try:
        started.append(
            Daemon(
                "portside",
                [
                    sys.executable,
                    "-m",
                    "portside.daemon",
                    "--data-root",
                    f"{ours}/data",
                    "--exec-root",
                    f"{volatile}/p",
                    "-H",
                    f"unix://{ours}/s",
                    "--bip",
                    "10.251.1.1/24",
                ],
                ours,
            )
        )
        started.append(
            Daemon(
                "dockerd",
                [
                    # Its bridge and its firewall rules go with a network namespace of its own.
                    *("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"),
                    "dockerd",
                    "--data-root",
                    f"{theirs}/data",
                    "--exec-root",
                    f"{volatile}/d",
                    "-H",
                    f"unix://{theirs}/s",
                    "--pidfile",
                    f"{theirs}/pid",
                ],
                theirs,
            )
        )
        ours_d, theirs_d = started
        ours_d.docker("pull", "-q", IMAGE)
        theirs_d.docker("load", data=ours_d.docker("save", IMAGE))
        yield ours_d, theirs_d
    finally:
        for daemon in started:
            daemon.stop()
        for directory in (base, volatile):
            unmount_below(directory)
            shutil.rmtree(directory, ignore_errors=True)


def timed(work: Callable[[], Any], runs: int) -> float:
    """Median milliseconds, after one run to warm up."""
    work()
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) * 1000)
    return statistics.median(found)


def command_line(daemon: Daemon, runs: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of our own commands against our engine, and what they are compared with."""
    ours = {**daemon.environment, "PORTSIDE_HOST": f"unix://{daemon.socket}"}

    def command(*words: str) -> Callable[[], Any]:
        return lambda: subprocess.run(words, env=ours, capture_output=True, check=True, timeout=60)

    portside = str(ROOT / "portside")
    found = {
        "portside version": timed(command(portside, "version"), runs),
        "portside run --rm, bridge": timed(command(portside, "run", "--rm", IMAGE, "true"), runs),
    }
    bare = {"bare interpreter": timed(command(sys.executable, "-I", "-c", "pass"), runs)}
    return found, bare


def monitor_memory(daemon: Daemon) -> float:
    """Private MiB of the process that supervises one waiting container."""
    name = daemon.docker("run", "-d", IMAGE, "sleep", "10000").decode().strip()
    time.sleep(1)
    pid = json.loads(daemon.docker("inspect", name))[0]["State"]["Pid"]
    monitor = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert monitor is not None
    rollup = Path(f"/proc/{monitor[1]}/smaps_rollup").read_text()
    daemon.docker("rm", "-f", name)
    sizes = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", rollup, re.M)
    return sum(map(int, sizes)) / 1024


def conditions() -> str:
    """Where and with what this was measured."""
    import platform

    version = subprocess.run(["dockerd", "--version"], capture_output=True, text=True).stdout
    cli = subprocess.run(["docker", "--version"], capture_output=True, text=True).stdout
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}, Python "
        f"{platform.python_version()}, {cli.strip()}, dockerd: {version.strip()}, load {load}"
    )


def cycle(client: Client, network: str) -> None:
    body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}
    name = client("POST", "/containers/create", body)["Id"]
    client("POST", f"/containers/{name}/start")
    client("POST", f"/containers/{name}/wait")
    client("DELETE", f"/containers/{name}")


def many(daemon: Daemon, total: int, clients: int) -> float:
    """Milliseconds for each of ``total`` containers with several clients at once."""

    def work() -> None:
        client = daemon.client()
        for _ in range(total // clients):
            cycle(client, "bridge")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begin) * 1000 / total


def requests(daemon: Daemon, path: str, count: int) -> float:
    """Milliseconds of one request on a kept connection."""
    client = daemon.client()
    begin = time.perf_counter()
    for _ in range(count):
        client("GET", path)
    return (time.perf_counter() - begin) * 1000 / count


def measure(daemon: Daemon, runs: int) -> dict[str, float]:
    found: dict[str, float] = {}
    client = daemon.client()
    for network in ("bridge", "none", "host"):
        found[f"docker run --rm, {network} (ms)"] = timed(
            partial(daemon.docker, "run", "--rm", "--network", network, IMAGE, "true"), runs
        )
        found[f"API create+start+wait+remove, {network} (ms)"] = timed(
            partial(cycle, client, network), runs
        )
    daemon.docker("run", "-d", "--name", "sleeper", IMAGE, "sleep", "10000")
    found["docker exec true (ms)"] = timed(lambda: daemon.docker("exec", "sleeper", "true"), runs)
    daemon.docker("rm", "-f", "sleeper")
    found["each of 80 containers, 8 clients (ms)"] = many(daemon, 80, 8)
    names = [
        daemon.docker("run", "-d", IMAGE, "sleep", "10000").decode().strip() for _ in range(20)
    ]
    found["ps of 20 (ms)"] = timed(lambda: client("GET", "/containers/json"), runs)
    found["stats --no-stream of 20 (ms)"] = timed(lambda: daemon.docker("stats", "--no-stream"), 2)
    begin = time.perf_counter()
    daemon.docker("rm", "-f", *names)
    found["rm -f of 20 (ms)"] = (time.perf_counter() - begin) * 1000
    found["_ping (ms)"] = requests(daemon, "/_ping", 2000)
    patterns = {"portside": "portside.daemon", "dockerd": "dockerd|containerd"}
    found["idle memory, PSS (MiB)"] = daemon.pss(patterns[daemon.name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with daemons() as (ours, theirs):
        found = {daemon.name: measure(daemon, options.runs) for daemon in (ours, theirs)}
        commands, bare = command_line(ours, options.runs)
        memory = monitor_memory(ours)
    if options.json:
        found |= {"command line": commands | bare, "monitor": {"private MiB": memory}}
        print(json.dumps(found, indent=2))
        return
    print(conditions())
    print(f"{'':44}{'portside':>10}{'dockerd':>10}{'ratio':>8}")
    for key, mine in found["portside"].items():
        other = found["dockerd"][key]
        print(f"{key:44}{mine:>10.1f}{other:>10.1f}{mine / other:>8.2f}")
    start, docker = bare["bare interpreter"], found["dockerd"]["docker run --rm, bridge (ms)"]
    print(f"\nbare interpreter {start:.1f} ms")
    for key, mine, other in (
        ("portside version / bare interpreter", commands["portside version"], start),
        ("portside run / docker run with dockerd", commands["portside run --rm, bridge"], docker),
    ):
        print(f"{key:44}{mine:>10.1f}{other:>10.1f}{mine / other:>8.2f}")
    print(f"{'monitor of a waiting container, private (MiB)':44}{memory:>9.2f}")


if __name__ == "__main__":
    main()
