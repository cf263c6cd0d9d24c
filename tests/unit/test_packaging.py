"""The service's files, manual pages, the commit, and the installed script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clikit import ROOT, Answer, FakeEngine, call

import portside
from portside.cli import commands, daemon_service, manual
from portside.client import client as api_client
from portside.model import build_info


def test_units_have_the_real_path(tmp_path: Path) -> None:
    found = daemon_service.files("/opt/my tools/50%/portside", "/usr/local", "/etc/systemd/system")
    service = found["/etc/systemd/system/portside.service"]
    assert 'ExecStart="/opt/my tools/50%%/portside" daemon -H fd://' in service
    assert "KillMode=process" in service and "@" not in service.replace("@COMMAND@", "@")
    assert not [text for text in found.values() if "@COMMAND@" in text]
    assert "/usr/local/share/bash-completion/completions/portside" in found
    assert daemon_service.command_path() == str(ROOT / "portside")


def test_every_verb_has_a_manual_page() -> None:
    pages = manual.pages()
    for name in commands.MODULES:
        verb = manual.load(name)
        if not name.startswith("_") and not verb.about.startswith("hidden:"):
            text = pages[f"portside-{verb.names[0].replace(' ', '-')}.1"]
            for flag in verb.flags:
                shown = flag.name.replace("-", "\\-")
                assert manual.is_hidden(flag) or f"\\fB\\-\\-{shown}\\fR" in text
    if shutil.which("man"):
        page = pages["portside-run.1"].encode()
        done = subprocess.run(
            ["man", "--warnings", "-l", "-"], input=page, capture_output=True,
            env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert b"--publish" in done.stdout and not done.stderr


def test_the_commit_is_reported_without_git(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")
    head = subprocess.run(
        [git, "-c", "safe.directory=*", "-C", ROOT, "rev-parse", "HEAD"],
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert build_info.commit() == head[:12]
    made = tmp_path / "repo"
    for words in (["init", "-q", "-b", "x/y", made], ["-C", made, "-c", "user.name=a", "-c",
                  "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"]):  # fmt: skip
        subprocess.run([git, *words], check=True)
    tell = [git, "-C", made, "rev-parse", "HEAD"]
    head = subprocess.run(tell, capture_output=True, text=True).stdout.strip()
    assert build_info._of_checkout(str(made)) == head
    subprocess.run([git, "-C", made, "pack-refs", "--all"], check=True)
    assert build_info._of_checkout(str(made)) == head
    subprocess.run([git, "-C", made, "checkout", "-q", "--detach"], check=True)
    assert build_info._of_checkout(str(made)) == head
    assert build_info._of_checkout(str(tmp_path)) == ""


def test_an_older_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEngine() as engine:
        server = {"Server": "Portside/0.1.0+0123456789ab (linux)"}
        failed = Answer(500, {"message": "cannot import name"}, server)
        engine.answers["GET", "/containers/json"] = failed
        done = call(str(ROOT / "portside"), "ps", env={"DOCKER_HOST": engine.host})
        assert done.returncode == 1 and "cannot import name" in done.stderr
        if build_info.commit():
            assert "commit 0123456789ab" in done.stderr and "daemon restart" in done.stderr
        engine.answers["GET", "/version"] = {"Version": "9", "GitCommit": "0123456789ab"}
        done = call(str(ROOT / "portside"), "daemon", "status", env={"DOCKER_HOST": engine.host})
        assert done.returncode == 0 and "version 9, commit 0123456789ab" in done.stdout
    done = call(str(ROOT / "portside"), "-H", "unix:///nonexistent", "daemon", "status")
    assert done.returncode == 3
    for text in ("", "Docker/28.5.2 (linux)", "Portside/0.1.0 (linux)"):
        assert api_client._age(text) == ""


def test_the_installed_script(tmp_path: Path) -> None:
    """It finds its Python and its package beside itself, through links, without the site module."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = tmp_path / "env" / "lib" / minor / "site-packages"
    site.mkdir(parents=True)
    (site / "portside").symlink_to(Path(portside.__file__).parent)
    bin = tmp_path / "env" / "bin"
    bin.mkdir()
    for name in ("portside", "portside-runtime"):
        shutil.copy(ROOT / "scripts" / name, bin)
        (tmp_path / f"link-{name}").symlink_to(f"env/bin/{name}")
    (bin / "python3").write_text(f'#!/bin/sh\necho "$@" >&2\nexec {sys.executable} "$@"\n')
    (bin / "python3").chmod(0o755)
    for name, shown in (("portside", "Portside"), ("portside-runtime", "portside-runtime")):
        done = call(str(tmp_path / f"link-{name}"), "--version")
        assert done.stdout.startswith(f"{shown} version {portside.__version__}")
        assert done.stderr.startswith("-I -S ")
    # one that executes itself afresh finds its packages again
    done = call(str(tmp_path / "link-portside-runtime"), "create", "--bundle", "/nonexistent", "x")
    assert done.returncode == 1 and "/nonexistent/config.json not found" in done.stderr
