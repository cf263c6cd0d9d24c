"""OCI bundles, and ``portside-runtime`` as other engines call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimekit import make_root

from portside.kernel.cgroup import Cgroup

OURS = [sys.executable, "-m", "portside.runtime"]
SOURCE = Path(__file__).resolve().parents[1] / "src"


class Bundles:
    """A root of containers, and bundles made from one root file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "state"
        self.rootfs = make_root(directory / "rootfs")
        self.started: list[str] = []

    def call(
        self, *args: str, runtime: list[str] | None = None, cwd: Path | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb; standard output and error are files, as a container keeps them open."""
        command = [*(runtime or OURS), "--root", str(self.root), *args]
        with (self.directory / "out").open("w+") as out, (self.directory / "err").open("w+") as err:
            values: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            values["env"] = {**os.environ, "PYTHONPATH": str(SOURCE)}
            done = subprocess.run(
                command,
                timeout=60,
                cwd=cwd or self.directory,
                check=False,
                **(values | more),
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())

    def bundle(self, *args: str, **process: Any) -> Path:
        """A bundle whose command is ``args``; ``config`` changes the rest."""
        config = process.pop("config", {})
        name = f"b{len(list(self.directory.glob('b*')))}"
        place = self.directory / name
        place.mkdir()
        assert self.call("spec", "--bundle", str(place)).returncode == 0
        document = json.loads((place / "config.json").read_text())
        document["root"] = {"path": str(self.rootfs)}
        document["process"] |= {"args": list(args), "terminal": False, "rlimits": []} | process
        linux = config.pop("linux", {})
        document |= config
        document["linux"] |= {"cgroupsPath": f"/portside-t{os.getpid()}/{name}"} | linux
        (place / "config.json").write_text(json.dumps(document))
        return place

    def name(self) -> str:
        self.started.append(f"c{os.getpid()}-{len(self.started)}")
        return self.started[-1]

    def create(self, *args: str, options: tuple[str, ...] = (), **changes: Any) -> str:
        name = self.name()
        bundle = self.bundle(*args, **changes)
        done = self.call("create", "--bundle", str(bundle), *options, name)
        assert done.returncode == 0, done.stderr
        return name

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("state", name).stdout)
        return found

    def until(self, name: str, status: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while (found := self.state(name))["status"] != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found


@contextmanager
def bundles(directory: Path) -> Iterator[Bundles]:
    """Bundles and their containers, of which nothing is left afterwards."""
    found = Bundles(directory)
    yield found
    for name in found.started:
        found.call("delete", "--force", name)
    assert not list(found.root.glob("*"))
    Cgroup(f"/portside-t{os.getpid()}").delete()
