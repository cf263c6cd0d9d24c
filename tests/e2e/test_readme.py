"""The commands of README.md, pasted as printed and in one go, do and print what it shows."""

from __future__ import annotations

import os
import shutil

import pytest
from documentkit import ROOT, Command, Printed, commands_of, differences, faults, paste

NOT_RUN = {
    "sudo ./test": "it is what runs this test",
    "portside daemon -H unix": "needs certificates; tests/api has TLS",
    "sudo apt-get install uidmap": "as an ordinary user; tests/e2e/test_rootless.py",
    "podman --runtime": "an image to choose; tests/e2e/test_runtime_below_others.py",
}
"""Beginnings of commands that are not pasted, and why."""
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command"),
    pytest.mark.timeout(300),
]
Session = tuple[list[Command], list[Printed]]


@pytest.fixture(scope="module")
def session() -> Session:
    """The commands, and what each printed."""
    commands = commands_of((ROOT / "README.md").read_text(), NOT_RUN)
    return commands, paste(commands)


def test_every_command_works(session: Session) -> None:
    found = faults(*session)
    assert not found, "\n\n".join(found)


def test_every_command_prints_what_is_shown(session: Session) -> None:
    found = differences(*session)
    assert not found, "\n\n".join(found)


def test_first_command_says_hello(session: Session) -> None:
    commands, printed = session
    assert commands[0].text == "sudo ./portside run --rm portside/base echo hello"
    assert printed[0].text.splitlines()[-1] == "hello"
    assert "starting one in the background" in printed[0].text


def test_a_reset_leaves_nothing(session: Session) -> None:
    assert "left: " not in session[1][-1].text
