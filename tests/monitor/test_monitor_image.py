"""``portside/monitor`` run with the command line that people use for cAdvisor."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from enginekit import RunningEngine
from monitorkit import free_port, until

Docker = Callable[..., Any]


def test_the_command_of_cadvisor(docker: Docker, engine: RunningEngine) -> None:
    """The volumes are the usual ones; the engine's socket is where this test has it."""
    docker("pull", "-q", "portside/monitor", timeout=300)
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    docker("run", "-d", "--name", "watched", "-m", "64m", "portside/base", "sleep", "1000")
    try:
        docker(
            "run", "--volume=/:/rootfs:ro", "--volume=/var/run:/var/run:ro",
            "--volume=/sys:/sys:ro", f"--volume={engine.data_root}/:/var/lib/docker:ro",
            "--volume=/dev/:/dev/disk:ro", f"--publish=127.0.0.1:{port}:8080", "--detach=true",
            "--name=cadvisor", "--privileged", "--device=/dev/kmsg", "portside/monitor",
            "--engine", f"unix:///rootfs{engine.socket}", "--housekeeping_interval=200ms",
            "--details-interval=500ms",
        )  # fmt: skip

        def get(path: str) -> str:
            with urllib.request.urlopen(base + path, timeout=10) as answer:
                return str(answer.read().decode())

        def answers() -> bool:
            try:
                return get("/healthz") == "ok"
            except OSError:
                return False

        until(answers, "it does not answer", 60)

        def known() -> Any:
            rows = json.loads(get("/api/portside/v1/groups?containers=1"))
            return [row for row in rows if row["shown"] == "watched"]

        (row,) = until(known, "the container has no name")
        assert row["memory_limit"] == 64 << 20 and row["image"] == "portside/base"

        def detailed() -> Any:
            found = json.loads(get("/api/portside/v1/group?name=watched"))["sample"]
            has = found["details"]["processes"] and found["details"]["filesystems"]
            return found if has and found["links"] else None

        sample = until(detailed, "no processes, file systems or network of it")
        assert sample["links"][0]["name"] == "eth0" and sample["details"]["descriptors"] > 0
        processes = json.loads(get("/api/v2.0/ps/watched?type=docker"))
        assert [process["cmd"] for process in processes] == ["sleep"]
        assert 'name="watched"' in get("/metrics")
        for page in ("/containers/", "/docker/"):
            assert "Portside monitor" in get(page)
    finally:
        docker("rm", "-f", "cadvisor", "watched", check=False)
