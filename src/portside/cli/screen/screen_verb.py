"""``ui``, and ``top`` without a container: starts the live screen."""

from __future__ import annotations

import os

from portside.cli.verb import verb
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.session import Session
    from portside.flags.table import Options


@verb("ui", usage="[OPTIONS]", arguments=(0, 0),
      about="Show containers, images and volumes on a live screen", flags="""
  -a, --all   Show all containers at first, not only running ones
""")  # fmt: skip
def ui(session: Session, options: Options, arguments: list[str]) -> None:
    show(session, everything=options.flag("all"))


def show(session: Session, *, everything: bool = False) -> None:
    """Run the screen until the user leaves it; raises InvalidParameter where it cannot."""
    if not (os.isatty(0) and os.isatty(1)):
        raise InvalidParameter(
            "this screen needs a terminal; for scripts there are 'ps', 'stats --no-stream' and "
            "'top CONTAINER'"
        )
    try:
        import textual  # noqa: F401
    except ImportError:
        raise InvalidParameter(
            "the live screen needs the Python package textual: pip install 'portside[ui]'"
        ) from None
    session.client  # noqa: B018 - connects now, and says so when no engine answers
    from portside.cli.screen.screen_app import ScreenApp

    ScreenApp(session, everything).run()
