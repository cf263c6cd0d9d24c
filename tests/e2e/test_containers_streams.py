"""What goes in and out of containers: exec, attach, logs; exact, whole, and nobody blocked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from enginekit import RunningEngine, until

Docker = Callable[..., "subprocess.CompletedProcess[Any]"]
BASE = "portside/base"
PATIENCE = 40


@pytest.fixture
def name(docker: Docker, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = re.sub(r"[^a-z0-9_.-]", "-", request.node.name.lower())[:50]
    yield chosen
    docker("rm", "-f", "-v", chosen, check=False)


@pytest.fixture
def running(docker: Docker, name: str) -> str:
    """A running container."""
    docker("run", "-d", "--name", name, "-e", "OUTER=1", "-w", "/var", BASE, "sleep", "1000")
    return name


# -- exec ------------------------------------------------------------------------------------------


def test_exec_environment_user_directory(docker: Docker, running: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=3\n")
    options = ("-e", "INNER=2", "--env-file", str(tmp_path / "env"), "-u", "4242:6", "-w", "/tmp")
    script = "echo $OUTER $INNER $FROM_FILE $HOME; id -u; id -g; pwd"
    done = docker("exec", *options, running, "sh", "-c", script)
    assert done.stdout.split("\n") == ["1 2 3 /", "4242", "6", "/tmp", ""]
    assert docker("exec", running, "pwd").stdout == "/var\n"


def test_exec_groups_are_those_of_the_user(docker: Docker, running: str) -> None:
    assert docker("exec", "-u", "5:6", running, "id", "-G").stdout.split() == ["6"]
    groups = docker("exec", running, "id", "-G").stdout.split()
    assert groups[0] == "0" and len(set(groups)) == len(groups)


@pytest.mark.parametrize(
    ("options", "command", "code", "words"),
    [
        ((), ("no-such",), 127, 'exec: "no-such": executable file not found in $PATH'),
        ((), ("/no/such",), 127, "no such file or directory"),
        ((), ("/etc",), 126, "permission denied"),
        ((), ("/etc/passwd",), 126, "permission denied"),
        (("-w", "/no/such"), ("true",), 127, 'chdir to cwd ("/no/such")'),
    ],
)
def test_exec_that_cannot_start(
    docker: Docker, running: str, options: tuple[str, ...], command: tuple[str, ...], code: int,
    words: str,
) -> None:  # fmt: skip
    done = docker("exec", *options, running, *command, check=False)
    assert done.returncode == code
    said = done.stdout + done.stderr
    assert "OCI runtime exec failed: exec failed: unable to start container process" in said
    assert words in said
    assert docker("exec", *options, "-d", running, *command, check=False).returncode == 1


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("nope", "unable to find user nope: no matching entries in passwd file"),
        ("nope:root", "unable to find user nope: no matching entries in passwd file"),
        ("root:nope", "unable to find group nope: no matching entries in group file"),
        ("-1", "uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "uids and gids must be in range 0-2147483647"),
        ("99999999999999999999", "uids and gids must be in range 0-2147483647"),
        ("root", ""), ("0:0", ""), ("4242:4242", ""), (":root", ""), (":", ""), ("root:", ""),
    ],
)  # fmt: skip
def test_exec_of_an_unknown_user(
    engine: RunningEngine, docker: Docker, running: str, user: str, said: str
) -> None:
    """Refused when it is made, with dockerd's status and text."""
    body = {"Cmd": ["true"], "User": user}
    status, _, data = engine.request("POST", f"/containers/{running}/exec", body)
    assert (status, json.loads(data).get("message", "")) == (400 if said else 201, said)
    done = docker("exec", "-u", user, running, "true", check=False)
    assert (done.returncode, done.stdout) == (1 if said else 0, "")
    assert said in done.stderr


def test_exec_users_are_read_beneath_the_root(
    engine: RunningEngine, docker: Docker, running: str
) -> None:
    """passwd is the container's: a link that leaves it, a link of /proc and a device tell nothing,
    and what hangs keeps nobody waiting."""
    host = next(
        name
        for name in (line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines())
        if docker("exec", "-u", name, running, "true", check=False).returncode != 0
    )
    up = "../" * 12
    for link in (f"{up}etc/passwd", "/proc/1/root/etc/passwd", "/dev/zero", "/proc/self/fd/0"):
        script = f"rm /etc/passwd; ln -s {link} /etc/passwd"
        docker("exec", running, "sh", "-c", script)
        body = {"Cmd": ["true"], "User": host}
        assert engine.request("POST", f"/containers/{running}/exec", body)[0] == 400, link
    docker("exec", running, "sh", "-c", "rm /etc/passwd; mkfifo /etc/passwd")
    assert engine.request("POST", f"/containers/{running}/exec", body)[0] == 400


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_exec_exit_codes(docker: Docker, running: str, script: str, code: int) -> None:
    assert docker("exec", running, "sh", "-c", script, check=False).returncode == code


def test_exec_privileged(docker: Docker, running: str) -> None:
    def effective(*options: str) -> int:
        done = docker("exec", *options, running, "grep", "CapEff", "/proc/self/status")
        return int(done.stdout.split()[1], 16)

    assert effective() == 0xA80425FB
    assert effective("--privileged") & (1 << 21), "CAP_SYS_ADMIN"
    assert effective("-u", "65534") == 0


def test_exec_detached_is_seen_by_inspect(
    engine: RunningEngine, docker: Docker, running: str
) -> None:
    made = engine.json("POST", f"/containers/{running}/exec", {"Cmd": ["sleep", "100"]}, 201)["Id"]
    before = engine.json("GET", f"/exec/{made}/json")
    assert (before["Running"], before["ExitCode"], before["Pid"]) == (False, None, 0)
    engine.json("POST", f"/exec/{made}/start", {"Detach": True}, 200)
    during = engine.json("GET", f"/exec/{made}/json")
    assert during["Running"] and during["Pid"] > 0
    assert made in engine.json("GET", f"/containers/{running}/json")["ExecIDs"]
    assert engine.request("POST", f"/exec/{made}/start", {"Detach": True})[0] == 409
    docker("exec", running, "pkill", "sleep", check=False)
    os.kill(during["Pid"], 9)
    until(lambda: engine.json("GET", f"/exec/{made}/json")["Running"] is False)
    assert engine.json("GET", f"/exec/{made}/json")["ExitCode"] == 137
    assert engine.request("GET", "/exec/none-such/json")[0] == 404


def test_exec_many_at_once(docker: Docker, running: str) -> None:
    def one(number: int) -> tuple[int, str]:
        script = f"cat; exit {number}"
        done = docker("exec", "-i", running, "sh", "-c", script, check=False, input=f"n{number}")
        return done.returncode, done.stdout

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(one, range(24)))
    assert found == [(number, f"n{number}") for number in range(24)]


def test_exec_stdin_half_closed_and_binary(docker: Docker, running: str) -> None:
    data = os.urandom(2_000_000)
    done = docker("exec", "-i", running, "sh", "-c", "cat; echo end >&2", input=data, text=False)
    assert done.stdout == data and done.stderr == b"end\n"


def test_exec_dies_with_its_container(docker: Docker, running: str, engine: RunningEngine) -> None:
    client = subprocess.Popen(
        ["docker", "-H", engine.host, "exec", running, "sleep", "1000"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: engine.json("GET", f"/containers/{running}/json")["ExecIDs"] is not None)
    docker("kill", running)
    assert client.wait(PATIENCE) == 137


# -- attach ----------------------------------------------------------------------------------------


def attached(engine: RunningEngine, name: str, *options: str) -> subprocess.Popen[bytes]:
    command = ["docker", "-H", engine.host, "attach", *options, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


def attachments(engine: RunningEngine, name: str) -> int:
    """How many clients have been attached, by the engine's events."""
    query = f"filters={quote(json.dumps({'container': [name], 'event': ['attach']}))}"
    events = engine.request("GET", f"/events?since=0&until={time.time()}&{query}")[2]
    return events.count(b"\n")


def test_attach_several_and_one_goes(engine: RunningEngine, docker: Docker, name: str) -> None:
    docker(
        "run", "-d", "-i", "--name", name, BASE, "sh", "-c", "while read x; do echo got $x; done"
    )
    clients = [attached(engine, name, "--sig-proxy=false") for _ in range(3)]
    first = clients[0]
    assert first.stdin and first.stdout
    try:
        until(lambda: attachments(engine, name) == 3)
        first.stdin.write(b"one\n")
        first.stdin.flush()
        for client in clients:
            assert client.stdout and client.stdout.readline() == b"got one\n"
        clients[2].kill()
        first.stdin.write(b"two\n")
        first.stdin.flush()
        assert clients[1].stdout and clients[1].stdout.readline() == b"got two\n"
        first.stdin.close()  # stdin is open for others too, so the container continues
        time.sleep(0.2)
        docker("kill", name)
        assert clients[1].wait(PATIENCE) == 137
    finally:
        for client in clients:
            client.kill()
            client.wait()
            for stream in (client.stdin, client.stdout, client.stderr):
                assert stream is not None
                stream.close()


def test_attach_without_stdin(engine: RunningEngine, docker: Docker, name: str) -> None:
    docker("run", "-d", "-i", "--name", name, BASE, "sh", "-c", "sleep 1; echo out; echo err >&2")
    client = attached(engine, name, "--no-stdin")
    out, err = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out, err) == (0, b"out\n", b"err\n")


def test_attach_to_a_paused_container_names_it_as_the_client_does(
    engine: RunningEngine, docker: Docker, running: str
) -> None:
    identifier = docker("inspect", "-f", "{{.Id}}", running).stdout.strip()
    docker("pause", running)
    try:
        for said in (running, identifier[:12], identifier):
            answer = engine.json("POST", f"/containers/{said}/attach?stream=1&stdout=1", status=409)
            wanted = f"container {said} is paused, unpause the container before attach"
            assert answer["message"] == wanted
    finally:
        docker("unpause", running)


def test_a_client_that_does_not_read_blocks_nobody_else(
    engine: RunningEngine, docker: Docker, name: str
) -> None:
    """Its container waits for it, as a pipe would; everything else continues."""
    script = "read go; dd if=/dev/zero bs=65536 count=200 2>/dev/null; sleep 1000"
    docker("run", "-d", "-i", "--name", name, BASE, "sh", "-c", script)
    stuck = socket.socket(socket.AF_UNIX)
    stuck.connect(str(engine.socket))
    stuck.sendall(
        f"POST /containers/{name}/attach?stream=1&stdout=1&stdin=1 HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    )
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            head += stuck.recv(1)
        assert head.startswith(b"HTTP/1.1 101")
        stuck.sendall(b"go\n")
        until(lambda: len(docker("logs", name).stdout) > 1_000_000)
        assert docker("exec", name, "echo", "alive").stdout == "alive\n"
        assert docker("stats", "--no-stream", "--format", "{{.Name}}", name).stdout == f"{name}\n"
        zeros = 0
        while zeros < 200 * 65536:
            head = stuck.recv(8, socket.MSG_WAITALL)
            zeros += len(stuck.recv(int.from_bytes(head[4:]), socket.MSG_WAITALL))
        until(lambda: len(docker("logs", name).stdout) == 200 * 65536)
    finally:
        stuck.close()


def test_run_with_stdin_that_is_closed_at_once(docker: Docker) -> None:
    data = os.urandom(300_000)
    digest = hashlib.sha256(data).hexdigest()
    done = docker("run", "--rm", "-i", BASE, "sha256sum", input=data, text=False)
    assert done.stdout.split()[0].decode() == digest


def test_run_detached_from_stdin_sees_its_end(docker: Docker) -> None:
    assert docker("run", "--rm", BASE, "cat").stdout == ""


def test_signals_are_proxied(engine: RunningEngine, docker: Docker, name: str) -> None:
    script = "trap 'echo caught; exit 8' INT; echo ready; while true; do sleep 0.1; done"
    client = subprocess.Popen(
        ["docker", "-H", engine.host, "run", "--name", name, BASE, "sh", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout and client.stdout.readline() == b"ready\n"
    client.send_signal(2)
    assert client.stdout.readline() == b"caught\n"
    assert client.wait(PATIENCE) == 8


# -- logs ------------------------------------------------------------------------------------------


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_logs_tail_and_streams(docker: Docker, name: str) -> None:
    script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo o$i; echo e$i >&2; done; printf rest"
    docker("run", "--name", name, BASE, "sh", "-c", script)
    done = docker("logs", name)
    assert lines(done.stdout) == [f"o{n}" for n in range(1, 51)] + ["rest"]
    assert lines(done.stderr) == [f"e{n}" for n in range(1, 51)]
    assert docker("logs", "-n", "1", name).stdout == "rest"
    done = docker("logs", "--tail", "5", name)
    assert len(lines(done.stdout)) + len(lines(done.stderr)) == 5
    assert docker("logs", "-n", "0", name).stdout == ""
    assert len(lines(docker("logs", "--tail", "5000", name).stdout)) == 51


def test_logs_by_time(docker: Docker, name: str) -> None:
    script = "for i in 1 2 3 4; do echo line$i; sleep 0.15; done"
    docker("run", "--name", name, BASE, "sh", "-c", script)
    stamped = [line.split(" ") for line in lines(docker("logs", "-t", name).stdout)]
    assert [text for _, text in stamped] == ["line1", "line2", "line3", "line4"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", at) for at, _ in stamped)
    assert sorted(at for at, _ in stamped) == [at for at, _ in stamped]
    second, third = stamped[1][0], stamped[2][0]
    assert lines(docker("logs", "--since", third, name).stdout) == ["line3", "line4"]
    assert lines(docker("logs", "--until", second, name).stdout) == ["line1", "line2"]
    both = docker("logs", "--since", second, "--until", third, name).stdout
    assert lines(both) == ["line2", "line3"]
    assert docker("logs", "--since", "1h", "-n", "1", name).stdout == "line4\n"
    assert docker("logs", "--until", "1h", name).stdout == ""
    assert docker("logs", "--since", "yesterday", name, check=False).returncode == 1


def test_logs_with_details(docker: Docker, name: str) -> None:
    options = ("--log-opt", "labels=team", "--log-opt", "env=STAGE", "--label", "team=red",
               "-e", "STAGE=test")  # fmt: skip
    docker("run", "--name", name, *options, BASE, "echo", "hi")
    assert docker("logs", "--details", name).stdout == "STAGE=test,team=red hi\n"
    assert docker("logs", name).stdout == "hi\n"


def test_logs_follow_over_rotation_is_exact(
    engine: RunningEngine, docker: Docker, name: str
) -> None:
    count = 20_000
    script = f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo number $i; done; sleep 0.3"
    options = ("--log-opt", "max-size=64k", "--log-opt", "max-file=100")
    docker("create", "--name", name, *options, BASE, "sh", "-c", script)
    docker("start", name)
    follower = subprocess.run(
        ["docker", "-H", engine.host, "logs", "-f", name], capture_output=True, text=True,
        timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    expected = [f"number {n}" for n in range(1, count + 1)]
    assert lines(follower.stdout) == expected
    assert lines(docker("logs", name).stdout) == expected
    path = json.loads(docker("inspect", name).stdout)[0]["LogPath"]
    assert os.path.exists(f"{path}.1") and os.path.getsize(path) <= 1 << 20
    assert lines(docker("logs", "--tail", "7000", name).stdout) == expected[-7000:]


def test_logs_keep_what_is_not_text(docker: Docker, name: str) -> None:
    script = (
        r"printf 'a\000b\tc\033[1m\\\n'; printf long; head -c 40000 /dev/zero | tr '\0' x; echo"
    )
    docker("run", "--name", name, BASE, "sh", "-c", script)
    out = docker("logs", name).stdout
    assert out == "a\0b\tc\033[1m\\\n" + "long" + "x" * 40000 + "\n"


def test_logs_of_the_driver_none(docker: Docker, name: str) -> None:
    done = docker("run", "--name", name, "--log-driver", "none", BASE, "echo", "hi")
    assert done.stdout == "hi\n"
    refused = docker("logs", name, check=False)
    assert "configured logging driver does not support reading" in refused.stderr


def test_logs_of_the_driver_local(docker: Docker, name: str) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo number $i; done"
    options = ("--log-driver", "local", "--log-opt", "max-size=20k", "--log-opt", "max-file=50")
    docker("run", "--name", name, *options, BASE, "sh", "-c", script)
    assert lines(docker("logs", name).stdout) == [f"number {n}" for n in range(1, 3001)]


def test_one_stuck_reader_of_logs_blocks_nobody(
    engine: RunningEngine, docker: Docker, name: str
) -> None:
    docker(
        "run", "--name", name, BASE, "sh", "-c", "dd if=/dev/zero bs=65536 count=300 | tr '\\0' y"
    )
    stuck = socket.socket(socket.AF_UNIX)
    stuck.connect(str(engine.socket))
    stuck.sendall(f"GET /containers/{name}/logs?stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        assert stuck.recv(15) == b"HTTP/1.1 200 OK"
        assert name in docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
        assert len(docker("logs", name).stdout) == 300 * 65536
    finally:
        stuck.close()


def test_followers_end_when_the_container_is_removed(
    engine: RunningEngine, docker: Docker, name: str
) -> None:
    docker("run", "-d", "--name", name, BASE, "sh", "-c", "echo hi; sleep 1000")
    ended = threading.Event()

    def follow() -> None:
        docker("logs", "-f", name, check=False)
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.3)
    docker("rm", "-f", name)
    assert ended.wait(PATIENCE)
    thread.join()
