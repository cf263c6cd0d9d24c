"""A private engine as a process, and the docker CLI against it, for fixtures and tests."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = float(os.environ.get("PORTSIDE_TEST_PATIENCE", "1"))
"""How many times as long as usual to wait, for machines whose processor is emulated."""
READY = 60 * PATIENCE
"""Seconds an engine may take to start on a busy machine."""


def until(condition: Callable[[], object], what: str = "it did not come true") -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 60 * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60 * PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class RunningEngine:
    """One private engine as a process."""

    def __init__(self, *options: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
        self.data_root, self.exec_root = self.root / "d", self.root / "x"
        self.socket = self.root / "s"
        self.host = f"unix://{self.socket}"
        self.log = self.root / "log"
        a, b = random.randrange(64, 250), random.randrange(256)
        self.subnet = f"10.{a}.{b}.1/24"
        self.options = options
        self.entry = ["-m", "portside.daemon"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it is ready (sd_notify(3))."""
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            ready.bind(f"{directory}/n")
            ready.settimeout(READY)
            with self.log.open("ab") as log, ready:
                self.process = subprocess.Popen(
                    [
                        sys.executable,
                        *self.entry,
                        "--data-root",
                        str(self.data_root),
                        "--exec-root",
                        str(self.exec_root),
                        "-H",
                        self.host,
                        "--bip",
                        self.subnet,
                        "--config-file",
                        str(self._config()),
                        "--debug",
                        *self.options,
                    ],
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    start_new_session=True,
                    env={**os.environ, "NOTIFY_SOCKET": f"{directory}/n"},
                )
                try:
                    assert ready.recv(64) == b"READY=1"
                except TimeoutError:
                    pytest.fail(f"the engine did not start:\n{self.log.read_text()[-4000:]}")

    def use_ext3(self, megabytes: int = 256) -> None:
        """Before the start: a data root on ext3, which supports no idmapped mounts. Skips where
        it cannot be mounted; :meth:`remove` unmounts it."""
        self.data_root.mkdir()
        image = self.root / "ext3"
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        made = subprocess.run(["mkfs.ext3", "-q", image], check=False, capture_output=True)
        command: list[str | Path] = ["mount", "-t", "ext3", "-o", "loop", image, self.data_root]
        if made.returncode or subprocess.run(command, check=False, capture_output=True).returncode:
            shutil.rmtree(self.root)
            pytest.skip("needs mkfs.ext3 and loop devices")

    def _config(self) -> Path:
        path = self.root / "daemon.json"
        if not path.exists():
            path.write_text("{}")
        return path

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9: containers continue."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, containers: bool = False) -> None:
        """End it in order."""
        assert self.process is not None
        if self.process.poll() is None:
            if containers:
                self.request("POST", "/portside/daemon/stop?containers=1")
            else:
                self.process.terminate()
            self.process.wait(60)

    def restart(self) -> None:
        self.stop()
        self.start()

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request over HTTP: status, headers (lower case), body."""
        import json

        connection = UnixConnection(str(self.socket))
        try:
            head = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                head.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, head)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def printed(self, name: str, text: str) -> None:
        """Wait until a container has written ``text``."""
        path = f"/containers/{name}/logs?stdout=1&stderr=1"
        until(lambda: text.encode() in self.request("GET", path)[2], f"{name}: no {text!r}")

    def json(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """The JSON answer; with ``status`` the one that must come."""
        import json

        got, _, data = self.request(method, path, body)
        wanted = (status,) if status is not None else (200, 201, 204)
        assert got in wanted, f"{method} {path}: {got} {data!r}"
        return json.loads(data) if data.strip() else None

    def remains(self) -> list[str]:
        """What is left on the machine under this engine's names."""
        from portside.model.instance import Instance

        instance = Instance.of(self.data_root, self.exec_root)
        found = [
            f"mount {line}"
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(self.root) in line and f" {self.data_root} " not in line
        ]
        name = instance.cgroup.strip("/")
        ended = self.process is None or self.process.poll() is not None
        mounted = Path("/sys/fs/cgroup")
        for top in (mounted, *mounted.iterdir()):
            if (top / name).is_dir():
                found += [f"cgroup {path}" for path in (top / name).iterdir() if path.is_dir()]
            for group in (top / name, top / f"{name}-monitors"):
                found += [f"cgroup {group}"] if ended and group.is_dir() else []
        for link in (entry.name for entry in Path("/sys/class/net").iterdir()):
            if link == instance.bridge or link.startswith(f"ps{instance.suffix[:4]}"):
                found.append(f"link {link}")
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
        found += [f"table {line}" for line in tables.splitlines() if instance.table in line]
        return found + self.processes()

    def processes(self) -> list[str]:
        """Processes that belong to this engine's root."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                root = str((entry / "cwd").readlink())
            except OSError:
                continue
            if f"{self.root}/" in command or root.startswith(str(self.root)):
                found.append(f"process {entry.name} {command[:120]}")
        return found

    def remove(self) -> None:
        """Stop it with its containers, complain about what is left, delete its files."""
        try:
            if self.process is not None:
                if self.process.poll() is not None:
                    self.start()
                self.stop(containers=True)
            deadline = time.monotonic() + 10
            while (left := self.remains()) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not left, "left behind:\n" + "\n".join(left)
        finally:
            self._force()
            self.remove_files()

    def remove_files(self) -> None:
        if (self.root / "ext3").exists():
            subprocess.run(["umount", "-l", self.data_root], check=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _force(self) -> None:
        """Whatever happened, leave the machine clean for others."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def docker_runner(
    command: list[str], env: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[Any]]:
    def run(
        *args: str, check: bool = True, input: Any = None, text: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[Any]:
        done = subprocess.run(
            [*command, *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=text,
            env=env,
            timeout=timeout * PATIENCE,
        )
        if check and done.returncode:
            pytest.fail(
                f"docker {' '.join(args)}: exit status {done.returncode}\n{done.stdout}\n"
                f"{done.stderr}"
            )
        return done

    return run
