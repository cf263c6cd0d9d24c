"""A machine with a live systemd: a container whose root is this machine's, copied on write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginekit import PATIENCE, ROOT

from portside.kernel.cgroup import Cgroup

SYSTEMD = Path("/lib/systemd/systemd")
NEEDED = (
    (SYSTEMD, "systemd"),
    (Path("/lib/systemd/systemd-logind"), "systemd"),
    (Path("/usr/bin/dbus-daemon"), "dbus"),
    (Path("/usr/lib/systemd/user/dbus.socket"), "dbus-user-session"),
)
CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
TIMEOUT = 120 * PATIENCE
"""Seconds that a step may take on a busy machine."""
_TARGET = """[Unit]
Requires=basic.target dbus.service systemd-logind.service systemd-user-sessions.service
After=basic.target dbus.service systemd-logind.service systemd-user-sessions.service
AllowIsolate=yes
"""
_RUNTIME = [sys.executable, "-m", "portside.runtime"]


def refuse_reason() -> str:
    """Why there can be no such machine here, or nothing."""
    if os.geteuid():
        return "needs root"
    missing = sorted({package for path, package in NEEDED if not path.exists()})
    return f"packages are missing: {' '.join(missing)}" if missing else ""


class Machine:
    """Made once, booted as often as wanted; :meth:`close` removes it."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        # not on the root's file system: overlay refuses an upper layer below its lower one
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", self.place], check=True)
        for name in ("upper", "work", "root", "data", "home", "bundle"):
            (self.place / name).mkdir()
        self.root = self.place / "root"
        layers = f"lowerdir=/,upperdir={self.place}/upper,workdir={self.place}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", self.root], check=True)
        self.name = f"systemd-{os.getpid()}"
        self.group = f"/portside-t{os.getpid()}/systemd"
        self._prepare()

    def _prepare(self) -> None:
        """What belongs to this machine must not start in there, or be found there."""
        etc = self.root / "etc"
        shutil.rmtree(etc / "systemd/system", ignore_errors=True)
        (etc / "systemd/system").mkdir(parents=True)
        (etc / "systemd/system/test.target").write_text(_TARGET)
        (etc / "fstab").write_text("")
        for manager in ("system", "user"):
            drop_in = etc / f"systemd/{manager}.conf.d/test.conf"
            drop_in.parent.mkdir(parents=True, exist_ok=True)
            drop_in.write_text(f"[Manager]\nDefaultTimeoutStartSec={90 * PATIENCE}\n")
        shutil.rmtree(etc / "portside", ignore_errors=True)
        for path in ("var/lib/portside", "run", "tmp", "proc", "sys", "dev"):
            (self.root / path).mkdir(parents=True, exist_ok=True)
        (self.root / "root").chmod(0o755)  # an interpreter may be in there
        document = self._configuration()
        (self.place / "bundle/config.json").write_text(json.dumps(document))

    def _configuration(self) -> dict[str, Any]:
        from portside.model.capabilities import NAMES

        names = list(NAMES)
        sets = ("bounding", "effective", "permitted")
        memory = {"type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "nosuid"]}
        shown = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            {"destination": "/dev", **memory},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", **memory, "options": ["mode=1777"]},
            {"destination": "/run", **memory},
            {"destination": "/tmp", **memory, "options": ["mode=1777"]},
            {"destination": "/var/lib/portside", "type": "bind", "source": f"{self.place}/data",
             "options": ["bind"]},
            # a user's layers: overlays are not stacked higher than two
            {"destination": "/home", "type": "bind", "source": f"{self.place}/home",
             "options": ["bind"]},
        ]  # fmt: skip
        kinds = ("pid", "mount", "network", "ipc", "uts", "cgroup")
        return {
            "ociVersion": "1.0.2",
            "hostname": "machine",
            "root": {"path": str(self.root)},
            "process": {
                "args": [str(SYSTEMD), "--unit=test.target"], "cwd": "/",
                "env": ["container=oci", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(sets, names),
            },
            "mounts": shown,
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "cgroupsPath": self.group,
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
                "devices": [
                    {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200,
                     "fileMode": 0o666},
                ],
            },
        }  # fmt: skip

    def _runtime(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """A verb of the runtime. Its output is a file: a container may keep it open."""
        out = self.place / "out"
        with out.open("w") as file:
            done = subprocess.run(
                [*_RUNTIME, "--root", f"{self.place}/state", *words], stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, timeout=TIMEOUT, check=False, text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, **more,
            )  # fmt: skip
        return subprocess.CompletedProcess(words, done.returncode, out.read_text(), "")

    def boot(self) -> None:
        done = self._runtime("run", "--detach", "--bundle", f"{self.place}/bundle", self.name)
        assert done.returncode == 0, done.stdout
        self.until("systemctl is-active test.target", "active")

    def call(self, text: str, *, check: bool = True, user: str = "") -> str:
        """What shell text says in there, both outputs; as a user in a session of its own."""
        command = ["runuser", "-l", user, "-c", text] if user else ["sh", "-c", text]
        done = self._runtime("exec", "--cwd", "/", self.name, *command)
        assert done.returncode == 0 or not check, f"{text}: {done.stdout}{self.journal()}"
        return done.stdout.strip()

    def portside(self, words: str, *, check: bool = True, user: str = "") -> str:
        return self.call(f"{ROOT}/portside {words}", check=check, user=user)

    def until(self, text: str, wanted: str, *, user: str = "") -> None:
        """Repeat shell text until its last line is the wanted one."""
        deadline = time.monotonic() + TIMEOUT
        while (found := self.call(text, check=False, user=user)).split("\n")[-1] != wanted:
            assert time.monotonic() < deadline, f"{text}: {found}{self.journal()}"
            time.sleep(0.2)

    def journal(self) -> str:
        return (
            "\n" + self._runtime("exec", self.name, "journalctl", "-n", "60", "--no-pager").stdout
        )

    def pid(self) -> int:
        state = self._runtime("state", self.name)
        return int(json.loads(state.stdout)["pid"]) if state.returncode == 0 else 0

    def shut_down(self) -> None:
        """As by the power button, and forget the ended container."""
        process = os.pidfd_open(self.pid())
        try:
            signal.pidfd_send_signal(process, signal.SIGRTMIN + 3)
            assert _ends(process, TIMEOUT), "the machine does not shut down"
        finally:
            os.close(process)
        self._runtime("delete", "--force", self.name)

    def close(self) -> None:
        self._runtime("delete", "--force", self.name)
        for path in (self.root, self.place):
            subprocess.run(["umount", "-l", path], check=False)
        with suppress(OSError):
            self.place.rmdir()
        Cgroup(os.path.dirname(self.group)).remove_empty()


def _ends(process: int, seconds: float) -> bool:
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
