"""Engines reached by ssh, installed plugins, the API socket inside, and what errors suggest."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import PORTSIDE, Answer, FakeEngine, call

from portside.client import ssh
from portside.model.errors import InvalidParameter


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as running:
        running.answers["GET", "/containers/json"] = []
        yield running


@pytest.fixture
def remote(tmp_path: Path, engine: FakeEngine) -> dict[str, str]:
    """A machine behind ``ssh``, which here runs its command in a shell of this one."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "portside").symlink_to(PORTSIDE)
    program = directory / "ssh"
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/called\n'
        'while [ "$1" != -- ]; do shift; done; shift 2\n'
        f'DOCKER_HOST={engine.host} exec sh -c "$*"\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}", "DOCKER_HOST": "ssh://joe@far:2222"}


def test_an_engine_behind_ssh(remote: dict[str, str], engine: FakeEngine, tmp_path: Path) -> None:
    done = call(PORTSIDE, "ps", "-q", env=remote)
    assert (done.returncode, done.stderr) == (0, "")
    assert [asked.path for asked in engine.asked] == ["/containers/json"]
    called = (tmp_path / "called").read_text()
    assert called.startswith("-o ConnectTimeout=30 -T -l joe -p 2222 -- far ")
    assert called.rstrip().endswith("docker system dial-stdio")


def test_a_context_behind_ssh_and_dockers_own_command(
    remote: dict[str, str], engine: FakeEngine, tmp_path: Path
) -> None:
    del remote["DOCKER_HOST"]
    remote["DOCKER_CONFIG"] = str(tmp_path / "config")
    made = call(PORTSIDE, "context", "create", "far", "--docker", "host=ssh://far", env=remote)
    assert made.returncode == 0, made.stderr
    done = call(PORTSIDE, "-c", "far", "ps", "-q", env=remote)
    assert (done.returncode, done.stderr) == (0, "")
    # the docker command calls "docker system dial-stdio" at the other end
    (tmp_path / "bin" / "docker").symlink_to(PORTSIDE)
    docker = next(
        (
            f"{part}/docker"
            for part in os.environ["PATH"].split(":")
            if os.access(f"{part}/docker", os.X_OK)
        ),
        "",
    )
    if docker:
        done = call(docker, "-H", "ssh://far", "ps", "-q", env=remote)
        assert done.returncode == 0, done.stderr
    assert [asked.path for asked in engine.asked].count("/containers/json") == (2 if docker else 1)


def test_ssh_that_fails(remote: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "ssh"
    program.write_text(
        "#!/bin/sh\necho 'ssh: connect to host far: Connection refused' >&2\nexit 255\n"
    )
    done = call(PORTSIDE, "ps", env=remote)
    assert done.returncode == 1
    *said, ours = done.stderr.splitlines()  # a request that could not be sent is sent once more
    assert set(said) == {"ssh: connect to host far: Connection refused"}
    assert "ssh to ssh://joe@far:2222 has failed, or found no engine there" in ours


@pytest.mark.parametrize(
    "address",
    ["ssh://", "ssh://-oProxyCommand=x", "ssh://-lx@h", "ssh://@h", "ssh://h:x", "ssh://h:0",
     "ssh://a:b@h", "ssh://h/x?y"],
)  # fmt: skip
def test_ssh_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidParameter):
        ssh.command(address)


def test_ssh_addresses() -> None:
    assert ssh.command("ssh://[::1]:22")[3:7] == ["-T", "-p", "22", "--"]
    path = "/run/it's here.sock"
    assert r"--host unix://'/run/it'\''s here.sock'" in ssh.command(f"ssh://h{path}")[-1]


def test_the_api_socket_inside(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}})
    )
    engine.answers["POST", "/containers/create"] = {"Id": "abc", "Warnings": []}
    engine.answers["PUT", "/containers/abc/archive"] = Answer()
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": engine.host}
    done = call(PORTSIDE, "create", "--use-api-socket", "-e", "A=b", "img", env=env)
    assert (done.returncode, done.stdout) == (0, "abc\n"), done.stderr
    (body,) = engine.bodies("POST", "/containers/create")
    assert body["Env"] == ["A=b", "DOCKER_CONFIG=/run/secrets/docker"]
    (mount,) = body["HostConfig"]["Mounts"]
    assert (mount["Source"], mount["Target"]) == (engine.path, "/var/run/docker.sock")
    put = next(asked for asked in engine.asked if asked.method == "PUT")
    with tarfile.open(fileobj=io.BytesIO(put.body)) as archive:
        member = archive.getmember("run/secrets/docker/config.json")
        assert member.mode == 0o600
        file = archive.extractfile(member)
        assert file is not None
        assert json.load(file) == {"auths": {"https://index.docker.io/v1/": {"auth": "YTpi"}}}
    refused = call(PORTSIDE, "-H", "tcp://127.0.0.1:1", "create", "--use-api-socket", "img")
    assert refused.returncode == 125 and "unix socket" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["conatiner", "ls"], "Did you mean 'container'?"),
        (["network", "crate"], "Did you mean 'create'?"),
        (["run", "--nmae", "x", "img"], "Did you mean '--name'?"),
        (["ps", "--fromat", "x"], "Did you mean '--format'?"),
    ],
)
def test_a_slip_of_the_fingers(engine: FakeEngine, words: list[str], said: str) -> None:
    done = call(PORTSIDE, *words, env={"DOCKER_HOST": engine.host})
    assert done.returncode and said in done.stderr


def test_nothing_is_suggested_for_what_is_far_off(engine: FakeEngine) -> None:
    for words in (["xyzzy"], ["network", "q"], ["run", "--qqqq", "img"]):
        done = call(PORTSIDE, *words, env={"DOCKER_HOST": engine.host})
        assert done.returncode and "Did you mean" not in done.stderr


def test_an_option_behind_the_image(engine: FakeEngine) -> None:
    engine.answers["POST", "/containers/create"] = {"Id": "abc", "Warnings": []}
    failed = Answer(400, {"message": 'exec: "-p": executable file not found in $PATH'})
    failed.headers["Portside-Exit-Status"] = "127"
    engine.answers["POST", "/containers/abc/start"] = failed
    done = call(PORTSIDE, "run", "-d", "img", "-p", "80:80", env={"DOCKER_HOST": engine.host})
    assert done.returncode == 127
    assert "'-p' follows the image's name" in done.stderr


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("pasta", "one pasta or slirp4netns for all of its networks"),
        ("pasta:--map-gw,-T,none=x", "Leave the option out"),
        ("slirp4netns:port_handler=slirp4netns", "--network none or host"),
        ("private", "use --network bridge"),
        ("ns:/run/netns/x", "use --network container:NAME"),
        ("missing", ""),
    ],
)
def test_what_takes_the_place_of_podmans_networks(engine: FakeEngine, mode: str, said: str) -> None:
    message = {"message": f"network {mode} not found"}
    engine.answers["POST", "/containers/create"] = {"Id": "abc", "Warnings": []}
    engine.answers["POST", "/containers/abc/start"] = Answer(404, message)
    env = {"DOCKER_HOST": engine.host}
    done = call(PORTSIDE, "run", "-d", "--network", mode, "x", env=env)
    assert f"network {mode} not found" in done.stderr
    assert said in done.stderr
    assert ("Podman" in done.stderr) == bool(said)


def test_who_holds_a_port(engine: FakeEngine) -> None:
    engine.answers["POST", "/containers/create"] = {"Id": "abc", "Warnings": []}
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        message = f"failed to bind host port 0.0.0.0:{port}/tcp: address already in use"
        engine.answers["POST", "/containers/abc/start"] = Answer(500, {"message": message})
        env = {"DOCKER_HOST": engine.host}
        done = call(PORTSIDE, "run", "-d", "-p", f"{port}:80", "img", env=env)
        assert done.returncode == 125
        assert f"Port {port}/tcp is used by the process" in done.stderr
        assert f"({os.getpid()})" in done.stderr
        engine.answers["GET", "/containers/json"] = [
            {"Names": ["/web"], "Ports": [{"PublicPort": port, "Type": "tcp", "PrivatePort": 80}]}
        ]
        done = call(PORTSIDE, "run", "-d", "-p", f"{port}:80", "img", env=env)
        assert f"Port {port}/tcp is published by the container web" in done.stderr
