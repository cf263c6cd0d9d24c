"""nginx, redis and postgres from Debian's packages: published ports, a volume that outlives its
container, and containers that talk by name."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Docker = Callable[..., "CompletedProcess[str]"]
IMAGE = "real-programs"
PACKAGES = ("nginx-light", "redis-server", "postgresql")
POSTGRES = """
set -e
bin=$(echo /usr/lib/postgresql/*/bin) data=/var/lib/postgresql/data
test -s $data/PG_VERSION || $bin/initdb -D $data -A trust >/dev/null
grep -q "all all all" $data/pg_hba.conf || echo "host all all all trust" >>$data/pg_hba.conf
exec $bin/postgres -D $data -c listen_addresses=* -c unix_socket_directories=/tmp
"""
REDIS = "redis-server --bind 0.0.0.0 --protected-mode no --dir /var/lib/redis --appendonly yes"
FRONT = """
events {}
http {
  access_log off;
  server { listen 80; location / { proxy_pass http://pages; } }
}
"""

pytestmark = pytest.mark.timeout(900)  # the image is made from packages by the first test


@pytest.fixture(scope="module")
def image(docker: Docker, debian: Callable[..., Path]) -> Iterator[str]:
    archive = debian("programs", *PACKAGES)
    docker("import", str(archive), IMAGE, timeout=300)
    yield IMAGE
    docker("rmi", "-f", IMAGE, check=False)


class Programs:
    """Containers of one test on a network of its own."""

    def __init__(self, docker: Docker, prefix: str) -> None:
        self.docker, self.network = docker, prefix
        self.containers: list[str] = []
        self.volumes: list[str] = []
        docker("network", "create", prefix)

    def run(self, name: str, *options: str, command: str) -> str:
        full = f"{self.network}-{name}"
        self.containers.append(full)
        self.docker(
            "run", "-d", "--name", full, "--network", self.network, "--network-alias", name,
            *options, IMAGE, "sh", "-c", command,
        )  # fmt: skip
        return full

    def volume(self, name: str) -> str:
        full = f"{self.network}-{name}"
        self.volumes.append(full)
        return full

    def client(self, *command: str, check: bool = True) -> str:
        done = self.docker("run", "--rm", "--network", self.network, IMAGE, *command, check=check)
        return done.stdout.strip()

    def port(self, container: str, port: int) -> int:
        return int(self.docker("port", container, str(port)).stdout.splitlines()[0].split(":")[-1])

    def ends_well(self, container: str) -> None:
        """It stops when asked, by itself."""
        self.docker("stop", "-t", "30", container)
        state = json.loads(self.docker("inspect", container).stdout)[0]["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), state

    def remove(self) -> None:
        for kind, names in (("rm", self.containers), ("volume", self.volumes)):
            if names:
                verb = (kind, "-fv") if kind == "rm" else (kind, "rm", "-f")
                self.docker(*verb, *names, check=False)
        self.docker("network", "rm", self.network, check=False)


@pytest.fixture
def programs(docker: Docker, image: str, request: pytest.FixtureRequest) -> Iterator[Programs]:
    made = Programs(docker, re.sub(r"[^a-z]+", "-", request.node.name.lower())[:30])
    yield made
    made.remove()


def until(work: Callable[[], str], wanted: str, seconds: float = 60) -> None:
    """Servers take a while until they answer."""
    end = time.monotonic() + seconds
    found: object = None
    while time.monotonic() < end:
        try:
            found = work()
        except (OSError, urllib.error.URLError) as err:
            found = err
        if isinstance(found, str) and wanted in found:
            return
        time.sleep(0.2)
    pytest.fail(f"{wanted!r} did not come: {found!r}")


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_nginx(docker: Docker, programs: Programs, tmp_path: Path) -> None:
    pages = programs.volume("pages")
    serve = "exec nginx -g 'daemon off;'"
    # the page comes from the image, by way of the volume
    web = programs.run("pages", "-v", f"{pages}:/var/www/html", "-p", "80", command=serve)
    until(lambda: page(programs.port(web, 80)), "Welcome to nginx!")
    (tmp_path / "front.conf").write_text(FRONT)
    front = programs.run(
        "front", "-p", "127.0.0.1::80", "-v", f"{tmp_path}/front.conf:/etc/nginx/nginx.conf:ro",
        command=serve,
    )  # fmt: skip
    until(lambda: page(programs.port(front, 80)), "Welcome to nginx!")
    docker("exec", web, "sh", "-c", "echo changed >/var/www/html/index.nginx-debian.html")
    assert page(programs.port(front, 80)) == "changed\n"
    programs.ends_well(web)
    docker("rm", web)
    again = programs.run("pages", "-v", f"{pages}:/var/www/html", "-p", "80", command=serve)
    until(lambda: page(programs.port(again, 80)), "changed")
    programs.ends_well(front)


def test_redis(docker: Docker, programs: Programs) -> None:
    data = programs.volume("data")
    options = ("-v", f"{data}:/var/lib/redis", "-u", "redis", "-p", "6379", "--read-only")
    cache = programs.run("cache", *options, command=f"exec {REDIS}")

    def said(text: str) -> str:
        with socket.create_connection(("127.0.0.1", programs.port(cache, 6379)), 10) as sock:
            sock.sendall(text.encode() + b"\r\n")
            return sock.recv(1000).decode()

    until(lambda: said("PING"), "+PONG")
    assert programs.client("redis-cli", "-h", "cache", "set", "key", "value") == "OK"
    assert said("GET key") == "$5\r\nvalue\r\n"
    programs.ends_well(cache)
    docker("rm", cache)
    cache = programs.run("cache", *options, command=f"exec {REDIS}")
    until(lambda: said("GET key"), "value")


def test_postgres(docker: Docker, programs: Programs) -> None:
    data = programs.volume("data")
    options = ("-v", f"{data}:/var/lib/postgresql", "-u", "postgres", "-p", "5432", "--init")
    server = programs.run("db", *options, command=POSTGRES)

    def ask(sql: str) -> str:
        ready = ("psql", "-h", "db", "-U", "postgres", "-Atc", sql)
        return programs.client(*ready, check=False)

    until(lambda: ask("select 40 + 2"), "42")
    ask("create table t (n int); insert into t select generate_series(1, 1000)")
    with socket.create_connection(("127.0.0.1", programs.port(server, 5432)), 10) as sock:
        sock.sendall(bytes.fromhex("0000000804d2162f"))  # SSLRequest
        assert sock.recv(1) in (b"N", b"S")
    # without a chance to end well: its log is replayed from the volume
    docker("rm", "-f", server)
    server = programs.run("db", *options, command=POSTGRES)
    until(lambda: ask("select sum(n) from t"), "500500")
    programs.ends_well(server)
