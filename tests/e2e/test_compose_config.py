"""`config` of every project file beside the real program's: the same bytes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import composekit
import pytest
from clikit import PORTSIDE

ROOT = Path(__file__).parents[1] / "compose"
PROJECTS = sorted(
    path for path in (*ROOT.iterdir(), *(ROOT / "config").iterdir())
    if path.is_dir() and path.name != "config"
)  # fmt: skip
FORMS = (
    [], ["--format", "json"], ["--hash", "*"], ["--services"], ["--volumes"], ["--images"],
    ["--profiles"], ["--environment"], ["--variables"], ["--no-interpolate"], ["--no-normalize"],
    ["--no-path-resolution"],
)  # fmt: skip
TELLING = ([], ["--hash", "*"])
"""The forms that are compared for every file; of the others each file has one, all of them with
``PORTSIDE_COMPOSE_ALL=1``."""
UNORDERED = ("--services", "--volumes", "--images", "--variables")
"""Lists that the real program prints in an order by chance."""
OTHERWISE = {("envfileflag", "--no-interpolate"), ("interpolation", "--variables")}
"""Where the real program does not look at what --env-file says, and where it shows any one of the
uses of a variable."""
pytestmark = pytest.mark.timeout(600)  # on a loaded machine each of the programs is slow
_TIME = re.compile(r'time="[^"]*"')


def _run(program: list[str], folder: Path, words: list[str]) -> tuple[int, str, list[str]]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    env |= {"PWD": str(folder), "DOCKER_HOST": "unix:///nonexistent"}
    for name in ("OLDPWD", "PYTEST_CURRENT_TEST"):  # the latter changes while projects wait
        env.pop(name, None)
    done = subprocess.run([*program, *words], cwd=folder, env=env, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120)  # fmt: skip
    return done.returncode, done.stdout, sorted(_TIME.sub("", done.stderr).splitlines())


def forms_of(folder: Path) -> list[list[str]]:
    """The forms in which a project is compared."""
    if composekit.ALL:
        return list(FORMS)
    others = [form for form in FORMS if form not in TELLING]
    return [*TELLING, others[PROJECTS.index(folder) % len(others)]]


def compared(folder: Path) -> list[str]:
    """What differs between the two programs, for each form of ``config``."""
    flags = folder / "flags"
    given = flags.read_text().split() if flags.exists() else []
    found = []
    for form in forms_of(folder):
        if (folder.name, (form or [""])[0]) in OTHERWISE:
            continue
        first, second = (
            _run(program, folder, [*given, "config", *form])
            for program in (composekit.docker_compose(), [PORTSIDE, "compose"])
        )
        if (form or [""])[0] in UNORDERED:
            first = (first[0], "\n".join(sorted(first[1].splitlines())), first[2])
            second = (second[0], "\n".join(sorted(second[1].splitlines())), second[2])
        if first[0]:  # both refuse, each with a message of its own
            first, second = (first[0], "", []), (second[0], "", [])
        if first != second:
            found.append(f"{form}: {first} != {second}")
    return found


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[list[str]]]]:
    """The comparisons of all chosen projects, several at a time."""
    composekit.docker_compose()
    chosen = [item.callspec.params["folder"] for item in request.session.items
              if item.module is request.module and hasattr(item, "callspec")]  # fmt: skip
    pool = ThreadPoolExecutor(os.cpu_count())
    yield {folder.name: pool.submit(compared, folder) for folder in chosen}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda path: path.name)
def test_config_is_the_same(folder: Path, results: dict[str, Future[list[str]]]) -> None:
    assert results[folder.name].result() == []


def test_there_are_many_projects() -> None:
    assert len(PROJECTS) >= 60
