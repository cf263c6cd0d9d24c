"""What the monitor says of real containers: against the kernel, and as they come and go."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine
from monitorkit import ROOT, RunningMonitor, until
from rootlesskit import RootlessUser, refuse_reason

from portside.kernel.cgroup import Cgroup

Docker = Callable[..., Any]
BUSY = "while :; do :; done"


@pytest.fixture
def web(docker: Docker) -> Iterator[str]:
    """A container with limits, labels and a network."""
    docker(
        "run", "-d", "--name", "web", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50",
        "--label", "com.example.team=blue", "portside/base", "sh", "-c",
        "head -c 5000000 /dev/zero > /tmp/file; sync; sleep 1000",
    )  # fmt: skip
    yield "web"
    docker("rm", "-f", "web", "web2", check=False)


def seen(monitor: RunningMonitor, name: str) -> dict[str, Any]:
    """The group's details, when its facts and a second sample are there."""

    def look() -> Any:
        status, _, body = monitor.request(f"/api/portside/v1/group?name={name}")
        if status != 200:
            return None
        found = json.loads(body)
        return found if found["facts"] and found["sample"] else None

    found: dict[str, Any] = until(look, f"{name} is not seen")
    return found


def test_names_limits_and_labels(monitor: RunningMonitor, docker: Docker, web: str) -> None:
    found = seen(monitor, web)
    identifier = docker("inspect", "-f", "{{.Id}}", web).stdout.strip()
    row = found["row"]
    assert row["name"].endswith(f"/{identifier}") and row["container"] == identifier
    assert (row["shown"], row["image"], row["state"]) == (web, "portside/base", "running")
    assert row["memory_limit"] == 64 << 20 and row["cores"] == 0.5 and row["pids_limit"] == 50
    assert row["labels"]["com.example.team"] == "blue"
    for metric, value in (
        ("container_spec_memory_limit_bytes", 64 << 20), ("container_spec_cpu_quota", 50_000),
        ("container_spec_cpu_period", 100_000),
    ):  # fmt: skip
        labels = {"name": web, "container_label_com_example_team": "blue"}
        assert monitor.value(metric, **labels) == value
    assert monitor.value("container_last_seen", name=web, image="portside/base")


def test_numbers_are_the_kernels(
    monitor: RunningMonitor, docker: Docker, engine: RunningEngine
) -> None:
    """Paused, a container's counters stand still: what the monitor says must be equal."""
    docker("run", "-d", "--name", "paused", "portside/base", "sh", "-c", BUSY)
    try:
        path = seen(monitor, "paused")["row"]["name"]
        time.sleep(1)
        docker("pause", "paused")
        stats = Cgroup(path).stats()

        def settled() -> Any:
            found = seen(monitor, "paused")["sample"]["values"]
            return found if found["cpu_total"] == stats.cpu.total else None

        found = until(settled, f"cpu_total is never {stats.cpu.total}")
        assert found["memory_usage"] == stats.memory.usage
        prefix = "total_" if stats.version == 1 else ""
        cache = stats.memory.stat["total_cache" if stats.version == 1 else "file"]
        assert found["memory_cache"] == cache
        assert found["memory_inactive_file"] == stats.memory.stat[f"{prefix}inactive_file"]
        inactive = found["memory_inactive_file"]
        assert found["memory_working_set"] == stats.memory.usage - inactive
        assert found["threads"] == stats.pids.current
        written = sum(e.value for e in stats.io_bytes if e.op.lower() == "write")
        assert found["write_bytes"] == written
        pid = json.loads(docker("inspect", "paused").stdout)[0]["State"]["Pid"]
        table = Path(f"/proc/{pid}/net/dev").read_text()
        columns = table.partition("eth0:")[2].split()
        assert (found["rx_bytes"], found["tx_bytes"]) == (int(columns[0]), int(columns[8]))
        usage = monitor.metrics("container_cpu_usage_seconds_total")
        total = sum(value for _, labels, value in usage if labels["name"] == "paused")
        assert total == pytest.approx(stats.cpu.total / 1e9, rel=1e-6)
    finally:
        docker("unpause", "paused", check=False)
        docker("rm", "-f", "paused")


def test_rename_pause_restart(monitor: RunningMonitor, docker: Docker, web: str) -> None:
    first = seen(monitor, web)["row"]
    docker("rename", web, "web2")
    until(lambda: monitor.own("group", name=first["container"])["row"]["shown"] == "web2")
    docker("pause", "web2")
    until(lambda: seen(monitor, "web2")["row"]["state"] == "paused")
    docker("unpause", "web2")
    until(lambda: seen(monitor, "web2")["row"]["state"] == "running")
    docker("restart", "-t", "0", "web2")
    until(lambda: seen(monitor, "web2")["row"]["started"] > first["started"])
    until(lambda: seen(monitor, "web2")["sample"]["values"]["rx_bytes"] >= 0)
    assert monitor.request(f"/api/portside/v1/group?name={web}")[0] == 404


def test_containers_that_come_and_go(monitor: RunningMonitor, docker: Docker) -> None:
    """Short lives leave nothing behind, and both their events are told, of the shortest too."""
    lines: list[dict[str, Any]] = []
    url = f"http://127.0.0.1:{monitor.port}/api/v1.3/events/?stream=true&all_events=true"
    stream = urllib.request.urlopen(f"{url}&subcontainers=true", timeout=60)

    def read() -> None:
        try:
            for line in stream:
                lines.append(json.loads(line))
        except (OSError, ValueError, AttributeError):
            return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    identifiers = [
        docker("run", "-d", "portside/base", "sleep", "0.5").stdout.strip() for _ in range(10)
    ]
    identifiers += [docker("run", "-d", "portside/base", "true").stdout.strip() for _ in range(5)]
    docker("rm", "-f", *identifiers)
    names = {identifier[:12] for identifier in identifiers}

    def kinds(kind: str) -> set[str]:
        return {
            line["container_name"].rpartition("/")[2][:12]
            for line in lines
            if line["event_type"] == kind
        }

    until(lambda: names <= kinds("containerDeletion"), "deletions are missing")
    assert names <= kinds("containerCreation")
    rows = monitor.own("groups", containers=1)
    assert not names & {row["container"][:12] for row in rows}
    past = monitor.json("/api/v1.3/events/?deletion_events=true&subcontainers=true&max_events=1000")
    assert names <= {event["container_name"].rpartition("/")[2][:12] for event in past}
    stream.close()


def test_an_oom_kill_warns_and_says_what_to_do(monitor: RunningMonitor, docker: Docker) -> None:
    docker(
        "run", "--name", "hungry", "-m", "16m", "--memory-swap", "16m", "portside/base", "sh", "-c",
        "sleep 1; head -c 100m /dev/zero | tail >/dev/null; sleep 2", check=False,
    )  # fmt: skip
    try:

        def warned() -> Any:
            alerts = monitor.own("alerts")
            found = [*alerts["firing"], *alerts["ended"]]
            return [a for a in found if a["rule"] == "oom_kill" and "hungry" in a["summary"]]

        (alert,) = until(warned, "no warning of the OOM kill")
        command = "docker update -m 24m --memory-swap 24m hungry"
        assert alert["severity"] == "critical" and command in alert["advice"]
        docker(*command.split()[1:])  # the advice works as it is
        assert (monitor.value("portside_alerts_total", rule="oom_kill") or 0) >= 1

        def told() -> bool:
            events = docker(
                "events", "--since", "5m", "--until", "0s", "--format", "{{json .}}",
                "--filter", "event=alert: oom_kill",
            ).stdout  # fmt: skip
            return command in events

        until(told, "the engine tells no event")
    finally:
        docker("rm", "-f", "hungry")


CAUSES = {
    "throt": ("cpu_throttled", ("--cpus", "0.1"), BUSY),
    "files": (
        "descriptors_near_limit", ("--ulimit", "nofile=40:40"),
        'i=3; while [ $i -lt 39 ]; do eval "exec $i</dev/null"; i=$((i+1)); done; sleep 1000',
    ),
    "loop": ("restart_loop", ("--restart", "always"), "exit 3"),
    "sick": (
        "unhealthy",
        ("--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"),
        "sleep 1000",
    ),
    "near": (
        "memory_near_limit", ("-m", "64m", "--memory-swap", "64m", "--tmpfs", "/t"),
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do head -c 4m /dev/zero >>/t/x; sleep 0.2; "
        "done; sleep 1000",
    ),
}  # fmt: skip
"""Names of containers, with the rule that each breaks, its options and its command."""


def test_what_goes_wrong_is_told_everywhere(
    docker: Docker, engine: RunningEngine, tmp_path: Path
) -> None:
    """On the page, as metrics and as events of the engine; the advice ends what it can end."""
    config = tmp_path / "rules.json"
    quick = {"hold": "2s"}
    config.write_text(json.dumps({"rules": {rule: quick for rule, _, _ in CAUSES.values()}}))
    running = RunningMonitor(
        tmp_path, "--interval", "200ms", "--details-interval", "500ms", "--config", str(config),
        engine=engine.host,
    ).start()  # fmt: skip
    try:
        for name, (_, options, command) in CAUSES.items():
            docker("run", "-d", "--name", name, *options, "portside/base", "sh", "-c", command)
        told: dict[str, Any] = {}
        measured: set[str] = set()

        def everything() -> bool:
            alerts = running.own("alerts")
            for alert in (*alerts["firing"], *alerts["ended"]):
                told.setdefault(alert["shown"], {})[alert["rule"]] = alert
            measured.update(found["name"] for _, found, _ in running.metrics("portside_alert"))
            return all(rule in told.get(name, {}) for name, (rule, _, _) in CAUSES.items())

        until(everything, "a warning is missing", 120)
        assert CAUSES.keys() - {"loop"} <= measured  # a loop's may be over by then

        def events() -> bool:
            seen = docker("events", "--since", "9m", "--until", "0s", "--format", "{{.Action}}")
            return all(f"alert: {rule}" in seen.stdout for rule, _, _ in CAUSES.values())

        until(events, "the engine tells no event of one", 60)
        docker("rm", "-f", "loop", "sick", "files")
        docker(*told["near"]["memory_near_limit"]["advice"].split()[1:])
        assert told["throt"]["cpu_throttled"]["advice"] == "docker update --cpus 0.15 throt"
        docker("update", "--cpus", str(os.cpu_count() or 1), "throt")

        def left() -> Any:
            firing = running.own("alerts")["firing"]
            return [alert for alert in firing if alert["shown"] in CAUSES]

        until(lambda: not left(), "a warning stays", 90)
    finally:
        docker("rm", "-f", *CAUSES, check=False)
        running.stop()


def test_a_full_container_warns_once(monitor: RunningMonitor, docker: Docker) -> None:
    docker(
        "run", "-d", "--name", "crowded", "--pids-limit", "10", "portside/base", "sh", "-c",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait",
    )  # fmt: skip
    try:

        def warned() -> Any:
            firing = monitor.own("alerts")["firing"]
            return [a for a in firing if a["rule"] == "pids_near_limit" and a["shown"] == "crowded"]

        (alert,) = until(warned, "no warning", 40)
        assert alert["advice"] == "docker update --pids-limit 20 crowded"
        labels = {"alertname": "PidsNearLimit", "name": "crowded"}
        assert monitor.value("portside_alert", **labels) == 1
    finally:
        docker("rm", "-f", "crowded")
    until(lambda: not warned(), "the warning stays")


def test_processes_descriptors_and_layer(monitor: RunningMonitor, docker: Docker, web: str) -> None:
    until(lambda: seen(monitor, web)["sample"]["details"]["processes"] >= 1)
    rows = monitor.json(f"/api/v2.0/ps/{web}?type=docker")
    assert any("sleep" in row["cmd"] or row["cmd"] == "sh" for row in rows)
    assert all(row["fd_count"] >= 0 and row["pid"] > 0 for row in rows)
    details = until(
        lambda: (d := seen(monitor, web)["sample"]["details"])["filesystems"] and d, "no layer"
    )
    names = {limit["name"] for limit in details["ulimits"]}
    assert {"max_open_files", "max_processes"} <= names and details["descriptors"] > 0
    (layer,) = details["filesystems"]
    assert layer["capacity"] > layer["base_usage"] > 0


def test_history_and_live_points(monitor: RunningMonitor, docker: Docker) -> None:
    docker("run", "-d", "--name", "loop", "--cpus", "0.3", "portside/base", "sh", "-c", BUSY)
    try:
        name = seen(monitor, "loop")["row"]["name"]
        url = f"http://127.0.0.1:{monitor.port}/api/portside/v1/live?name=loop"
        with urllib.request.urlopen(url, timeout=30) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            points = []
            for line in stream:
                if line.startswith(b'data: {"time"'):
                    points.append(json.loads(line[6:])["points"])
                if len(points) == 5:
                    break
        assert all(set(found) == {name} for found in points)
        series = monitor.own("about")["series"]
        assert any(found[name][series.index("cpu")] > 0 for found in points)
        (chart,) = monitor.own("history", name="loop", window="1m", series="cpu,throttled")
        values = [value for value in chart["series"]["cpu"]["mean"] if value is not None]
        assert values and set(chart["series"]) == {"cpu", "throttled"}
    finally:
        docker("rm", "-f", "loop")


def test_api_versions_of_cadvisor(monitor: RunningMonitor, docker: Docker, web: str) -> None:
    until(lambda: seen(monitor, web)["sample"]["links"], "no network")
    identifier = seen(monitor, web)["row"]["container"]
    path = seen(monitor, web)["row"]["name"]
    (info,) = monitor.json(f"/api/v1.3/docker/{web}", body=b'{"num_stats": 2}').values()
    assert info["name"] == path and info["aliases"] == [web, identifier]
    assert info["namespace"] == "docker" and len(info["stats"]) <= 2
    assert info["spec"]["memory"]["limit"] == 64 << 20
    stats = info["stats"][-1]
    assert stats["cpu"]["usage"]["total"] >= stats["cpu"]["usage"]["user"] // 2 >= 0
    assert stats["network"]["interfaces"][0]["name"] == "eth0"
    parent = path.rpartition("/")[0]
    assert {"name": path} in monitor.json(f"/api/v1.0/containers{parent}")["subcontainers"]
    below = monitor.json(f"/api/v1.1/subcontainers{parent}")
    assert path in [found["name"] for found in below]
    machine = monitor.json("/api/v1.0/machine")
    assert machine["num_cores"] == os.cpu_count() and machine["memory_capacity"] > 1 << 28
    assert monitor.json("/api/v2.0/version") == "v0.60.0"
    assert monitor.json("/api/v2.0/attributes")["docker_version"]
    stats_of = f"/api/v2.1/stats/{identifier}?type=docker&count=3"
    until(lambda: len(monitor.json(stats_of)[path]["stats"]) > 1, "no second sample")
    spec = monitor.json(f"/api/v2.0/spec/{identifier}?type=docker")[path]
    assert spec["aliases"] == [web, identifier] and spec["has_memory"]
    found = monitor.json(stats_of)[path]
    assert found["spec"]["image"] == "portside/base" and "cpu_inst" in found["stats"][-1]
    assert len(monitor.json(f"/api/v2.0/stats{path}?count=2")[path]) <= 2
    every = monitor.json("/api/v2.1/stats?type=docker&recursive=true&count=1")
    assert path in every
    summary = monitor.json(f"/api/v2.0/summary{path}")[path]
    assert summary["minute_usage"]["memory"]["present"] and summary["latest_usage"]["memory"] > 0
    assert monitor.json("/api/v2.1/machinestats?count=2")[-1]["memory"]["usage"] > 0
    assert any(row["mountpoint"] == "/" for row in monitor.json("/api/v2.0/storage"))
    assert monitor.json(f"/api/v2.0/appmetrics{path}") == {path: {}}


def test_an_engine_that_is_away_stops_nothing(
    private_engine: RunningEngine, tmp_path: Path
) -> None:
    created = private_engine.json(
        "POST", "/containers/create?name=alone",
        {"Image": "portside/base", "Cmd": ["sleep", "1000"]}, status=None,
    ) if _has_base(private_engine) else pytest.fail("no base image")  # fmt: skip
    private_engine.json("POST", f"/containers/{created['Id']}/start")
    running = RunningMonitor(tmp_path, "--interval", "200ms", engine=private_engine.host).start()
    try:
        seen(running, "alone")
        private_engine.kill()
        until(lambda: running.own("about")["engine"] is None, "the engine still answers")
        first = seen(running, "alone")["sample"]["time_ns"]
        until(lambda: running.own("group", name="alone"), "it is forgotten")
        private_engine.start()
        until(lambda: running.own("about")["engine"] is not None, "not reached again", 60)
        assert seen(running, "alone")["sample"]["time_ns"] >= first
    finally:
        running.stop()


def _has_base(engine: RunningEngine) -> bool:
    status, _, _ = engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    return status == 200


def test_groups_that_come_and_go_are_reported_one_by_one() -> None:
    """A group is there while it is in any hierarchy; what lies below a new one is found, too."""
    import secrets

    from portside.monitor.group_tree import GroupTree, layout_below, roots

    layout = layout_below("")
    mounts = roots(layout)
    top = f"/ps-tree-{secrets.token_hex(4)}"
    tree = GroupTree(layout)
    try:
        assert top not in tree.walk()
        for mount in mounts:
            os.makedirs(f"{mount}{top}/a/b")
        came, went = tree.changes() or (set(), set())
        assert {top, f"{top}/a", f"{top}/a/b"} <= came and not went & came
        for mount in mounts[1:]:
            os.rmdir(f"{mount}{top}/a/b")
        came, went = tree.changes() or (set(), set())
        assert f"{top}/a/b" not in went or len(mounts) == 1
        os.rmdir(f"{mounts[0]}{top}/a/b")
        assert f"{top}/a/b" in (tree.changes() or (set(), set()))[1]
        assert f"{top}/a/b" not in tree.walk() and f"{top}/a" in tree.walk()
    finally:
        for mount in mounts:
            for path in ("/a/b", "/a", ""):
                if os.path.isdir(f"{mount}{top}{path}"):
                    os.rmdir(f"{mount}{top}{path}")
        tree.close()


@pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason())
def test_an_ordinary_user_sees_what_the_kernel_allows(
    docker: Docker, engine: RunningEngine, web: str, tmp_path: Path
) -> None:
    """Without root and without an engine: numbers of the kernel, and what is missing is said."""
    user = RootlessUser()
    running = RunningMonitor(tmp_path, "--interval", "200ms", "--details-interval", "500ms")
    running.command[0] = user.python
    pid = int(docker("inspect", "-f", "{{.State.Pid}}", web).stdout)
    identifier = docker("inspect", "-f", "{{.Id}}", web).stdout.strip()
    try:
        running.start(
            user=user.uid, group=user.gid, extra_groups=[], cwd=user.home,
            env=user.environment(PYTHONPATH=str(ROOT / "src")),
        )  # fmt: skip
        rows = running.own("groups", containers=1)
        (row,) = [row for row in rows if row["container"] == identifier]
        assert row["memory_limit"] == 64 << 20 and row["shown"] == row["name"]

        def networks() -> Any:
            return running.own("group", name=row["name"])["sample"]["links"]

        (link,) = until(networks, "its network is not seen")
        text = Path(f"/proc/{pid}/net/dev").read_text()
        assert link["name"] == "eth0" and f" {link['rx_packets']} " in text
        missing = running.own("about")["unseen"]
        assert missing[0].startswith("open descriptors")
        report = running.request("/validate")[2].decode()
        assert all(f"not seen: {sentence}" in report for sentence in missing)
        assert "no engine answers" in report
    finally:
        running.stop()
        user.close()


def test_root_sees_everything(monitor: RunningMonitor) -> None:
    assert monitor.own("about")["unseen"] == []
