"""Compose: builds, watching, plans, pictures, providers, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
import xml.dom.minidom
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composekit
import imagekit
import pytest
from clikit import PORTSIDE
from enginekit import RunningEngine
from terminalkit import Terminal

Ours = Callable[[str], composekit.Program]


@pytest.fixture
def ours(tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]) -> Ours:
    """Our program in a directory with a file."""

    def make(text: str) -> composekit.Program:
        (tmp_path / "compose.yaml").write_text(text)
        return composekit.both(tmp_path, docker_env)[1]

    return make


BUILT = """
name: built
services:
  web:
    build: {context: ., args: {WORD: hello}}
    command: sleep 1000
    init: true
    develop:
      watch:
        - {path: ./src, action: sync, target: /app, ignore: ["*.tmp"]}
        - {path: ./Dockerfile, action: rebuild}
"""


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_build_and_watch(ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "page").write_text("one")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM portside/base\nARG WORD\nRUN echo $WORD >/word\nCOPY src /app\n")
    program = ours(BUILT)
    watcher = None
    try:
        program("up", "-d")
        assert program("exec", "-T", "web", "cat", "/word", "/app/page").stdout == "hello\none"
        watcher = subprocess.Popen(
            [*program.command, "watch", "--no-up"], cwd=tmp_path, env=program.env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert watcher.stdout is not None
        while "Watch enabled" not in watcher.stdout.readline():
            pass
        time.sleep(0.5)  # inotify is set up after it was told
        (tmp_path / "src" / "page").write_text("two")
        (tmp_path / "src" / "left.tmp").write_text("no")
        show = ["exec", "-T", "web", "sh", "-c", "cat /app/page; ls /app"]
        _until(lambda: program(*show, status=None).stdout == "twopage\n")
        (tmp_path / "src" / "page").unlink()
        _until(lambda: program("exec", "-T", "web", "ls", "/app", status=None).stdout == "")
        dockerfile.write_text(dockerfile.read_text() + "RUN echo again >/again\n")
        _until(lambda: program("exec", "-T", "web", "cat", "/again", status=None).returncode == 0)
    finally:
        if watcher is not None:
            watcher.send_signal(signal.SIGINT)
            print(watcher.communicate(timeout=30)[0])  # shown when it fails
        program("down", "--rmi", "local", "-t", "0", status=None)


WATCHED = """
name: watched
services:
  web:
    image: portside/base
    command: sh -c 'while true; do cat /app/page; sleep 0.3; done'
    init: true
    develop: {watch: [{path: ./src, action: sync, target: /app}]}
"""


def test_up_watches_and_takes_keys(ours: Ours, tmp_path: Path) -> None:
    """``up --watch``, then the menu on a terminal: watch off, watch on, detach."""
    page = tmp_path / "src" / "page"
    page.parent.mkdir()
    program = ours(WATCHED)
    env = {**program.env, "TERM": "xterm"}
    terminal = Terminal([*program.command, "up", "--watch"], env, (24, 80), str(tmp_path))
    show = ["exec", "-T", "web", "cat", "/app/page"]
    try:
        terminal.expect(rb"Enable Watch.*Detach")
        terminal.expect(rb"Watch enabled")
        terminal.expect(rb"Disable Watch")
        time.sleep(0.5)  # inotify is set up after it was told
        page.write_text("first\n")
        terminal.expect(rb"web-1 *\| *(\x1b\[0m)?first\r\n")
        terminal.type(b"w")
        terminal.expect(rb"Watch disabled")
        terminal.expect(rb"Enable Watch")
        page.write_text("second\n")
        terminal.type(b"w")
        terminal.expect(rb"Watch enabled")
        time.sleep(0.5)
        page.with_name("other").write_text("")
        _until(lambda: program("exec", "-T", "web", "ls", "/app").stdout == "other\npage\n")
        assert program(*show).stdout == "first\n"
        terminal.type(b"d")
        assert terminal.end() == 0
        assert program("ps", "--status", "running", "-q").stdout
        again = Terminal([*program.command, "up", "--menu=false"], env, (24, 80), str(tmp_path))
        try:
            again.expect(rb"first")
            again.type(b"d")
            again.expect(rb"first")
            again.process.send_signal(signal.SIGINT)
            assert again.end() == 130
            assert b"Detach" not in again.seen
        finally:
            again.close()
    finally:
        terminal.close()
        program("down", "-t", "0", status=None)


def test_up_watches_nothing(ours: Ours, engine: RunningEngine) -> None:
    done = ours(PLANNED)("up", "--watch", status=1)
    assert "none of the selected services is configured for watch" in done.stderr
    assert composekit.state(engine, "planned") == {}


PLANNED = """
name: planned
services:
  a: {image: portside/base, command: sleep 1000, ports: ["127.0.0.1::80"]}
  b:
    image: portside/base
    command: sleep 1000
    depends_on: [a]
    volumes: ["data:/data"]
volumes: {data: {}}
"""


def test_plans_and_pictures(ours: Ours, engine: RunningEngine, tmp_path: Path) -> None:
    program = ours(PLANNED)
    try:
        plan = program("up", "--plan").stdout
        assert "+ create container planned-a-1: it does not exist" in plan
        assert "+ create volume planned_data" in plan
        assert composekit.state(engine, "planned") == {}
        program("up", "-d")
        assert program("up", "--plan").stdout == "Nothing would change.\n"
        program = ours(PLANNED.replace("depends_on: [a]", "depends_on: [a]\n    user: '1000'"))
        plan = program("up", "--plan").stdout
        assert "~ recreate container planned-b-1: its configuration has changed" in plan
        assert f"user ({tmp_path}/compose.yaml:9:5)" in plan and "planned-a-1" not in plan
    finally:
        program("down", "-v", "-t", "0")
    shown = program("graph").stdout
    assert "any -> 80/tcp" in shown and "needs a" in shown and "data -> /data" in shown
    program("graph", "-o", "graph.svg")
    picture = xml.dom.minidom.parse(str(tmp_path / "graph.svg"))
    assert len(picture.getElementsByTagName("rect")) == 2
    assert len(picture.getElementsByTagName("line")) == 1


def test_providers(ours: Ours, tmp_path: Path) -> None:
    provider = tmp_path / "giver"
    provider.write_text(
        '#!/bin/sh\necho "$@" >> calls\n'
        'echo \'{"type": "info", "message": "working"}\'\n'
        'echo \'{"type": "setenv", "message": "URL=here"}\'\n'
    )
    provider.chmod(0o755)
    program = ours(
        "name: given\nservices:\n"
        "  db: {provider: {type: giver, options: {size: small}}}\n"
        "  app: {image: portside/base, command: sh -c 'echo $$DB_URL; sleep 1000', "
        "depends_on: [db]}\n"
    )
    program.env["PATH"] = f"{tmp_path}:{program.env['PATH']}"
    try:
        program("up", "-d")
        assert "here" in program("logs", "app").stdout
    finally:
        program("down", "-t", "0")
    assert (tmp_path / "calls").read_text() == (
        "compose --project-name=given up --size=small db\n"
        "compose --project-name=given down --size=small db\n"
    )


def test_dependents_restart_once_the_condition_holds_again(
    ours: Ours, engine: RunningEngine
) -> None:
    """``restart: true`` waits for the health of what was restarted, as docker compose does."""
    program = ours(
        "name: again\nservices:\n"
        "  db:\n    image: portside/base\n    init: true\n"
        "    command: sh -c 'rm -f /ok; sleep 1; touch /ok; sleep 1000'\n"
        "    healthcheck: {test: test -f /ok, interval: 200ms, retries: 300}\n"
        "  app:\n    image: portside/base\n    init: true\n    command: sleep 1000\n"
        "    depends_on: {db: {condition: service_healthy, restart: true}}\n"
        "  no:\n    image: portside/base\n    command: 'false'\n"
        "  any:\n    image: portside/base\n    init: true\n    command: sleep 1000\n"
        "    depends_on:\n"
        "      no: {condition: service_completed_successfully, required: false}\n"
    )
    try:
        said = program("up", "-d").stderr
        words = 'optional dependency "no" didn\'t complete successfully: exit 1'
        assert f"Container again-no-1  Skipped: {words}" in said
        said = program("restart", "-t", "0", "db").stderr
        places = [said.index(f"Container again-{text}") for text in (
            "db-1  Restarting", "db-1  Waiting", "db-1  Healthy", "app-1  Restarting")]  # fmt: skip
        assert places == sorted(places)
        assert engine.json("GET", "/containers/again-db-1/json")["State"]["Health"]["Status"] == (
            "healthy"
        )
        made = program("commit", "db", "again-made:1")
        assert made.stdout == ""
        image = engine.json("GET", "/images/again-made:1/json")["Id"]
        assert f"again-db-1 Commit again-db-1 Committed as {image}" in made.stderr
    finally:
        program("down", "-t", "0")
        engine.request("DELETE", "/images/again-made:1")


MODEL_PROGRAM = """#!/bin/sh
[ "$1" != docker-cli-plugin-metadata ] || {
    echo '{"SchemaVersion": "0.1.0", "Vendor": "test", "Version": "1"}'
    exit
}
echo "$@" >>CALLS
case $1 in
ls) echo '[{"tags": ["ai/here:1"]}]' ;;
status) echo '{"endpoint": "http://models.test/v1"}' ;;
esac
"""
MODELLED = """
name: modelled
services:
  app:
    image: portside/base
    command: sh -c 'env | grep -E "_(URL|MODEL)=|^AI_" | sort; sleep 1000'
    init: true
    models: {big-one: , here: {endpoint_var: AI_HERE, model_var: AI_NAME}}
models:
  big-one: {model: "ai/big:2", context_size: 4096, runtime_flags: ["--a", "--b=c"]}
  here: {model: "ai/here:1"}
"""


def test_models(
    tmp_path: Path, engine: RunningEngine, docker: Any, docker_env: dict[str, str]
) -> None:
    """The same calls of the program, and the same container, as by docker compose."""
    (tmp_path / "compose.yaml").write_text(MODELLED)
    programs = composekit.both(tmp_path, {**docker_env, "DOCKER_CONFIG": str(tmp_path)})
    done = programs[1]("up", "-d", status=1)
    assert "'models' support requires Docker Model plugin" in done.stderr
    assert composekit.state(engine, "modelled") == {}
    plugin, calls = tmp_path / "cli-plugins" / "docker-model", tmp_path / "calls"
    plugin.parent.mkdir()
    plugin.write_text(MODEL_PROGRAM.replace("CALLS", str(calls)))
    plugin.chmod(0o755)
    found = []
    for program in programs:
        try:
            program("up", "-d")
            [inspected] = composekit.identifiers(engine, "modelled").values()
            config = engine.json("GET", f"/containers/{inspected}/json")["Config"]
            labels = config["Labels"]
            found.append((sorted(calls.read_text().splitlines()), sorted(config["Env"]),
                          labels["com.docker.compose.config-hash"]))  # fmt: skip
        finally:
            program("down", "-t", "0")
            calls.unlink(missing_ok=True)
    try:
        shown = programs[1]("run", "--rm", "-T", "app", "env").stdout
        assert "BIG_ONE_MODEL=ai/big:2" in shown
        assert calls.read_text().count("status") == 1
    finally:
        programs[1]("down", "-t", "0")
    assert found[1] == found[0]
    assert "configure --context-size 4096 ai/big:2 -- --a --b=c" in found[1][0]
    assert "pull ai/big:2" in found[1][0] and "pull ai/here:1" not in found[1][0]
    assert "BIG_ONE_URL=http://models.test/v1" in found[1][1]
    assert "AI_NAME=ai/here:1" in found[1][1]


def test_api_socket(ours: Ours, engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"reg.test": {"auth": "dTpw"}}}')
    program = ours(
        "name: socketed\nservices:\n"
        "  a: {image: portside/base, command: sleep 1000, init: true, use_api_socket: true}\n"
        "  b: {image: portside/base, command: sleep 1000, init: true, use_api_socket: true,\n"
        "      environment: {DOCKER_CONFIG: /mine}}\n"
    )
    program.env["DOCKER_CONFIG"] = str(tmp_path)
    try:
        program("up", "-d")
        show = "echo $DOCKER_CONFIG; ls /run/secrets/docker; [ -S /var/run/docker.sock ] && echo it"
        assert program("exec", "-T", "a", "sh", "-c", show).stdout == (
            "/run/secrets/docker\nconfig.json\nit\n"
        )
        text = program("exec", "-T", "a", "cat", "/run/secrets/docker/config.json").stdout
        assert json.loads(text) == {"auths": {"reg.test": {"auth": "dTpw"}}}
        assert program("exec", "-T", "b", "sh", "-c", show).stdout == "/mine\nit\n"
        assert "it" in program("run", "--rm", "-T", "a", "sh", "-c", show).stdout
        before = composekit.identifiers(engine, "socketed")
        program("up", "-d")
        assert composekit.identifiers(engine, "socketed") == before
    finally:
        program("down", "-t", "0")


# -- what goes wrong ------------------------------------------------------------------------------


MANY = "name: killed\nservices:\n" + "".join(
    f"  s{index}: {{image: portside/base, command: sleep 1000, stop_grace_period: 0s"
    + (f", depends_on: [s{index - 1}]" if index else "")
    + "}\n"
    for index in range(8)
)


@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8])
def test_killed_on_the_way(ours: Ours, engine: RunningEngine, tmp_path: Path, delay: float) -> None:
    """Wherever it was killed, the next up completes and the next down removes everything."""
    program = ours(MANY)
    try:
        for words in (["up", "-d"], ["up", "-d", "--force-recreate"]):
            process = subprocess.Popen(
                [*program.command, *words], cwd=tmp_path, env=program.env,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            program("up", "-d")
            names = sorted(composekit.identifiers(engine, "killed"))
            assert names == [f"/killed-s{index}-1" for index in range(8)]
            running = program("ps", "--status", "running", "-q").stdout.split()
            assert len(running) == 8
    finally:
        program("down", "-t", "0")
    assert composekit.state(engine, "killed") == {}


@pytest.mark.timeout(400)  # three restarts on a loaded machine
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "restarted"])
def test_the_engine_ends_on_the_way(
    private_engine: RunningEngine, docker_env: dict[str, str], tmp_path: Path, is_killed: bool
) -> None:
    """Wherever the engine ended, ``up`` says so, the next one completes, and the next ``down``
    removes everything."""
    volumes = "networks: {one: {}, two: {}}\nvolumes: {data: {}}\n"
    (tmp_path / "compose.yaml").write_text(
        MANY.replace("command:", "networks: [one, two], volumes: ['data:/data', /own], command:")
        + volumes
    )
    program = composekit.both(tmp_path, {**docker_env, "DOCKER_HOST": private_engine.host})[1]
    for steps, words in ((1, ["up", "-d"]), (6, ["up", "-d", "--force-recreate"]), (8, ["up"])):
        process = subprocess.Popen(
            [*program.command, "--progress", "plain", *words], cwd=tmp_path, env=program.env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        for _ in range(steps):
            process.stdout.readline()
        if is_killed:
            private_engine.kill()
        else:
            private_engine.stop()
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 1 or not said.strip(), said
        assert "Traceback" not in said
        private_engine.start()
        program("up", "-d")
        names = sorted(composekit.identifiers(private_engine, "killed"))
        assert names == [f"/killed-s{index}-1" for index in range(8)]
        assert len(program("ps", "--status", "running", "-q").stdout.split()) == 8
    program("down", "-v", "-t", "0")
    assert composekit.state(private_engine, "killed") == {}
    assert private_engine.json("GET", "/volumes")["Volumes"] == []


def test_signals_of_an_attached_up(ours: Ours, tmp_path: Path) -> None:
    """The first stops in order, the second kills."""
    program = ours(
        "name: sig\nservices:\n  a: {image: portside/base, stop_grace_period: 50s, "
        "command: sh -c 'echo runs; exec sleep 1000'}\n"
    )
    try:
        process = subprocess.Popen(
            [*program.command, "up"], cwd=tmp_path, env=program.env, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        while "runs" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        while "Gracefully Stopping" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)
        assert process.returncode == 130
        assert program("ps", "-q").stdout == ""
    finally:
        program("down", "-t", "0")


PUBLISHED = """
name: published
services:
  web:
    image: portside/base
    env_file:
      - settings/web.env
    environment: {A: "1"}
  more:
    extends:
      file: common/base.yaml
      service: base
"""


def test_publish(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> None:  # fmt: skip
    """The artifact has the form that docker compose reads."""
    for name, text in (
        ("compose.yaml", PUBLISHED), ("settings/web.env", "B=2\n"),
        ("common/base.yaml", "services:\n  base:\n    image: portside/base\n"),
    ):  # fmt: skip
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(text)
    ours = composekit.Program([PORTSIDE, "compose"], tmp_path / "p", docker_env)
    done = ours("publish", "127.0.0.1:1/app", status=1)
    assert 'service "web" has environment variable(s) declared.' in done.stderr
    with imagekit.docker_registry(tmp_path / "registry") as host:
        ours("publish", "-y", "--with-env", f"{host}/app:1")
        manifest = _artifact(host, "app")
        assert manifest["artifactType"] == "application/vnd.docker.compose.project"
        assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        kinds = {layer["mediaType"].rpartition(".")[2]: layer for layer in manifest["layers"]
                 if "com.docker.compose.extends" not in layer["annotations"]}  # fmt: skip
        assert kinds["envfile"]["bytes"] == b"B=2\n"
        name = kinds["envfile"]["annotations"]["com.docker.compose.envfile"]
        assert f"      - {name}\n".encode() in kinds["file+yaml"]["bytes"]
        base = next(layer for layer in manifest["layers"]
                    if "com.docker.compose.extends" in layer["annotations"])  # fmt: skip
        name = base["annotations"]["com.docker.compose.file"]
        assert f"      file: {name}\n".encode() in kinds["file+yaml"]["bytes"]
        ours("publish", "-y", "--oci-version", "1.0", f"{host}/old:1")
        manifest = _artifact(host, "old")
        assert "artifactType" not in manifest
        assert manifest["config"]["mediaType"].endswith("config.empty.v1+json")


def test_publish_with_images(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> None:  # fmt: skip
    """``--app``: the images are in the artifact's repository, named by an index that refers to
    the artifact; a second file pins the services to their digests."""
    (tmp_path / "p").mkdir()
    ours = composekit.Program([PORTSIDE, "compose"], tmp_path / "p", docker_env)
    with imagekit.docker_registry(tmp_path / "registry") as host:
        image = f"{host}/base:1"
        docker("tag", "portside/base", image)
        docker("push", "-q", image)
        (tmp_path / "p" / "compose.yaml").write_text(
            f"name: app\nservices: {{a: {{image: '{image}'}}, b: {{image: '{image}'}}}}\n"
        )
        ours("publish", "-y", "--app", f"{host}/app:1")
        layers = {layer["annotations"]["com.docker.compose.file"]: layer["bytes"].decode()
                  for layer in _artifact(host, "app")["layers"]}  # fmt: skip
        digest = layers["image-digests.yaml"].partition(f"image: {image}@")[2].split()[0]
        assert layers["image-digests.yaml"] == (
            f"services:\n  a:\n    image: {image}@{digest}\n  b:\n    image: {image}@{digest}\n"
        )
        copied = f"{host}/app@{digest}"
        docker("pull", "-q", copied)
        docker("rmi", copied, image)
        revisions = tmp_path / "registry/data/docker/registry/v2/repositories/app/_manifests"
        found = [path.name for path in (revisions / "revisions/sha256").iterdir()]
        indexes = [index for index in (_manifest(host, "app", f"sha256:{name}") for name in found)
                   if "manifests" in index]  # fmt: skip
        assert [item["digest"] for item in indexes[0]["manifests"]] == [digest, digest]
        subject = indexes[0]["subject"]
        assert subject["artifactType"] == "application/vnd.docker.compose.project"
        assert (revisions / "tags/1/current/link").read_text() == subject["digest"]


def _manifest(host: str, name: str, reference: str) -> dict[str, Any]:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json, "
                        "application/vnd.oci.image.index.v1+json"}  # fmt: skip
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{reference}", None, accept)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def _artifact(host: str, name: str) -> dict[str, Any]:
    """A manifest without its time, with the bytes of its layers."""

    def get(path: str) -> bytes:
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        request = urllib.request.Request(f"http://{host}/v2/{name}/{path}", headers=accept)
        with urllib.request.urlopen(request, timeout=30) as answer:
            data: bytes = answer.read()
            return data

    manifest: dict[str, Any] = json.loads(get("manifests/1"))
    manifest.pop("annotations")
    for layer in manifest["layers"]:
        layer["bytes"] = get(f"blobs/{layer['digest']}")
        layer.pop("data", None)
        layer["annotations"].pop("com.docker.compose.version")
    manifest["layers"].sort(key=lambda layer: layer["digest"])
    manifest["config"].pop("data", None)
    return manifest
