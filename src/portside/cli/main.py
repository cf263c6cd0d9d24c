"""The command line's entry: finds the verb, parses its flags, runs it, reports what failed."""

from __future__ import annotations

import os
import sys

from portside.cli import commands
from portside.cli.session import DOCKER, Failed, Session, describe, file_error
from portside.cli.verb_table import GLOBAL, load
from portside.flags.table import ArgumentCount, HelpWanted, UsageError, parse, read_table
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

    from portside.cli.verb import Verb
    from portside.client.endpoint import TlsFiles
    from portside.flags.table import Options


_LEVELS = frozenset(("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"))


def main(argv: Sequence[str]) -> int:
    """Run a command line; its exit status. ``argv[0]`` is the name it was called by."""
    program = _program(argv[0])
    try:
        status = _run(program, argv[1:])
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of the output has closed it. Nothing more can be written, not at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130


def _program(called: str) -> str:
    """``docker`` or ``docker-compose`` when called through a link of that name."""
    name = os.environ.pop("PORTSIDE_CALLED", called).rpartition("/")[2]
    return name if name in (DOCKER, "docker-compose") else "portside"


def _run(program: str, words: Sequence[str]) -> int:
    if program == "docker-compose":
        from portside.cli.compose import compose_program

        return compose_program.standalone(words)
    given = words
    try:
        options, words = parse(read_table(GLOBAL), words, interspersed=False)
    except HelpWanted as wanted:
        return _root_help(program, wanted)
    except UsageError as err:
        sys.stderr.write(f"{err}\n\nUsage:  {program} [OPTIONS] COMMAND [ARG...]\n\n"
                         f"Run '{program} --help' for more information\n")  # fmt: skip
        return err.status
    if options.flag("version"):
        from portside import __version__
        from portside.model import build_info

        commit = build_info.commit()
        sys.stdout.write(f"Portside version {__version__}{commit and f', build {commit}'}\n")
        return 0
    if problem := _problem(options):
        sys.stderr.write(f"{problem}\n")
        return 1
    if not words:
        return _root_help(program, stream=sys.stderr)
    if words == ["help"]:
        return _root_help(program)
    if words[0] == "help":
        if _find(words[1:]) is None:
            _try_plugin(program, options, words[1], given)
            sys.stderr.write(f"unknown help topic: {' '.join(words[1:])}\n")
            return 1
        words = [*words[1:], "--help"]
    if words[0] == "compose":
        return _compose(program, options, words[1:])
    found = _find(words)
    if found is None:
        _try_plugin(program, options, words[0], given)
        return _unknown(program, words)
    name, rest = found
    if name in commands.GROUPS:
        return _group(program, name, rest)
    verb = load(name)
    if name == "__complete":  # its words are another command's, flags and all
        rest = ["--", *rest]
    session = _session(program, options)
    session.called = f"{program} {name}"
    return _call(session, verb, rest)


def _compose(program: str, options: Options, words: Sequence[str]) -> int:
    """Projects have verbs and global flags of their own."""
    from portside.cli.compose import compose_program
    from portside.cli.compose.compose_session import ComposeSession

    session = ComposeSession(program, **_where(options))
    session.called = f"{program} compose"
    return compose_program.run(session, words)


def _try_plugin(program: str, options: Options, name: str, given: Sequence[str]) -> None:
    """Become the plugin of this name; returns where there is none."""
    from portside.client import plugin_programs

    session = _session(program, options)
    if name not in commands.NOT_BUILT and plugin_programs.find(session.config, name):
        from portside.cli import plugins

        try:
            plugins.execute(session, name, given)
        except PortsideError as err:
            sys.stderr.write(f"{err}\n")


def _problem(options: Options) -> str:
    """The error in the global options, or an empty text."""
    if len(options.many("host")) > 1:
        return "Failed to initialize: unable to resolve docker endpoint: Specify only one -H"
    if options.many("host") and options.text("context"):
        return "conflicting options: cannot specify both --host and --context"
    level = options.text("log-level", "info")
    if level.lower() not in _LEVELS:
        return f"Unable to parse logging level: {level}"
    return ""


def _find(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Full name of the verb (or of a group) and the words after it."""
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if name in commands.MODULES or name in commands.GROUPS:
            return name, list(words[length:])
    return None


def _session(program: str, options: Options) -> Session:
    return Session(program, **_where(options))


def _where(options: Options) -> dict[str, Any]:
    """Which engine, by the global options."""
    hosts = options.many("host")
    return {
        "host": hosts[0] if hosts else "",
        "context": options.text("context"),
        "config": options.text("config"),
        "tls": _tls(options),
        "debug": options.flag("debug"),
    }


def _tls(options: Options) -> TlsFiles | None:
    if not options.flag("tls") and not options.flag("tlsverify"):
        return None
    from portside.client import config
    from portside.client.endpoint import TlsFiles

    where = os.environ.get("DOCKER_CERT_PATH") or config.directory(options.text("config"))
    files = TlsFiles.within(where, options.flag("tlsverify"))
    files.ca = options.text("tlscacert", files.ca)
    files.cert = options.text("tlscert", files.cert)
    files.key = options.text("tlskey", files.key)
    return files


def _call(session: Session, verb: Verb, words: Sequence[str]) -> int:
    """Parse and run one verb; errors become text and an exit status here."""
    called = session.called
    try:
        options, arguments = verb.parse(words, called)
        return verb.handler(session, options, arguments) or 0
    except HelpWanted as wanted:
        from portside.cli import help

        _warn_of_old_form(wanted)
        sys.stdout.write(help.of_verb(session.program, called, verb))
        return 0
    except UsageError as err:
        sys.stdout.flush()
        prefix = f"{session.program}: " if err.status == 1 else ""
        hint = ""
        if err.unknown_flag and session.program != DOCKER:
            from portside.cli import hints

            hint = hints.similar(f"--{err.unknown_flag}", [f"--{f.name}" for f in verb.flags])
        hint = f"\n{hint}" if hint else ""
        sys.stderr.write(f"{prefix}{err}{hint}\n\nUsage:  {verb.usage_of(session.program, called)}")
        verb_of_hint = "See" if isinstance(err, ArgumentCount) and err.several else "Run"
        sys.stderr.write(f"\n\n{verb_of_hint} '{called} --help' for more information\n")
        return err.status
    except Failed as err:
        sys.stdout.flush()
        if str(err):
            sys.stderr.write(f"{err}\n")
        return err.status
    except PortsideError as err:
        if session.debug:
            raise
        sys.stdout.flush()
        sys.stderr.write(f"{describe(err)}\n")
        return 1
    except OSError as err:
        if session.debug or not (reason := file_error(err)):
            raise
        sys.stdout.flush()
        sys.stderr.write(f"{session.program}: {reason}\n")
        return 1


def _warn_of_old_form(wanted: HelpWanted | None) -> None:
    if wanted is not None and wanted.letter:
        sys.stderr.write("Flag shorthand -h has been deprecated, use --help\n")
        sys.stderr.flush()


def _root_help(program: str, wanted: HelpWanted | None = None, stream: TextIO | None = None) -> int:
    from portside.cli import help

    _warn_of_old_form(wanted)
    (stream or sys.stdout).write(help.of_root(program, _plugins()))
    return 0


def _plugins() -> list[dict[str, str]]:
    """The commands of plugins: without one, no module is imported and nothing executed."""
    from portside.client import plugin_programs
    from portside.client.config import ClientConfig

    config = ClientConfig()
    own = commands.own_names()
    if own.issuperset(plugin_programs.names(config)):
        return []
    from portside.cli import plugins

    return plugins.described(config, own)


def _group(program: str, name: str, rest: Sequence[str]) -> int:
    from portside.cli import help

    if rest and not rest[0].startswith("-"):
        if reason := commands.NOT_BUILT.get(f"{name} {rest[0]}"):
            return _not_built(program, f"{name} {rest[0]}", reason)
        return _unknown_below(program, name, rest[0])
    (sys.stdout if rest else sys.stderr).write(help.of_group(program, name))
    return 0


def _unknown_below(program: str, name: str, word: str) -> int:
    """A word that is not a command of a group or of ``daemon``; the nearest or all are listed."""
    text = f"{program}: unknown command: {program} {name} {word}\n\n"
    usage = f"{program} {name}"
    if program != DOCKER:
        from portside.cli import hints

        known = [
            found.removeprefix(f"{name} ")
            for found in commands.MODULES
            if found.startswith(f"{name} ")
        ]
        hint = hints.similar(word, known)
        text += f"{hint or 'Commands: ' + ', '.join(sorted(known))}\n\n"
        usage += " COMMAND"
    sys.stderr.write(
        f"{text}Usage:  {usage}\n\nRun '{program} {name} --help' for more information\n"
    )
    return 1


def _not_built(program: str, name: str, reason: str) -> int:
    sys.stderr.write(f"{program}: '{program} {name}' is not supported: {reason}\n")
    return 1


def _unknown(program: str, words: Sequence[str]) -> int:
    if reason := commands.NOT_BUILT.get(words[0]):
        return _not_built(program, words[0], reason)
    if len(words) > 1 and words[0] in commands.ELSEWHERE:
        return _unknown_below(program, words[0], words[1])
    hint = ""
    if program != DOCKER:
        from portside.cli import hints

        known = [*commands.MODULES, *commands.GROUPS, *commands.ELSEWHERE]
        hint = hints.similar(words[0], [name for name in known if " " not in name])
    sys.stderr.write(f"{program}: unknown command: {program} {words[0]}\n\n"
                     + (f"{hint}\n" if hint else "")
                     + f"Run '{program} --help' for more information\n")  # fmt: skip
    return 1
