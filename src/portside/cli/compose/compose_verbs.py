"""Which module has which verb of ``compose``, and how one is declared."""

from __future__ import annotations

from portside.cli.verb import VERBS, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from portside.cli.compose.compose_session import ComposeSession
    from portside.cli.session import Session
    from portside.flags.table import Options

    Handler = Callable[[ComposeSession, Options, list[str]], int | None]

_FAMILIES = {
    "up_verbs": "up create scale down",
    "life_verbs": "start stop restart kill pause unpause rm wait",
    "config_verb": "config",
    "image_verbs": "pull push build",
    "watch_verb": "watch",
    "publish_verb": "publish bridge",
    "plan_verbs": "graph",
    "log_verbs": "logs events attach stats",
    "run_verbs": "run exec cp export commit",
    "project_lists": "ps ls images volumes top port version",
}
MODULES = {name: module for module, names in _FAMILIES.items() for name in names.split()}
"""Name of the module by verb."""


def load(name: str) -> Verb:
    """Import the module of a verb; the verb."""
    key = f"compose {name}"
    if key not in VERBS:
        __import__(f"portside.cli.compose.{MODULES[name]}")
    return VERBS[key]


def compose_verb(
    name: str, *, usage: str = "", about: str, flags: str = "",
    arguments: tuple[int, int | None] = (0, None), interspersed: bool = True,
    completes: str = "service",
) -> Callable[[Handler], Handler]:  # fmt: skip
    """Declare a verb of ``compose``; every one has ``--dry-run``."""

    def declare(handler: Handler) -> Handler:
        def handle(session: Session, options: Options, arguments: list[str]) -> int | None:
            from portside.cli.compose.compose_session import ComposeSession

            assert isinstance(session, ComposeSession)
            session.dry_run = session.dry_run or options.flag("dry-run")
            return handler(session, options, arguments)

        table = f"{flags.rstrip()}\n      --dry-run   Show the steps without executing them\n"
        VERBS[f"compose {name}"] = Verb(
            [f"compose {name}"], usage, about, table, handle, arguments, interspersed, completes
        )
        return handler

    return declare
