"""Every verb and flag of the real program is there, with its short name and with a value or not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composekit
import pytest
from clikit import PORTSIDE

VERBS = (
    "attach build commit config cp create down events exec export images kill logs ls pause port "
    "ps publish pull push restart rm run scale start stats stop top unpause up version volumes "
    "wait watch"
).split()
_FLAG = re.compile(r"^ +(?:-(\w), )?--([\w-]+)(?: (\w+))?(?:  |$)", re.M)


def _help(program: list[str], *words: str) -> str:
    return subprocess.run([*program, *words, "--help"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL).stdout  # fmt: skip


def _flags(text: str) -> dict[str, tuple[str, bool]]:
    return {name: (short, bool(kind)) for short, name, kind in _FLAG.findall(text)}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_flags_are_those_of_docker_compose(verb: str) -> None:
    words = [verb] if verb else []
    wanted = _flags(_help(composekit.docker_compose(), *words))
    ours = _flags(_help([PORTSIDE, "compose"], *words))
    if verb == "build":
        wanted.pop("builder")  # taken and not shown: there is one builder
    if verb == "watch":
        wanted.pop("prune")  # always so
    if verb == "publish":
        wanted.pop("dry-run", None)
        ours.pop("dry-run", None)
    assert {name: ours.get(name) for name in wanted} == wanted


def test_verbs_are_those_of_docker_compose() -> None:
    text = _help(composekit.docker_compose())
    found = re.findall(r"^  (\w+) ", text.partition("Commands:")[2], re.M)
    assert set(VERBS) | {"bridge"} == set(found) - {"help"}
    ours = _help([PORTSIDE, "compose"]).partition("Commands:")[2]
    assert set(found) - {"help"} <= set(re.findall(r"^  (\w+) ", ours, re.M))


def test_progress_goes_to_standard_output_on_request(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> None:
    (tmp_path / "compose.yaml").write_text("name: status\nservices: {a: {image: portside/base}}\n")
    programs = composekit.both(tmp_path, docker_env)
    found = []
    for program in programs:
        program.env["COMPOSE_STATUS_STDOUT"] = "1"
        try:
            done = program("create")
            found.append((sorted(done.stdout.splitlines()), done.stderr))
        finally:
            program("down")
    assert found[1] == found[0]
    assert " Container status-a-1  Created" in found[1][0]
