"""A real user of the machine with an engine of its own, for tests of engines without root."""

from __future__ import annotations

import fcntl
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUN = Path("/dev/net/tun")
TIMEOUT = 180
"""Seconds a command may take on a busy machine."""


def refuse_reason() -> str:
    """Why these tests cannot run here, or nothing."""
    if os.geteuid() != 0:
        return "makes users, which needs root"
    for name in ("useradd", "userdel", "newuidmap", "newgidmap"):
        if shutil.which(name) is None:
            return f"{name} is missing (packages passwd and uidmap)"
    if not (shutil.which("pasta") or shutil.which("slirp4netns")):
        return "pasta and slirp4netns are missing"
    for directory in (ROOT, *ROOT.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return f"{directory} cannot be entered by other users"
    return ""


_FIRST_ID, _FIRST_SUBORDINATE, _SLOTS = 20_000, 1_000_000_000, 9_000
"""Where the IDs of test users and their subordinates begin, and how many users there may be."""


def _running() -> Iterator[tuple[int, str, int]]:
    """PID, name and user ID of every process of the machine; no zombies."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            text = (path / "status").read_text()
            fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if not fields["State"].startswith("Z"):
                yield int(path.name), fields["Name"], int(fields["Uid"].split()[0])


def _is_user(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


class RootlessUser:
    """A user made for a test; :meth:`close` removes it with everything it had."""

    def __init__(self, *, subordinate: bool = True) -> None:
        slot = self._slot()
        self.name = f"psr{slot:06x}"
        self.place = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.place.chmod(0o755)
        self.home = self.place / "home"
        first = _FIRST_SUBORDINATE + slot * 65536
        ranges = [f"SUB_{kind}_{end}" for kind in ("UID", "GID") for end in ("MIN", "MAX")]
        limits = dict(zip(ranges, (first, first + 65535) * 2, strict=True))
        subprocess.run(
            ["useradd", "-m", "-d", str(self.home), "-s", "/bin/sh", "-u", str(_FIRST_ID + slot),
             *(word for key, value in limits.items() for word in ("-K", f"{key}={value}")),
             self.name], check=True,
        )  # fmt: skip
        found = pwd.getpwnam(self.name)
        self.uid, self.gid = found.pw_uid, found.pw_gid
        self.subordinates = self._subordinates(subordinate)
        self.runtime = self.place / "run"
        self.runtime.mkdir(mode=0o700)
        os.chown(self.runtime, self.uid, self.gid)
        self.socket = self.runtime / "portside/portside.sock"
        self.host = f"unix://{self.socket}"
        self.data_root = self.home / ".local/share/portside"
        self.exec_root = self.runtime / "portside"
        self.python = self._python()

    @staticmethod
    def _slot() -> int:
        """A number of its own. IDs go by it: what runs in a container or in another root of this
        machine may have users that this machine's ``/etc/passwd`` does not know, and
        :meth:`close` ends processes by their IDs."""
        used = {uid for _pid, _name, uid in _running()}
        for slot in random.sample(range(_SLOTS), _SLOTS):
            first = _FIRST_SUBORDINATE + slot * 65536
            taken = any(uid == _FIRST_ID + slot or 0 <= uid - first < 65536 for uid in used)
            if not taken and not _is_user(_FIRST_ID + slot):
                return slot
        raise AssertionError("no ID is free")

    def _subordinates(self, wanted: bool) -> list[range]:
        """What useradd(8) gave it, of user IDs."""
        found = []
        for line in Path("/etc/subuid").read_text().splitlines():
            name, start, count = line.split(":")
            if name == self.name:
                found.append(range(int(start), int(start) + int(count)))
        if not wanted and found:
            last = found[0][-1]
            for kind in ("uids", "gids"):
                subprocess.run(
                    ["usermod", f"--del-sub{kind}", f"{found[0][0]}-{last}", self.name], check=True
                )
            return []
        return found

    def _python(self) -> str:
        """An interpreter that the user may execute, with the packages of ours."""
        real = Path(sys.executable).resolve()
        if all(one.stat().st_mode & stat.S_IXOTH for one in (real, *real.parents)):
            return sys.executable
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        other = shutil.which(version, path="/usr/bin:/usr/local/bin")
        if other is None:
            pytest.skip(f"{real} is closed to other users, and there is no other {version}")
        environment = self.place / "venv"
        subprocess.run([other, "-m", "venv", "--without-pip", str(environment)], check=True)
        packages = environment / f"lib/{version}/site-packages"
        packages.rmdir()
        packages.symlink_to(next(Path(sys.prefix).glob("lib/python*/site-packages")))
        return str(environment / "bin/python")

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "USER": self.name,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "LC_ALL": "C.UTF-8",
            **more,
        }

    def call(
        self, *command: str, input: str | None = None, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A command as the user."""
        done = subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            env=self.environment(**more),
            cwd=self.home,
            input=input,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done

    def portside(
        self, *words: str, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        entry = str(ROOT / "src/portside/__main__.py")
        return self.call(self.python, "-I", "-S", entry, *words, check=check, **more)

    def docker(
        self, *words: str, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return self.call("docker", *words, check=check, DOCKER_HOST=self.host, **more)

    def log(self) -> str:
        path = self.data_root / "engine.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def processes(self) -> list[tuple[int, str]]:
        """PID and name of everything that runs as the user or its subordinates; no zombies."""
        return [
            (pid, name)
            for pid, name, uid in _running()
            if uid == self.uid or any(uid in ids for ids in self.subordinates)
        ]

    def pid_of(self, name: str) -> int:
        """The one process of a name."""
        (pid,) = [pid for pid, found in self.processes() if found == name]
        return pid

    def engine_pid(self) -> int:
        return int((self.exec_root / "portside.pid").read_text())

    def until_quiet(self, seconds: float = 30) -> list[tuple[int, str]]:
        """What still runs when the time is over: nothing, one hopes."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        with suppress(Exception):
            if self.socket.exists():
                self.portside("daemon", "stop", "--containers", check=False)
        self.until_quiet(5)
        for _ in range(50):
            left = self.processes()
            for pid, _name in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.05)
        subprocess.run(["userdel", self.name], check=False, capture_output=True)
        shutil.rmtree(self.place, ignore_errors=True)


class OpenTun:
    """/dev/net/tun as systems have it: open to everybody; as it was when the last of all test
    runs on this machine is done with it."""

    _before = Path("/run/portside-test-tun")
    """Keeps the mode to restore."""

    def __enter__(self) -> OpenTun:
        with _locked(TUN.parent):
            self._users = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
            if _only_user(self._users):
                if not self._before.exists():  # a run that was killed leaves it
                    self._before.write_text(f"{stat.S_IMODE(TUN.stat().st_mode):o}")
                TUN.chmod(0o666)
            fcntl.flock(self._users, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        with _locked(TUN.parent):
            if _only_user(self._users):
                TUN.chmod(int(self._before.read_text(), 8))
                self._before.unlink()
            os.close(self._users)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _only_user(descriptor: int) -> bool:
    """Whether nobody else holds a lock on the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
