"""Help: every verb and group has one, and what it shows is what is parsed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clikit import PORTSIDE, call

from portside.cli import commands, help, main
from portside.flags import help_text
from portside.flags.table import HelpWanted, UsageError, read_table

NAMES = sorted(commands.MODULES)
NOWHERE = "unix:///nonexistent"


@pytest.mark.parametrize("name", [name for name in NAMES if name[0] != "_"])
def test_every_verb(name: str) -> None:
    verb = main.load(name)
    text = help.of_verb("portside", f"portside {name}", verb)
    assert text.startswith(f"Usage:  portside {name}")
    assert verb.about.partition("\n")[0] in text
    assert name in verb.names and "{" not in text.replace("{{", "").replace("{program}", "")
    for flag in verb.flags:
        shown = (
            f" --{flag.name}" in help.of_flags([flag]) if not help_text.is_hidden(flag) else True
        )
        assert shown, flag.name
        assert flag.help.strip(), f"--{flag.name} has no help"
    names = [flag.name for flag in verb.flags]
    letters = [flag.short for flag in verb.flags if flag.short]
    assert len(set(names)) == len(names) and len(set(letters)) == len(letters)
    with pytest.raises(HelpWanted):
        verb.parse(["--help"], f"portside {name}")
    with pytest.raises(UsageError):
        verb.parse(["--no-such-flag"], f"portside {name}")
    assert max(map(len, text.splitlines())) <= 100


def test_every_group() -> None:
    for group, about in commands.GROUPS.items():
        text = help.of_group("portside", group)
        assert about in text
        verbs = {name.split()[1] for name in NAMES if name.startswith(f"{group} ")}
        shown = {
            line.split()[0] for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines()
        }
        assert shown <= verbs and shown, group


def test_the_command_itself() -> None:
    assert call(PORTSIDE).stderr == help.of_root("portside")
    for words in (["help"], ["--help"]):
        done = call(PORTSIDE, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == help.of_root("portside")
    for name in help.top_level():
        assert f"\n  {name} " in done.stdout
    assert call(PORTSIDE, "-h").stderr == "Flag shorthand -h has been deprecated, use --help\n"
    assert call(PORTSIDE, "help", "ps").stdout == call(PORTSIDE, "ps", "--help").stdout
    assert call(PORTSIDE, "run", "--help").stdout.startswith("Usage:  portside run [OPTIONS] IMAGE")
    assert call(PORTSIDE, "container").stderr == help.of_group("portside", "container")
    assert call(PORTSIDE, "container", "--help").stdout == help.of_group("portside", "container")
    assert call(PORTSIDE, "--version").stdout.startswith("Portside version ")


def test_help_that_continues_with_a_flags_name_is_no_flag() -> None:
    table = """
  -a, --all      Everything (only with
                 --some or --none)
      --some     Some
    """
    shown = [(flag.name, flag.help) for flag in read_table(table)]
    assert shown == [("all", "Everything (only with\n--some or --none)"), ("some", "Some")]
    text = " ".join(call(PORTSIDE, "monitor", "--help").stdout.split())
    assert "only with --htpasswd, --token-file or --tls-client-ca)" in text


def test_unknown_commands_name_those_there_are() -> None:
    said = call(PORTSIDE, "daemon", "frob").stderr
    assert said.startswith("portside: unknown command: portside daemon frob\n")
    assert "install, restart, start, status, stop, uninstall" in said
    assert "Usage:  portside container COMMAND\n" in call(PORTSIDE, "container", "frob").stderr
    said = call(PORTSIDE, "compose", "frob").stderr
    assert said.startswith("portside: unknown command: portside compose frob\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """By the verb, or by the command for all verbs; never with a traceback."""
    (tmp_path / "compose.yaml").write_text("services: {a: {image: portside/base}}\n")
    compose = ("compose", "-f", str(tmp_path / "compose.yaml"))
    blocked = tmp_path / "file"
    blocked.touch()
    for words, said in (
        ((*compose, "graph", "-o", "/nosuch/x.svg"), "failed to write the graph: open /nosuch/x"),
        ((*compose, "config", "-o", "/nosuch/x"), "failed to write the configuration: open"),
        (("--config", str(blocked), "context", "create", "some", "--docker", "host=unix:///x"),
         f"portside: {blocked}/"),
    ):  # fmt: skip
        done = call(PORTSIDE, "-H", NOWHERE, *words)
        assert done.returncode == 1 and done.stderr.startswith(said), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_no_help_needs_an_engine() -> None:
    done = call(PORTSIDE, "-H", NOWHERE, "volume", "ls", "--help")
    assert done.returncode == 0


def test_modules_have_just_the_verbs_that_are_listed() -> None:
    code = (
        "from portside.cli import commands, main, verb\n"
        "for name in commands.MODULES: main.load(name)\n"
        "print(sorted(set(verb.VERBS) ^ set(commands.MODULES)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


SLOW = ("re", "json", "socket", "argparse", "http.client", "asyncio", "msgspec", "typing",
        "dataclasses", "enum", "subprocess", "pathlib", "collections", "contextlib",
        "inspect", "datetime", "traceback")  # fmt: skip
"""Modules of which each costs a noticeable part of a short command's time."""


@pytest.mark.parametrize(
    "words",
    [["version"], ["run", "--rm", "x"], ["ps"], ["exec", "a", "b"], ["rm", "x"], ["logs", "x"]],
)
def test_short_commands_import_little(words: list[str]) -> None:
    """A command's time is its imports: those of the usual verbs are counted here."""
    code = (
        "import sys; sys.path.insert(0, 'src'); before = set(sys.modules)\n"
        "from portside.cli.main import main\n"
        f"main(['portside', '-H', {NOWHERE!r}, *{words!r}])\n"
        f"print(sorted(set({SLOW!r}) & (set(sys.modules) - before)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True,
        cwd=PORTSIDE.rpartition("/")[0],
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
