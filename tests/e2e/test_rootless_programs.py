"""nginx, redis and postgres from Debian's packages in an engine without root: published ports, data
that outlive their container, users of their own inside."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rootlesskit import TUN, OpenTun, RootlessUser, refuse_reason

IMAGE = "real-programs"
PACKAGES = ("nginx-light", "redis-server", "postgresql")
"""Those of test_real_programs.py: the image is made once for both."""
POSTGRES = """
set -e
bin=$(echo /usr/lib/postgresql/*/bin) data=/var/lib/postgresql/data
test -s $data/PG_VERSION || $bin/initdb -D $data -A trust >/dev/null
grep -q "all all all" $data/pg_hba.conf || echo "host all all all trust" >>$data/pg_hba.conf
exec $bin/postgres -D $data -c listen_addresses=* -c unix_socket_directories=/tmp
"""
REDIS = "redis-server --bind 0.0.0.0 --protected-mode no --dir /var/lib/redis --appendonly yes"
WAIT = 120
"""Seconds a server may take to answer on a busy machine."""

pytestmark = [
    pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason() or "-"),
    pytest.mark.skipif(not TUN.exists(), reason="/dev/net/tun is missing"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def user(debian: Callable[..., Path]) -> Iterator[RootlessUser]:
    archive = debian("programs", *PACKAGES)
    with OpenTun():
        made = RootlessUser()
        try:
            made.portside("import", str(archive), IMAGE)
            made.portside("network", "create", "programs")
            yield made
        finally:
            made.close()


def until(work: Callable[[], str], wanted: str) -> None:
    deadline = time.monotonic() + WAIT
    while (found := work()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def run(user: RootlessUser, name: str, *options: str, command: str) -> None:
    user.portside("run", "-d", "--name", name, "--network", "programs", *options, IMAGE,
                  "sh", "-c", command)  # fmt: skip


def client(user: RootlessUser, *command: str) -> str:
    done = user.portside(
        "run", "--rm", "--network", "programs", IMAGE, *command, check=False
    )  # fmt: skip
    return done.stdout.strip()


def page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            return str(answer.read().decode().strip())
    except (OSError, urllib.error.URLError) as err:
        return str(err)


def test_nginx(user: RootlessUser) -> None:
    """Its workers are www-data, and its page is a file of the user's."""
    pages = user.home / "pages"
    pages.mkdir()
    pages.chmod(0o755)
    (pages / "index.html").write_text("hello without root")
    (pages / "index.html").chmod(0o644)
    run(user, "web", "-p", "127.0.0.1::80", "-v", f"{pages}:/var/www/html:ro",
        command="exec nginx -g 'daemon off;'")  # fmt: skip
    port = int(user.portside("port", "web", "80").stdout.strip().rpartition(":")[2])
    until(lambda: page(port), "hello without root")
    owners = set(user.portside("exec", "web", "stat", "-c", "%U", "/proc/1").stdout.split())
    assert owners == {"root"}
    workers = user.portside("top", "web", "-o", "pid,user,comm").stdout
    assert "nginx" in workers
    user.portside("stop", "-t", "30", "web")
    assert user.portside("inspect", "-f", "{{.State.ExitCode}}", "web").stdout == "0\n"


def test_redis_keeps_its_data(user: RootlessUser) -> None:
    volume = ("-v", "rootless-redis:/var/lib/redis", "--network-alias", "store")
    ask = ("redis-cli", "-h", "store")
    run(user, "redis1", *volume, "--user", "redis", command=REDIS)
    until(lambda: client(user, *ask, "SET", "key", "value"), "OK")
    user.portside("stop", "-t", "30", "redis1")
    user.portside("rm", "redis1")
    run(user, "redis2", *volume, "--user", "redis", command=REDIS)
    until(lambda: client(user, *ask, "GET", "key"), "value")
    user.portside("rm", "-f", "redis2")


def test_postgres_keeps_its_data(user: RootlessUser) -> None:
    volume = ("-v", "rootless-postgres:/var/lib/postgresql", "--network-alias", "base")
    ask = ("psql", "-h", "base", "-U", "postgres", "-Atc")
    run(user, "postgres1", *volume, "--user", "postgres", command=POSTGRES)
    until(lambda: client(user, *ask, "SELECT 40 + 2"), "42")
    client(user, *ask, "CREATE TABLE kept AS SELECT 7 AS number")
    user.portside("stop", "-t", "60", "postgres1")
    user.portside("rm", "postgres1")
    run(user, "postgres2", *volume, "--user", "postgres", command=POSTGRES)
    until(lambda: client(user, *ask, "SELECT number FROM kept"), "7")
    user.portside("rm", "-f", "postgres2")
