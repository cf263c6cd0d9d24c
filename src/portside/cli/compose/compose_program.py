"""The entry of ``portside compose`` and of ``docker-compose``: global flags, verb, errors."""

from __future__ import annotations

import sys

from portside.cli.compose import compose_verbs
from portside.cli.compose.compose_session import ComposeSession
from portside.cli.session import Failed, file_error
from portside.compose.compose_errors import user_message
from portside.flags.table import HelpWanted, UsageError, parse, read_table
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from portside.cli.verb import Verb

STANDALONE = "docker-compose"
"""Called by this name, the program has Compose's verbs only."""
FLAGS = """
      --all-resources              Include resources that no service uses
      --ansi string                When to print control characters: never, always or auto
                                   (default "auto")
      --compatibility              Separate parts of containers' names with underscores
      --dry-run                    Show the steps without executing them
      --env-file list              Read variables from this file in place of .env
  -f, --file list                  A Compose file; several are merged, - is standard input;
                                   also oci://REGISTRY/NAME[:TAG] and URL.git[#REF[:FOLDER]]
      --parallel int               Operations at the same time, -1 for no limit
                                   (default -1)
      --profile list               Enable services with this profile
      --progress string            How to show progress: auto, tty, plain, json or quiet
      --project-directory string   The project's directory (default: that of the first file)
  -p, --project-name string        The project's name
      --workdir string             hidden:alias project-directory
      --no-ansi                    hidden:
      --verbose                    hidden:
  -v, --version                    hidden:
"""
ABOUT = "Define and run applications of several containers"


def run(session: ComposeSession, words: Sequence[str]) -> int:
    """Run the words after ``compose``; the exit status."""
    called = session.called
    try:
        options, words = parse(read_table(FLAGS), words, interspersed=False, convert=_convert)
        session.configure(options)
    except HelpWanted:
        return _root_help(session)
    except PortsideError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    if options.flag("version"):
        words = ["version"]
    if not words:
        return _root_help(session)
    if words[0] == "help":
        if len(words) == 1:
            return _root_help(session)
        words = [*words[1:2], "--help"]
    name, *rest = words
    if name not in compose_verbs.MODULES:
        return _unknown(session, name)
    session.called = f"{called} {name}"
    return _call(session, compose_verbs.load(name), rest)


def _convert(kind: str, text: str) -> int | str:
    from portside.cli import flag_values

    found: int | str = flag_values.convert(kind, text)
    return found


def _call(session: ComposeSession, verb: Verb, words: Sequence[str]) -> int:
    """Parse and run one verb; errors become text and an exit status here."""
    try:
        options, arguments = verb.parse(words, session.called)
        return verb.handler(session, options, arguments) or 0
    except HelpWanted:
        from portside.cli import help

        sys.stdout.write(help.of_verb(session.program, session.called, verb))
        return 0
    except UsageError as err:
        return _usage(session, verb, err)
    except KeyboardInterrupt:
        session.finish()
        return 130
    except PortsideError as err:
        if session.debug and not isinstance(err, Failed):
            raise
        session.finish()
        sys.stdout.flush()
        if text := user_message(err):
            _print_error(session, text)
        if isinstance(err, Failed):
            return err.status
        return 1
    except OSError as err:
        if session.debug or not (text := file_error(err)):
            raise
        session.finish()
        sys.stdout.flush()
        _print_error(session, text)
        return 1
    finally:
        session.finish()


def _usage(session: ComposeSession, verb: Verb, err: UsageError) -> int:
    sys.stdout.flush()
    hint = ""
    if err.unknown_flag:
        from portside.cli import hints

        hint = hints.similar(f"--{err.unknown_flag}", [f"--{flag.name}" for flag in verb.flags])
    usage = verb.usage_of(session.program, session.called)
    sys.stderr.write(f"{err}\n" + (f"{hint}\n" if hint else "") + f"\nUsage:  {usage}\n\n"
                     f"Run '{session.called} --help' for more information\n")  # fmt: skip
    return 1


def _print_error(session: ComposeSession, text: str) -> None:
    if session.progress == "json":
        import json

        text = json.dumps({"error": True, "message": text})
    sys.stderr.write(f"{text}\n")


def _unknown(session: ComposeSession, name: str) -> int:
    from portside.cli import hints

    hint = hints.similar(name, list(compose_verbs.MODULES))
    text = f'unknown docker command: "compose {name}"'
    if session.program == "portside":
        text = f"portside: unknown command: {session.called} {name}"
    sys.stderr.write(f"{text}\n" + (f"{hint}\n" if hint else "")
                     + f"\nRun '{session.called} --help' for more information\n")  # fmt: skip
    return 1


def _root_help(session: ComposeSession) -> int:
    from portside.flags.help_text import of_flags

    verbs = [
        (name, compose_verbs.load(name).about.partition("\n")[0])
        for name in sorted(compose_verbs.MODULES)
    ]  # fmt: skip
    column = max(len(name) for name, _ in verbs) + 2
    sys.stdout.write(
        f"Usage:  {session.called} [OPTIONS] COMMAND\n\n{ABOUT}\n\n"
        f"Options:\n{of_flags(read_table(FLAGS))}\n\nCommands:\n"
        + "\n".join(f"  {name:<{column}}{about}" for name, about in verbs)
        + f"\n\nRun '{session.called} COMMAND --help' for more information on a command.\n"
    )
    return 0


def standalone(argv: Sequence[str]) -> int:
    """``docker-compose``: the words of the engine's address may be among the global ones."""
    if argv[:1] == ["__complete"] or argv[:1] == ["completion"]:
        return _complete(argv[0], list(argv[1:]))
    hosts: list[str] = []
    words, rest, context = list(argv), [], ""
    known = {flag.name: flag for flag in read_table(FLAGS)}
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if name in ("host", "H", "context", "c") and (equals or words):
            value = value if equals else words.pop(0)
            if name in ("host", "H"):
                hosts.append(value)
            else:
                context = value
            continue
        rest.append(word)
        flag = known.get(name) if word.startswith("--") else next(
            (flag for flag in known.values() if flag.short == name), None
        )  # fmt: skip
        if flag is not None and flag.kind and not equals and words:
            rest.append(words.pop(0))
    session = ComposeSession(STANDALONE, host=hosts[0] if hosts else "", context=context)
    session.called = STANDALONE
    return run(session, [*rest, *words])


def _complete(name: str, words: list[str]) -> int:
    """Shell completion of ``docker-compose``: that of ``compose`` with another first word."""
    from portside.cli.verb_table import load

    session = ComposeSession(STANDALONE)
    session.called = f"{STANDALONE} {name}"
    if name == "__complete":
        words = ["--", "compose", *words]
    return _call(session, load(name), words)
