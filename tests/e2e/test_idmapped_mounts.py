"""Bind mounts whose files belong to somebody else inside (``idmap``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enginekit import RunningEngine
from runtimekit import needs_idmapping

BASE = "portside/base"
Docker = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host's user 1234."""
    place = tmp_path / "theirs"
    place.mkdir()
    needs_idmapping(place)
    (place / "file").write_text("x\n")
    for path in (place, place / "file"):
        os.chown(path, 1234, 1235)
    (place / "root").write_text("x\n")
    return place


SHOW = "cd /s; stat -c '%u %g' file root; touch made && stat -c '%u %g' made"


def test_the_owner_becomes_the_containers_user(docker: Docker, source: Path) -> None:
    done = docker("run", "--rm", "-v", f"{source}:/s:idmap", BASE, "sh", "-c", SHOW)
    assert done.stdout.splitlines() == ["0 0", "1234 1235", "0 0"]
    found = (source / "made").stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)
    assert (source / "file").stat().st_uid == 1234


def test_a_user_by_number(docker: Docker, source: Path) -> None:
    done = docker("run", "--rm", "-u", "77:88", "-v", f"{source}:/s:idmap", BASE, "sh", "-c", SHOW)
    assert done.stdout.splitlines() == ["77 88", "0 0", "77 88"]
    assert (source / "made").stat().st_uid == 1234


def test_a_mapping_in_full(docker: Docker, source: Path) -> None:
    mapping = "idmap=uids=1234-50-1#0-0-1;gids=1235-60-1#0-0-1"
    done = docker("run", "--rm", "-v", f"{source}:/s:{mapping}", BASE, "stat", "-c", "%u %g",
                  "/s/file")  # fmt: skip
    assert done.stdout == "50 60\n"


def test_by_the_api_and_read_only(engine: RunningEngine, docker: Docker, source: Path) -> None:
    body = {
        "Image": BASE,
        "Cmd": ["stat", "-c", "%u", "/s/file"],
        "HostConfig": {
            "Mounts": [{"Type": "bind", "Source": str(source), "Target": "/s", "ReadOnly": True,
                        "BindOptions": {"Idmap": "auto"}}]
        },
    }  # fmt: skip
    id = engine.json("POST", "/containers/create", body)["Id"]
    try:
        assert docker("start", "-a", id).stdout == "0\n"
    finally:
        docker("rm", "-f", id)


@pytest.mark.parametrize("text", ["uids=1-2", "uids=1-2-3", "moon", "uids=1-2-0;gids=1-2-3"])
def test_mappings_that_make_no_sense(docker: Docker, source: Path, text: str) -> None:
    done = docker("run", "--rm", "-v", f"{source}:/s:idmap={text}", BASE, "true", check=False)
    assert done.returncode == 125 and "invalid idmap" in done.stderr


def test_a_user_by_name_is_asked_for_as_a_number(docker: Docker, source: Path) -> None:
    done = docker("run", "--rm", "-u", "nobody", "-v", f"{source}:/s:idmap", BASE, "true",
                  check=False)  # fmt: skip
    assert done.returncode == 125 and "as numbers" in done.stderr
