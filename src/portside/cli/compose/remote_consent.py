"""The questions before a project that is not of this machine is started."""

from __future__ import annotations

import os
import sys

from portside.cli import table
from portside.cli.session import Failed
from portside.compose.interpolation import variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project


def ask(
    session: ComposeSession, project: Project, is_agreed: bool, given: Mapping[str, str | None]
) -> None:
    """Show where a remote project is stored and the variables that it would get, and ask about
    these and about what it includes, unless ``is_agreed``. ``given``: variables of the command
    line. Raises Failed when the user does not agree."""
    remotes = session.remotes
    main = remotes.requested[0]
    if remotes.included and not is_agreed:
        lines = "".join(f"  - {path}\n" for path in [*remotes.requested, *remotes.included]
                        if remotes.accepts(path))  # fmt: skip
        _print("\nWarning: This Compose project includes files from remote sources:\n" + lines
               + "\nRemote includes could potentially be malicious. Make sure you trust the "
               "source.\n")  # fmt: skip
        _confirm(session, "Do you want to continue?", False)
    if session.progress not in ("quiet", "json"):
        _print(f'Your compose stack "{main}" is stored in "{project.working_dir}"\n')
    if is_agreed:
        return
    if found := variables(session.load_model()):
        rows = [_row(name, item, given, project.environment)
                for name, item in sorted(found.items())]  # fmt: skip
        head = "VARIABLE\tVALUE\tSOURCE\tREQUIRED\tDEFAULT"
        _print("\nFound the following variables in configuration:\n"
               + "\n".join(table.aligned([head, *rows], 0, 3)) + "\n\n")  # fmt: skip
        _confirm(session, "Do you want to proceed with these variables?", os.isatty(0))


def _row(
    name: str, item: dict[str, Any], given: Mapping[str, str | None], environment: Mapping[str, str]
) -> str:
    default = item["default"]
    value, source = "<unset>", "none"
    if given.get(name) is not None:
        value, source = str(given[name]), "command-line"
    elif name in environment:
        value, source = environment[name], "environment"
    elif default:
        value, source = default, "compose file"
    required = "yes" if item["required"] else "no"
    return "\t".join((name, value, source, required, default))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _confirm(session: ComposeSession, question: str, default: bool) -> None:
    """Only on a terminal does an empty line mean the default. Raises Failed."""
    if not session.confirm(question, default):
        raise Failed(1, "operation cancelled by user")
