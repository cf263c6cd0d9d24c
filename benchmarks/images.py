"""Compare image transfer with a dockerd on this machine, in one run, from the same registry.

    sudo python benchmarks/images.py [--runs 3] [--root debian.tar] [--only PART]

A Debian root file system (made with mmdebstrap when no tar is given) goes into Debian's
docker-registry as an image of one layer and as one of twelve. Both daemons get private roots
and sockets, no bridge traffic is involved. Times are medians of docker CLI calls; memory is
the largest proportional set size seen while pulling, above the idle one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]
from compare import ROOT, Daemon  # noqa: E402
from imagekit import docker_registry  # noqa: E402
from peerkit import image_of, publish  # noqa: E402


def debian(given: str, work: Path) -> bytes:
    path = Path(given) if given else work / "root.tar"
    if not given:
        subprocess.run(
            ["mmdebstrap", "--variant=important", "bookworm", str(path)],
            check=True, capture_output=True,
        )  # fmt: skip
    return path.read_bytes()


def split(tar: bytes, parts: int) -> list[bytes]:
    """The same entries in ``parts`` tars of about the same size, hard links with their files."""
    outs = [io.BytesIO() for _ in range(parts)]
    written = [tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) for out in outs]
    share, at, done = len(tar) // parts + 1, 0, 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as source:
        for entry in source:
            if entry.islnk() is False and done > share and at < parts - 1 and entry.isreg():
                at, done = at + 1, 0
            data = source.extractfile(entry) if entry.isreg() else None
            written[at].addfile(entry, data)
            done += entry.size if entry.isreg() else 0
    for archive in written:
        archive.close()
    return [out.getvalue() for out in outs]


@contextlib.contextmanager
def daemons(base: Path) -> Iterator[tuple[Daemon, Daemon]]:
    ours, theirs = base / "p", base / "d"
    ours.mkdir()
    theirs.mkdir()
    (ours / "daemon.json").write_text("{}")
    started: list[Daemon] = []
    try:
        started.append(
            Daemon(
                "portside",
                [
                    sys.executable, "-m", "portside.daemon", "--data-root", f"{ours}/data",
                    "--exec-root", f"{ours}/x", "-H", f"unix://{ours}/s",
                    "--bip", "10.251.3.1/24", "--config-file", f"{ours}/daemon.json",
                ],
                ours,
            )
        )  # fmt: skip
        started.append(
            Daemon(
                "dockerd",
                [
                    "dockerd", "--data-root", f"{theirs}/data", "--exec-root", f"{theirs}/x",
                    "-H", f"unix://{theirs}/s", "--pidfile", f"{theirs}/pid",
                    "--bridge", "none", "--iptables=false", "--ip6tables=false",
                ],
                theirs,
            )
        )  # fmt: skip
        # ext4 is slow to create files where many were just removed, unless each layer may have a
        # block group of its own: Portside asks for that, and here dockerd gets it, too
        subprocess.run(["chattr", "+T", f"{theirs}/data/overlay2"], check=False)
        yield started[0], started[1]
    finally:
        for daemon in started:
            daemon.stop()


def pss(top: int) -> float:
    """MiB of a process and its descendants, shared pages divided."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    total, waiting = 0, [top]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, ())
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


class Peak:
    """The largest PSS of a daemon's processes while the block runs."""

    def __init__(self, daemon: Daemon) -> None:
        self.pid = daemon.process.pid
        self.idle, self.peak = pss(self.pid), 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, pss(self.pid))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def above(self) -> float:
        return max(0.0, self.peak - self.idle)


def median(runs: int, work: Callable[[], object], after: Callable[[], object]) -> float:
    """Seconds; ``after`` is not counted."""
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
        after()
        time.sleep(0.5)  # what continues in the background is not the next run's
    return statistics.median(found)


def measure(daemon: Daemon, host: str, runs: int, work: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for tag in ("1", "12"):
        name = f"{host}/debian:{tag}"
        remove = lambda name=name: daemon.docker("rmi", name)  # noqa: E731
        found[f"pull, {tag} layer(s) (s)"] = median(
            runs, lambda name=name: daemon.docker("pull", "-q", name), remove
        )
        with Peak(daemon) as peak:
            daemon.docker("pull", "-q", name)
        found[f"memory while pulling, {tag} layer(s) (MiB)"] = peak.above
        remove()
    name = f"{host}/debian:12"
    daemon.docker("pull", "-q", name)
    archive = work / f"{daemon.name}.tar"
    found["pull of what is there (s)"] = median(
        5, lambda: daemon.docker("pull", "-q", name), lambda: None
    )
    found["save (s)"] = median(
        runs, lambda: daemon.docker("save", "-o", str(archive), name), lambda: None
    )
    daemon.docker("rmi", name)
    found["load (s)"] = median(
        runs,
        lambda: daemon.docker("load", "-q", "-i", str(archive)),
        lambda: daemon.docker("rmi", name),
    )
    archive.unlink()
    count = iter(range(100))

    def push() -> None:
        daemon.docker("push", "-q", f"{host}/{daemon.name}-{next(count)}")

    def tag_next() -> None:
        daemon.docker("tag", "pushed", f"{host}/{daemon.name}-{at[0]}")
        at[0] += 1

    at = [0]
    tar, other = work / "root.tar", work / f"{daemon.name}-root.tar"
    seconds = []
    for run in range(runs):  # new content each time: nothing may be there already
        with other.open("wb") as out, tarfile.open(fileobj=out, mode="w") as archive_file:
            entry = tarfile.TarInfo("unique")
            entry.size = len(str(run) + daemon.name)
            archive_file.addfile(entry, io.BytesIO((str(run) + daemon.name).encode()))
            for path in sorted(Path("/usr/lib/x86_64-linux-gnu").glob("lib*.so.*"))[:150]:
                if path.is_file() and not path.is_symlink():
                    archive_file.add(path)
        daemon.docker("import", str(other), "pushed")
        tag_next()
        begin = time.perf_counter()
        push()
        seconds.append(time.perf_counter() - begin)
        daemon.docker("rmi", "pushed", f"{host}/{daemon.name}-{at[0] - 1}")
    other.unlink()
    found["push of new content (s)"] = statistics.median(seconds)
    found["import (s)"] = median(
        runs, lambda: daemon.docker("import", str(tar), "i"), lambda: daemon.docker("rmi", "i")
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--root", default="")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="pbi-", dir="/tmp"))
    try:
        tar = debian(options.root, base)
        (base / "root.tar").write_bytes(tar)
        with docker_registry(base / "registry") as host:
            publish(host, "debian", "1", image_of([tar]))
            publish(host, "debian", "12", image_of(split(tar, 12)))
            with daemons(base) as both:
                found = {d.name: measure(d, host, options.runs, base) for d in both}
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"root file system: {len(tar) >> 20} MiB; checkout {ROOT}")
    print(f"{'':52}{'portside':>10}{'dockerd':>10}{'ratio':>8}")
    for key, mine in found["portside"].items():
        other = found["dockerd"][key]
        print(f"{key:52}{mine:>10.2f}{other:>10.2f}{mine / (other or 1):>8.2f}")


if __name__ == "__main__":
    main()
