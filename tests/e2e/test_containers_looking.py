"""ps, inspect, top, stats, port, events, df and prune, as the docker CLI and docker-py see them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Docker = Callable[..., "subprocess.CompletedProcess[str]"]
BASE = "portside/base"


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())[:50]
    yield chosen
    found = docker("ps", "-aq", "--filter", f"name=^{chosen}").stdout.split()
    if found:
        docker("rm", "-f", "-v", *found, check=False)


def listed(docker: Docker, *filters: str) -> set[str]:
    options = [word for each in filters for word in ("--filter", each)]
    return set(docker("ps", "-a", "--format", "{{.Names}}", *options).stdout.split())


# -- ps --------------------------------------------------------------------------------------------


def test_every_filter_of_ps(docker: Docker, name: str) -> None:
    up, over, idle = f"{name}-up", f"{name}-over", f"{name}-idle"
    docker("run", "-d", "--name", up, "--label", "role=web", "-p", "127.0.0.1::80",
           "-v", f"{name}-vol:/data", BASE, "sleep", "1000")  # fmt: skip
    docker("run", "--name", over, "--label", "role=job", BASE, "sh", "-c", "exit 7", check=False)
    docker("create", "--name", idle, "--expose", "5000-5002/udp", "--network", "none", BASE, "true")
    mine = f"name=^{name}"
    port = docker("port", up, "80").stdout.strip().rpartition(":")[2]
    identifier = docker("inspect", "-f", "{{.Id}}", over).stdout.strip()
    image = docker("inspect", "-f", "{{.Id}}", BASE).stdout.strip()
    expected: list[tuple[tuple[str, ...], set[str]]] = [
        ((), {up, over, idle}),
        ((f"id={identifier[:10]}",), {over}),
        (("status=running",), {up}),
        (("status=exited", "status=created"), {over, idle}),
        (("exited=7",), {over}),
        (("exited=0",), set()),
        (("label=role",), {up, over}),
        (("label=role=web",), {up}),
        (("label=role", "label=role=job"), {over}),
        (("health=none",), {up, over, idle}),
        (("volume=/data",), {up}),
        ((f"volume={name}-vol",), {up}),
        (("network=bridge",), {up, over}),
        (("network=none",), {idle}),
        ((f"publish={port}",), {up}),
        (("publish=1-2",), set()),
        (("expose=5001/udp",), {idle}),
        (("expose=5001",), set()),
        ((f"ancestor={BASE}",), {up, over, idle}),
        ((f"ancestor={image}",), {up, over, idle}),
        (("ancestor=none-such",), set()),
        ((f"before={over}",), {up}),
        ((f"since={over}",), {idle}),
        (("is-task=false",), {up, over, idle}),
        (("is-task=true",), set()),
    ]
    wrong = [(filters, found) for filters, wanted in expected
             if (found := listed(docker, mine, *filters)) != wanted]  # fmt: skip
    assert wrong == []
    for bad in ("none=1", "status=none", "exited=x", "health=none-such", "is-task=maybe"):
        done = docker("ps", "--filter", bad, check=False)
        assert done.returncode == 1 and "invalid filter" in done.stderr.lower(), bad
    docker("rm", "-f", up)
    docker("volume", "rm", f"{name}-vol")


def test_the_options_of_ps(docker: Docker, name: str) -> None:
    first, second = f"{name}-1", f"{name}-2"
    docker("run", "-d", "--name", first, BASE, "sh", "-c", "echo x > /file; sleep 1000")
    docker("create", "--name", second, "--label", "a=1", BASE, "echo", "a b", "c")
    assert docker("ps", "-l", "--format", "{{.Names}}").stdout.strip() == second
    assert docker("ps", "-n", "2", "--format", "{{.Names}}").stdout.split() == [second, first]
    assert first in docker("ps", "--format", "{{.Names}}").stdout.split()
    assert second not in docker("ps", "--format", "{{.Names}}").stdout.split()
    line = json.loads(docker("ps", "-l", "--no-trunc", "--format", "{{json .}}").stdout)
    assert line["Command"] == "\"echo 'a b' c\"" and line["Labels"] == "a=1"
    assert (line["State"], line["Status"]) == ("created", "Created")
    sizes = docker("ps", "-s", "--filter", f"name={first}", "--format", "{{.Size}}").stdout
    assert re.match(r"\d+(\.\d+)?k?B \(virtual [\d.]+MB\)", sizes)
    up = docker("ps", "--filter", f"name={first}", "--format", "{{.Status}}").stdout
    assert re.match(r"Up (Less than a second|\d+ seconds?)", up)


def test_ps_shows_what_an_image_s_name_means_no_more(docker: Docker, name: str) -> None:
    docker("tag", BASE, f"{name}:moved")
    docker("create", "--name", name, f"{name}:moved", "true")
    docker("commit", name, f"{name}:moved")
    shown = docker("ps", "-a", "--filter", f"name={name}", "--format", "{{.Image}}").stdout.strip()
    assert re.fullmatch(r"[0-9a-f]{12}", shown)
    docker("rm", name)
    docker("image", "rm", f"{name}:moved")


# -- inspect ---------------------------------------------------------------------------------------


def test_inspect_reports_the_same_as_the_kernel(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "-p", "127.0.0.1::80/tcp", BASE, "sleep", "1000")
    found = json.loads(docker("inspect", "-s", name).stdout)[0]
    assert (found["Path"], found["Args"]) == ("sleep", ["1000"])
    network = found["NetworkSettings"]["Networks"]["bridge"]
    address = docker("exec", name, "ip", "-o", "-4", "addr", "show", "eth0").stdout
    assert f"{network['IPAddress']}/{network['IPPrefixLen']}" in address
    link = docker("exec", name, "ip", "link", "show", "eth0").stdout
    assert network["MacAddress"] in link
    assert network["Gateway"] in docker("exec", name, "ip", "route").stdout
    with open(f"/proc/{found['State']['Pid']}/cmdline") as file:
        assert file.read() == "sleep\x001000\x00"
    with open(found["HostsPath"]) as file:
        assert network["IPAddress"] in file.read()
    with open(found["HostnamePath"]) as file:
        assert file.read().strip() == found["Config"]["Hostname"] == found["Id"][:12]
    assert found["SizeRootFs"] > 1_000_000 and found["SizeRw"] == 0
    (binding,) = [b for b in found["NetworkSettings"]["Ports"]["80/tcp"] if "." in b["HostIp"]]
    assert docker("port", name).stdout.strip() == f"80/tcp -> 127.0.0.1:{binding['HostPort']}"


def test_inspect_formats_and_types(docker: Docker, name: str) -> None:
    docker("create", "--name", name, "-e", "A=1", BASE, "true")
    text = docker("inspect", "-f", "{{.Name}} {{index .Config.Env 0}} {{.State.Status}}", name)
    assert text.stdout.strip() == f"/{name} A=1 created"
    assert docker("inspect", "--type", "image", name, check=False).returncode == 1
    assert docker("inspect", "--type", "container", BASE, check=False).returncode == 1
    done = docker("inspect", "none-such", check=False)
    assert done.stdout.strip() == "[]" and "No such object: none-such" in done.stderr


# -- top and stats ---------------------------------------------------------------------------------


def test_top(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "-u", "0", BASE, "sh", "-c", "sleep 77 & sleep 88; true")
    lines = docker("top", name).stdout.splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert sorted(line.split(None, 7)[7] for line in lines[1:]) == [
        "sh -c sleep 77 & sleep 88; true", "sleep 77", "sleep 88"]  # fmt: skip
    lines = docker("top", name, "-o", "pid,comm").stdout.splitlines()
    assert sorted(line.split()[1] for line in lines[1:]) == ["sh", "sleep", "sleep"]
    assert docker("top", name, "aux").stdout.split()[:2] == ["USER", "PID"]
    # the styles of ps(1): columns of a style, and whether whole commands are shown
    for style, titles, sleeping in (
        ("x", "PID TTY STAT TIME COMMAND", "sleep 88"),
        ("-x", "PID TTY STAT TIME COMMAND", "sleep 88"),
        ("-u", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND", "sleep 88"),
        ("-e", "PID TTY TIME CMD", "sleep"),
        ("-j", "PID PGID SID TTY TIME CMD", "sleep"),
        ("j", "PPID PID PGID SID TTY TPGID STAT UID TIME COMMAND", "sleep 88"),
        ("-l", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD", "sleep"),
        ("-lf", "F S UID PID PPID C PRI NI ADDR SZ WCHAN STIME TTY TIME CMD", "sleep 88"),
        ("-ely", "S UID PID PPID C PRI NI RSS SZ WCHAN TTY TIME CMD", "sleep"),
        ("axl", "F UID PID PPID PRI NI VSZ RSS WCHAN STAT TTY TIME COMMAND", "sleep 88"),
        ("-eF", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD", "sleep 88"),
    ):
        head, *lines = docker("top", name, style).stdout.splitlines()
        columns = len(head.split())
        assert head.split() == titles.split()
        assert sleeping in [line.split(None, columns - 1)[-1] for line in lines]
    for bad in ("-o", "none-such"), ("nonsense",), ("-o", "comm"), ("-y",):
        assert docker("top", name, *bad, check=False).returncode == 1


def test_stats_are_those_of_the_container(docker: Docker, docker_py: Any, name: str) -> None:
    script = "head -c 30000000 /dev/zero > /file; cat /file > /dev/null; echo on; "
    script += "while true; do :; done"
    docker("run", "-d", "--name", name, "-m", "128m", "--cpus", "0.5", BASE, "sh", "-c", script)
    while "on" not in docker("logs", name).stdout:
        pass
    row = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", name).stdout)
    assert row["Name"] == name and row["PIDs"] == "1"
    used, _, limit = row["MemUsage"].partition(" / ")
    assert limit == "128MiB"
    found = docker_py.containers.get(name).stats(stream=False)
    memory = found["memory_stats"]
    assert memory["limit"] == 128 << 20
    files = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file"))
    assert memory["usage"] - files < 20_000_000, "memory without the cache"
    assert re.match(r"[\d.]+(KiB|MiB)", used)
    cpu, before = found["cpu_stats"], found["precpu_stats"]
    spent = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    machine = cpu["system_cpu_usage"] - before["system_cpu_usage"]
    assert 0 < spent / machine * cpu["online_cpus"] < 0.8, "half a processor, about"
    assert cpu["throttling_data"]["periods"] > 0
    one = docker_py.api.stats(name, stream=False, one_shot=True)
    assert one["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    samples = docker_py.api.stats(name, stream=True, decode=True)
    first, second = next(samples), next(samples)
    samples.close()
    assert second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]


def test_stats_of_what_does_not_run_are_empty(docker: Docker, name: str) -> None:
    docker("create", "--name", name, BASE, "true")
    row = docker("stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.PIDs}}", name)
    assert row.stdout.split() == [name, "0.00%", "0"]
    assert docker("stats", "--no-stream", "none-such", check=False).returncode == 1


# -- events ----------------------------------------------------------------------------------------


def test_the_events_of_a_life(docker: Docker, docker_py: Any, name: str) -> None:
    begun = time.time() - 1
    docker("create", "--name", name, "--label", "mark=1", "-v", "/v", BASE, "sleep", "1000")
    for verb in (("start",), ("pause",), ("unpause",), ("restart", "-t", "0"), ("kill",)):
        docker(*verb, name)
    docker("wait", name)
    docker("rename", name, f"{name}-2")
    docker("rm", "-v", f"{name}-2")
    filters = {"type": ["container"], "label": ["mark=1"]}
    found = list(docker_py.events(since=begun, until=time.time() + 1, filters=filters, decode=True))
    actions = [event["Action"] for event in found]
    assert actions == ["create", "start", "pause", "unpause", "kill", "kill", "stop", "die",
                       "start", "restart", "kill", "die", "rename", "destroy"]  # fmt: skip
    die = found[7]
    assert die["Actor"]["Attributes"]["exitCode"] == "137"
    assert {"image": BASE, "name": name, "mark": "1"}.items() <= die["Actor"]["Attributes"].items()
    assert die["scope"] == "local" and "id" not in die  # version 1.52 dropped it
    assert found[12]["Actor"]["Attributes"]["oldName"] == f"/{name}"
    stamps = [event["timeNano"] for event in found]
    assert stamps == sorted(stamps)


def test_what_depends_on_a_container_reports_in_order(
    docker: Docker, docker_py: Any, name: str
) -> None:
    begun = time.time() - 1
    docker("run", "--name", name, "-v", "/v", BASE, "true")
    identifier = docker("inspect", "-f", "{{.Id}}", name).stdout.strip()
    events = docker_py.events(since=begun, until=time.time() + 1, decode=True)
    told = [
        f"{event['Type']} {event['Action']}"
        for event in events
        if identifier in (event["Actor"]["ID"], event["Actor"]["Attributes"].get("container"))
    ]
    assert [each for each in told if "attach" not in each] == [
        "container create", "volume mount", "network connect", "container start",
        "network disconnect", "volume unmount", "container die"]  # fmt: skip


def test_a_failed_start_reports_no_connection(docker: Docker, docker_py: Any, name: str) -> None:
    begun = time.time() - 1
    docker("run", "--name", name, BASE, "no-such-command", check=False)
    identifier = docker("inspect", "-f", "{{.Id}}", name).stdout.strip()
    events = docker_py.events(since=begun, until=time.time() + 1, decode=True)
    told = [
        f"{event['Type']} {event['Action']}"
        for event in events
        if identifier in (event["Actor"]["ID"], event["Actor"]["Attributes"].get("container"))
    ]
    assert told == ["container create", "container attach", "network disconnect"]


# -- df and prune ----------------------------------------------------------------------------------


def test_prune_and_df(docker: Docker, docker_py: Any, name: str) -> None:
    label = f"{name}=1"
    docker("run", "--name", f"{name}-1", "--label", label, BASE, "sh", "-c",
           "head -c 100000 /dev/zero > /file")  # fmt: skip
    docker("run", "-d", "--name", f"{name}-2", "--label", label, BASE, "sleep", "1000")
    docker("create", "--name", f"{name}-3", "--label", "other=1", BASE, "true")
    api = docker_py.api  # version 1.52 has sums in place of the lists
    usage = api._result(api._get(f"{api.base_url}/v1.51/system/df"), json=True)
    used = {each["Names"][0]: each for each in usage["Containers"]}
    assert used[f"/{name}-1"]["SizeRw"] >= 100_000
    assert "Containers" in docker("system", "df").stdout
    assert f"{name}-1" in docker("system", "df", "-v").stdout
    kept = docker_py.containers.prune(filters={"label": [label], "until": "24h"})
    assert not kept["ContainersDeleted"]
    done = docker_py.containers.prune(filters={"label": [label]})
    assert len(done["ContainersDeleted"]) == 1 and done["SpaceReclaimed"] >= 100_000
    assert listed(docker, f"name=^{name}") == {f"{name}-2", f"{name}-3"}
    assert docker("container", "prune", "-f", "--filter", "none=1", check=False).returncode == 1


# -- legacy links ----------------------------------------------------------------------------------


def test_legacy_links(docker: Docker, name: str) -> None:
    target, parent = f"{name}-t", f"{name}-p"
    docker("run", "-d", "--name", target, BASE, "sleep", "1000")
    docker("run", "-d", "--name", parent, "--link", f"{target}:db", BASE, "sleep", "1000")
    assert re.search(r"\bdb\b", docker("exec", parent, "cat", "/etc/hosts").stdout)
    shown = json.loads(docker("inspect", "-f", "{{json .HostConfig.Links}}", parent).stdout)
    assert shown == [f"/{target}:/{parent}/db"]
    names = docker("ps", "--no-trunc", "--format", "{{.Names}}").stdout.split()
    assert f"{parent}/db,{target}" in names
    assert docker("rm", "-l", f"{parent}/none", check=False).returncode == 1
    docker("rm", "-l", f"{parent}/db")
    assert docker("inspect", "-f", "{{json .HostConfig.Links}}", parent).stdout.strip() == "null"
    assert listed(docker, f"name=^{name}") == {target, parent}
