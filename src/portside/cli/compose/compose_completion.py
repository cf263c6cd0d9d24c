"""Candidates of shell completion that are ``compose``'s own: services, profiles and projects."""

from __future__ import annotations

from portside.cli.compose.compose_program import FLAGS
from portside.cli.compose.compose_session import ComposeSession
from portside.flags.table import parse, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portside.cli.session import Session

    Pair = tuple[str, str]

WORDS = {
    "ansi": "always auto never",
    "format": "json table",
    "progress": "auto json plain quiet tty",
    "pull": "always build missing never",
    "status": "created dead exited paused removing restarting running",
}
"""Values of flags that are known without asking."""
PATHS = frozenset(("env-file", "file", "output", "project-directory", "workdir"))
"""Flags whose values are paths."""
SERVICES = frozenset(("attach", "exit-code-from", "no-attach"))
"""Flags whose values are services."""


def _quiet(session: ComposeSession, words: Sequence[str]) -> ComposeSession:
    """The session with its global flags; warnings would disturb the shell's line."""
    options, _ = parse(read_table(FLAGS), words, interspersed=False)
    session.configure(options)
    session.warning = lambda text: None  # type: ignore[method-assign]
    return session


def services(words: Sequence[str], session: Session) -> list[Pair]:
    """The services of the files that the global flags ``words`` mean, also those of profiles
    that are not active: naming one activates it. Raises ComposeError, OSError."""
    assert isinstance(session, ComposeSession)
    found = _quiet(session, words).load(environment=False)
    named = {**found.services, **found.disabled}
    return sorted((name, str(item.get("image") or "")) for name, item in named.items())


def profiles(words: Sequence[str], session: Session) -> list[Pair]:
    """The profiles that services of the files have. Raises ComposeError, OSError."""
    assert isinstance(session, ComposeSession)
    found = _quiet(session, words).load(environment=False)
    named: dict[str, list[str]] = {}
    for name, item in {**found.services, **found.disabled}.items():
        for profile in item.get("profiles") or ():
            named.setdefault(profile, []).append(name)
    return sorted((profile, ", ".join(users)) for profile, users in named.items())


def projects(session: Session) -> Iterator[Pair]:
    """The projects that have containers on the engine."""
    from portside.client.client import filters_text
    from portside.compose.requests import PROJECT

    query = {"all": True, "filters": filters_text({"label": [PROJECT]})}
    found = session.unconnected_client().get("/containers/json", query)
    for name in sorted({item["Labels"][PROJECT] for item in found}):
        yield name, ""
