"""Our command and the engine: starting one, ending it, finding it, not being allowed to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import PORTSIDE, Answer, FakeEngine, call

BASE = "portside/base"

ALONE = f"""
set -e
mkdir -p /run/portside /var/lib/portside
mount -t tmpfs none /run/portside
mount -t tmpfs none /var/lib/portside
mount -t tmpfs none /var/log
ip link set lo up
cd /
portside() {{ {PORTSIDE} "$@"; }}
"""
"""A machine of its own, as far as the default engine's places go."""


@pytest.fixture
def alone() -> Iterator[Any]:
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces are made")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DOCKER")
        }
        return subprocess.run(
            ["unshare", "-m", "-n", "sh", "-c", ALONE + script],
            capture_output=True, text=True, env=environment, timeout=100,
        )  # fmt: skip

    yield run


def test_an_engine_is_started_and_ended(alone: Any) -> None:
    """The first command starts it and says so once; ``daemon stop`` leaves nothing running."""
    done = alone(
        "portside run --rm portside/base echo hello\n"
        "portside run -d --name stays portside/base sleep 100 >/dev/null\n"
        "portside ps --format '{{.Names}}'\n"
        "portside daemon stop\n"
        "test -e /run/portside/portside.pid || echo gone\n"
        "portside ps --format '{{.Names}} again'\n"
        "portside daemon stop --containers\n"
        "portside daemon stop || echo status $?\n"
        "portside -H unix:///run/portside/portside.sock ps || echo status $?\n"
    )
    assert done.stdout.splitlines() == ["hello", "stays", "gone", "stays again", "status 1",
                                        "status 1"], done  # fmt: skip
    started = [line for line in done.stderr.splitlines() if "starting one" in line]
    assert len(started) == 2, done.stderr
    assert "Is the engine running?" in done.stderr


def test_several_commands_start_one_engine(alone: Any) -> None:
    done = alone(
        "for n in 1 2 3 4; do portside info -f '{{.ID}}' >>/run/portside/ids & done; wait\n"
        "sort -u /run/portside/ids | wc -l; wc -l </run/portside/ids\n"
        "portside daemon stop --containers\n"
    )
    assert done.stdout.split() == ["1", "4"], done
    assert done.stderr.count("starting one") == 1


def test_why_it_does_not_start(alone: Any) -> None:
    done = alone("mkdir -p /etc/portside; mount -t tmpfs none /etc/portside\n"
                 "echo '{\"bogus-key\": 1}' >/etc/portside/daemon.json; portside ps\n")  # fmt: skip
    assert done.returncode == 1
    assert "the engine did not start" in done.stderr and "bogus-key" in done.stderr


AS_NOBODY = """
import difflib, grp, os, pwd, sys
sys.path.insert(0, {src!r})
from portside.cli.main import main
main(["portside", "-H", "unix:///nonexistent", "ps"])  # imports all it needs while it may
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.stderr.write("-- as nobody\\n")
for words in {words!r}:
    print(main(["portside", *words]))
"""
"""The interpreter may lie where only root may read, so rights are dropped at the last moment."""


def test_not_root(engine: Any, tmp_path: Path) -> None:
    """Nothing is started for a user; a socket that is closed to them is told as such."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    os.chmod(engine.root, 0o755)
    calls = [["-H", engine.host, "ps"], ["-H", f"unix://{tmp_path}/nonexistent", "ps"]]
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        os.chmod(directory, 0o755)
    code = AS_NOBODY.format(src=str(Path(PORTSIDE).parent / "src"), words=calls)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n1\n", done
    closed, missing = done.stderr.partition("-- as nobody\n")[2].splitlines()
    assert "permission denied" in closed and "sudo" in closed
    assert "Is the engine running?" in missing


@pytest.fixture
def two() -> Iterator[tuple[FakeEngine, FakeEngine]]:
    """Two engines that tell different IDs."""
    with FakeEngine() as first, FakeEngine() as second:
        for name, each in (("first", first), ("second", second)):
            each.answers["GET", "/info"] = {"ID": name}
        yield first, second


def asked(program: str, *words: str, **env: str) -> str:
    done = call(program, *words, "info", "--format", "{{.ID}}", env=env)
    return done.stdout.strip() or done.stderr.strip()


def test_who_is_asked(two: tuple[FakeEngine, FakeEngine], tmp_path: Path) -> None:
    """Flag, DOCKER_HOST, context by flag or variable, ``context use``: in docker's order."""
    first, second = two
    config = {"DOCKER_CONFIG": str(tmp_path / "config")}
    link = tmp_path / "docker"
    link.symlink_to(PORTSIDE)
    docker = str(link)
    for name, each in (("one", first), ("two", second)):
        made = call(
            PORTSIDE, "context", "create", name, "--docker", f"host={each.host}", env=config
        )
        assert made.returncode == 0, made
    assert asked(PORTSIDE, "-H", first.host) == "first"
    assert asked(PORTSIDE, DOCKER_HOST=second.host) == "second"
    assert asked(PORTSIDE, "-H", first.host, DOCKER_HOST=second.host) == "first"
    assert asked(PORTSIDE, "-c", "one", DOCKER_HOST=second.host, **config) == "first"
    assert asked(PORTSIDE, DOCKER_CONTEXT="two", **config) == "second"
    assert asked(PORTSIDE, DOCKER_CONTEXT="two", DOCKER_HOST=first.host, **config) == "first"
    used = call(docker, "context", "use", "two", env=config)
    assert (used.returncode, used.stdout) == (0, "two\n")
    assert asked(docker, **config) == "second"
    assert asked(docker, "--config", config["DOCKER_CONFIG"]) == "second"
    assert json.loads((tmp_path / "config/config.json").read_text())["currentContext"] == "two"
    real = shutil.which("docker", path="/usr/local/bin:/usr/bin")
    if real:
        assert asked(real, **config) == "second"


def test_the_configuration_file(two: tuple[FakeEngine, FakeEngine], tmp_path: Path) -> None:
    """Formats, headers and proxies of config.json are used; a broken file is told."""
    first, _ = two
    first.answers["GET", "/containers/json"] = [
        {"Id": "a" * 64, "Names": ["/web"], "Image": "i", "Command": "c", "Created": 0, "Ports": []}
    ]
    first.answers["POST", "/containers/create"] = {"Id": "b" * 64, "Warnings": []}
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(
            {
                "psFormat": "named {{.Names}}",
                "HttpHeaders": {"X-Meta": "yes"},
                "proxies": {"default": {"httpProxy": "http://proxy:1"}},
            }
        )
    )
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": first.host}
    assert call(PORTSIDE, "ps", env=env).stdout == "named /web\n".replace("/", "")
    assert call(PORTSIDE, "ps", "-q", env=env).stdout == "a" * 12 + "\n"
    assert call(PORTSIDE, "ps", "--format", "{{.Image}}", env=env).stdout == "i\n"
    assert first.asked[-1].headers["x-meta"] == "yes"
    assert call(PORTSIDE, "create", "img", env=env).stdout == "b" * 64 + "\n"
    sent = first.bodies("POST", "/containers/create")[0]
    assert {"HTTP_PROXY=http://proxy:1", "http_proxy=http://proxy:1"} <= set(sent["Env"])
    file.write_text("{broken")
    done = call(PORTSIDE, "ps", env=env)
    assert (done.returncode, done.stderr.count(str(file))) == (0, 1)
    call(PORTSIDE, "login", "-u", "u", "-p", "p", env=env)
    assert file.read_text() == "{broken"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("swarm init", "works alone"),
        ("service ls", "works alone"),
        ("plugin ls", "built in"),
        ("checkpoint ls x", "paused"),
    ],
)
def test_what_is_not_built_says_so(words: str, advice: str) -> None:
    done = call(PORTSIDE, *words.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not supported" in done.stderr and advice in done.stderr


def test_an_image_for_another_platform_is_pulled(two: tuple[FakeEngine, FakeEngine]) -> None:
    first, _ = two
    answers = [
        Answer(404, {"message": "image with reference i was found but its platform (linux/amd64) "
                                "does not match the specified platform (linux/arm64)"}),
        Answer(201, {"Id": "c" * 64, "Warnings": []}),
    ]  # fmt: skip
    first.answers["POST", "/containers/create"] = lambda asked: answers.pop(0)
    first.answers["POST", "/images/create"] = Answer(body=b'{"status":"ok"}\r\n')
    done = call(PORTSIDE, "create", "--platform", "linux/arm64", "i",
                env={"DOCKER_HOST": first.host})  # fmt: skip
    assert done.stdout == "c" * 64 + "\n"
    pulled = [asked for asked in first.asked if asked.path == "/images/create"]
    assert pulled[0].query["platform"] == ["linux/arm64"]


def test_an_older_engine_is_spoken_to_in_its_version(two: tuple[FakeEngine, FakeEngine]) -> None:
    first, _ = two
    done = call(PORTSIDE, "info", "--format", "{{.ID}}",
                env={"DOCKER_HOST": first.host, "DOCKER_API_VERSION": "1.40"})  # fmt: skip
    assert done.stdout == "first\n"


def test_called_docker(engine: Any, docker: Any, tmp_path: Path) -> None:
    link = tmp_path / "docker"
    link.symlink_to(PORTSIDE)
    env = {"DOCKER_HOST": engine.host}
    done = call(str(link), "run", "--nosuch", env=env)
    assert "Run 'docker run --help' for more information" in done.stderr
    by_path = call("docker", "run", "--rm", BASE, "echo", "hi",
                   env={**env, "PATH": f"{tmp_path}:{os.environ['PATH']}"})  # fmt: skip
    assert (by_path.returncode, by_path.stdout) == (0, "hi\n")
    gone = call(str(link), "-H", "unix:///nonexistent", "ps")
    assert gone.stderr == (
        "Cannot connect to the Docker daemon at unix:///nonexistent. "
        "Is the docker daemon running?\n"
    )
