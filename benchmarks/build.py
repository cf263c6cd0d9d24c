"""Compare builds with a dockerd on this machine, in one run, on the same base image.

    sudo python benchmarks/build.py [--runs 3] [--only PART] [--classic] [--peer SOCKET]

Both daemons get private roots and sockets (see ``compare.py``); ``--peer`` compares with a dockerd
that runs already. The client is ``docker build``, which uses buildx; ``--classic`` uses
``DOCKER_BUILDKIT=0`` with Portside, and BuildKit with dockerd all the same. The last columns are
``portside build`` and its ratio to dockerd with buildx. The clients take turns. Times are medians
of the client's whole run; what counts is the ratio.

============ ==================================================================
floor        a Dockerfile without a step: what the client itself takes
cached       30 RUN steps, all of them known
cold         30 RUN steps that do next to nothing, none of them known
context      20,000 files, of which one has changed since the last build
stage        one stage of a second
stages       two independent stages of a second each: the time of one
copy         COPY of one file of 1 GiB
memory       the engine's and its helpers' memory above idle, during all of it
============ ==================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from compare import IMAGE, ROOT, Daemon, daemons

STEPS = 30
FILES = 20_000


class Builder:
    """One daemon's client."""

    def __init__(self, daemon: Daemon, *, classic: bool = False, own: bool = False) -> None:
        """``own``: the client is ``portside build``."""
        self.name, self._daemon = daemon.name, daemon
        self._program = str(ROOT / "portside") if own else "docker"
        self._environment = dict(daemon.environment)
        if classic:
            self._environment["DOCKER_BUILDKIT"] = "0"

    def build(self, folder: Path, text: str) -> float:
        """Seconds of one build."""
        (folder / "Dockerfile").write_text(text)
        command = [self._program, "build", "-q", "-t", "bench", str(folder)]
        begin = time.perf_counter()
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stdout}{done.stderr}")
        return time.perf_counter() - begin


Part = Callable[[Builder, Path], float]


def steps(mark: str) -> str:
    runs = "".join(f"RUN echo {number} {mark} > /f{number}\n" for number in range(STEPS))
    return f"FROM {IMAGE}\n{runs}"


def floor(builder: Builder, folder: Path) -> float:
    return builder.build(folder, "FROM scratch\nLABEL a=b\n")


def cached(builder: Builder, folder: Path) -> float:
    builder.build(folder, steps("same"))
    return builder.build(folder, steps("same"))


def cold(builder: Builder, folder: Path) -> float:
    return builder.build(folder, steps(uuid.uuid4().hex))


def context(builder: Builder, folder: Path) -> float:
    if not (folder / "d0").exists():
        for number in range(FILES):
            path = folder / f"d{number % 100}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{number}\n" * 20)
    text = f"FROM {IMAGE}\nCOPY . /src\n"
    builder.build(folder, text)
    (folder / "d5" / "f5").write_text(uuid.uuid4().hex)
    return builder.build(folder, text)


def stage(builder: Builder, folder: Path) -> float:
    mark = uuid.uuid4().hex
    return builder.build(
        folder,
        f"FROM {IMAGE} AS a\nRUN sleep 1; echo {mark} > /a\nFROM {IMAGE}\nCOPY --from=a /a /\n",
    )


def stages(builder: Builder, folder: Path) -> float:
    mark = uuid.uuid4().hex
    return builder.build(
        folder,
        f"FROM {IMAGE} AS a\nRUN sleep 1; echo {mark} > /a\nFROM {IMAGE} AS b\n"
        f"RUN sleep 1; echo {mark} > /b\nFROM {IMAGE}\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    )


def copy(builder: Builder, folder: Path) -> float:
    big = folder / "big"
    if not big.exists():
        with big.open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(1 << 19) * 2)
    with big.open("r+b") as file:
        file.write(uuid.uuid4().bytes)
    return builder.build(folder, f"FROM {IMAGE}\nCOPY big /big\n")


PARTS: dict[str, Part] = {
    "floor": floor, "cached": cached, "cold": cold, "context": context, "stage": stage,
    "stages": stages, "copy": copy,
}  # fmt: skip


@contextlib.contextmanager
def watched(daemon: Daemon, peaks: dict[str, float]) -> Iterator[None]:
    """Largest proportional set size above idle, in MiB."""
    pattern = "portside" if daemon.name == "portside" else "dockerd|containerd"
    idle = daemon.pss_of_tree(pattern)
    done = threading.Event()
    peak = [idle]

    def look() -> None:
        while not done.wait(0.3):
            peak[0] = max(peak[0], daemon.pss_of_tree(pattern))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peaks[daemon.name] = peak[0] - idle


def _use(daemon: Daemon, path: str, image: bytes) -> None:
    """Let a daemon that runs already take the place of the one that was started."""
    daemon.environment["DOCKER_HOST"] = f"unix://{path}"
    daemon.root = Path(path).parent
    daemon.docker("load", data=image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--classic", action="store_true")
    parser.add_argument("--peer", default="")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pb-", dir="/var/tmp"))
    peaks: dict[str, float] = {}
    try:
        with daemons() as both:
            if options.peer:
                _use(both[1], options.peer, both[0].docker("save", IMAGE))
            builders = [
                Builder(both[0], classic=options.classic), Builder(both[1]),
                Builder(both[0], own=True),
            ]  # fmt: skip
            print("part       buildx    dockerd  ratio   portside build  ratio   load", flush=True)
            with watched(both[0], peaks), watched(both[1], peaks):
                for name in options.only or PARTS:
                    (base / name).mkdir()
                    spent: list[list[float]] = [[] for _ in builders]
                    for _ in range(options.runs):
                        for builder, found in zip(builders, spent, strict=True):
                            found.append(PARTS[name](builder, base / name))
                    ours, theirs, own = map(statistics.median, spent)
                    print(
                        f"{name:8} {ours:8.2f} s {theirs:8.2f} s  {ours / theirs:5.2f} "
                        f"{own:14.2f} s  {own / theirs:5.2f}   {os.getloadavg()[0]:.0f}",
                        flush=True,
                    )
                    shutil.rmtree(base / name)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print("memory   " + json.dumps({name: round(value) for name, value in peaks.items()}) + " MiB")


if __name__ == "__main__":
    main()
