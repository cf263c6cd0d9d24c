"""Our command and the engine: starting one, ending it, finding it, not being allowed to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import PORTSIDE, Answer, FakeEngine, call

BASE = "portside/base"

PLACES = ("/run/portside", "/var/lib/portside")
ALONE = f"""
set -e
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

    made = [path for path in map(Path, PLACES) if not path.exists()]
    for path in made:
        path.mkdir()
    try:
        yield run
    finally:
        for path in made:
            path.rmdir()


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


@pytest.mark.parametrize("given", [["--platform", "linux/arm64"], []])
@pytest.mark.parametrize("text", [
    "its platform (linux/amd64) does not match the specified platform (linux/arm64)",
    "does not provide the specified platform (linux/arm64)",
])  # fmt: skip
def test_an_image_for_another_platform_is_pulled(
    two: tuple[FakeEngine, FakeEngine], text: str, given: list[str]
) -> None:
    """The platform is that of the flag, else that of DOCKER_DEFAULT_PLATFORM."""
    first, _ = two
    answers = [
        Answer(404, {"message": f"image with reference i was found but {text}"}),
        Answer(201, {"Id": "c" * 64, "Warnings": []}),
    ]  # fmt: skip
    first.answers["POST", "/containers/create"] = lambda asked: answers.pop(0)
    first.answers["POST", "/images/create"] = Answer(body=b'{"status":"ok"}\r\n')
    default = "linux/386" if given else "linux/arm64"
    done = call(PORTSIDE, "create", *given, "i",
                env={"DOCKER_HOST": first.host, "DOCKER_DEFAULT_PLATFORM": default})  # fmt: skip
    assert done.stdout == "c" * 64 + "\n"
    asked = [each for each in first.asked if each.path in ("/images/create", "/containers/create")]
    assert [each.query["platform"] for each in asked] == [["linux/arm64"]] * 3
    done = call(PORTSIDE, "create", "i",
                env={"DOCKER_HOST": first.host, "DOCKER_DEFAULT_PLATFORM": "bogus"})  # fmt: skip
    assert done.stderr.startswith(
        'portside: error parsing specified platform: "bogus": unknown operating system or '
        "architecture: invalid argument\n"
    )


@pytest.mark.parametrize("words", ["pull i", "push i", "run i", "create i"])
def test_signatures_that_are_asked_for_are_refused(
    two: tuple[FakeEngine, FakeEngine], words: str
) -> None:
    first, _ = two
    env = {"DOCKER_HOST": first.host, "DOCKER_CONTENT_TRUST": "1"}
    done = call(PORTSIDE, *words.split(), env=env)
    assert done.returncode and "signatures are not supported" in done.stderr
    assert not [asked for asked in first.asked if asked.method == "POST"]
    verb, image = words.split()
    for more in (["--disable-content-trust", image], [f"{image}@sha256:{'a' * 64}"]):
        done = call(PORTSIDE, verb, *more, env=env)
        assert "signatures" not in done.stderr


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_that_is_gone_stops_no_pull(
    two: tuple[FakeEngine, FakeEngine], tmp_path: Path, key: str
) -> None:
    """As with docker: a public image needs no credentials. The user is warned."""
    first, _ = two
    value = "gone" if key == "credsStore" else {"reg.test": "gone"}
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    env = {"DOCKER_HOST": first.host, "DOCKER_CONFIG": str(tmp_path)}
    first.answers["POST", "/images/create"] = Answer(body=b'{"status":"ok"}\r\n')
    done = call(PORTSIDE, "pull", "reg.test/i", env=env)
    assert done.returncode == 0 and done.stderr.startswith("WARNING: error getting credentials")
    assert "docker-credential-gone" in done.stderr
    assert "x-registry-auth" not in first.asked[-1].headers


def test_tls_files_are_looked_for_before_the_engine(
    two: tuple[FakeEngine, FakeEngine], tmp_path: Path
) -> None:
    """As docker does, also for a socket, which does not use them."""
    first, _ = two
    env = {"DOCKER_HOST": first.host, "DOCKER_CONFIG": str(tmp_path)}
    said = (
        "Failed to initialize: unable to resolve docker endpoint: open {}: "
        "no such file or directory\n"
    )
    for words, more, path in (
        (["--tlsverify"], {}, f"{tmp_path}/ca.pem"),
        ([], {"DOCKER_TLS_VERIFY": "1"}, f"{tmp_path}/ca.pem"),
        ([], {"DOCKER_TLS": "1", "DOCKER_CERT_PATH": "/nowhere"}, "/nowhere/ca.pem"),
        (["--tls", "--tlscacert", "/nowhere"], {}, "/nowhere"),
    ):
        done = call(PORTSIDE, *words, "ps", env={**env, **more})
        assert (done.returncode, done.stderr) == (1, said.format(path))
    assert not first.asked


def test_contexts_that_cannot_be_made(tmp_path: Path) -> None:
    """Nothing is left of them; DOCKER_HOST goes before DOCKER_CONTEXT."""
    env = {"DOCKER_CONFIG": str(tmp_path)}
    for setting, why in (
        ("host=tcp://h:1,ca=/nowhere", "open /nowhere: no such file or directory"),
        ("bogus=1", "unrecognized config key: bogus"),
    ):
        done = call(PORTSIDE, "context", "create", "some", "--docker", setting, env=env)
        assert done.stderr == f"unable to create docker endpoint config: {why}\n"
    assert call(PORTSIDE, "context", "ls", "-q", env=env).stdout == "default\n"
    env["DOCKER_CONTEXT"] = "some"
    assert call(PORTSIDE, "context", "show", env=env).stdout == "some\n"
    env["DOCKER_HOST"] = "unix:///nowhere"
    assert call(PORTSIDE, "context", "show", env=env).stdout == "default\n"


PLUGIN = """#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "Somebody", "ShortDescription": "Does it"}'
else
    echo "$DOCKER_HOST" "$@"
    exit 4
fi
"""


def test_plugins_of_docker(tmp_path: Path) -> None:
    """They are run with the whole command line, listed in the help and in ``info``."""
    folders = [tmp_path / "cli-plugins", tmp_path / "more"]
    for folder, name, text in (
        (0, "does", PLUGIN), (1, "more", PLUGIN), (0, "broken", "#!/bin/sh\necho hi\n"),
        (0, "ps", PLUGIN),
    ):  # fmt: skip
        folders[folder].mkdir(exist_ok=True)
        path = folders[folder] / f"docker-{name}"
        path.write_text(text)
        path.chmod(0o755)
    (folders[0] / "docker-closed").write_text(PLUGIN)
    (tmp_path / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(folders[1])]}))
    env = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"}
    done = call(PORTSIDE, "--debug", "does", "a", "--b", env=env)
    assert (done.returncode, done.stdout) == (4, "unix:///nowhere --debug does a --b\n")
    assert call(PORTSIDE, "more", env=env).stdout == "unix:///nowhere more\n"
    assert call(PORTSIDE, "help", "more", env=env).stdout == "unix:///nowhere help more\n"
    for name in ("broken", "closed", "../more", "never"):
        assert f"unknown command: portside {name}" in call(PORTSIDE, name, env=env).stderr
    assert "Is the engine running?" in call(PORTSIDE, "ps", env=env).stderr
    text = call(PORTSIDE, "--help", env=env).stdout
    assert re.search(r"^  does\* +Does it$", text, re.M)
    assert re.search(r"^Invalid Plugins:\n  broken +invalid metadata", text, re.M)
    shown = "{{range .ClientInfo.Plugins}}{{.Name}} {{.Path}};{{end}}"
    assert f"does {folders[0]}/docker-does;" in call(PORTSIDE, "info", "-f", shown, env=env).stdout


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
