"""Redis as an export, and the monitor's server behind TLS with users, tokens and certificates."""

from __future__ import annotations

import json
import shutil
import socketserver
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagekit import certificate, htpasswd_line
from monitorkit import RunningMonitor, free_port, until


class SmallRedis:
    """As much of Redis's protocol (RESP 2) as a client that pushes to a list needs."""

    def __init__(self, port: int, password: str) -> None:
        lists: dict[str, list[bytes]] = {}
        self.lists = lists

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                allowed = False
                while (head := self.rfile.readline()).startswith(b"*"):
                    words = []
                    for _ in range(int(head[1:])):
                        size = int(self.rfile.readline()[1:])
                        words.append(self.rfile.read(size + 2)[:-2])
                    command = words[0].upper()
                    if command == b"AUTH":
                        allowed = words[-1].decode() == password
                        self.wfile.write(b"+OK\r\n" if allowed else b"-WRONGPASS no\r\n")
                    elif not allowed:
                        self.wfile.write(b"-NOAUTH Authentication required.\r\n")
                    elif command == b"LPUSH":
                        lists.setdefault(words[1].decode(), []).extend(words[2:])
                        self.wfile.write(b":%d\r\n" % len(lists[words[1].decode()]))
                    else:
                        self.wfile.write(b"+OK\r\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def documents(self, key: str) -> list[bytes]:
        return self.lists.get(key, [])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class RealRedis:
    """A redis-server in memory."""

    def __init__(self, port: int, password: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("needs redis-server (Debian: redis-server)")
        self.port, self.password = port, password
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [program, *options, "--requirepass", password], stdout=subprocess.DEVNULL
        )

    def documents(self, key: str) -> list[bytes]:
        import redis

        with redis.Redis(port=self.port, password=self.password) as client:
            try:
                found: list[bytes] = client.lrange(key, 0, 10)  # type: ignore[assignment]
            except redis.ConnectionError:
                return []
            return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.mark.parametrize("kind", [SmallRedis, RealRedis])
def test_redis_gets_what_gathered_while_it_was_away(
    tmp_path: Path, kind: type[SmallRedis] | type[RealRedis]
) -> None:
    port = free_port()
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"exporters": [{
        "kind": "redis", "url": f"redis://127.0.0.1:{port}", "password": "secret",
        "database": "samples", "interval": "200ms", "containers_only": False, "timeout": "2s",
    }]}))  # fmt: skip
    running = RunningMonitor(tmp_path, "--config", str(config), "--interval", "200ms").start()
    try:
        failures = "portside_monitor_delivery_failures_total"
        until(lambda: (running.value(failures) or 0) > 0, "nothing failed", 60)
        server = kind(port, "secret")
        try:
            documents = until(lambda: server.documents("samples"), "not delivered", 90)
            document = json.loads(documents[0])
            assert {"timestamp", "container_Name", "container_stats"} <= set(document)
            assert "secret" not in running.request("/metrics")[2].decode()
        finally:
            server.close()
    finally:
        running.stop()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[RunningMonitor, Path]]:
    made, key = certificate(tmp_path)
    (tmp_path / "users").write_text(htpasswd_line("ann", "secret"))
    (tmp_path / "tokens").write_text("t0ken\n")
    running = RunningMonitor(
        tmp_path, "--tls-cert", str(made), "--tls-key", str(key), "--htpasswd",
        str(tmp_path / "users"), "--token-file", str(tmp_path / "tokens"),
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(made))
    running.tls = context
    running.start()
    yield running, made
    running.stop()


def test_tls_with_users_and_tokens(secured: tuple[RunningMonitor, Path]) -> None:
    running, _ = secured
    for header, status in (("Bearer t0ken", 200), ("Basic YW5uOnNlY3JldA==", 200), ("", 401)):
        headers = {"Authorization": header} if header else {}
        for path in ("/metrics", "/docker/", "/api/portside/v1/about", "/static/monitor.js"):
            assert running.request(path, headers)[0] == status, (header, path)
    about = json.loads(
        running.request("/api/portside/v1/about", {"Authorization": "Bearer t0ken"})[2]
    )
    assert about["logs"] is True, "logs are shown where users are authenticated"
    # without TLS, or with an authority that did not sign, there is no answer at all
    plain = f"http://127.0.0.1:{running.port}/healthz"
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(plain, timeout=20)
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        urllib.request.urlopen(
            plain.replace("http:", "https:"), timeout=20, context=ssl.create_default_context()
        )


def test_client_certificates(tmp_path: Path) -> None:
    """A client without a certificate of the authority gets no answer."""
    made, key = certificate(tmp_path)
    running = RunningMonitor(
        tmp_path, "--tls-cert", str(made), "--tls-key", str(key), "--tls-client-ca", str(made)
    )
    running.tls = ssl.create_default_context(cafile=str(made))
    running.tls.load_cert_chain(made, key)
    running.start()
    try:
        assert running.request("/metrics")[0] == 200
        url = f"https://127.0.0.1:{running.port}/metrics"
        with (
            pytest.raises(OSError),
            urllib.request.urlopen(
                url, timeout=20, context=ssl.create_default_context(cafile=str(made))
            ) as answer,
        ):
            answer.read()
    finally:
        running.stop()
