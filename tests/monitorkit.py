"""A monitor as a process, and its answers."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(check: Callable[[], Any], what: str = "it did not happen", seconds: float = 30) -> Any:
    """The first true value of ``check``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.1)
    pytest.fail(what)


class RunningMonitor:
    """One monitor on loopback."""

    def __init__(self, directory: Path, *options: str, engine: str = "") -> None:
        self.port = free_port()
        self.log = directory / f"monitor-{self.port}.log"
        address = engine or f"unix://{directory}/no-engine"
        self.command = [
            sys.executable, "-m", "portside", "monitor", "--listen", f"127.0.0.1:{self.port}",
            "--engine", address, *options,
        ]  # fmt: skip
        self.headers: dict[str, str] = {}
        self.tls: ssl.SSLContext | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **process: Any) -> RunningMonitor:
        """``process``: more arguments of :class:`subprocess.Popen`, such as another user."""
        given = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT / "src")}, **process}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **given)
        until(self._answers, "the monitor did not start", 60)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the monitor ended:\n{self.log.read_text()[-3000:]}")
        try:
            return self.request("/healthz")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(20)
        text = self.log.read_text()
        assert status == 0 and "Traceback" not in text, text[-3000:]

    def request(
        self, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case), body."""
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"
        asked = urllib.request.Request(url, data=body, headers={**self.headers, **(headers or {})})
        try:
            with urllib.request.urlopen(asked, timeout=30, context=self.tls) as answer:
                found = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, found, answer.read()
        except urllib.error.HTTPError as err:
            with err:
                found = {name.lower(): value for name, value in err.headers.items()}
                return err.code, found, err.read()

    def json(self, path: str, body: bytes | None = None) -> Any:
        status, _, data = self.request(path, body=body)
        assert status == 200, f"{path}: {status} {data[:500]!r}"
        return json.loads(data)

    def own(self, path: str, **query: Any) -> Any:
        """Of ``/api/portside/v1/``."""
        return self.json(f"/api/portside/v1/{path}?{urllib.parse.urlencode(query, doseq=True)}")

    def metrics(self, name: str = "") -> list[tuple[str, dict[str, str], float]]:
        """Parsed lines of /metrics: name, labels, value."""
        from prometheus_client.parser import text_string_to_metric_families

        status, _, data = self.request("/metrics")
        assert status == 200, data[:500]
        return [
            (sample.name, dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(data.decode())
            for sample in family.samples
            if not name or sample.name == name
        ]

    def value(self, metric: str, **labels: str) -> float | None:
        """The one value of a metric with these labels."""
        for name, found, value in self.metrics(metric):
            if name == metric and labels.items() <= found.items():
                return value
        return None
