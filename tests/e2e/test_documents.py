"""The commands of docs/, CONTRIBUTING.md and examples/, pasted as printed, work.

README.md's are pasted by ``test_readme.py``.
"""

from __future__ import annotations

import os
import re

import pytest
from documentkit import ROOT, Command, Printed, commands_of, differences, faults, paste

DOCUMENTS = ("docs/install.md", "docs/monitoring.md", "docs/run-walk.md", "docs/SECURITY.md",
             "docs/SCOPE.md", "docs/RELEASING.md", "docs/glossary.md", "examples/README.md",
             "CONTRIBUTING.md")  # fmt: skip
NOT_RUN = {
    "./package": "writes into dist/ of the checkout",
    "sudo apt-get": "installs or removes what ./package has built",
    "apt-get install": "installs on this machine what ./package has built",
    "sudo ./test": "it is what runs this test",
    "./test": "it is what runs this test",
    "sudo loginctl": "needs a machine that systemd has booted: test_systemd.py does it",
    "docker trust": "what is not supported",
    "docker logs": "the name of a verb",
    "cadvisor -docker": "needs Debian's cadvisor, which serves until it is ended",
    "docker run -v /:/rootfs": "needs an image with Debian's cadvisor",
}
"""Beginnings of commands that are not pasted, and why."""
PASTED_AS = {
    # it runs until it is ended; the address is the one that the document names
    "portside monitor": "portside monitor & curl -s --retry 30 --retry-connrefused --retry-delay 1 "
    "http://127.0.0.1:8080/metrics | grep -m 1 container_cpu; found=$?; kill $!; wait $!; "
    "(exit $found)",
    # an example of a request, with the image and its command left open
    "portside run -d -p 8080:80 --name web IMAGE CMD": "portside run -d -p 8080:80 --name web "
    "portside/base httpd -f",
    # the sentence speaks of a link of that name
    "docker-compose completion bash": 'ln -s "$PWD/portside" /usr/local/bin/docker-compose && '
    "docker-compose completion bash",
    # a directory that is removed afterwards
    "sudo .venv/bin/python examples/embed_engine.py /tmp/embedded echo hello": "sudo "
    '.venv/bin/python examples/embed_engine.py "$TOP/embedded" echo hello',
}
"""What is pasted in the place of a command, and why."""
TYPED = {"sudo portside system reset": "y"}
"""What is typed where a command asks."""
PROGRAM = r"(?:sudo |\./(?:test|package|portside)\b|portside[ -]|docker[ -]|apt-get |\.venv/bin/)"
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.timeout(300),
]
Session = tuple[list[Command], list[Printed]]


def within_sentences(document: str) -> list[Command]:
    """Whole commands in the text: a program and its arguments in backquotes."""
    text = re.sub(r"^ *```.*?^ *```$", "", document, flags=re.M | re.S)
    found = [" ".join(each.split()) for each in re.findall(rf"`({PROGRAM}[^`]*)`", text)]
    return [Command(each) for each in found if " " in each]


def all_commands() -> list[Command]:
    """Each command once, in the documents' order; what removes everything comes last."""
    found: dict[str, Command] = {}
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        for command in [*commands_of(text), *within_sentences(text)]:
            found.setdefault(command.text, command)
    commands = [each for each in found.values() if not each.text.startswith(tuple(NOT_RUN))]
    commands.sort(key=lambda each: each.text.startswith("sudo portside system reset"))
    return [Command(PASTED_AS.get(each.text, each.text), each.shown) for each in commands]


@pytest.fixture(scope="module")
def session() -> Session:
    """The commands, and what each printed."""
    commands = all_commands()
    return commands, paste(commands, TYPED)


def test_every_command_works(session: Session) -> None:
    found = faults(*session)
    assert not found, "\n\n".join(found)


def test_every_command_prints_what_is_shown(session: Session) -> None:
    found = differences(*session)
    assert not found, "\n\n".join(found)


def test_an_uninstall_names_the_configured_data_root(session: Session) -> None:
    printed = dict(zip((each.text for each in session[0]), session[1], strict=False))
    found = printed["sudo portside daemon uninstall"].text
    assert re.search(r"volumes are kept in /tmp/ps-[a-z0-9_]+/data: portside system", found), found


def test_what_is_not_pasted_is_in_the_documents() -> None:
    texts = [(ROOT / name).read_text() for name in DOCUMENTS]
    for start in (*NOT_RUN, *PASTED_AS):
        assert any(start in text for text in texts), f"no document has {start!r}"


def test_a_reset_leaves_nothing(session: Session) -> None:
    assert "left: " not in session[1][-1].text
