"""Legacy links, shared namespaces, stop signals, probes: what dockerd 28.5.2 answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine, until

BASE = "portside/base"
NAMES = ("ln-target", "ln-a", "ln-b", "ln-c")


@pytest.fixture(autouse=True)
def clean(docker: Any) -> Iterator[None]:
    yield
    docker("rm", "-f", "-v", *NAMES, "ln-renamed", check=False)


def run(docker: Any, name: str, *options: str) -> None:
    docker("run", "-d", "--name", name, *options, BASE, "sleep", "1000")


def target(docker: Any) -> None:
    run(
        docker, "ln-target", "-e", "MYVAR=1", "-e", "HOME=/x", "-e", "SP=a b=c", "--expose", "80",
        "--expose", "443/udp", "--expose", "8000-8002",
    )  # fmt: skip


def variables(docker: Any, name: str, prefix: str) -> list[str]:
    shown = docker("exec", name, "env").stdout.splitlines()
    found = [re.sub(r"\d+\.\d+\.\d+\.\d+", "IP", line) for line in shown]
    return sorted(line for line in found if line.startswith(prefix))


def expected(prefix: str, name: str) -> list[str]:
    lines = [f"{prefix}_ENV_MYVAR=1", f"{prefix}_ENV_SP=a b=c", f"{prefix}_NAME={name}",
             f"{prefix}_PORT=tcp://IP:80"]  # fmt: skip
    for port, protocol in ((80, "tcp"), (443, "udp"), (8000, "tcp"), (8001, "tcp"), (8002, "tcp")):
        each = f"{prefix}_PORT_{port}_{protocol.upper()}"
        lines += [f"{each}={protocol}://IP:{port}", f"{each}_ADDR=IP", f"{each}_PORT={port}",
                  f"{each}_PROTO={protocol}"]  # fmt: skip
    each = f"{prefix}_PORT_8000_TCP"
    lines += [f"{each}_START=tcp://IP:8000", f"{each}_END=tcp://IP:8002",
              f"{each}_PORT_START=8000", f"{each}_PORT_END=8002"]  # fmt: skip
    return sorted(lines)


def test_the_variables_of_a_link(docker: Any) -> None:
    target(docker)
    run(docker, "ln-a", "--link", "ln-target:al-ias")
    assert variables(docker, "ln-a", "AL_IAS") == expected("AL_IAS", "/ln-a/al-ias")


def test_a_link_to_what_shares_a_network_leads_to_whose_it_is(docker: Any) -> None:
    target(docker)
    run(docker, "ln-a", "--network", "container:ln-target")
    run(docker, "ln-b", "--link", "ln-a:q")
    assert variables(docker, "ln-b", "Q_") == expected("Q", "/ln-b/q")
    assert re.search(r"\tq \w+ ln-target\n", docker("exec", "ln-b", "cat", "/etc/hosts").stdout)


def links_of(docker: Any, name: str) -> Any:
    return json.loads(docker("inspect", "-f", "{{json .HostConfig.Links}}", name).stdout)


def test_links_are_names_and_follow_their_target(docker: Any, engine: RunningEngine) -> None:
    target(docker)
    run(docker, "ln-a", "--link", "ln-target:one", "--link", "ln-target")
    assert links_of(docker, "ln-a") == ["/ln-target:/ln-a/one", "/ln-target:/ln-a/ln-target"]
    names = {item["Names"][-1]: item["Names"] for item in engine.json("GET", "/containers/json")}
    assert names["/ln-target"] == ["/ln-a/ln-target", "/ln-a/one", "/ln-target"]
    for name in ("ln-a/one", "/ln-a/ln-target"):
        assert docker("inspect", "-f", "{{.Name}}", name).stdout == "/ln-target\n"
    docker("rename", "ln-target", "ln-renamed")
    docker("restart", "-t", "0", "ln-a")
    assert variables(docker, "ln-a", "ONE_NAME") == ["ONE_NAME=/ln-a/one"]
    docker("rm", "-f", "ln-renamed")
    assert links_of(docker, "ln-a") == ["/ln-renamed:/ln-a/one", "/ln-renamed:/ln-a/ln-target"]
    done = docker("restart", "-t", "0", "ln-a", check=False)
    assert (
        "Cannot restart container ln-a: Cannot link to a non running container: "
        "/ln-renamed AS /ln-a/one" in done.stderr
    )


def test_on_a_user_network_a_link_is_the_endpoints(docker: Any) -> None:
    docker("network", "create", "ln-net")
    try:
        run(docker, "ln-a", "--network", "ln-net", "--link", "ln-nobody:x")
        assert links_of(docker, "ln-a") is None
        form = '{{json (index .NetworkSettings.Networks "ln-net").Links}}'
        assert json.loads(docker("inspect", "-f", form, "ln-a").stdout) == ["ln-nobody:x"]
    finally:
        docker("rm", "-f", "ln-a", check=False)
        docker("network", "rm", "ln-net")
    done = docker("run", "--name", "ln-b", "--link", "ln-nobody:x", BASE, check=False)
    assert "could not get container for ln-nobody: No such container: ln-nobody" in done.stderr


def test_shared_namespaces_follow_a_renaming(docker: Any) -> None:
    run(docker, "ln-a", "--ipc", "shareable")
    shared = [f"--{kind}=container:ln-a" for kind in ("ipc", "pid", "network")]
    run(docker, "ln-b", *shared)
    identifier = docker("inspect", "-f", "{{.Id}}", "ln-a").stdout.strip()
    form = "{{.HostConfig.IpcMode}} {{.HostConfig.PidMode}} {{.HostConfig.NetworkMode}}"
    modes = docker("inspect", "-f", form, "ln-b").stdout.split()
    assert modes == [f"container:{identifier}"] * 3
    docker("rename", "ln-a", "ln-c")
    docker("restart", "-t", "0", "ln-b")


@pytest.mark.parametrize(("script", "code"), [("trap 'exit 7' 37; ", "7"), ("", "137")])
def test_a_real_time_stop_signal(docker: Any, script: str, code: str) -> None:
    endless = f"{script}echo up; while :; do sleep 0.1; done"
    docker(
        "run", "-d", "--name", "ln-a", "--init=false", "--stop-signal", "SIGRTMIN+3", BASE, "sh",
        "-c", endless,
    )  # fmt: skip
    until(lambda: "up" in docker("logs", "ln-a").stdout)
    docker("stop", "-t", "20" if script else "1", "ln-a")
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "ln-a").stdout.strip() == code


def test_a_probe_that_takes_too_long_keeps_its_output(docker: Any) -> None:
    run(
        docker, "ln-a", "--health-cmd", "echo said; sleep 1000", "--health-interval", "200ms",
        "--health-timeout", "1500ms",
    )  # fmt: skip

    def log() -> list[dict[str, Any]]:
        text = docker("inspect", "-f", "{{json .State.Health.Log}}", "ln-a").stdout
        return list(json.loads(text) or ())

    until(lambda: bool(log()))
    first = log()[0]
    assert first["ExitCode"] == -1
    assert first["Output"] == "Health check exceeded timeout (1.5s): said\n"


def test_a_folder_without_devices_is_no_device(docker: Any, tmp_path: Path) -> None:
    done = docker("run", "--rm", "--device", str(tmp_path), BASE, "true", check=False)
    assert done.returncode == 125
    assert (
        f'error gathering device information while adding custom device "{tmp_path}": '
        "not a device node" in done.stderr
    )


def test_weights_of_a_device_without_them_are_a_warning(docker: Any) -> None:
    found = [path for path in Path("/sys/block").iterdir() if Path("/dev", path.name).exists()]
    disks = [path for path in found if (path / "queue/scheduler").exists()]
    if not disks or any("[bfq]" in (d / "queue/scheduler").read_text() for d in disks):
        pytest.skip("needs block devices, none of which has the I/O scheduler BFQ")
    done = docker("run", "--rm", "--blkio-weight-device", f"/dev/{disks[0].name}:100", BASE, "true")
    assert "Weight-device discarded" in done.stderr
