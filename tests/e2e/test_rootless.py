"""An ordinary user's engine, from the first command to an empty machine."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rootlesskit import OpenTun, RootlessUser, refuse_reason

pytestmark = pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason())


@pytest.fixture(scope="module")
def user() -> Iterator[RootlessUser]:
    with OpenTun():
        made = RootlessUser()
        try:
            made.portside("run", "--rm", "portside/base", "true")
            yield made
        finally:
            made.close()


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
        assert "net.ipv4.ip_unprivileged_port_start" in done.stderr


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
