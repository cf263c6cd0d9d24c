"""Project files of the kinds people write, brought up, used, changed, scaled and removed by the
real program and by ours on the same engine, with equal results."""

from __future__ import annotations

import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import composekit
import pytest
from enginekit import RunningEngine
from test_real_programs import IMAGE, PACKAGES

ROOT = Path(__file__).parents[1] / "compose"
PROJECTS = sorted(path for path in ROOT.iterdir() if path.is_dir() and path.name != "config")
TELLING = (
    "devwatch", "extended", "healthy", "hooks", "includes", "ipv6", "jobs", "legacy2", "limits",
    "modes", "monitoring", "mounts", "multifile", "networks3", "notes2", "packages", "profiles",
    "secretenv", "sharedns", "traefik", "voting",
)  # fmt: skip
"""Together they use most attributes; all projects are compared with ``PORTSIDE_COMPOSE_ALL=1``."""
CHOSEN = [path for path in PROJECTS if composekit.ALL or path.name in TELLING]
pytestmark = pytest.mark.timeout(900)  # the first project waits for the engine, each for its turn
_FILES = (
    "compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
    "compose.override.yaml", "docker-compose.override.yaml",
)  # fmt: skip


class Life:
    """One project under both programs."""

    def __init__(self, folder: Path, engine: RunningEngine, env: dict[str, str]) -> None:
        self.theirs, self.ours = composekit.both(folder, env)
        self.engine, self.folder = engine, folder
        flags = folder / "flags"
        self.flags = flags.read_text().split() if flags.exists() else []
        use = folder / "use"
        self.uses = use.read_text().splitlines() if use.exists() else []
        self.problems: list[str] = []
        self.name = folder.name

    def host(self, program: composekit.Program, service: str, port: str, path: str) -> str:
        """A page that this machine gets at a published port."""
        address = self.call(program, "port", service, port).strip()
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                    return str(answer.read().decode())
            except OSError as err:
                if time.monotonic() > deadline:
                    return f"{address}: {err}"
            time.sleep(0.2)

    def call(self, program: composekit.Program, *words: str, status: int | None = 0) -> str:
        done = program(*self.flags, *words, status=status)
        return done.stdout + ("" if done.returncode == 0 else f"status {done.returncode}")

    def ids(self) -> dict[str, str]:
        return composekit.identifiers(self.engine, self.name)

    def state(self) -> dict[str, Any]:
        """Without what depends on how far jobs are."""
        found = composekit.state(self.engine, self.name)
        for item in found.values():
            for key in ("State", "RestartCount", "ExecIDs"):
                item.pop(key, None)
        return found

    def expect(self, what: str, found: Any, wanted: Any) -> None:
        self.problems += [f"{what}: {line}"[:800] for line in composekit.differences(found, wanted)]

    def use(self, program: composekit.Program) -> list[str]:
        """What the commands of the file ``use`` print, lines in any order; ``host`` SERVICE PORT
        PATH gets a page at a published port."""
        found = []
        for line in self.uses:
            words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
            if words[0] == "host":
                text = self.host(program, *words[1:])
            else:
                text = self.call(program, *words, status=None)
            text = re.sub(r"(HOSTNAME=|time=).*|\d+\.\d+/.*ms|\d+(\.\d+){3}|[0-9a-f]{12}", "", text)
            found.append("\n".join(sorted(text.splitlines())))
        return found

    def changing(self) -> list[str]:
        """The words of an ``up`` that changes one service and scales another."""
        if self.flags[:1] != ["-f"]:
            listed = self.folder / "files"
            names = listed.read_text().split() if listed.is_file() else _FILES
            self.flags = [
                word for name in names if (self.folder / name).exists() for word in ("-f", name)
            ] + self.flags
        items = sorted(self.engine_containers(), key=lambda item: item["Name"])
        services = [item["Config"]["Labels"]["com.docker.compose.service"] for item in items]
        single = [
            service for item, service in zip(items, services, strict=True)
            if services.count(service) == 1 and re.fullmatch(r"/.*-1", item["Name"])
            and not item["HostConfig"]["PortBindings"] and "IPAMConfig" not in str(item)
        ]  # fmt: skip
        (self.folder / "change.yaml").write_text(
            f'services: {{{services[0]}: {{environment: {{CHANGED: "1"}}}}}}\n'
        )
        end = _end_of_files(self.flags)
        self.flags[end:end] = ["-f", "change.yaml"]
        return ["--scale", f"{single[-1]}=2"] if single else []

    def engine_containers(self) -> list[Any]:
        return [self.engine.json("GET", f"/containers/{item}/json") for item in self.ids().values()]

    def run(self) -> list[str]:
        """What differs, told in lines."""
        plain = list(self.flags)
        try:
            self.call(self.theirs, "up", "-d", "--quiet-pull")
            first, before = self.state(), self.ids()
            self.call(self.ours, "up", "-d")
            self.expect("ours after theirs: IDs", self.ids(), before)
            uses = self.use(self.theirs)
            self.expect("use by both", self.use(self.ours), uses)
            more = self.changing()
            self.call(self.theirs, "up", "-d", "-t", "0", *more)
            changed = self.state()
            kept = {name for name, item in self.ids().items() if before.get(name) == item}
            self.call(self.ours, "down", "-v", "-t", "0", "--remove-orphans", "--rmi", "local")
            self.expect("after our down", self.state(), {})
            files, self.flags = self.flags, plain
            self.call(self.ours, "up", "-d")
            self.expect("up", self.state(), first)
            self.expect("use", self.use(self.ours), uses)
            before = self.ids()
            self.flags = files
            self.call(self.ours, "up", "-d", "-t", "0", *more)
            self.expect("changed", self.state(), changed)
            after = self.ids()
            mine = {name for name, item in after.items() if before.get(name) == item}
            self.expect("kept", sorted(mine), sorted(kept))
            self.call(self.theirs, "up", "-d", "-t", "0", *more)
            self.expect("theirs after ours: IDs", self.ids(), after)
            self.call(self.theirs, "down", "-v", "-t", "0", "--rmi", "local")
            self.expect("after their down", self.state(), {})
        except AssertionError as err:
            self.problems.append(str(err)[-1500:])
        finally:
            self.call(self.ours, "down", "-v", "-t", "0", "--remove-orphans", status=None)
        return self.problems


def _end_of_files(flags: list[str]) -> int:
    """Where the words of -f end."""
    end = 0
    while flags[end : end + 1] == ["-f"]:
        end += 2
    return end


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, engine: RunningEngine, docker: Callable[..., Any],
    docker_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory,
    debian: Callable[..., Path],
) -> Iterator[dict[str, Future[list[str]]]]:  # fmt: skip
    """The lives of all chosen projects, several at a time on one engine."""
    composekit.docker_compose()
    base = tmp_path_factory.mktemp("projects")
    chosen = [item.callspec.params["source"] for item in request.session.items
              if item.module is request.module and hasattr(item, "callspec")]  # fmt: skip

    def live(source: Path) -> list[str]:
        if (source / "needs").exists():
            docker("import", str(debian("programs", *PACKAGES)), IMAGE, timeout=300)
        folder = base / source.name
        shutil.copytree(source, folder)
        return Life(folder, engine, docker_env).run()

    pool = ThreadPoolExecutor(os.cpu_count())
    yield {source.name: pool.submit(live, source) for source in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("source", CHOSEN, ids=lambda path: path.name)
def test_both_make_the_same(source: Path, results: dict[str, Future[list[str]]]) -> None:
    assert results[source.name].result() == []


def test_there_are_many_projects() -> None:
    assert len(PROJECTS) >= 60
    assert all((path / "use").exists() for path in PROJECTS)
