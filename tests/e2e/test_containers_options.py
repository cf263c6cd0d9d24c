"""Options of create and run, each seen from inside the container or in the kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginekit import RunningEngine

Docker = Callable[..., "subprocess.CompletedProcess[str]"]
BASE = "portside/base"


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())[:50]
    yield chosen
    found = docker("ps", "-aq", "--filter", f"name=^{chosen}").stdout.split()
    if found:
        docker("rm", "-f", "-v", *found, check=False)


def inside(docker: Docker, *options: str, script: str) -> str:
    return str(docker("run", "--rm", *options, BASE, "sh", "-c", script).stdout).strip()


def refused(docker: Docker, *options: str) -> str:
    done = docker("run", "--rm", *options, BASE, "true", check=False)
    assert done.returncode in (125, 126, 127), f"{options}: {done.returncode} {done.stderr}"
    return str(done.stderr)


# -- namespaces ------------------------------------------------------------------------------------


def test_pid_namespaces(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sleep", "4321")
    assert inside(docker, script="echo $$") == "1"
    assert os.readlink("/proc/self/ns/pid") == inside(
        docker, "--pid", "host", script="readlink /proc/self/ns/pid"
    )
    assert "sleep 4321" in inside(docker, "--pid", f"container:{name}", script="ps -o args")
    assert "No such container" in refused(docker, "--pid", "container:none-such")
    docker("stop", "-t", "0", name)
    stopped = refused(docker, "--pid", f"container:{name}")
    assert "failed to join PID namespace: container " in stopped and "is not running" in stopped
    stopped = refused(docker, "--network", f"container:{name}")
    words = "cannot join network namespace of a non running container: container "
    assert f"{words}{name} is exited" in stopped
    missing = refused(docker, "--network", "container:none-such")
    assert "joining network namespace of container: No such container: none-such" in missing


def test_ipc_namespaces(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--ipc", "shareable", BASE, "sleep", "1000")
    docker("exec", name, "touch", "/dev/shm/shared")
    shared = ("--ipc", f"container:{name}")
    assert inside(docker, *shared, script="ls /dev/shm") == "shared"
    ours = os.readlink("/proc/self/ns/ipc")
    assert inside(docker, "--ipc", "host", script="readlink /proc/self/ns/ipc") == ours
    assert inside(docker, script="readlink /proc/self/ns/ipc") != ours
    assert "No such file" in inside(docker, "--ipc", "none", script="ls /dev/shm/ 2>&1; true")
    docker("rm", "-f", name)
    docker("run", "-d", "--name", name, "--ipc", "private", BASE, "sleep", "1000")
    assert "non-shareable IPC" in refused(docker, *shared)


def test_uts_and_names(docker: Docker) -> None:
    script = "hostname; cat /proc/sys/kernel/domainname /etc/hostname; "
    script += "grep -c 'box.example.org box' /etc/hosts"
    options = ("-h", "box", "--domainname", "example.org")
    assert inside(docker, *options, script=script).split() == ["box", "example.org", "box", "1"]
    assert inside(docker, "--uts", "host", script="hostname") == os.uname().nodename


def test_cgroup_namespaces(docker: Docker) -> None:
    script = "cat /proc/self/cgroup"
    private = inside(docker, script=script).splitlines()
    assert all(line.endswith(":/") for line in private)
    host = inside(docker, "--cgroupns", "host", script=script).splitlines()
    assert any(len(line.rpartition("/")[2]) == 64 for line in host)


# -- memory, processors, processes -----------------------------------------------------------------


def test_shm_tmpfs_and_ulimits(docker: Docker) -> None:
    assert inside(docker, "--shm-size", "3m", script="df -k /dev/shm | tail -1 | awk '{print $2}'"
                  ) == "3072"  # fmt: skip
    mount = inside(docker, "--tmpfs", "/scratch:size=2m,mode=1700,exec",
                   script="grep ' /scratch ' /proc/mounts; stat -c %a /scratch")  # fmt: skip
    assert "size=2048k" in mount and "nosuid" in mount and "noexec" not in mount
    assert mount.endswith("1700")
    limits = ("--ulimit", "nofile=111:222", "--ulimit", "core=0")
    script = "ulimit -n; ulimit -Hn; ulimit -c"
    assert inside(docker, *limits, script=script).split() == ["111", "222", "0"]
    assert "soft" in refused(docker, "--ulimit", "nofile=2:1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"),
        (("-m", "64m", "--memory-swap", "32m"), "memoryswap limit should be larger than memory"),
        (("--memory-swap", "64m"), "should always set the Memory limit"),
        (
            ("-m", "64m", "--memory-reservation", "128m"),
            "can not be less than memory reservation limit",
        ),
        (("--cpus", "100000"), "ange of CPUs is from 0.01 to"),
        (("--cpus", "1", "--cpu-quota", "1000"), "Nano CPUs and CPU Quota cannot both be set"),
        (("--cpu-period", "10"), "CPU cfs period can not be less than 1ms"),
        (("--cpu-quota", "10"), "CPU cfs quota can not be less than 1ms"),
        (("--cpuset-cpus", "4000"), "equested CPUs are not available"),
        (("--cpuset-mems", "4000"), "equested memory nodes are not available"),
        (("--oom-score-adj", "5000"), "range for oom score adj is [-1000, 1000]"),
        (("--sysctl", "kernel.panic=1"), "kernel.panic"),
        (("--cap-add", "CAP_NOTHING"), "CAP_NOTHING"),
        (("--security-opt", "nonsense"), "nonsense"),
        (("--device", "/dev/none-such"), "/dev/none-such"),
        (("--device-cgroup-rule", "c 1:3"), "c 1:3"),
        (("--device-read-bps", "/dev/none-such:1mb"), "no such file or directory"),
        (("--runtime", "none-such"), "none-such"),
        (("--log-driver", "none-such"), "none-such"),
        (("--log-opt", "none=such"), "unknown log opt 'none' for json-file log driver"),
        (("--log-opt", "max-size=many"), "many"),
        (("--log-opt", "max-file=x"), 'strconv.Atoi: parsing "x": invalid syntax'),
        (("--log-opt", "compress=true", "--log-opt", "max-file=1"), "compress cannot be true"),
        (
            ("--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=x"),
            "error parsing option max-buffer-size: invalid size: 'x'",
        ),
        (("--log-opt", "cache-disabled=x"), "invalid value for option cache-disabled: x"),
        (
            ("-l", "a=1", "--log-opt", "labels-regex=("),
            "error parsing regexp: missing closing ): `(`",
        ),
        (("--log-opt", "env-regex=a["), "error parsing regexp: missing closing ]: `[`"),
        (
            ("--log-driver", "local", "--log-opt", "labels=a"),
            "unknown log opt 'labels' for log driver local",
        ),
        (("--log-driver", "syslog", "--log-opt", "syslog-facility=x"), "invalid syslog facility"),
        (("--log-driver", "syslog", "--log-opt", "syslog-format=x"), "invalid syslog format"),
        (("--log-driver", "syslog", "--log-opt", "syslog-address=x://y"), "syslog-address 'x://y'"),
        (
            ("--sysctl", "net.ipv4.conf.eth1.log_martians=1"),
            "must be supplied using driver option 'com.docker.network.endpoint.sysctls'",
        ),
        (("--tmpfs", "/t:foo"), 'invalid tmpfs option "foo"'),
        (("--gpus", "all"), 'could not select device driver "" with capabilities: [[gpu]]'),
        (("--device", "vendor.com/gpu=0"), "vendor.com/gpu=0"),
        (("--group-add", "none-such"), "nable to find group none-such"),
        (("-u", "none-such"), "unable to find user none-such: no matching entries in passwd"),
        (("-w", "relative"), "working directory"),
        (("--stop-signal", "SIGNONE"), "SIGNONE"),
        (("--storage-opt", "size=1G"), "storage-opt"),
        (("--isolation", "hyperv"), "invalid isolation (hyperv): linux only supports 'default'"),
        (("--link", "none-such"), "could not get container for none-such"),
        (("--volumes-from", "none-such"), "No such container: none-such"),
        (("--net", "container:none-such"), "No such container: none-such"),
        (("--net", "none-such"), "network none-such not found"),
        (("--net", "host", "--sysctl", "net.ipv4.ip_forward=1"), "not allowed in host network"),
        (("--health-cmd", "x", "--health-timeout", "1us"), "Timeout in Healthcheck"),
        (("--mount", "type=bind,source=/none/such,target=/x"), "bind source path does not exist"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_is_refused(docker: Docker, options: tuple[str, ...], words: str) -> None:
    said = refused(docker, *options)
    assert words in said
    assert "Unable to find image" not in said, "no answer may be taken for a missing image"


def test_a_refused_run_leaves_nothing(docker: Docker, name: str) -> None:
    docker("run", "--name", name, "--rm", BASE, "none-such", check=False)
    docker("run", "--name", name, "--rm", "--group-add", "none-such", BASE, "true", check=False)
    assert docker("ps", "-aq", "--filter", f"name={name}").stdout == ""


def test_oom_score_and_init(docker: Docker) -> None:
    assert inside(docker, "--oom-score-adj", "321", script="cat /proc/self/oom_score_adj") == "321"
    script = "[ $$ != 1 ] && echo child; sleep 0.05 & exec sleep 0.1"
    assert inside(docker, "--init", script=script) == "child"
    # told as Docker's init is, and nothing of where it came from
    assert inside(docker, "--init", script="cat /proc/1/comm") == "docker-init"
    told = inside(docker, "--init", script="tr '\\0' ' ' < /proc/1/cmdline; true")
    assert told.rstrip().startswith("/sbin/docker-init -- sh -c ")
    assert "portside" not in told
    zombies = "(sleep 0.01 &) ; sleep 0.3; ps -o stat,args | grep -c '^Z' || true"
    assert inside(docker, "--init", script=zombies) == "0"


def test_init_forwards_signals(docker: Docker, name: str) -> None:
    script = "trap 'exit 6' TERM; echo ready; sleep 1000 & wait"
    docker("run", "-d", "--init", "--name", name, BASE, "sh", "-c", script)
    while "ready" not in docker("logs", name).stdout:
        pass
    docker("stop", name)
    assert docker("wait", name).stdout.strip() == "6"


# -- devices and rights ----------------------------------------------------------------------------


def test_devices(docker: Docker) -> None:
    look = "[ -c /dev/mine ] && head -c 3 /dev/mine | wc -c"
    assert inside(docker, "--device", "/dev/zero:/dev/mine", script=look) == "3"
    denied = "echo x > /dev/mine 2>/dev/null || echo denied"
    assert inside(docker, "--device", "/dev/full:/dev/mine:r", script=denied) == "denied"
    make = "mknod /node c 1 11 && (true > /node) 2>/dev/null && echo open || echo denied"
    assert inside(docker, script=make) == "denied"
    rule = ("--device-cgroup-rule", "c 1:11 rwm")
    assert inside(docker, *rule, script=make) == "open"


def test_groups_and_capabilities(docker: Docker) -> None:
    groups = inside(docker, "-u", "5:6", "--group-add", "77", "--group-add", "daemon",
                    script="id -G").split()  # fmt: skip
    assert set(groups) == {"6", "77", "1"}
    bits = inside(docker, "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE",
                  script="grep CapEff /proc/self/status")  # fmt: skip
    assert int(bits.split()[1], 16) == 1 << 10
    assert inside(docker, "--security-opt", "no-new-privileges",
                  script="grep NoNewPrivs /proc/self/status").split()[1] == "1"  # fmt: skip


def test_sysctls(docker: Docker) -> None:
    options = ("--sysctl", "net.ipv4.ip_default_ttl=77", "--sysctl", "kernel.msgmax=9999")
    script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax"
    assert inside(docker, *options, script=script).split() == ["77", "9999"]


# -- names of the network --------------------------------------------------------------------------


def test_hosts_and_dns(docker: Docker) -> None:
    options = ("--add-host", "one.test:10.1.2.3", "--add-host", "gate:host-gateway",
               "--dns", "192.0.2.1", "--dns-search", "example.org",
               "--dns-option", "ndots:3")  # fmt: skip
    text = inside(docker, *options, script="cat /etc/hosts /etc/resolv.conf")
    assert re.search(r"^10\.1\.2\.3\s+one\.test$", text, re.M)
    assert re.search(r"^10\.\d+\.\d+\.1\s+gate$", text, re.M)
    assert "nameserver 192.0.2.1" in text
    assert "search example.org" in text and "options ndots:3" in text


def test_mac_address_and_annotation(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "--mac-address", "02:42:00:00:00:77",
           "--annotation", "org.example=1", BASE, "sleep", "1000")  # fmt: skip
    assert "02:42:00:00:00:77" in docker("exec", name, "ip", "link", "show", "eth0").stdout
    found = json.loads(docker("inspect", name).stdout)[0]
    assert found["HostConfig"]["Annotations"] == {"org.example": "1"}
    networks = found["NetworkSettings"]["Networks"]
    assert networks["bridge"]["MacAddress"] == "02:42:00:00:00:77"


# -- mounts ----------------------------------------------------------------------------------------


def test_mounts_of_every_kind(docker: Docker, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    docker("run", "-d", "--name", name,
           "-v", f"{tmp_path}:/bound:ro", "-v", f"{tmp_path}/file:/one", "-v", "/anonymous",
           "--mount", f"type=bind,source={tmp_path},target=/bound2,readonly",
           "--mount", "type=tmpfs,target=/temp,tmpfs-size=1m,tmpfs-mode=1770",
           "--mount", f"type=volume,source={name},target=/vol",
           BASE, "sleep", "1000")  # fmt: skip
    script = (
        "cat /bound/file /one /bound2/file; echo; touch /bound/x 2>/dev/null || echo ro;"
        "touch /bound2/x 2>/dev/null || echo ro; touch /vol/x /anonymous/x /temp/x && echo rw;"
        "stat -c %a /temp"
    )
    seen = docker("exec", name, "sh", "-c", script).stdout.split()
    assert seen == ["hosthosthost", "ro", "ro", "rw", "1770"]
    mounts = {m["Destination"]: m for m in json.loads(docker("inspect", name).stdout)[0]["Mounts"]}
    assert (mounts["/bound"]["Type"], mounts["/bound"]["RW"]) == ("bind", False)
    assert mounts["/vol"]["Name"] == name and mounts["/vol"]["Driver"] == "local"
    assert mounts["/temp"]["Type"] == "tmpfs" and mounts["/temp"]["Source"] == ""
    other = ("--volumes-from", f"{name}:ro")
    seen = inside(docker, *other, script="ls /vol; touch /vol/y 2>/dev/null || echo ro").split()
    assert seen == ["x", "ro"]
    docker("rm", "-f", "-v", name)
    docker("volume", "rm", name)


# -- errors that explain themselves ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"#!/no/interpreter\n", 127, "its interpreter /no/interpreter is not in the container"),
        (b"#!/bin/sh\r\necho hi\r\n", 127, "CRLF line ends"),
        (b"neither\n", 125, "exec format error"),
        (b"", 125, "the file is empty"),
    ],
    ids=["interpreter", "crlf", "format", "empty"],
)
def test_a_command_that_cannot_start_is_explained(
    docker: Docker, tmp_path: Path, content: bytes, code: int, words: str
) -> None:
    path = tmp_path / "command"
    path.write_bytes(content)
    path.chmod(0o755)
    done = docker("run", "--rm", "-v", f"{path}:/command", BASE, "/command", check=False)
    assert done.returncode == code and words in done.stderr


def test_a_missing_loader_and_another_machine_are_explained(docker: Docker, tmp_path: Path) -> None:
    path = tmp_path / "python"
    data = bytearray(Path("/proc/self/exe").read_bytes())
    path.write_bytes(data)
    path.chmod(0o755)
    done = docker("run", "--rm", "-v", f"{path}:/command", BASE, "/command", check=False)
    assert done.returncode == 127 and "its loader" in done.stderr
    data[18:20] = (0xB7 if data[18] != 0xB7 else 0x3E).to_bytes(2, "little")
    path.write_bytes(data)
    done = docker("run", "--rm", "-v", f"{path}:/command", BASE, "/command", check=False)
    assert done.returncode == 125 and "it is made for" in done.stderr


def test_out_of_memory_is_reported_by_event_and_state(docker: Docker, name: str) -> None:
    eat = "x=a; while true; do x=$x$x; done"
    limits = ("-m", "16m", "--memory-swap", "16m")
    docker("run", "--name", name, *limits, BASE, "sh", "-c", eat, check=False)
    state = json.loads(docker("inspect", name).stdout)[0]["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)
    docker("run", "--name", f"{name}-2", *limits, BASE, "sh", "-c", "exit 137", check=False)
    state = json.loads(docker("inspect", f"{name}-2").stdout)[0]["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (False, 137)


def test_out_of_memory_of_a_child_is_reported_too(docker: Docker, name: str) -> None:
    eat = "sh -c 'x=a; while true; do x=$x$x; done'; echo survived $?; sleep 1000"
    limits = ("-m", "16m", "--memory-swap", "16m")
    docker("run", "-d", "--name", name, *limits, BASE, "sh", "-c", eat)
    while "survived 137" not in docker("logs", name).stdout:
        pass
    deadline = time.monotonic() + 30
    while not json.loads(docker("inspect", name).stdout)[0]["State"]["OOMKilled"]:
        assert time.monotonic() < deadline
    assert json.loads(docker("inspect", name).stdout)[0]["State"]["Running"]


# -- beyond ----------------------------------------------------------------------------------------


def test_explain_and_timings(engine: RunningEngine, docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "-m", "64m", "-p", "127.0.0.1::80", BASE, "sleep", "1000")
    told: Any = engine.json("GET", f"/portside/containers/{name}/explain")
    pid = json.loads(docker("inspect", name).stdout)[0]["State"]["Pid"]
    text = json.dumps(told)
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        inode = re.sub(r"\D", "", os.readlink(f"/proc/{pid}/ns/{kind}"))
        assert inode in text, f"the {kind} namespace is told by its inode"
    assert str(64 << 20) in text and "cap_chown" in text.lower()
    timings = engine.json("GET", f"/portside/containers/{name}/timings")
    assert timings and all(value >= 0 for value in timings.values())


def test_a_device_by_cdi(engine: RunningEngine, docker: Docker, name: str) -> None:
    """A device a vendor's file describes: node, variable and mount arrive."""
    directory = Path("/etc/cdi")
    existed = directory.exists()
    directory.mkdir(exist_ok=True)
    file = directory / f"portside-test-{os.getpid()}.json"
    kind = f"portside-test-{os.getpid()}.example/thing"
    file.write_text(json.dumps({
        "cdiVersion": "0.6.0", "kind": kind,
        "devices": [{"name": "0", "containerEdits": {
            "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
            "env": ["THING=yes"]}}],
    }))  # fmt: skip
    try:
        out = inside(docker, "--device", f"{kind}=0",
                     script="echo $THING; head -c 5 /dev/thing | wc -c")  # fmt: skip
        assert out.split() == ["yes", "5"]
        assert "9" in refused(docker, "--device", f"{kind}=9")
    finally:
        file.unlink()
        if not existed:
            directory.rmdir()
