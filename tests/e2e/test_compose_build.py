"""``compose build``: everything that a service's ``build`` says reaches the builder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composekit
import pytest

PROJECT = """
name: builds
services:
  web:
    image: builds-web
    build:
      context: ./app
      args: {WORD: hello, INHERITED: }
      additional_contexts: {extra: ./more, under: "service:base"}
      secrets: [token, {source: variable, target: other}]
      cache_to: ["type=local,dest=CACHE"]
      labels: {mark: one}
      tags: ["builds-web:second"]
      extra_hosts: ["box:192.0.2.7"]
      ulimits: {nofile: {soft: 700, hard: 800}}
    command: cat /found
  base:
    image: builds-base
    build:
      dockerfile_inline: |
        FROM portside/base
        RUN echo from the base >/base
secrets:
  token: {file: ./token}
  variable: {environment: SECRET}
"""
DOCKERFILE = """
FROM under
ARG WORD
ARG INHERITED
COPY --from=extra file /extra
RUN --mount=type=secret,id=token --mount=type=secret,id=other \\
    (echo $WORD $INHERITED; cat /base /extra /run/secrets/token /run/secrets/other; \\
     grep -w box /etc/hosts; ulimit -Sn; ulimit -Hn) >/found
"""


@pytest.fixture
def programs(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> tuple[composekit.Program, composekit.Program]:
    for name, text in (
        ("app/Dockerfile", DOCKERFILE), ("more/file", "from a context\n"),
        ("token", "from a file\n"), ("compose.yaml", PROJECT.replace("CACHE", f"{tmp_path}/c")),
        (".env", "SECRET=from dotenv\nINHERITED=inherited\n"),
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return composekit.both(tmp_path, docker_env)


def _printed(text: str) -> dict[str, Any]:
    """The order of the group's targets is not always the same with docker compose."""
    found: dict[str, Any] = json.loads(text)
    found["group"]["default"]["targets"].sort()
    return found


def test_print_is_that_of_docker_compose(
    programs: tuple[composekit.Program, composekit.Program],
) -> None:
    theirs, ours = programs
    words = ("build", "--print")
    assert _printed(ours(*words).stdout) == _printed(theirs(*words).stdout)
    words = ("build", "--print", "--ssh=default", "web")
    assert _printed(ours(*words).stdout) == _printed(theirs(*words).stdout)
    printed = json.loads(ours("build", "--print", "--provenance=mode=max", "--sbom=false").stdout)
    assert printed["target"]["web"]["attest"] == [
        "type=provenance,mode=max", "type=sbom,disabled=true"]  # fmt: skip


def test_everything_reaches_the_builder(
    programs: tuple[composekit.Program, composekit.Program], tmp_path: Path
) -> None:
    ours = programs[1]
    try:
        done = ours("build", "--progress", "plain")
        assert "[web " in done.stderr and "from dotenv" not in done.stderr
        assert (tmp_path / "c" / "index.json").exists()
        done = ours("up", "--no-log-prefix", "web")
        wanted = ("hello inherited\nfrom the base\nfrom a context\nfrom a file\nfrom dotenv"
                  "192.0.2.7\tbox\n700\n800\n")  # fmt: skip
        assert wanted in done.stdout
    finally:
        ours("down", "--rmi", "all", status=None)


def test_a_failed_build_names_its_service(
    programs: tuple[composekit.Program, composekit.Program], tmp_path: Path
) -> None:
    (tmp_path / "app" / "Dockerfile").write_text("FROM portside/base\nRUN exit 3\n")
    done = programs[1]("build", "web", status=1)
    assert "target web: failed to solve: process" in done.stderr and "exit code: 3" in done.stderr
