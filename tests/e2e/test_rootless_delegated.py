"""An engine without root whose user has a delegated part of control groups version 2, as systemd
gives one to who logs in: limits, statistics, the freezer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rootlesskit import ROOT, TUN, OpenTun, RootlessUser, refuse_reason

from portside.kernel.cgroup.layout import OWN_LEAF

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
BASE = "portside/base"


def _missing() -> str:
    if reason := refuse_reason():
        return reason
    if not (MOUNT / "cgroup.controllers").exists():
        return "needs control groups of version 2 alone"
    return "" if TUN.exists() else "/dev/net/tun is missing"


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "-")


class DelegatedUser(RootlessUser):
    """A user whose control groups are as systemd makes them (systemd.resource-control(5),
    "Delegation"): commands run in a session's scope, which is root's; the engine's service is
    the user's, and its main process is started in a group below it (``DelegateSubgroup``)."""

    def __init__(self) -> None:
        super().__init__()
        self.slice = MOUNT / f"user-{self.name}.slice"
        self.service = self.slice / "portside.service"
        self.session = self.slice / "session.scope"
        wanted = " ".join(f"+{name}" for name in CONTROLLERS)
        (MOUNT / "cgroup.subtree_control").write_text(wanted)
        self.slice.mkdir()
        (self.slice / "cgroup.subtree_control").write_text(wanted)
        for path in (self.session, self.service, self.service / OWN_LEAF):
            path.mkdir()
        for path in (self.service, self.service / OWN_LEAF):
            for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(path / name, self.uid, self.gid)

    def _within(self, group: Path, command: tuple[str, ...]) -> list[str]:
        enter = f'echo 0 > {group}/cgroup.procs && exec "$@"'
        become = ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--")
        return ["sh", "-c", enter, "sh", *become, *command]

    def call(
        self, *command: str, input: str | None = None, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._within(self.session, command),
            env=self.environment(**more),
            cwd=self.home,
            input=input,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done

    def start_service(self, group: Path) -> None:
        """``portside daemon`` as the user's service, until it listens."""
        main = str(ROOT / "src/portside/__main__.py")
        self.call("mkdir", "-p", str(self.data_root))
        with open(self.data_root / "engine.log", "ab") as log:
            engine = subprocess.Popen(
                self._within(group, (self.python, "-I", "-S", main, "daemon")),
                env=self.environment(), cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 600
        while not self._listens():
            assert engine.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.socket)) == 0

    def close(self) -> None:
        super().close()
        for path in sorted(self.slice.rglob("*/"), key=lambda each: -len(str(each))):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            self.slice.rmdir()


@pytest.fixture(scope="module")
def user() -> Iterator[DelegatedUser]:
    with OpenTun():
        made = DelegatedUser()
        try:
            made.start_service(made.service / OWN_LEAF)
            yield made
        finally:
            made.close()


def test_limits_are_the_kernels(user: DelegatedUser) -> None:
    made = user.portside("run", "-d", "--name", "limited", "-m", "64m", "--pids-limit", "50",
                         "--cpus", "0.5", BASE, "sleep", "100000")  # fmt: skip
    assert "WARNING" not in made.stderr and "delegated" not in made.stderr
    files = "memory.max pids.max cpu.max".split()
    paths = [f"/sys/fs/cgroup/{name}" for name in files]
    assert user.portside("exec", "limited", "cat", *paths).stdout.splitlines() == [
        str(64 << 20), "50", "50000 100000"]  # fmt: skip
    pid = int(user.portside("inspect", "-f", "{{.State.Pid}}", "limited").stdout)
    group = Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2]
    assert group.startswith(f"/{user.service.relative_to(MOUNT)}/")
    assert group.count("/") > 2 and (MOUNT / group[1:] / "pids.max").read_text() == "50\n"
    user.portside("update", "-m", "32m", "--memory-swap", "32m", "limited")
    assert user.portside("exec", "limited", "cat", paths[0]).stdout.strip() == str(32 << 20)


def test_info_and_statistics(user: DelegatedUser) -> None:
    found = json.loads(user.docker("info", "--format", "{{json .}}").stdout)
    assert (found["CgroupVersion"], found["CgroupDriver"]) == ("2", "cgroupfs")
    assert found["MemoryLimit"] and found["PidsLimit"] and found["CPUShares"]
    assert {"name=rootless", "name=cgroupns"} <= set(found["SecurityOptions"])
    stats = json.loads(user.docker("stats", "--no-stream", "--format", "json", "limited").stdout)
    assert stats["MemUsage"].endswith("32MiB") and not stats["MemUsage"].startswith("0B")
    assert int(stats["PIDs"]) >= 1


def test_the_freezer(user: DelegatedUser) -> None:
    user.portside("pause", "limited")
    frozen = [path for path in user.slice.rglob("cgroup.freeze") if path.read_text().strip() == "1"]
    assert len(frozen) == 1
    assert user.portside("inspect", "-f", "{{.State.Status}}", "limited").stdout == "paused\n"
    user.portside("unpause", "limited")
    assert frozen[0].read_text().strip() == "0"


def test_memory_that_runs_out(user: DelegatedUser) -> None:
    hungry = "x=x; while true; do x=$x$x$x$x; done"
    user.portside("run", "--name", "hungry", "-m", "16m", "--memory-swap", "16m", BASE,
                  "sh", "-c", hungry, check=False)  # fmt: skip
    assert user.portside("inspect", "-f", "{{.State.OOMKilled}}", "hungry").stdout == "true\n"


def test_limits_outlive_the_engine(user: DelegatedUser) -> None:
    os.kill(user.engine_pid(), 9)
    user.start_service(user.service / OWN_LEAF)
    assert user.portside("ps", "--format", "{{.Names}}").stdout == "limited\n"
    memory = user.portside("exec", "limited", "cat", "/sys/fs/cgroup/memory.max").stdout.strip()
    assert memory == str(32 << 20)
    user.portside("rm", "-f", "limited", "hungry")
    left = [path for path in user.service.rglob("portside/*/cgroup.procs") if path.read_text()]
    assert left == []
