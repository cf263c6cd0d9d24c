"""Bad input, slow and vanished clients, access, full disks, hosts that are away."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from imagekit import htpasswd_line
from monitorkit import ROOT, RunningMonitor, free_port, until

pytestmark = pytest.mark.skipif(not Path("/sys/fs/cgroup").exists(), reason="needs control groups")


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMonitor]:
    """A monitor without an engine."""
    running = RunningMonitor(
        tmp_path_factory.mktemp("lone"), "--interval", "200ms", "--details-interval", "500ms"
    ).start()
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/api/portside/v1/group?name=nobody", 404, "unknown container"),
        ("/api/portside/v1/group", 400, "name is missing"),
        ("/api/portside/v1/history?name=/&points=999999999999", 400, "points"),
        ("/api/portside/v1/history?name=/&points=-1", 400, "points"),
        ("/api/portside/v1/history?name=/&window=forever", 400, "duration"),
        ("/api/portside/v1/history?name=/&window=900d", 400, "window"),
        ("/api/portside/v1/history?name=/&series=nothing", 400, "unknown series"),
        ("/api/portside/v1/history?" + "name=/&" * 200, 400, "at most"),
        ("/api/portside/v1/events?limit=x", 400, "limit"),
        ("/api/v1.3/docker/nobody", 500, "unable to find Docker container"),
        ("/api/v1.0/containers/no/such/group", 500, "unknown container"),
        ("/api/v2.0/stats/?count=-5", 500, "invalid 'count' option"),
        ("/api/v2.0/stats/?count=99999999999999999999999", 500, "count"),
        ("/api/v2.0/stats/?count=many", 500, "failed to parse 'count'"),
        ("/api/v2.0/stats/?type=lxc", 500, "unknown 'type'"),
        ("/api/v2.0/stats/?max_age=old", 500, "max_age"),
        ("/api/v2.0/storage?label=nothing", 500, "non-existent label"),
        ("/api/v9.9/containers", 500, "unsupported API version"),
        ("/api/v1.0/docker/", 500, "unknown request type"),
        ("/api/v1.0", 400, "Supported request types"),
        ("/api/", 400, "Supported API versions: v1.0,v1.1,v1.2,v1.3,v2.0,v2.1"),
        ("/metrics?count=x", 500, "No metrics gathered"),
        ("/static/..%2f..%2fsettings.py", 404, ""),
        ("/no/such/page", 404, ""),
    ],
)
def test_bad_requests_get_clear_answers(
    lone: RunningMonitor, path: str, status: int, text: str
) -> None:
    got, _, body = lone.request(path)
    assert (got, text.lower() in body.decode().lower()) == (status, True), body[:300]


@pytest.mark.parametrize("body", [b"{", b'{"num_stats": "many"}', b"[1]", b"\xff\xfe"])
def test_malformed_json(lone: RunningMonitor, body: bytes) -> None:
    status, _, text = lone.request("/api/v1.3/containers/", body=body)
    assert status == 500 and b"unable to decode the json value" in text


def test_huge_counts_are_no_burden(lone: RunningMonitor) -> None:
    found = lone.json("/api/v1.3/containers/", body=b'{"num_stats": 2000000000}')
    assert 0 < len(found["stats"]) < 1000
    assert lone.json("/api/v1.3/containers/", body=b'{"num_stats": 0}').get("stats") is None
    every = lone.json("/api/v1.3/containers/", body=b'{"num_stats": -1}')
    assert len(every["stats"]) >= len(found["stats"])


def test_pages_ask_no_other_host(lone: RunningMonitor) -> None:
    for path in ("/containers/", "/docker/", "/containers/docker"):
        status, headers, body = lone.request(path)
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in body and b"https://" not in body
    status, _, body = lone.request("/")
    assert status == 200 and b"<title>Portside monitor" in body  # redirected to /containers/
    assert lone.request("/validate")[0] == 200


def test_slow_and_vanished_clients_disturb_nobody(lone: RunningMonitor) -> None:
    idle = []
    for _ in range(50):
        sock = socket.create_connection(("127.0.0.1", lone.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /api/portside/v1/live HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.append(sock)
    half = socket.create_connection(("127.0.0.1", lone.port))
    half.sendall(b"GET /metr")
    assert lone.request("/metrics")[0] == 200
    for sock in idle[:25]:
        sock.close()
    assert lone.own("groups")
    for sock in (*idle[25:], half):
        sock.close()
    assert lone.request("/healthz")[0] == 200


def test_openmetrics_on_request(lone: RunningMonitor) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    status, headers, body = lone.request("/metrics", accept)
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"container_cpu_usage_seconds", "machine_cpu_cores"} <= names


def test_no_series_is_there_twice_or_changes_without_time(lone: RunningMonitor) -> None:
    """Prometheus drops a second value of a series with the same time."""
    seen: dict[tuple[str, str], str] = {}
    for _ in range(6):
        here: set[str] = set()
        for line in lone.request("/metrics")[2].decode().splitlines():
            if line.startswith("#"):
                continue
            series, value, *stamp = line.rsplit(" ", 2 if line.startswith("container_") else 1)
            assert series not in here, series
            here.add(series)
            if stamp:
                assert seen.setdefault((series, stamp[0]), value) == value, line
        time.sleep(0.3)


def _refused(tmp_path: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "portside", "monitor", *options],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_bad_options_are_refused(tmp_path: Path) -> None:
    here = ["--listen", f"127.0.0.1:{free_port()}"]
    assert "open to other machines" in _refused(tmp_path, "--listen", "0.0.0.0:0")
    assert "interval" in _refused(tmp_path, *here, "--interval", "1ms")
    assert "unknown kind 'graphite'" in _refused(tmp_path, *here, "--exporter", "graphite=http://x")
    assert "udp://" in _refused(tmp_path, *here, "--exporter", "statsd=http://x")
    assert "cannot read" in _refused(tmp_path, *here, "--htpasswd", str(tmp_path / "none"))
    assert "both" in _refused(tmp_path, *here, "--tls-cert", "/none")
    assert "unknown flag" in _refused(tmp_path, "--no-such-flag")
    config = tmp_path / "c.yml"
    config.write_text("rules: {memry: {above: 3}}\n")
    assert "unknown rule 'memry'" in _refused(tmp_path, *here, "--config", str(config))


def test_passwords_and_tokens(tmp_path: Path) -> None:
    users, tokens = tmp_path / "htpasswd", tmp_path / "tokens"
    users.write_text(htpasswd_line("ann", "secret"))
    tokens.write_text("# for Prometheus\nt0ken\n")
    running = RunningMonitor(tmp_path, "--htpasswd", str(users), "--token-file", str(tokens))
    running.start()
    try:
        status, headers, _ = running.request("/metrics")
        assert status == 401 and "Bearer" in headers["www-authenticate"]  # the last of two
        for header, wanted in (
            ("Bearer t0ken", 200), ("Bearer wrong", 401), ("Basic YW5uOnNlY3JldA==", 200),
            ("Basic YW5uOndyb25n", 401), ("Basic !!!", 401), ("Digest x", 401),
        ):  # fmt: skip
            for path in ("/metrics", "/containers/", "/api/v1.3/machine"):
                assert running.request(path, {"Authorization": header})[0] == wanted, header
        assert running.request("/healthz")[0] == 200
    finally:
        running.stop()


class _Receiver:
    """An HTTP server that keeps what it gets."""

    def __init__(self, port: int = 0) -> None:
        kept: list[tuple[str, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                kept.append((self.path, self.rfile.read(size)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.kept = kept
        self.server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_exporters_deliver_after_the_host_was_away(tmp_path: Path) -> None:
    port = free_port()
    statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    statsd.bind(("127.0.0.1", 0))
    statsd.settimeout(30)
    lines = tmp_path / "samples.jsonl"
    config = tmp_path / "c.json"  # YAML reads JSON
    common = {"interval": "200ms", "containers_only": False}
    config.write_text(json.dumps({"exporters": [
        {"kind": "otlp", "url": f"http://127.0.0.1:{port}", "queue": 3, **common},
        {"kind": "influxdb", "url": f"http://127.0.0.1:{port}", **common},
        {"kind": "influxdb2", "url": f"http://127.0.0.1:{port}", "organization": "o",
         "token": "t", **common},
        {"kind": "statsd", "url": f"udp://127.0.0.1:{statsd.getsockname()[1]}", **common},
        {"kind": "jsonlines", "url": str(lines), **common},
    ]}))  # fmt: skip
    running = RunningMonitor(
        tmp_path, "--config", str(config), "--interval", "200ms", "--dynamic=false"
    ).start()
    try:
        until(
            lambda: any(
                value > 0 for _, _, value in
                running.metrics("portside_monitor_delivery_dropped_total")
            ),
            "a full queue drops nothing",
        )  # fmt: skip
        receiver = _Receiver(port)
        try:
            paths = {"/v1/metrics", "/write?db=cadvisor&precision=ns",
                     "/api/v2/write?org=o&bucket=cadvisor&precision=ns"}  # fmt: skip
            until(lambda: paths <= {path for path, _ in receiver.kept}, "not delivered", 60)
            bodies = dict(receiver.kept)
            metrics = json.loads(bodies["/v1/metrics"])["resourceMetrics"][0]["scopeMetrics"][0]
            assert "container.cpu.time" in {metric["name"] for metric in metrics["metrics"]}
            line = bodies["/write?db=cadvisor&precision=ns"].decode().splitlines()[0]
            measurement, value, stamp = line.split(" ")
            assert measurement.startswith("cpu_usage_total,") and value.startswith("value=")
            assert len(stamp) == 19
        finally:
            receiver.close()
        assert b"|g" in statsd.recv(2000)
        until(lambda: lines.exists() and lines.stat().st_size > 0)
        document = json.loads(lines.read_text().splitlines()[0])
        assert {"timestamp", "container_Name", "container_stats"} <= set(document)
    finally:
        statsd.close()
        running.stop()


def test_webhooks_get_alertmanagers_messages(tmp_path: Path) -> None:
    receiver = _Receiver()
    config = tmp_path / "c.json"
    config.write_text(json.dumps({
        "webhooks": [
            {"url": f"http://127.0.0.1:{receiver.port}/hook"},
            {"url": f"http://127.0.0.1:{receiver.port}", "format": "alertmanager"},
        ],
        # every file system is fuller than that
        "rules": {"disk_nearly_full": {"above": 0.0001, "below": 0, "hold": "0s"}},
    }))  # fmt: skip
    running = RunningMonitor(
        tmp_path, "--config", str(config), "--interval", "200ms", "--details-interval", "300ms"
    ).start()
    try:
        until(lambda: len({path for path, _ in receiver.kept}) == 2, "no message")
        bodies = dict(receiver.kept)
        message = json.loads(bodies["/hook"])
        assert message["version"] == "4" and message["status"] == "firing"
        alert = message["alerts"][0]
        assert alert["labels"]["alertname"] == "DiskNearlyFull" and alert["annotations"]["summary"]
        posted = json.loads(bodies["/api/v2/alerts"])
        assert posted[0]["labels"]["severity"] == "critical" and "status" not in posted[0]
    finally:
        running.stop()
        receiver.close()


def test_a_restart_loses_no_history(tmp_path: Path) -> None:
    """Also within the time that is kept in memory, which is empty after a start."""
    from portside.monitor.history import BUCKET, Bucket
    from portside.monitor.history_file import HistoryFile
    from portside.monitor.samples import SERIES

    path = tmp_path / "h.db"
    store = HistoryFile(str(path), days=1, most_bytes=1 << 20)
    begin = int(time.time()) // BUCKET * BUCKET - 600
    row = (7.0,) * len(SERIES)
    for number in range(20):
        store.put("/", Bucket(begin + number * BUCKET, row, row))
    store.flush()
    store._database.close()
    running = RunningMonitor(tmp_path, "--history", str(path)).start()
    try:
        (found,) = running.own("history", name="/", window="1h", points=360, series="memory")
        assert found["series"]["memory"]["mean"].count(7.0) >= 19
        (found,) = running.own("history", name="/", window="2m", points=360, series="memory")
        assert 7.0 not in found["series"]["memory"]["mean"]
    finally:
        running.stop()


def test_a_full_disk_costs_history_and_nothing_else(tmp_path: Path) -> None:
    from portside.monitor.history import Bucket
    from portside.monitor.history_file import HistoryFile
    from portside.monitor.samples import SERIES

    if os.geteuid() != 0:
        pytest.skip("needs root: a small file system is mounted")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        store = HistoryFile(str(small / "h.db"), 7, 1 << 30)
        zeros = (0.0,) * len(SERIES)
        for number in range(20):
            for bucket in range(500):
                store.put(f"/group{number}", Bucket(1_800_000_000 + 15 * bucket, zeros, zeros))
            store.flush()
        assert store.lost > 0 and store.written > 0
        (small / "h.db").stat()
        store._database.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_sites_own_name_for_this_address_is_not_answered(
    lone: RunningMonitor, tmp_path: Path
) -> None:
    """DNS rebinding (CWE-350): a page whose name resolves to loopback must read nothing."""
    for path in ("/", "/metrics", "/api/portside/v1/groups", "/api/v1.3/containers/", "/healthz"):
        for host in ("attacker.example", f"attacker.example:{lone.port}", "127.0.0.1.nip.example"):
            status, _, body = lone.request(path, headers={"Host": host})
            assert status == 421 and b"--host-name" in body, (path, host)
    for host in ("localhost", f"127.0.0.1:{lone.port}", f"[::1]:{lone.port}", "a.localhost"):
        assert lone.request("/metrics", headers={"Host": host})[0] == 200, host
    named = RunningMonitor(tmp_path, "--host-name", "monitor.example").start()
    try:
        assert named.request("/metrics", headers={"Host": "monitor.example:443"})[0] == 200
        assert named.request("/metrics", headers={"Host": "attacker.example"})[0] == 421
    finally:
        named.stop()
