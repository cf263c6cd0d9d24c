"""The real docker CLI against the engine: what its users do all day."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from portside.kernel.polling import readable

Docker = Callable[..., "CompletedProcess[str]"]
BASE = "portside/base"


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container's name; whatever has it is removed afterwards."""
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())
    yield chosen
    docker("rm", "-f", "-v", chosen, check=False)


def test_echo(docker: Docker) -> None:
    done = docker("run", "--rm", BASE, "echo", "hello")
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_streams_are_kept_apart_and_binary(docker: Docker) -> None:
    done = docker("run", "--rm", BASE, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    data = os.urandom(3_000_000)
    run = docker("run", "--rm", "-i", BASE, "cat", input=data, text=False)
    assert run.stdout == data  # type: ignore[comparison-overlap]


def test_signals_are_exit_codes(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sleep", "1000")
    docker("kill", "-s", "KILL", name)
    assert docker("wait", name).stdout.strip() == "137"


def test_environment_user_and_directory(docker: Docker) -> None:
    script = "echo $GREETING $HOME; id -u; id -g; pwd; hostname"
    options = ("-e", "GREETING=hi", "-u", "1234:567", "-w", "/var/tmp/deep", "-h", "inside")
    done = docker("run", "--rm", *options, BASE, "sh", "-c", script)
    assert done.stdout.splitlines() == ["hi /", "1234", "567", "/var/tmp/deep", "inside"]


def test_isolation_seen_from_inside(docker: Docker) -> None:
    script = (
        "echo pid=$$; ls /proc | grep -c '^[0-9]'; cat /proc/sys/kernel/ns_last_pid >/dev/null;"
        "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; ip -o link | wc -l;"
        "mount -t tmpfs none /mnt 2>&1; ls /dev | tr '\\n' ' '"
    )
    done = docker("run", "--rm", BASE, "sh", "-c", script)
    assert "pid=1" in done.stdout
    assert "CapEff:\t00000000a80425fb" in done.stdout
    assert "Seccomp:\t2" in done.stdout
    assert "permission denied" in done.stdout.lower()
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"} <= set(
        done.stdout.splitlines()[-1].split()
    )


def test_capabilities_follow_the_flags(docker: Docker) -> None:
    def effective(*options: str) -> int:
        done = docker("run", "--rm", *options, BASE, "grep", "CapEff", "/proc/self/status")
        return int(done.stdout.split()[1], 16)

    net_admin, chown = 1 << 12, 1 << 0
    assert effective("--cap-add", "NET_ADMIN") & net_admin
    assert not effective("--cap-drop", "CHOWN") & chown
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--privileged") & net_admin
    assert effective("-u", "1000") == 0


def test_limits_are_true_in_the_kernel(docker: Docker, name: str) -> None:
    options = ("-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "--ulimit", "nofile=77:88")
    docker("run", "-d", "--name", name, *options, BASE, "sleep", "1000")
    config = json.loads(docker("inspect", name).stdout)[0]["HostConfig"]
    assert config["Memory"] == 64 << 20
    assert config["NanoCpus"] == 500_000_000
    assert config["PidsLimit"] == 20
    assert docker("exec", name, "sh", "-c", "ulimit -n").stdout.strip() == "77"
    fork = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; wait"
    done = docker("exec", name, "sh", "-c", fork, check=False)
    assert "can't fork" in done.stderr


def test_out_of_memory_is_distinguished(docker: Docker, name: str) -> None:
    eat = "x=a; while true; do x=$x$x; done"
    done = docker("run", "--name", name, "-m", "16m", BASE, "sh", "-c", eat, check=False)
    assert done.returncode == 137
    state = json.loads(docker("inspect", name).stdout)[0]["State"]
    assert state["OOMKilled"] is True


def test_read_only_root(docker: Docker) -> None:
    done = docker("run", "--rm", "--read-only", BASE, "touch", "/file", check=False)
    assert done.returncode == 1 and "Read-only file system" in done.stderr


def test_detached_life(docker: Docker, name: str) -> None:
    identifier = docker("run", "-d", "--name", name, BASE, "sh", "-c", "echo up; sleep 1000")
    full = identifier.stdout.strip()
    assert len(full) == 64
    assert docker("ps", "-q", "--no-trunc", "-f", f"name={name}").stdout.strip() == full
    row = docker("ps", "-f", f"name={name}", "--format", "{{.Names}} {{.Status}}").stdout
    assert row.startswith(f"{name} Up ")
    assert docker("logs", name).stdout == "up\n"
    assert docker("stop", "-t", "1", name).stdout.strip() == name
    assert json.loads(docker("inspect", name).stdout)[0]["State"]["Status"] == "exited"
    docker("start", name)
    assert docker("logs", name).stdout == "up\nup\n"
    assert docker("rm", name, check=False).returncode == 1
    docker("rm", "-f", name)
    assert docker("inspect", name, check=False).returncode == 1


def test_exec(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, "-e", "A=1", BASE, "sleep", "1000")
    script = "echo $A$B; pwd; id -u"
    done = docker("exec", "-e", "B=2", "-w", "/tmp", "-u", "5", name, "sh", "-c", script)
    assert done.stdout.splitlines() == ["12", "/tmp", "5"]
    assert docker("exec", name, "sh", "-c", "exit 42", check=False).returncode == 42
    assert docker("exec", name, "no-such-command", check=False).returncode == 127
    assert docker("exec", "-i", name, "cat", input="typed").stdout == "typed"
    assert len(docker("exec", name, "ps").stdout.splitlines()) <= 4


def test_files_that_name_the_network(docker: Docker) -> None:
    done = docker("run", "--rm", "-h", "me", BASE, "cat", "/etc/hosts", "/etc/hostname")
    assert "127.0.0.1\tlocalhost" in done.stdout and "\tme\n" in done.stdout
    done = docker("run", "--rm", BASE, "sh", "-c", "ip -4 -o addr show eth0; ip route")
    assert " inet 1" in done.stdout and "default via" in done.stdout
    alone = docker("run", "--rm", "--network", "none", BASE, "ip", "-o", "link").stdout
    assert len(alone.splitlines()) == 1
    host = docker("run", "--rm", "--network", "host", BASE, "readlink", "/proc/self/ns/net")
    assert host.stdout.strip() == str(Path("/proc/self/ns/net").readlink())


def test_joined_network(docker: Docker, name: str) -> None:
    docker("run", "-d", "--name", name, BASE, "sleep", "1000")
    ask = ("readlink", "/proc/self/ns/net")
    joined = docker("run", "--rm", "--network", f"container:{name}", BASE, *ask).stdout
    assert joined == docker("exec", name, *ask).stdout


def read_until(fd: int, wanted: bytes, seconds: float = 20) -> bytes:
    seen, deadline = b"", time.monotonic() + seconds
    while wanted not in seen:
        if not readable(fd, timeout=max(deadline - time.monotonic(), 0)):
            raise AssertionError(f"no {wanted!r} in {seen!r}")
        try:
            seen += os.read(fd, 4096)
        except OSError:
            break
    return seen


def test_terminal_detach_and_attach(
    docker: Docker, docker_command: list[str], docker_env: dict[str, str], name: str
) -> None:
    leader, follower = pty.openpty()
    command = [*docker_command, "run", "-it", "--name", name, BASE, "sh"]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=docker_env
    )
    os.close(follower)
    try:
        read_until(leader, b"# ")
        os.write(leader, b"echo in$((40+2))side\n")
        read_until(leader, b"in42side")
        os.write(leader, b"\x10\x11")
        assert process.wait(20) == 0
        assert docker("inspect", "-f", "{{.State.Status}}", name).stdout.strip() == "running"
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_inspect_has_what_tools_read(docker: Docker, name: str) -> None:
    docker("create", "--name", name, "-l", "a=b", "--stop-signal", "USR1", BASE, "sleep", "9")
    found = json.loads(docker("inspect", name).stdout)[0]
    assert found["Name"] == f"/{name}"
    assert found["Config"]["Labels"]["a"] == "b"
    assert found["Config"]["StopSignal"] == "USR1"
    assert found["Path"] == "sleep" and found["Args"] == ["9"]
    assert found["State"]["Status"] == "created"
    assert found["GraphDriver"]["Name"] == "overlayfs"
    assert found["LogPath"] == "" or found["LogPath"].endswith("-json.log")
