"""What a user reads when the engine that a command starts in the background ends at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from portside.cli import engine_start
from portside.model.errors import Unavailable


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo about to fail; kill -SEGV $$", "it was ended by SIGSEGV (Segmentation fault)"),
        ("kill -KILL $$", "it was ended by SIGKILL (Killed)"),
        ("echo no such bridge; exit 3", "it ended with status 3"),
    ],
)
def test_how_it_ended_is_reported(
    script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, log = tmp_path / "python", tmp_path / "log"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(engine_start, "LOG", str(log))
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(Unavailable) as raised:
        engine_start._start("starting one")
    assert told in str(raised.value)
    assert told.removeprefix("it ") in log.read_text(), "the log says so too"
    for line in script.splitlines():
        if line.startswith("echo"):
            assert line.split(";")[0].removeprefix("echo ") in str(raised.value)
