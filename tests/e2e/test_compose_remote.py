"""Compose files in a registry and in a git repository, beside the real ``docker compose``."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import composekit
import imagekit
import pytest
from enginekit import RunningEngine

Programs = tuple[composekit.Program, composekit.Program]

MAIN = """
name: remote
services:
  web:
    image: ${IMAGE:-portside/base}
    command: sleep 1000
    init: true
    env_file:
      - settings/web.env
    environment: {WORD: "${WORD}"}
    volumes: ["./data:/data"]
  more:
    extends:
      file: common/base.yaml
      service: base
"""
FILES = {
    "compose.yaml": MAIN,
    "second.yaml": "services: {web: {image: base, labels: {second: 'yes'}}}\n",
    "settings/web.env": "B=2\n",
    "common/base.yaml": (
        "services:\n  base:\n    image: portside/base\n    command: sleep 1000\n    init: true\n"
    ),
}


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A registry that has TLS, which docker compose requires, and a password, and its
    certificate."""
    folder = tmp_path_factory.mktemp("tls")
    pair, line = imagekit.certificate(folder), imagekit.htpasswd_line("user", "secret")
    with imagekit.docker_registry(folder / "registry", tls=pair, htpasswd=line) as address:
        yield address, pair[0]


@pytest.fixture
def programs(
    host: tuple[str, Path], tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> Programs:
    """Both in an empty directory, with caches of their own."""
    (tmp_path / "here").mkdir()
    (tmp_path / "config").mkdir()
    login = {"auth": base64.b64encode(b"user:secret").decode()}
    (tmp_path / "config" / "config.json").write_text(json.dumps({"auths": {host[0]: login}}))
    env = {**docker_env, "SSL_CERT_FILE": str(host[1]), "DOCKER_CONFIG": str(tmp_path / "config")}
    real, ours = composekit.both(tmp_path / "here", env)
    real.env = {**real.env, "XDG_CACHE_HOME": str(tmp_path / "real" / "cache")}
    ours.env = {**ours.env, "XDG_CACHE_HOME": str(tmp_path / "ours" / "cache")}
    return real, ours


def _config(program: composekit.Program, *words: str) -> str:
    return program(*words, "config").stdout.replace("/real/cache/", "/ours/cache/")


def test_an_artifact_goes_round(host: tuple[str, Path], programs: Programs, tmp_path: Path) -> None:
    """What one program publishes, the other one reads, and both read the same."""
    _write(tmp_path / "p", FILES)
    for name, publisher in zip(("real", "ours"), programs, strict=True):
        artifact = f"{host[0]}/{name}:1"
        words = ["--project-directory", str(tmp_path / "p")]
        for file in ("compose.yaml", "second.yaml"):
            words += ["-f", str(tmp_path / "p" / file)]
        publisher(*words, "publish", "-y", "--with-env", artifact)
        first, second = (_config(each, "-f", f"oci://{artifact}") for each in programs)
        assert first == second
        assert 'second: "yes"' in second and 'B: "2"' in second
        assert f"source: {tmp_path}/ours/cache/docker-compose/" in second
        cached = [sorted(path.name for path in (tmp_path / each).rglob("*.*"))
                  for each in ("real", "ours")]  # fmt: skip
        assert cached[0] == cached[1]
        _write(tmp_path / "here", {"own.yaml": f"include: ['oci://{artifact}']\n"})
        first, second = (_config(each, "-f", "own.yaml") for each in programs)
        assert first == second
    for program in programs:
        done = program("-f", f"oci://{host[0]}/none:1", "config", status=1)
        assert f'failed to pull OCI resource "{host[0]}/none:1"' in done.stderr


def test_up_asks_about_variables(
    host: tuple[str, Path], programs: Programs, tmp_path: Path, engine: RunningEngine
) -> None:
    _write(tmp_path / "p", FILES)
    ours = programs[1]
    ours("-f", str(tmp_path / "p" / "compose.yaml"), "publish", "-y", "--with-env",
         f"{host[0]}/ask:1")  # fmt: skip
    file = f"oci://{host[0]}/ask:1"
    for program in programs:
        program.env = {**program.env, "WORD": "hello", "XDG_CACHE_HOME": str(tmp_path / "one")}
    asked = [
        program("-f", file, *verb, input=answer, status=1).stdout
        for program in programs for answer in ("n\n", "\n", "")
        for verb in (("up", "-d"), ("run", "web", "true"))
    ]  # fmt: skip
    question = "Do you want to proceed with these variables? [Y/n]: "
    assert {text.replace(question, "") for text in asked} == {asked[-1]}
    assert f'Your compose stack "{file}" is stored in "{tmp_path}/one/docker-compose/' in asked[-1]
    assert "WORD       hello           environment    no         \n" in asked[-1]
    assert composekit.state(engine, "remote") == {}
    states = []
    for program in programs:
        program("-f", file, "up", "-d", "-y")
        try:
            states.append(composekit.state(engine, "remote"))
        finally:
            program("-f", file, "down", "-t", "0")
    assert composekit.differences(states[0], states[1]) == []


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[str]:
    """The address of a repository that git serves."""
    tree = tmp_path / "served" / "r.git"
    _write(tree, {f"sub/{name}": text for name, text in FILES.items()})
    port = imagekit.free_port()
    address = f"git://127.0.0.1:{port}/r.git"
    _write(tree, {"docker-compose.yml": "include: [sub/compose.yaml]\n"})
    _write(tree, {"remote/compose.yaml": f"include: ['{address}#v1']\n"})
    git = ["git", "-C", str(tree), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "m"],
                  ["tag", "v1"]):  # fmt: skip
        subprocess.run([*git, *words], check=True)
    place = subprocess.check_output(["git", "--exec-path"], text=True).strip()
    process = subprocess.Popen(
        [f"{place}/git-daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={tree.parent}", "--log-destination=none"]
    )  # fmt: skip
    try:
        imagekit.await_port(port, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_git(programs: Programs, repository: str, tmp_path: Path) -> None:
    for fragment in ("", "#main", "#v1:sub", "#:sub/second.yaml"):
        first, second = (_config(each, "-f", repository + fragment) for each in programs)
        assert first == second
    for program in programs:
        file = f"{repository}#:remote"
        done = program("-f", file, "up", "-d", input="n\n", status=1)
        assert f"includes files from remote sources:\n  - {file}\n" in done.stdout
        assert done.stderr.endswith("operation cancelled by user\n")
    _write(tmp_path / "here", {"own.yaml": f"include: ['{repository}#main:sub']\n"})
    first, second = (_config(each, "-f", "own.yaml") for each in programs)
    assert first == second
    for fragment, error in (("#none", "repository"), ("#:../..", "path traversal detected: ../.."),
                            ("#:/etc", "must be relative, got: /etc")):  # fmt: skip
        for program in programs:
            done = program("-f", repository + fragment, "config", status=1)
            assert error in done.stderr
