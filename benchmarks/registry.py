"""Compare the registry server with Debian's docker-registry, in one run.

    python benchmarks/registry.py [--runs 3] [--size 200]

Both serve plain HTTP on loopback with data in private directories beneath /tmp. Pushes and
pulls are made by the same clients: curl for large blobs, eight threads with kept
connections for small ones. Figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]
from imagekit import docker_registry, free_port  # noqa: E402

SMALL, COUNT, THREADS, LARGE = 4096, 400, 8, 4


@contextlib.contextmanager
def our_registry(root: Path) -> Iterator[str]:
    port = free_port()
    root.mkdir()
    log = (root / "log").open("wb")
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{port}",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(root / "data"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "portside.registry.server", "serve"],
        stdout=log, stderr=log, env=environment,
    )  # fmt: skip
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                http.client.HTTPConnection("127.0.0.1", port).connect()
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        log.close()


class Blob:
    def __init__(self, data: bytes) -> None:
        self.data, self.digest = data, "sha256:" + hashlib.sha256(data).hexdigest()


def push(connection: http.client.HTTPConnection, blob: Blob) -> None:
    connection.request("POST", "/v2/bench/blobs/uploads/", b"")
    answer = connection.getresponse()
    answer.read()
    place = answer.headers["Location"].partition("/v2/")[2]
    mark = "&" if "?" in place else "?"
    headers = {"Content-Type": "application/octet-stream"}
    url = f"/v2/{place}{mark}digest={blob.digest}"
    connection.request("PUT", url, blob.data, headers)
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == 201, said


def pull(connection: http.client.HTTPConnection, blob: Blob) -> None:
    connection.request("GET", f"/v2/bench/blobs/{blob.digest}")
    assert len(connection.getresponse().read()) == len(blob.data)


def together(
    host: str, blobs: list[Blob], work: Callable[[http.client.HTTPConnection, Blob], None]
) -> float:
    """Seconds for all blobs, spread over threads with a connection each."""

    def run(mine: list[Blob]) -> None:
        connection = http.client.HTTPConnection(host)
        for blob in mine:
            work(connection, blob)
        connection.close()

    threads = [threading.Thread(target=run, args=(blobs[n::THREADS],)) for n in range(THREADS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def curl_all(commands: list[list[str]]) -> float:
    begin = time.perf_counter()
    running = [subprocess.Popen(["curl", "-sS", "-f", *command]) for command in commands]
    assert all(process.wait() == 0 for process in running)
    return time.perf_counter() - begin


def large(host: str, work: Path, size: int, run: int) -> tuple[float, float]:
    """(seconds to push, seconds to pull) LARGE different blobs of ``size`` MiB at once."""
    pushes, pulls = [], []
    for number in range(LARGE):
        path = work / f"large-{number}"
        with path.open("r+b" if path.exists() else "wb") as file:
            if not path.stat().st_size:
                for _ in range(size):
                    file.write(os.urandom(1 << 20))
            file.seek(0)
            file.write(f"{host} {run} {number}".encode())
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        connection = http.client.HTTPConnection(host)
        connection.request("POST", "/v2/bench/blobs/uploads/", b"")
        place = connection.getresponse().headers["Location"].partition("/v2/")[2]
        mark = "&" if "?" in place else "?"
        url = f"http://{host}/v2/{place}{mark}digest={digest}"
        pushes.append(["-T", str(path), url])
        pulls.append(["-o", "/dev/null", f"http://{host}/v2/bench/blobs/{digest}"])
    return curl_all(pushes), curl_all(pulls)


def measure(host: str, runs: int, work: Path, size: int) -> dict[str, float]:
    pushed, pulled, small_pushed, small_pulled = [], [], [], []
    for run in range(runs):
        seconds = large(host, work, size, run)
        pushed.append(seconds[0])
        pulled.append(seconds[1])
        blobs = [Blob(os.urandom(SMALL)) for _ in range(COUNT)]
        small_pushed.append(together(host, blobs, push))
        small_pulled.append(together(host, blobs, pull))
    mib = size * LARGE
    return {
        f"push {LARGE} x {size} MiB at once (MiB/s)": mib / statistics.median(pushed),
        f"pull {LARGE} x {size} MiB at once (MiB/s)": mib / statistics.median(pulled),
        f"push {SMALL} byte blobs, {THREADS} clients (1/s)": COUNT
        / statistics.median(small_pushed),
        f"pull {SMALL} byte blobs, {THREADS} clients (1/s)": COUNT
        / statistics.median(small_pulled),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=200, help="MiB of a large blob")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pbr-", dir="/tmp"))
    try:
        with our_registry(base / "ours") as host:
            ours = measure(host, options.runs, base, options.size)
        with docker_registry(base / "theirs") as host:
            theirs = measure(host, options.runs, base, options.size)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{'':48}{'portside':>10}{'registry':>10}{'ratio':>8}")
    for key, mine in ours.items():
        print(f"{key:48}{mine:>10.0f}{theirs[key]:>10.0f}{mine / theirs[key]:>8.2f}")


if __name__ == "__main__":
    main()
