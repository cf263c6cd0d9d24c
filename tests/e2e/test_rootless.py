"""An ordinary user's engine, from the first command to an empty machine."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rootlesskit import ROOT, OpenTun, RootlessUser, refuse_reason

BASE = "portside/base"
NETWORK_PROGRAMS = ("pasta", "passt", "slirp4netns")
pytestmark = pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason())


@pytest.fixture(scope="module")
def user_of_all() -> Iterator[RootlessUser]:
    with OpenTun():
        made = RootlessUser()
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def user(user_of_all: RootlessUser) -> RootlessUser:
    """The user with an engine that runs and has its images, whatever a test before has left."""
    user_of_all.portside("run", "--rm", "portside/base", "true")
    return user_of_all


def test_the_first_command_starts_an_engine_and_says_hello() -> None:
    with OpenTun():
        user = RootlessUser()
        try:
            done = user.portside("run", "--rm", "portside/base", "echo", "hello")
            assert done.stdout == "hello\n"
            assert "starting one in the background" in done.stderr
            assert user.socket.is_socket()
            assert (user.data_root / "metadata.db").exists()
            again = user.portside("run", "--rm", "portside/base", "echo", "hello")
            assert (again.stdout, again.stderr) == ("hello\n", "")
            user.portside("daemon", "stop")
            assert user.until_quiet() == []
            assert sorted(path.name for path in user.exec_root.iterdir()) == [
                "containers", "keeper.lock", "start.lock",
            ]  # fmt: skip
        finally:
            user.close()


def test_root_inside_is_the_user_outside(user: RootlessUser) -> None:
    done = user.docker("run", "--rm", "portside/base", "cat", "/proc/self/uid_map")
    assert done.stdout.split()[:3] == ["0", str(user.uid), "1"]
    assert done.stdout.split()[3:5] == ["1", str(user.subordinates[0][0])]


def test_keep_id_is_the_user_inside_as_outside(user: RootlessUser) -> None:
    place = user.home / "kept"
    user.call("mkdir", str(place))
    user.call("touch", str(place / "before"))
    script = (
        "id -u; id -g; stat -c %u /s/before; echo x > /s/made; stat -c %u:%g / /bin/busybox; "
        "touch /not-mine || echo refused"
    )
    options = ("--rm", "-v", f"{place}:/s", "--userns")
    done = user.portside("run", *options, "keep-id", "portside/base", "sh", "-c", script)
    mine = [str(user.uid), str(user.gid), str(user.uid)]
    assert done.stdout.split() == [*mine, "0:0", "0:0", "refused"]
    made = (place / "made").stat()
    assert (made.st_uid, made.st_gid) == (user.uid, user.gid)
    done = user.portside(
        "run", *options, "keep-id:uid=7,gid=8", "portside/base", "sh", "-c", "id -u; id -g; ls /s"
    )
    assert done.stdout.split() == ["7", "8", "before", "made"]
    script = "id -u; touch /mine; stat -c %u /mine"
    done = user.portside("run", *options, "keep-id", "-u", "0", "portside/base", "sh", "-c", script)
    assert done.stdout.split() == ["0", "0"]


def test_keep_id_may_ask_for_too_much(user: RootlessUser) -> None:
    for mode, said in (("keep-id:uid=70000", "uid 70000 is not among the 65537 identifiers"),
                       ("auto:uidmapping=0:1:70000", "identifier 70000 is not among the 65537"),
                       ("auto:size=10,uidmapping=0:0:1", "--userns=auto:size=NUMBER"),
                       ("keep-id:moon=1", "options uid=NUMBER, gid=NUMBER and")):  # fmt: skip
        done = user.portside("run", "--rm", "--userns", mode, "portside/base", "id", check=False)
        assert done.returncode == 125 and said in done.stderr, done.stderr


def test_nomap_is_without_the_user(user: RootlessUser) -> None:
    place = user.home / "strange"
    user.call("mkdir", "-m", "755", str(place))
    script = "cat /proc/self/uid_map; stat -c %u / /s; touch /s/x || echo refused; touch /mine"
    options = ("--rm", "-v", f"{place}:/s", "--userns", "nomap", "portside/base", "sh", "-c")
    done = user.portside("run", *options, script)
    count = str(len(user.subordinates[0]))
    assert done.stdout.split() == ["0", "1", count, "0", "65534", "refused"]


def test_small_ranges_have_a_terminal(user: RootlessUser) -> None:
    """Also where group tty (5) is not mapped."""
    for mode in ("auto:size=5", "keep-id:uid=0,gid=0,size=5"):
        script = "test -t 0 && test -c $(tty) && echo terminal"
        done = user.call("script", "-qec", " ".join((
            user.python, "-I", "-S", str(ROOT / "src/portside/__main__.py"), "run", "-it", "--rm",
            "-u", "0:0", "--userns", mode, BASE, "sh", "-c", f"'{script}'",
        )), "/dev/null")  # fmt: skip
        assert "terminal" in done.stdout, done.stdout


def test_ranges_of_their_own_without_root(user: RootlessUser) -> None:
    names = ("range-1", "range-2")
    try:
        for name in names:
            user.portside("run", "-d", "--name", name, "--userns", "auto", "portside/base", "sleep",
                          "1000")  # fmt: skip
        rows = [user.docker("exec", name, "cat", "/proc/self/uid_map").stdout for name in names]
        (one, other) = (range(int(r.split()[1]), int(r.split()[1]) + int(r.split()[2]))
                        for r in rows)  # fmt: skip
        assert len(one) == len(other) == 4096 and not set(one) & set(other)
        assert user.docker("exec", "range-1", "stat", "-c", "%u", "/").stdout == "0\n"
    finally:
        user.docker("rm", "-f", *names)


def test_files_in_a_bind_mount_belong_to_the_user(user: RootlessUser) -> None:
    place = user.home / "shared"
    user.call("mkdir", str(place))
    user.docker(
        "run", "--rm", "-v", f"{place}:/s", "portside/base", "sh", "-c",
        "echo x >/s/root; echo y >/s/other; chown 7:7 /s/other",
    )  # fmt: skip
    assert (place / "root").stat().st_uid == user.uid
    assert (place / "other").stat().st_uid == user.subordinates[0][6]


def test_default_endpoint_and_context(user: RootlessUser) -> None:
    done = user.portside("context", "inspect", "default")
    assert json.loads(done.stdout)[0]["Endpoints"]["docker"]["Host"] == user.host


def test_what_info_says(user: RootlessUser) -> None:
    found = json.loads(user.docker("info", "--format", "{{json .}}").stdout)
    assert "name=rootless" in found["SecurityOptions"]
    assert found["DockerRootDir"] == str(user.data_root)


# -- networks --------------------------------------------------------------------------------


HOST_PROGRAMS = [word for name in ("/usr", "/lib", "/lib64", "/bin") if Path(name).is_dir()
                 for word in ("-v", f"{name}:{name}:ro")]  # fmt: skip
"""The host's programs in a container, which has Python so."""
SERVER = """
import http.server as h, socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("", 7))
def echo():
    while True:
        data, peer = u.recvfrom(100); u.sendto(data + b" " + peer[0].encode(), peer)
threading.Thread(target=echo).start()
class H(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(self.client_address[0].encode())
h.HTTPServer(("", 80), H).serve_forever()
"""
"""Tells clients their addresses, over HTTP and UDP."""


@pytest.fixture
def web(user: RootlessUser) -> Iterator[int]:
    """A server in a container, published on ports of the host's."""
    user.docker(
        "run", "-d", "--name", "web", "-p", "80", "-p", "7/udp", *HOST_PROGRAMS, "portside/base",
        "/usr/bin/python3", "-c", SERVER,
    )  # fmt: skip
    yield int(user.docker("port", "web", "80").stdout.splitlines()[0].rpartition(":")[2])
    user.docker("rm", "-f", "web")


def read(port: int, address: str = "127.0.0.1") -> str:
    deadline = time.monotonic() + 20
    while True:
        try:
            return urllib.request.urlopen(f"http://{address}:{port}/", timeout=20).read().decode()
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # the program inside is about to listen


def test_published_ports_are_the_hosts(user: RootlessUser, web: int) -> None:
    assert read(web) == read(web, "[::1]") == "172.17.0.1"
    port = int(user.docker("port", "web", "7/udp").stdout.splitlines()[0].rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        asking.connect(("127.0.0.1", port))
        asking.send(b"echo")
        assert asking.recv(64) == b"echo 172.17.0.1"


def test_the_clients_address_is_kept(user: RootlessUser, web: int, elsewhere: str) -> None:
    """Over TCP the container sees who asks; after another engine's start as well."""
    host = elsewhere.rpartition(".")[0] + ".1"
    program = (
        f"import urllib.request as u; print(u.urlopen('http://{host}:{web}/').read().decode())"
    )

    def asked() -> str:
        inside = ["ip", "netns", "exec", namespace_of(elsewhere), sys.executable, "-c", program]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout or done.stderr

    read(web)
    assert asked() == f"{elsewhere}\n"
    os.kill(user.engine_pid(), signal.SIGKILL)
    user.portside("ps")
    read(web)
    assert asked() == f"{elsewhere}\n"
    rules = ("run", "--rm", "--network", "host", "portside/base", "ip", "rule")
    assert "lookup 20540" in user.docker(*rules).stdout
    user.docker("rm", "-f", "web")
    assert "lookup 20540" not in user.docker(*rules).stdout


def namespace_of(address: str) -> str:
    """The network namespace that :func:`elsewhere` has made for an address."""
    routes = json.loads(subprocess.check_output(["ip", "-j", "route", "get", address]))
    return str(routes[0]["dev"])


def test_ports_that_cannot_be_had(user: RootlessUser, web: int) -> None:
    done = user.docker("run", "--rm", "-p", f"{web}:80", "portside/base", "true", check=False)
    assert done.returncode == 125
    assert "port is already allocated" in done.stderr
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = user.docker("run", "--rm", "-p", f"{port}:80", "portside/base", "true", check=False)
        assert "address already in use" in done.stderr
    done = user.docker("run", "--rm", "-p", "81:80", "portside/base", "true", check=False)
    if done.returncode:  # not where root's limit was lowered
        assert "net.ipv4.ip_unprivileged_port_start=81," in done.stderr


def test_names_between_containers(user: RootlessUser) -> None:
    user.docker("network", "create", "--subnet", "10.99.1.0/24", "front")
    try:
        user.docker("run", "-d", "--name", "back", "--network", "front", "portside/base",
                    "sh", "-c", "echo hi >/index.html; exec httpd -f -h /")  # fmt: skip
        done = user.docker(
            "run", "--rm", "--network", "front", "portside/base", "sh", "-c",
            "until wget -qO- http://back/; do sleep 0.1; done",
        )  # fmt: skip
        assert done.stdout == "hi\n"
    finally:
        user.docker("rm", "-f", "back")
        user.docker("network", "rm", "front")


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of another host, with a web server on port 80: a namespace behind a veth."""
    name = f"pse{random.randrange(16**6):06x}"
    net = f"10.{random.randrange(100, 250)}.{random.randrange(256)}"
    inside = ["ip", "netns", "exec", name]
    commands = (
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "e0", "netns", name],
        ["ip", "addr", "add", f"{net}.1/24", "dev", name],
        ["ip", "link", "set", name, "up"],
        [*inside, "ip", "addr", "add", f"{net}.2/24", "dev", "e0"],
        [*inside, "ip", "link", "set", "e0", "up"],
    )
    program = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'far away')\n"
        "s = h.HTTPServer(('', 80), H); print('ready', flush=True); s.serve_forever()"
    )
    server = None
    try:
        for command in commands:
            subprocess.run(command, check=True)
        server = subprocess.Popen(
            [*inside, sys.executable, "-c", program],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield f"{net}.2"
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_the_way_out(user: RootlessUser, elsewhere: str) -> None:
    done = user.docker("run", "--rm", "portside/base", "wget", "-qO-", f"http://{elsewhere}/")
    assert done.stdout == "far away"


# -- the rest of a container's life ----------------------------------------------------------


def test_a_life_without_control_groups(user: RootlessUser) -> None:
    """Nothing is delegated to a user who did not log in through systemd."""
    made = user.docker("run", "-d", "--name", "life", "-m", "64m", "portside/base", "sleep", "1000")
    assert "Limitation discarded" in made.stderr
    assert "no control group was delegated" in made.stderr
    refused = user.docker("run", "--cpus", "1", "portside/base", check=False)
    assert "NanoCPUs can not be set" in refused.stderr
    assert "portside daemon install" in refused.stderr
    refused = user.docker("run", "-m", "1m", "portside/base", check=False)
    assert "Minimum memory limit allowed is 6MB\n" in refused.stderr, "nothing to delegate for"
    try:
        assert "sleep 1000" in user.docker("top", "life").stdout
        stats = json.loads(user.docker("stats", "--no-stream", "--format", "json", "life").stdout)
        assert stats["PIDs"] == "1"
        assert not stats["MemUsage"].startswith("0B")
        user.docker("pause", "life")
        pid = int(user.docker("inspect", "-f", "{{.State.Pid}}", "life").stdout)
        assert "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()
        user.docker("unpause", "life")
        assert "\nState:\tS" in Path(f"/proc/{pid}/status").read_text()
        user.docker("exec", "-u", "5:6", "life", "sh", "-c", "id -u >/tmp/who")
        user.docker("exec", "life", "sh", "-c", "rm -r /home; mkdir /home; chown 3:4 /home")
        user.docker("cp", "life:/tmp/who", str(user.home / "who"))
        assert (user.home / "who").read_text() == "5\n"
        user.docker("commit", "life", "committed")
        done = user.docker("run", "--rm", "committed", "stat", "-c", "%u:%g", "/home")
        assert done.stdout == "3:4\n"
    finally:
        user.docker("rm", "-f", "life")


def test_what_a_user_may_not_lower_or_be(user: RootlessUser) -> None:
    """Below its own score nobody goes without a capability of the machine; only IDs that the user
    has can be groups."""
    path = "/proc/self/oom_score_adj"
    own = Path(path).read_text()
    assert user.docker("run", "--rm", "--oom-score-adj", "-500", BASE, "cat", path).stdout == own
    assert (
        user.docker("run", "--rm", "--oom-score-adj", "1000", BASE, "cat", path).stdout == "1000\n"
    )
    user.docker("run", "-d", "--name", "scored", "--oom-score-adj", "-500", BASE, "sleep", "1000")
    assert user.docker("exec", "scored", "cat", path).stdout == own
    assert user.docker("inspect", "-f", "{{.HostConfig.OomScoreAdj}}", "scored").stdout == "-500\n"
    user.docker("rm", "-f", "scored")
    done = user.docker("run", "--rm", "--group-add", "70000", BASE, "true", check=False)
    assert "group 70000 is not mapped" in done.stderr and "/etc/subgid" in done.stderr
    done = user.docker("run", "--rm", "-u", "70001", BASE, "true", check=False)
    assert "user 70001 is not mapped" in done.stderr


def test_a_service_with_a_raised_score(user: RootlessUser) -> None:
    """As below user@.service, which has ``OOMScoreAdjust=100``: less is not allowed."""
    pid = user.engine_pid()
    score = Path(f"/proc/{pid}/oom_score_adj")
    before = score.read_text()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    launcher = next(Path("/proc", one, "oom_score_adj") for one in children)
    try:
        for one in (score, launcher):
            one.write_text("100")  # as root: it is the least as well from now on
        done = user.docker("run", "--rm", BASE, "cat", "/proc/self/oom_score_adj")
        assert done.stdout == "100\n"
    finally:
        for one in (score, launcher):
            one.write_text(before)


def test_namespaces_of_the_host(user: RootlessUser) -> None:
    pids = user.docker("run", "--rm", "--pid", "host", "portside/base", "ls", "/proc").stdout
    assert str(user.engine_pid()) in pids.split()
    user.docker("run", "--rm", "--ipc", "host", "portside/base", "ls", "/dev/mqueue")


def test_build_and_volume(user: RootlessUser) -> None:
    place = user.home / "context"
    user.call("mkdir", str(place))
    (place / "Dockerfile").write_text(
        "FROM portside/base\nRUN echo built >/x && chown 9:9 /x && rm -r /home\n"
        "RUN cp /bin/busybox /s && chmod 6755 /s\n"
        "COPY Dockerfile /y\n"
        "USER 9\nCMD cat /x; ls /home"
    )
    user.docker("build", "-q", "-t", "made", str(place), DOCKER_BUILDKIT="0")
    done = user.docker("run", "--rm", "made", check=False)
    assert done.stdout == "built\n"
    assert "/home: No such file" in done.stderr
    saved = user.docker("save", "-o", str(user.home / "made.tar"), "made")
    assert saved.returncode == 0
    user.docker("rmi", "made")
    user.docker("builder", "prune", "-af")
    assert "made:latest" in user.docker("load", "-i", str(user.home / "made.tar")).stdout
    assert user.docker("run", "--rm", "made", "stat", "-c", "%a", "/s").stdout == "6755\n"
    user.docker("volume", "create", "kept")
    for text in ("first", "second"):
        user.docker("run", "--rm", "-v", "kept:/v", "portside/base", "sh", "-c",
                    f"echo {text} >>/v/log")  # fmt: skip
    done = user.docker("run", "--rm", "-v", "kept:/v", "portside/base", "cat", "/v/log")
    assert done.stdout == "first\nsecond\n"


def test_docker_py(user: RootlessUser) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=user.host)
    try:
        assert client.containers.run("portside/base", "id -u", remove=True) == b"0\n"
        container = client.containers.run("portside/base", "sleep 1000", detach=True)
        assert container.exec_run("cat /proc/1/comm").output == b"sleep\n"
        container.remove(force=True)
    finally:
        client.close()


def test_compose(user: RootlessUser) -> None:
    place = user.home / "project"
    user.call("mkdir", str(place))
    (place / "compose.yaml").write_text(
        "services:\n"
        "  back: {image: portside/base, command: sh -c 'echo up >/index.html; httpd -f -h /'}\n"
        "  front:\n    image: portside/base\n    depends_on: [back]\n"
        "    command: sh -c 'until wget -qO- http://back; do sleep 0.1; done'\n"
    )
    plugins = user.home / ".docker/cli-plugins"
    plugin = Path.home() / ".docker/cli-plugins/docker-compose"
    if not plugin.exists():
        pytest.skip("docker's compose plugin is missing")
    user.call("mkdir", "-p", str(plugins))
    shutil.copy(plugin.resolve(), plugins)
    (plugins / "docker-compose").chmod(0o755)
    words = ("compose", "-f", str(place / "compose.yaml"))
    try:
        done = user.docker(*words, "up", "--abort-on-container-exit", "--exit-code-from", "front")
        assert "up" in done.stdout
    finally:
        user.docker(*words, "down", "-t", "0")


# -- crashes ---------------------------------------------------------------------------------


def network_programs(user: RootlessUser) -> set[int]:
    return {pid for pid, name in user.processes() if name.startswith(NETWORK_PROGRAMS)}


def test_a_killed_engine_leaves_its_containers(user: RootlessUser) -> None:
    user.docker("run", "-d", "--name", "on", "-p", "80", *HOST_PROGRAMS, "portside/base",
                "/usr/bin/python3", "-c", SERVER)  # fmt: skip
    try:
        port = int(user.docker("port", "on", "80").stdout.splitlines()[0].rpartition(":")[2])
        read(port)
        pid = user.docker("inspect", "-f", "{{.State.Pid}}", "on").stdout
        before = os.readlink(f"/proc/{user.engine_pid()}/ns/net")
        os.kill(user.engine_pid(), signal.SIGKILL)
        user.portside("ps")
        assert user.docker("inspect", "-f", "{{.State.Pid}}", "on").stdout == pid
        assert os.readlink(f"/proc/{user.engine_pid()}/ns/net") == before
        assert read(port) == "172.17.0.1"
    finally:
        user.docker("rm", "-f", "on")


def test_engine_and_keeper_killed(user: RootlessUser, elsewhere: str) -> None:
    """The namespaces are found with a container's monitor; there is one network program."""
    user.docker("run", "-d", "--name", "on", "portside/base", "sleep", "1000")
    try:
        before = os.readlink(f"/proc/{user.engine_pid()}/ns/net")
        names = ("portside-guard", "portside-keeper")
        for pid in (user.engine_pid(), *map(user.pid_of, names)):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while network_programs(user):  # none is left when no keeper could end it
            assert time.monotonic() < deadline
            time.sleep(0.05)
        user.portside("ps")
        assert os.readlink(f"/proc/{user.engine_pid()}/ns/net") == before
        done = user.docker("exec", "on", "wget", "-qO-", f"http://{elsewhere}/")
        assert done.stdout == "far away"
        assert len(network_programs(user)) == 1
    finally:
        user.docker("rm", "-f", "on")


def test_a_killed_keeper_has_a_successor(user: RootlessUser, elsewhere: str) -> None:
    """Containers have their way out again without a new engine, and ports can be published."""
    user.docker("run", "-d", "--name", "on", "portside/base", "sleep", "1000")
    engine = user.engine_pid()
    words = ("wget", "-qO-", f"http://{elsewhere}/")
    try:
        for _ in range(2):
            killed = user.pid_of("portside-keeper")
            os.kill(killed, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while user.docker("exec", "on", *words, check=False).stdout != "far away":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert user.pid_of("portside-keeper") != killed
            assert len(network_programs(user)) == 1
        user.docker("rm", "-f", "on")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        user.docker("run", "-d", "--name", "on", "-p", f"{port}:80", "portside/base", "sh", "-c",
                    "echo hi > /index.html; httpd -f -p 80 -h /")  # fmt: skip
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.read() == b"hi\n"
                break
            except OSError:
                assert time.monotonic() < deadline + 60
                time.sleep(0.1)
        assert user.engine_pid() == engine
    finally:
        user.docker("rm", "-f", "on")


def test_a_keeper_killed_without_containers(user: RootlessUser, elsewhere: str) -> None:
    user.docker("ps")
    killed = user.pid_of("portside-keeper")
    os.kill(killed, signal.SIGKILL)
    words = ("run", "--rm", "portside/base", "wget", "-qO-", f"http://{elsewhere}/")
    deadline = time.monotonic() + 60
    while user.docker(*words, check=False).stdout != "far away":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    user.portside("daemon", "stop")
    assert user.until_quiet() == []


def test_the_network_program_killed(user: RootlessUser, elsewhere: str) -> None:
    (killed,) = network_programs(user)
    os.kill(killed, signal.SIGKILL)
    words = ("run", "--rm", "--network", "host", "portside/base", "ip", "route")
    deadline = time.monotonic() + 60
    while network_programs(user) <= {killed} or "default" not in user.docker(*words).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = user.docker("run", "--rm", "portside/base", "wget", "-qO-", f"http://{elsewhere}/")
    assert done.stdout == "far away"


def test_a_killed_monitor_ends_its_container(user: RootlessUser) -> None:
    user.docker("run", "-d", "--name", "lost", "portside/base", "sleep", "1000")
    pid = int(user.docker("inspect", "-f", "{{.State.Pid}}", "lost").stdout)
    identity = user.docker("inspect", "-f", "{{.Id}}", "lost").stdout.strip()
    state = json.loads((user.exec_root / f"containers/{identity}/state.json").read_text())
    os.kill(state["monitor_pid"], signal.SIGKILL)
    assert user.docker("wait", "lost").stdout == "137\n"
    assert pid not in [found for found, _ in user.processes()]
    user.docker("rm", "lost")


SYSTEMCTL = """#!/bin/sh
echo "$@" >>"$HOME/calls"
[ -e "$HOME/broken" ] && echo 'Unit portside.service is masked.' >&2 && exit 1
setsid {python} -I -S {main} daemon </dev/null >>"$HOME/service.log" 2>&1 &
until [ -S "$XDG_RUNTIME_DIR/portside/portside.sock" ]; do sleep 0.1; done
"""
"""In the place of the user's systemd, which is not there in tests: starts the engine and waits."""


def test_an_installed_service_is_what_commands_start(user: RootlessUser) -> None:
    """Its engine has control groups delegated, one started in the background has none."""
    private, unit = user.runtime / "systemd/private", user.home / ".config/systemd/user"
    program = user.home / "bin/systemctl"
    for place in (private.parent, unit, program.parent):
        user.call("mkdir", "-p", str(place))
    user.portside("daemon", "stop")
    main = ROOT / "src/portside/__main__.py"
    program.write_text(SYSTEMCTL.format(python=user.python, main=main))
    program.chmod(0o755)
    path = f"{program.parent}:{user.environment()['PATH']}"
    private.touch()
    (unit / "portside.service").touch()
    try:
        user.call("touch", str(user.home / "broken"))
        refused = user.portside("ps", check=False, PATH=path)
        assert refused.returncode == 1
        assert "Unit portside.service is masked." in refused.stderr
        assert "journalctl --user -u portside.service" in refused.stderr
        (user.home / "broken").unlink()
        done = user.portside("ps", PATH=path)
        assert "as the service portside.service" in done.stderr
        assert (user.home / "calls").read_text() == "--user start portside.service\n" * 2
        assert user.portside("ps", PATH=path).stderr == ""
    finally:
        private.unlink()
        (unit / "portside.service").unlink()


def test_containers_alone_keep_the_namespaces(user: RootlessUser) -> None:
    """An engine that ended leaves keeper and network to its containers, which end last."""
    user.docker("run", "-d", "--name", "alone", "portside/base", "sleep", "1000")
    pid = int(user.docker("inspect", "-f", "{{.State.Pid}}", "alone").stdout)
    user.portside("daemon", "stop")
    names = {name for _, name in user.processes()}
    assert "portside-keeper" in names
    os.kill(pid, signal.SIGKILL)
    assert user.until_quiet() == []
    done = user.portside("ps", "-a", "--format", "{{.Names}} {{.Status}}")
    assert done.stdout.startswith("alone Exited (137)")
    user.docker("rm", "alone")


# -- with less -------------------------------------------------------------------------------


def test_a_user_without_subordinate_ids() -> None:
    with OpenTun():
        user = RootlessUser(subordinate=False)
        try:
            done = user.portside("run", "--rm", "portside/base", "cat", "/proc/self/uid_map")
            assert done.stdout.split() == ["0", str(user.uid), "1"]
            assert "usermod --add-subuids" in user.log()
            done = user.portside("run", "--rm", "-u", "5", "portside/base", "id", check=False)
            assert done.returncode == 126 or done.returncode == 125
            assert "is not mapped in the container's user namespace" in done.stderr
        finally:
            user.close()


def test_programs_of_uidmap_that_fail() -> None:
    """newuidmap fails when newgidmap has done its part: one user ID is left."""
    user = RootlessUser()
    try:
        programs = user.place / "bin"
        programs.mkdir()
        (programs / "newuidmap").write_text("#!/bin/sh\necho too bad >&2; exit 1\n")
        (programs / "newuidmap").chmod(0o755)
        path = f"{programs}:{user.environment()['PATH']}"
        command = ("run", "--rm", "portside/base", "cat", "/proc/self/uid_map")
        done = user.portside(*command, PATH=path)
        assert done.stdout.split() == ["0", str(user.uid), "1"]
        assert "only one user ID in containers: newuidmap failed: too bad" in user.log()
    finally:
        user.close()


# -- the runtime alone -----------------------------------------------------------------------


def test_the_runtime_runs_a_rootless_bundle(user: RootlessUser) -> None:
    bundle = user.home / "bundle"
    user.call("mkdir", "-p", str(bundle / "rootfs"))
    user.docker("create", "--name", "tree", "portside/base")
    user.docker("export", "-o", str(bundle / "tree.tar"), "tree")
    user.docker("rm", "tree")
    user.call("tar", "xf", str(bundle / "tree.tar"), "-C", str(bundle / "rootfs"))
    runtime = (user.python, "-m", "portside.runtime", "--root", str(user.runtime / "r"))
    user.call(*runtime, "spec", "--rootless", "--bundle", str(bundle))
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sh", "-c", "id -u; cat /proc/self/uid_map"])
    (bundle / "config.json").write_text(json.dumps(config))
    done = user.call(*runtime, "run", "--bundle", str(bundle), "one")
    assert done.stdout.split() == ["0", "0", str(user.uid), "1"]
    assert json.loads(user.call(*runtime, "list", "--format", "json").stdout or "[]") in ([], None)


def test_the_runtime_under_rootless_podman(user: RootlessUser) -> None:
    if shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("podman or runc is missing")
    runtime = user.home / "portside-runtime"
    runtime.write_text(f'#!/bin/sh\nexec {user.python} -m portside.runtime "$@"\n')
    runtime.chmod(0o755)
    user.docker("save", "-o", str(user.home / "base.tar"), "portside/base")
    user.call("podman", "load", "-q", "-i", str(user.home / "base.tar"))
    told = []
    try:
        for program in ("runc", str(runtime)):
            words = ("podman", "--runtime", program, "run", "--rm", "--network", "none")
            done = user.call(*words, "docker.io/portside/base", "sh", "-c",
                             "id -u; cat /proc/self/uid_map")  # fmt: skip
            told.append(done.stdout)
        assert told[0] == told[1]
        words = ("podman", "--runtime", str(runtime))
        user.call(*words, "run", "-d", "--network", "none", "--name", "pod",
                  "docker.io/portside/base", "sleep", "1000")  # fmt: skip
        assert user.call(*words, "exec", "pod", "id", "-u").stdout == "0\n"
        user.call(*words, "rm", "-f", "-t", "0", "pod")
    finally:
        user.call("podman", "system", "reset", "-f", check=False)
