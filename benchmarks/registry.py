"""Compare the registry server with Debian's docker-registry, in one run.

    python benchmarks/registry.py [--runs 3] [--size 200]

Both serve plain HTTP on loopback with data in private directories beneath /tmp. Pushes and
pulls are made by the same clients: curl for large blobs, eight threads with kept
connections for small ones. The two take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
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
from imagekit import OCI_MANIFEST, docker_registry, free_port  # noqa: E402

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


def push_image(connection: http.client.HTTPConnection, blob: Blob) -> None:
    """A config, one layer and the manifest that names them, with a tag of its own."""
    config = Blob(b'{"architecture": "amd64", "os": "linux", "of": "%s"}' % blob.digest.encode())
    push(connection, config)
    push(connection, blob)
    parts = [
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": d.digest, "size": len(d.data)}
        for kind, d in (("config.v1+json", config), ("layer.v1.tar", blob))
    ]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    body = json.dumps({**manifest, "config": parts[0], "layers": parts[1:]}).encode()
    path = f"/v2/bench/manifests/{blob.digest[7:27]}"
    connection.request("PUT", path, body, {"Content-Type": OCI_MANIFEST})
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


def measure(host: str, work: Path, size: int, run: int) -> dict[str, float]:
    pushed, pulled = large(host, work, size, run)
    blobs = [Blob(os.urandom(SMALL)) for _ in range(COUNT)]
    small_pushed, small_pulled = together(host, blobs, push), together(host, blobs, pull)
    layers = [Blob(os.urandom(SMALL)) for _ in range(COUNT // 4)]
    images_pushed = together(host, layers, push_image)
    mib = size * LARGE
    return {
        f"push {LARGE} x {size} MiB at once (MiB/s)": mib / pushed,
        f"pull {LARGE} x {size} MiB at once (MiB/s)": mib / pulled,
        f"push {SMALL} byte blobs, {THREADS} clients (1/s)": COUNT / small_pushed,
        f"pull {SMALL} byte blobs, {THREADS} clients (1/s)": COUNT / small_pulled,
        f"push whole small images, {THREADS} clients (1/s)": len(layers) / images_pushed,
    }


def disk(work: Path, size: int) -> float:
    """MiB/s of LARGE files written and flushed one after another: the floor under both."""
    data, begin = os.urandom(1 << 20), time.perf_counter()
    for number in range(LARGE):
        with (work / f"disk-{number}").open("wb") as file:
            for _ in range(size):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return LARGE * size / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=200, help="MiB of a large blob")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pbr-", dir="/tmp"))
    try:
        written = disk(base, options.size)
        with our_registry(base / "ours") as ours, docker_registry(base / "theirs") as theirs:
            # by turns, so that whatever else the machine does hits both
            runs = [
                [measure(host, base, options.size, run) for host in (ours, theirs)]
                for run in range(options.runs)
            ]
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"{'':48}{'portside':>10}{'registry':>10}{'ratio':>8}")
    for key in runs[0][0]:
        mine, other = (statistics.median(run[side][key] for run in runs) for side in (0, 1))
        print(f"{key:48}{mine:>10.0f}{other:>10.0f}{mine / other:>8.2f}")
    print(f"the disk alone, written and flushed: {written:.0f} MiB/s")


if __name__ == "__main__":
    main()
