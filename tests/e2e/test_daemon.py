"""The daemon as a process: options, sockets, TLS, signals, one engine a root, its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from enginekit import ROOT, RunningEngine, docker_runner, until

from portside.daemon.listeners import tls_context
from portside.engine.options import DaemonOptions
from portside.model.errors import InvalidParameter
from portside.model.instance import DEFAULT_SOCKET, Instance


def daemon(*arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portside.daemon", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
    )


def test_help_version_and_validate(tmp_path: Path) -> None:
    assert "--data-root" in daemon("--help").stdout
    assert daemon("--version").stdout.startswith("Portside version ")
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    assert daemon("--validate", "--config-file", str(path)).stderr == "configuration OK\n"
    path.write_text('{"nope": 1}')
    done = daemon("--validate", "--config-file", str(path))
    assert done.returncode == 1
    assert "don't match any configuration option: nope" in done.stderr


def test_one_engine_a_root(private_engine: RunningEngine) -> None:
    engine = private_engine
    config = str(engine.root / "daemon.json")
    same = ("--data-root", str(engine.data_root), "--config-file", config)
    other = tempfile.mkdtemp(prefix="ps-", dir="/tmp")
    try:
        done = daemon(*same, "--exec-root", str(engine.exec_root))
        assert done.returncode == 1
        assert f"process with PID {engine.pid} is still running" in done.stderr
        elsewhere = ("--exec-root", f"{other}/x", "-H", f"unix://{other}/s", "--bridge", "none")
        done = daemon(*same, *elsewhere)
        assert done.returncode == 1
        assert "another engine is using" in done.stderr
        done = daemon(
            "--data-root",
            f"{other}/d",
            "--exec-root",
            f"{other}/x",
            "-H",
            engine.host,
            "--config-file",
            config,
            "--bridge",
            "none",
        )
        assert done.returncode == 1
        assert "address already in use" in done.stderr
    finally:
        shutil.rmtree(other, ignore_errors=True)
    assert engine.request("GET", "/_ping")[0] == 200


def test_the_socket_is_private(private_engine: RunningEngine) -> None:
    mode = stat.S_IMODE(private_engine.socket.stat().st_mode)
    assert mode == 0o660
    assert (private_engine.exec_root / "portside.pid").read_text().strip().isdigit()
    private_engine.stop()
    assert not private_engine.socket.exists()
    assert not (private_engine.exec_root / "portside.pid").exists()


def test_a_stop_leaves_containers_running(private_engine: RunningEngine) -> None:
    engine = private_engine
    engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    body = {"Image": "portside/base", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL"}
    name = engine.json("POST", "/containers/create", body, 201)["Id"]
    engine.json("POST", f"/containers/{name}/start", status=204)
    pid = engine.json("GET", f"/containers/{name}/json")["State"]["Pid"]
    engine.stop()
    os.kill(pid, 0)
    engine.start()
    assert engine.json("GET", f"/containers/{name}/json")["State"]["Pid"] == pid
    engine.stop(containers=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_restart_policies_after_an_engine_restart(private_engine: RunningEngine) -> None:
    engine = private_engine
    engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
    made = {}
    for policy in ("no", "always", "unless-stopped"):
        body = {
            "Image": "portside/base",
            "Cmd": ["sleep", "1000"],
            "StopSignal": "SIGKILL",
            "HostConfig": {"RestartPolicy": {"Name": policy}},
        }
        made[policy] = engine.json("POST", "/containers/create", body, 201)["Id"]
        engine.json("POST", f"/containers/{made[policy]}/start", status=204)
    engine.stop(containers=True)
    engine.start()
    deadline = time.monotonic() + 20
    wanted = {"no": False, "always": True, "unless-stopped": True}
    found: dict[str, bool] = {}
    while found != wanted and time.monotonic() < deadline:
        found = {
            key: engine.json("GET", f"/containers/{name}/json")["State"]["Running"]
            for key, name in made.items()
        }
    assert found == wanted


def test_sighup_reloads(private_engine: RunningEngine) -> None:
    engine = private_engine
    path = engine.root / "daemon.json"
    fresh = {
        "labels": ["fresh=yes"],
        "insecure-registries": ["r.test:5000"],
        "registry-mirrors": ["https://mirror.test"],
        "max-concurrent-downloads": 7,
        "mtu": 1300,
    }
    path.write_text(json.dumps(fresh))
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while not engine.json("GET", "/info")["Labels"] and time.monotonic() < deadline:
        time.sleep(0.05)
    info = engine.json("GET", "/info")
    assert info["Labels"] == ["fresh=yes"]
    assert "r.test:5000" in info["RegistryConfig"]["IndexConfigs"]
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.test/"]
    now = int(time.time()) + 1
    _, _, told = engine.request("GET", f"/events?since=1&until={now}&filters=" + RELOADS)
    [event] = [json.loads(line) for line in told.splitlines()]
    assert (event["Type"], event["Action"], event["Actor"]["ID"]) == (
        "daemon",
        "reload",
        info["ID"],
    )
    attributes = event["Actor"]["Attributes"]
    assert attributes["max-concurrent-downloads"] == "7"
    assert json.loads(attributes["registry-mirrors"]) == ["https://mirror.test"]
    path.write_text("{broken")
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: "Error reconfiguring the daemon" in engine.log.read_text())
    assert engine.json("GET", "/info")["Labels"] == ["fresh=yes"]
    path.write_text(json.dumps({"fixed-cidr": "nonsense"}))
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: "fixed-cidr: invalid value" in engine.log.read_text())
    assert engine.json("GET", "/info")["Labels"] == ["fresh=yes"]


RELOADS = "%7B%22event%22%3A%5B%22reload%22%5D%7D"
"""``{"event":["reload"]}``"""


def test_metrics_group_and_labels() -> None:
    port = free_port()
    engine = RunningEngine(
        "--metrics-addr", f"127.0.0.1:{port}", "--group", "54321", "--label", "place=here",
        "--default-ulimit", "nofile=100:200", "--default-ulimit", "nproc=300",
    )  # fmt: skip
    engine.start()
    try:
        assert engine.socket.stat().st_gid == 54321
        assert engine.json("GET", "/info")["Labels"] == ["place=here"]
        engine.request("GET", "/containers/none-such/json")
        engine.request("POST", "/images/create?fromImage=portside/base&tag=latest")
        created = engine.json(
            "POST", "/containers/create", {
                "Image": "portside/base", "Cmd": ["true"],
                "HostConfig": {"Ulimits": [{"Name": "nproc", "Soft": 400, "Hard": 500}]},
            }, 201,
        )  # fmt: skip
        shown = engine.json("GET", f"/containers/{created['Id']}/json")["HostConfig"]["Ulimits"]
        assert [(each["Name"], each["Soft"]) for each in shown] == [("nproc", 400), ("nofile", 100)]
        engine.json("POST", f"/containers/{created['Id']}/start", status=204)
        figures = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        figures.request("GET", "/metrics")
        answer = figures.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
        assert not [line for line in lines if not SAMPLE.fullmatch(line)]
        found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        name = "engine_daemon_container_actions_seconds_count"
        assert found[f'{name}{{action="create"}}'] == found[f'{name}{{action="start"}}'] == "1"
        route = 'method="GET",route="/containers/{name}/json",status="404"'
        assert found[f"portside_api_requests_total{{{route}}}"] == "1"
        assert float(found["engine_daemon_events_total"]) >= 3
        assert float(found["process_open_fds"]) > 3
        figures.request("GET", "/containers/json")
        assert figures.getresponse().status == 404, "figures only: it takes no orders"
        engine.request("DELETE", f"/containers/{created['Id']}?force=1")
    finally:
        engine.remove()


SAMPLE = re.compile(
    r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="([^"\\\n]|\\.)*",?)+\})? [-+]?(\d[\d.e+-]*|Inf|NaN)'
)
"""A line of Prometheus's text format."""


def test_descriptors_for_the_engine_and_not_for_containers() -> None:
    """It raises its own limit; containers get what it was started with."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 4096:
        pytest.skip("the hard limit of open files is too low to be told from another")
    engine = RunningEngine()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        engine.start()
        assert resource.prlimit(engine.pid, resource.RLIMIT_NOFILE)[0] > 1024
        docker = docker_runner(["docker"], {**os.environ, "DOCKER_HOST": engine.host})
        show = ("run", "--rm", "portside/base", "sh", "-c", "ulimit -n")
        assert docker(*show).stdout == "1024\n"
        os.kill(launcher_of(engine), signal.SIGKILL)
        assert docker(*show).stdout == "1024\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        engine.remove()


def launcher_of(engine: RunningEngine) -> int:
    children = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    named = {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in children}
    return named["portside-launch"]


def test_a_third_signal_does_not_wait(private_engine: RunningEngine) -> None:
    """The engine waits for requests under way, but not against an impatient user."""
    engine = private_engine
    assert engine.process is not None
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(engine.socket))
        slow.sendall(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 999999\r\n\r\nx")
        for _ in range(3):
            time.sleep(0.1)
            if engine.process.poll() is None:
                engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(20) in (0, 143)
    engine.start()
    assert engine.request("GET", "/_ping")[0] == 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server's certificate and a client's."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca-key.pem",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=test ca",
        "-days",
        "2",
    )
    for name in ("server", "client"):
        (directory / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}-key.pem",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca-key.pem",
            "-CAcreateserial",
            "-out",
            f"{name}.pem",
            "-days",
            "2",
            "-extfile",
            "ext",
        )
    return directory


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_tls_asks_for_a_certificate_and_hijacks_work(
    certificates: Path, docker_command: list[str], tmp_path: Path
) -> None:
    port = free_port()
    engine = RunningEngine(
        "-H",
        f"tcp://127.0.0.1:{port}",
        "--tlsverify",
        "--tlscacert",
        str(certificates / "ca.pem"),
        "--tlscert",
        str(certificates / "server.pem"),
        "--tlskey",
        str(certificates / "server-key.pem"),
    )
    engine.start()
    try:
        bare = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=bare, timeout=20)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            connection.request("GET", "/_ping")
            connection.getresponse()
        for method in ("GET", "POST"):
            plain = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            plain.request(method, "/_ping")
            answer = plain.getresponse()
            assert (answer.status, answer.read()) == (
                400,
                b"Client sent an HTTP request to an HTTPS server.\n",
            )
        shutil.copy(certificates / "ca.pem", tmp_path / "ca.pem")
        shutil.copy(certificates / "client.pem", tmp_path / "cert.pem")
        shutil.copy(certificates / "client-key.pem", tmp_path / "key.pem")
        env = {
            **os.environ,
            "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(tmp_path),
            "DOCKER_CONFIG": str(tmp_path),
        }
        data = os.urandom(400_000)
        for command in (docker_command, [str(ROOT / "portside")]):
            done = subprocess.run(
                [*command, "run", "-i", "--rm", "portside/base", "cat"],
                input=data,
                capture_output=True,
                env=env,
                timeout=60,
            )
            assert done.stdout == data, (command, done.stderr)
    finally:
        engine.remove()


def test_tls_files_that_are_missing_are_named(tmp_path: Path) -> None:
    places = ("--data-root", f"{tmp_path}/d", "--exec-root", f"{tmp_path}/x", "-H",
              f"tcp://127.0.0.1:{free_port()}")  # fmt: skip
    done = daemon("--tls", "--tlscert", "/nowhere/cert", "--tlskey", "/nowhere/key", *places)
    assert done.returncode == 1
    assert "could not load the TLS files: /nowhere/cert, /nowhere/key: no such file" in done.stderr


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    """The file at fault is named; nobody is asked for the password of a key."""
    cert, key, other = (str(tmp_path / name) for name in ("cert", "key", "other"))
    text = tmp_path / "text"
    text.write_text("no PEM\n")
    for files in ((cert, key), (cert + "2", other)):
        make_certificate(*files)
    locked = str(tmp_path / "locked")
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out",
                    locked], check=True, capture_output=True)  # fmt: skip
    for given, words in (
        ((cert, str(text)), f"{cert}, {text}: "),
        ((cert, other), f"{cert}, {other}: the key is not that of the certificate; both are PEM"),
        ((cert, locked), f"{cert}, {locked}: "),
        ((cert, key, str(text)), f"{text}: "),
    ):
        options = DaemonOptions(
            tls=True, tlsverify=len(given) > 2, tlscert=given[0], tlskey=given[1],
            tlscacert=given[-1],
        )  # fmt: skip
        with pytest.raises(InvalidParameter) as caught:
            tls_context(options)
        assert str(caught.value).startswith(f"could not load the TLS files: {words}")


def make_certificate(cert: str, key: str) -> None:
    words = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 2 -keyout {key} -out {cert}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)


def test_open_tcp_is_refused(tmp_path: Path) -> None:
    root = tempfile.mkdtemp(prefix="ps-", dir="/tmp")
    try:
        done = daemon(
            "--data-root",
            f"{root}/d",
            "--exec-root",
            f"{root}/x",
            "-H",
            "tcp://0.0.0.0:0",
            "--bridge",
            "none",
        )
        assert done.returncode == 1
        assert "refusing to listen on tcp://0.0.0.0:0 without TLS" in done.stderr
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_socket_activation() -> None:
    root = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "s"))
    listener.listen()
    code = (
        "import os,sys; os.dup2(int(sys.argv[1]),3); os.environ['LISTEN_PID']=str(os.getpid());"
        "os.environ['LISTEN_FDS']='1'; os.execv(sys.executable,[sys.executable]+sys.argv[2:])"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            str(listener.fileno()),
            "-m",
            "portside.daemon",
            "--data-root",
            f"{root}/d",
            "--exec-root",
            f"{root}/x",
            "-H",
            "fd://",
            "--bridge",
            "none",
        ],
        cwd=ROOT,
        pass_fds=[listener.fileno()],
        stderr=subprocess.DEVNULL,
    )
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(root / "s"))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            # with its firewall's table, which a plain end leaves to containers that run
            client.sendall(
                b"POST /portside/daemon/stop?containers=1 HTTP/1.1\r\nHost: d\r\n"
                b"Content-Length: 0\r\n\r\n"
            )
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        listener.close()
        shutil.rmtree(root, ignore_errors=True)


def test_a_plain_chroot_is_refused() -> None:
    """In a chroot that shows the whole host, the engine must notice that it is one."""
    root = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    script = (
        f"mount --rbind / {root}/r && mount --make-rslave {root}/r && "
        f"exec chroot {root}/r/tmp/.. {sys.executable} -m portside.daemon "
        f"--data-root {root}/d --exec-root {root}/x --bridge none"
    )
    (root / "r").mkdir()
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1, done.stderr
        assert "plain chroot" in done.stderr
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_usr1_dumps_and_memory_is_bounded(private_engine: RunningEngine) -> None:
    engine = private_engine
    assert engine.process is not None
    engine.process.send_signal(signal.SIGUSR1)
    assert engine.request("GET", "/_ping")[0] == 200
    total = 0
    for line in engine.processes():
        pid = line.split()[1]
        rollup: Any = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(row.split()[1]) for row in rollup if row.startswith("Pss:"))
    assert 0 < total < 70 * 1024, f"engine and launcher take {total} KiB"


def test_the_units_are_sound(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    from portside.cli.daemon_service import files

    units = tmp_path
    found = files(str(ROOT / "portside"), "/usr/local", str(tmp_path))
    names = [f"{tmp_path}/portside.{kind}" for kind in ("service", "socket")]
    for name in names:
        Path(name).write_text(found[name])
    done = subprocess.run(
        [tool, "verify", "--man=no", *names], capture_output=True, text=True, timeout=60
    )
    assert "portside" not in done.stderr, done.stderr
    service = (units / "portside.service").read_text()
    assert "KillMode=process" in service, "containers outlast the engine"
    socket_unit = (units / "portside.socket").read_text()
    assert f"ListenStream={DEFAULT_SOCKET}" in socket_unit


def test_a_start_that_fails_leaves_no_control_group(tmp_path: Path) -> None:
    """The launcher prepares the group while the engine still opens its sockets."""
    root = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    group = Instance.of(root / "d", root / "x").cgroup
    try:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            host = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
            done = daemon("--data-root", f"{root}/d", "--exec-root", f"{root}/x", "-H", host)
        assert done.returncode == 1, done.stderr
        deadline = time.monotonic() + 20  # what it had started knows the group by name
        while subprocess.run(["pgrep", "-f", group], capture_output=True).stdout:
            assert time.monotonic() < deadline, "processes are left"
            time.sleep(0.05)
        assert not list(Path("/sys/fs/cgroup").glob(f"*{group}*"))
        assert not list(Path("/sys/fs/cgroup").glob(f"{group[1:]}*"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
