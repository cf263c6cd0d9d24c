"""The scripts that prepare a checkout: which Python they take, and what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def sourced(text: str, here: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Shell text with the functions of setup.sh."""
    return subprocess.run(
        ["sh", "-c", f'here=$1; . "{ROOT}/setup.sh"; {text}', "sh", str(here)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=100,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="root's environment is for others, too")
def test_root_takes_a_python_that_others_may_execute(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    own = closed / "python3"
    shutil.copy(os.path.realpath(sys.executable), own)
    if subprocess.run([own, "-c", "import venv, ensurepip"], capture_output=True).returncode:
        pytest.skip("this interpreter does not work from another place")
    if subprocess.run(["/usr/bin/python3", "-c", "import venv, ensurepip"]).returncode:
        pytest.skip("the system's python3 makes no environments")
    path = f"{closed}:{os.environ['PATH']}"
    found = sourced('find_python && echo "$python"', "/", PATH=path)
    assert found.stdout == "/usr/bin/python3\n", found.stderr
    found = sourced('find_python && echo "$python"', closed, PATH=path)
    assert found.stdout == "python3\n", "where nobody else can enter it makes no difference"


def test_an_interpreter_that_is_too_old_is_passed_over_in_a_strict_script(tmp_path: Path) -> None:
    """./package has set -e: an interpreter that does not fit must not end it."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "python3.14").symlink_to(sys.executable)
    found = sourced(
        'set -e; find_python; echo "$python"', tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}"
    )
    assert found.stdout in ("/usr/bin/python3\n", "python3.14\n"), found.stderr


def test_an_interpreter_that_cannot_be_executed_is_one_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "portside", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    os.utime(tmp_path / "pyproject.toml", (0, 0))
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/ready").touch()
    (tmp_path / ".venv/bin/python").symlink_to("/nonexistent/python3")
    done = subprocess.run(["./portside", "ps"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 126 and len(done.stderr.splitlines()) == 1
    assert f"the Python of {tmp_path}/.venv:" in done.stderr


def test_of_a_failed_installation_the_errors_are_shown(tmp_path: Path) -> None:
    lines = "\\n".join([*(f"Err:{n} retry" for n in range(40)), "E: Unable to locate package x"])
    done = sourced(f"fails() {{ printf '{lines}\\n'; return 100; }}; quietly fails", tmp_path)
    assert (done.returncode, done.stderr) == (100, "E: Unable to locate package x\n")
    done = sourced("fails() { seq 50; return 3; }; quietly fails", tmp_path)
    assert (done.returncode, done.stderr.split()) == (3, [str(n) for n in range(31, 51)])


def test_an_index_out_of_reach_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull,
               "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_RETRIES": "1"}  # fmt: skip
    done = sourced("pip_install portside-nothing-of-this-name", tmp_path, **nowhere)
    assert done.returncode and len(done.stderr.splitlines()) == 1, done.stderr
    assert "the Python package index cannot be reached" in done.stderr
