"""Compose projects by our program and by the real one, on the same engine: equal results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import composekit
import pytest
from enginekit import RunningEngine

Programs = tuple[composekit.Program, composekit.Program]


@pytest.fixture
def programs(
    tmp_path: Path, docker: Callable[..., Any], docker_env: dict[str, str]
) -> Callable[[str], Programs]:
    """The two programs in a directory with a file."""

    def make(text: str) -> Programs:
        (tmp_path / "compose.yaml").write_text(text)
        return composekit.both(tmp_path, docker_env)

    return make


SLEEPERS = """
name: sleepers
services:
  a: {image: portside/base, command: sleep 1000}
  b: {image: portside/base, command: sleep 1000, depends_on: [a]}
"""


def test_lists_and_life(programs: Callable[[str], Programs], engine: RunningEngine) -> None:
    theirs, ours = programs(SLEEPERS)
    try:
        ours("up", "-d")
        for words in (
            ["ps"], ["ps", "-a"], ["ps", "-q"], ["ps", "--services"], ["ls"], ["images"],
            ["images", "-q"], ["volumes"], ["top"], ["ps", "--format", "{{.Name}} {{.State}}"],
            ["stop", "-t", "0", "b"], ["ps", "-a"], ["ps", "--status", "exited", "-q"],
            ["kill", "b"], ["start", "b"], ["ps", "nosuch"], ["up", "-d", "nosuch"],
            ["port", "a", "80"], ["logs", "--nosuch"],
        ):  # fmt: skip
            first, second = theirs(*words, status=None), ours(*words, status=None)
            assert second.returncode == first.returncode, (words, first.stderr, second.stderr)
            assert composekit.plain(second.stdout) == composekit.plain(first.stdout), words
        ours("pause", "a")
        theirs("unpause", "a")
        ours("restart", "-t", "0")
        ours("up", "-d", "--scale", "a=3")
        assert len(ours("ps", "-q", "a").stdout.split()) == 3
        theirs("up", "-d", "--scale", "a=2")
        ours("scale", "a=1")
        assert len(theirs("ps", "-q").stdout.split()) == 2
        ours("rm", "-s", "-f")
        assert theirs("ps", "-a", "-q").stdout == ""
    finally:
        ours("down", "-v", "-t", "0")
    assert composekit.state(engine, "sleepers") == {}


def test_only_what_differs_is_recreated(
    programs: Callable[[str], Programs], engine: RunningEngine
) -> None:
    _, ours = programs(SLEEPERS)
    try:
        ours("up", "-d")
        before = composekit.identifiers(engine, "sleepers")
        programs(SLEEPERS.replace("depends_on: [a]", "depends_on: [a], environment: {X: 1}"))
        ours("up", "-d")
        after = composekit.identifiers(engine, "sleepers")
        assert after["/sleepers-a-1"] == before["/sleepers-a-1"]
        assert after["/sleepers-b-1"] != before["/sleepers-b-1"]
        ours("up", "-d", "--no-recreate")
        assert composekit.identifiers(engine, "sleepers") == after
        ours("up", "-d", "--force-recreate", "--no-deps", "b")
        forced = composekit.identifiers(engine, "sleepers")
        assert forced["/sleepers-a-1"] == after["/sleepers-a-1"]
        assert forced["/sleepers-b-1"] != after["/sleepers-b-1"]
    finally:
        ours("down", "-v", "-t", "0")


@pytest.mark.timeout(300)
def test_anonymous_volumes_that_were_inherited_are_removed(
    programs: Callable[[str], Programs], engine: RunningEngine
) -> None:
    """To the engine they are named: ``down -v`` and ``rm -v`` remove them, but no other ones."""
    _, ours = programs("services: {a: {image: portside/base, command: sleep 1000, init: true, "
                       "volumes: [/own]}}\n")  # fmt: skip
    for words in (["down", "-t", "0", "-v"], ["rm", "-s", "-f", "-v"]):
        ours("-p", "inherits", "up", "-d")
        ours("-p", "inherits", "exec", "a", "touch", "/own/kept")
        ours("-p", "inherits", "up", "-d", "--force-recreate", "-t", "0")
        assert ours("-p", "inherits", "exec", "a", "ls", "/own").stdout == "kept\n"
        [container] = composekit.identifiers(engine, "inherits").values()
        [mount] = engine.json("GET", f"/containers/{container}/json")["Mounts"]
        ours("-p", "inherits", *words)
        assert engine.request("GET", f"/volumes/{mount['Name']}")[0] == 404, (words, mount)
    ours("-p", "inherits", "down")


UNHEALTHY = """
name: unwell
services:
  db:
    image: portside/base
    command: sh -c 'echo begins; sleep 1000'
    healthcheck: {test: "echo no luck; exit 3", interval: 200ms, retries: 1}
  job: {image: portside/base, command: sh -c 'echo failed work; exit 7'}
  web:
    image: portside/base
    command: sleep 1000
    depends_on: {db: {condition: service_healthy}}
  late:
    image: portside/base
    command: sleep 1000
    depends_on: {job: {condition: service_completed_successfully}}
"""


def test_failed_conditions_say_why(programs: Callable[[str], Programs]) -> None:
    _, ours = programs(UNHEALTHY)
    try:
        done = ours("up", "-d", "web", status=1)
        assert "dependency failed to start: container unwell-db-1 is unhealthy" in done.stderr
        assert "exit 3: no luck" in done.stderr and "begins" in done.stderr
        done = ours("up", "-d", "late", status=1)
        assert 'service "job" didn\'t complete successfully: exit 7' in done.stderr
        assert "failed work" in done.stderr
    finally:
        ours("down", "-v", "-t", "0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("networks: {default: {external: true, name: nosuch}}",
         "network nosuch declared as external, but could not be found"),
        ("volumes: {vol: {external: true, name: nosuch}}", 'external volume "nosuch" not found'),
    ],
)  # fmt: skip
def test_external_resources_are_looked_for_first(
    programs: Callable[[str], Programs], engine: RunningEngine, text: str, said: str
) -> None:
    theirs, ours = programs(
        "name: outside\nservices: {a: {image: portside/base, volumes: ['vol:/v', 'wol:/w']}}\n"
        + ("volumes: {vol: {}, wol: {}}\n" if "networks" in text else "")
        + text.replace("volumes: {", "volumes: {wol: {}, ")
    )
    for program in (theirs, ours):
        done = program("up", "-d", status=1)
        assert said in done.stderr
    theirs("down", "-v")
    ours("up", "-d", status=1)
    assert composekit.state(engine, "outside") == {}


TALKERS = """
name: talkers
services:
  a: {image: portside/base, command: sh -c 'echo from a; echo err >&2; sleep 0.5; exit 3'}
  bb:
    image: portside/base
    command: sh -c 'trap "exit 0" TERM; echo from b; sleep 100 & wait'
    environment: {GIVEN: "1"}
    depends_on: [a]
    post_start: [{command: echo hooked}]
"""


def _pairs(text: str) -> list[str]:
    """Lines without the width of their prefixes and without control characters, sorted."""
    lines = (line.replace("\x1b[K", "").strip() for line in text.splitlines())
    return sorted(" ".join(line.split()) for line in lines if line)


def test_attached_up(programs: Callable[[str], Programs]) -> None:
    """Output, hooks, ends and the exit status."""
    theirs, ours = programs(TALKERS)
    found = []
    for program in (theirs, ours):
        try:
            done = program("up", "--abort-on-container-exit", "-t", "1", status=3)
            found.append(_pairs(done.stdout))
            done = program("up", "--exit-code-from", "bb", "-t", "1", status=0)
        finally:
            program("down", "-t", "0")
    assert found[1] == found[0]
    assert "a-1 exited with code 3" in found[1] and "bb-1 -> | hooked" in found[1]


def test_logs_run_and_exec(programs: Callable[[str], Programs], tmp_path: Path) -> None:
    theirs, ours = programs(TALKERS)
    try:
        ours("up", "-d")
        (tmp_path / "data").write_text("copied\n")
        for words, status in (
            (["logs", "a"], 0), (["logs", "--no-log-prefix", "-n", "1", "bb"], 0),
            (["run", "--rm", "--no-deps", "a", "echo", "hi"], 0),
            (["run", "--rm", "-T", "--no-deps", "bb", "sh", "-c", "echo $GIVEN; exit 4"], 4),
            (["run", "--rm", "--no-deps", "-e", "X=y", "-u", "1000", "-w", "/tmp",
              "--entrypoint", "sh -c", "a", "id -u; pwd; echo $X"], 0),
            (["exec", "bb", "cat", "/nosuch"], 1), (["exec", "-T", "bb", "sh", "-c", "exit 5"], 5),
            (["exec", "nosuch", "true"], 1), (["cp", "data", "bb:/data"], 0),
            (["exec", "-e", "A=b", "-w", "/tmp", "bb", "sh", "-c", "pwd; echo $A; cat /data"], 0),
            (["port", "bb", "80"], 1), (["run", "nosuch"], 1),
        ):  # fmt: skip
            first = theirs(*words, status=status)
            second = ours(*words, status=status)
            assert _pairs(second.stdout) == _pairs(first.stdout), words
        done = ours("run", "-d", "--no-deps", "bb")
        assert len(done.stdout.strip()) == 64
        assert "talkers-bb-run-" in theirs("ps", "-a").stdout
        ours("down", "-t", "0", "--remove-orphans")
        assert theirs("ps", "-a", "-q").stdout == ""
    finally:
        ours("down", "-t", "0", "--remove-orphans", status=None)


ROLLING = """
name: rolling
services:
  web:
    image: portside/base
    command: sleep 1000
    init: true
    environment: {VERSION: "1"}
    deploy:
      replicas: 3
      update_config: {parallelism: 2, delay: 10ms, ORDER}
"""


def _starts_and_ends(engine: RunningEngine, since: str) -> list[tuple[str, str]]:
    """What happened to the containers of the project: starts and ends, in order."""
    found = []
    until = engine.json("GET", "/info")["SystemTime"]
    filters = quote(json.dumps({"label": ["com.docker.compose.project=rolling"]}))
    path = f"/events?since={quote(since)}&until={quote(until)}&filters={filters}"
    for line in engine.request("GET", path)[2].splitlines():
        event = json.loads(line)
        if event["Action"] in ("start", "die"):
            found.append((event["Action"], event["Actor"]["ID"]))
    return found


@pytest.mark.parametrize("order", ["stop-first", "start-first"])
def test_rolling_updates(
    programs: Callable[[str], Programs], engine: RunningEngine, order: str
) -> None:
    text = ROLLING.replace("ORDER", f"order: {order}")
    _, ours = programs(text)
    try:
        ours("up", "-d")
        before = composekit.identifiers(engine, "rolling")
        since = engine.json("GET", "/info")["SystemTime"]
        programs(text.replace('"1"', '"2"'))
        ours("up", "-d", "-t", "0")
        after = composekit.identifiers(engine, "rolling")
        assert after.keys() == before.keys() and not set(after.values()) & set(before.values())
        running, least, most = set(before.values()), 3, 3
        for action, identifier in _starts_and_ends(engine, since):
            (running.add if action == "start" else running.discard)(identifier)
            least, most = min(least, len(running)), max(most, len(running))
        assert running == set(after.values())
        if order == "stop-first":
            assert 1 <= least < 3 and most == 3
        else:
            assert least == 3 and 3 < most <= 5
        ours("up", "-d")
        assert composekit.identifiers(engine, "rolling") == after
    finally:
        ours("down", "-t", "0")


@pytest.mark.parametrize(
    ("action", "status", "said", "replaced"),
    [
        ("pause", 1, "the update is paused: 1 containers were not replaced", 2),
        ("rollback", 1, "the previous containers were restored", 0),
        ("continue", 0, "update of service web failed", 3),
    ],
)  # fmt: skip
def test_rolling_updates_that_fail(
    programs: Callable[[str], Programs], engine: RunningEngine, action: str, status: int,
    said: str, replaced: int,
) -> None:  # fmt: skip
    text = ROLLING.replace("ORDER", f"failure_action: {action}, monitor: 30s")
    _, ours = programs(text)
    try:
        ours("up", "-d")
        before = composekit.identifiers(engine, "rolling")
        programs(text.replace("sleep 1000", "sh -c 'sleep 0.2; exit 3'"))
        done = ours("up", "-d", "-t", "0", status=status)
        assert said in done.stderr and "exited (3)" in done.stderr
        after = composekit.identifiers(engine, "rolling")
        assert after.keys() == before.keys()
        assert len(set(after.values()) - set(before.values())) == replaced
        running = ours("ps", "-q", "--status", "running").stdout.split()
        assert len(running) == 3 - replaced
    finally:
        ours("down", "-t", "0")
