"""Help of the programs beside the command: the engine, the registry and the runtime."""

from __future__ import annotations

import pytest

from portside.daemon import config
from portside.engine.options import specs
from portside.registry.server import __main__ as registry
from portside.runtime.oci import main as runtime


def test_the_daemons_help_shows_flags_and_defaults() -> None:
    text = " ".join(config.usage().split())
    for spec in specs().values():
        if spec.flag:
            assert f"--{spec.flag} " in text
    for words in (
        'Root directory of persistent state (default "/var/lib/portside")',
        "--max-concurrent-downloads int",
        "(default 3)",
        "(default 64MiB)",
        "(default true)",
        '(default "json-file")',
    ):
        assert words in text


@pytest.mark.parametrize("verb", sorted(runtime._VERBS))
def test_each_verb_of_the_runtime_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([verb, "--help"], ["help", verb], [verb, "-h"]):
        assert runtime.main(words) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage:  portside-runtime {verb}")
    for flag in runtime.read_table(runtime._VERBS[verb][2]):
        assert f"--{flag.name}" in text and flag.help
    assert runtime.main(["--help"]) == 0 and verb in capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(registry._VERBS))
def test_each_verb_of_the_registry_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.main([*verb.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage:  portside registry {verb}")
    assert registry.main([*verb.split(), "--nosuch"]) == 2
    assert "unknown flag: --nosuch" in capsys.readouterr().err
    assert registry.main(["--help"]) == 0 and verb in capsys.readouterr().out


def test_wrong_commands_of_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nosuch"], ["token", "create"], ["token", "ls", "x"], ["serve", "a", "b"]):
        assert registry.main(words) == 2
        assert "--help" in capsys.readouterr().err


def test_options_of_the_runtime_are_read_as_runc_reads_them() -> None:
    flags = runtime.read_table(runtime._EXEC)
    found = runtime.parse(["-e", "A=1", "--env=B=2", "-tty", "-d=false", "id", "-x"], flags)
    assert found.many("env") == ["A=1", "B=2"] and found.flag("tty")
    assert not found.flag("detach") and found.operands == ["id", "-x"]
