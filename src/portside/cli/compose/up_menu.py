"""The menu of an attached ``up`` on a terminal: a line below the output, and its keys."""

from __future__ import annotations

import os
import select
import threading

from portside.cli.caller_terminal import KeyMode, size
from portside.cli.compose.compose_session import switch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from portside.cli.compose.compose_session import ComposeSession
    from portside.cli.compose.log_lines import LogPrinter
    from portside.compose.project import Project
    from portside.flags.table import Options

DETACH, WATCH = "d", "w"
_PIECE = 64


def is_wanted(session: ComposeSession, options: Options, project: Project) -> bool:
    """``--menu``, else ``COMPOSE_MENU``, else yes; only in the terminal's foreground."""
    if not (os.isatty(0) and os.isatty(1)) or session.ansi == "never" or session.dry_run:
        return False
    if os.tcgetpgrp(0) != os.getpgrp():  # in the background, leave the terminal's mode
        return False
    if options.given("menu"):
        return options.flag("menu")
    return not project.environment.get("COMPOSE_MENU") or switch(
        "COMPOSE_MENU", project.environment.get
    )


class Menu:
    """While entered, the menu is shown and keys are taken; a thread calls ``on_key`` with each."""

    def __init__(self, printer: LogPrinter, on_key: Callable[[str], None]) -> None:
        self._printer, self._on_key = printer, on_key
        self._mode = KeyMode(0)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._stop = (-1, -1)
        self._is_open = False

    def __enter__(self) -> Menu:
        self._stop = os.pipe()
        self._mode.__enter__()
        self._is_open = True
        self._thread.start()
        self.show(watches=False)
        return self

    def show(self, *, watches: bool) -> None:
        """Show the keys; ``watches``: files are watched now."""
        if not self._is_open:
            return
        parts = (
            (WATCH, "Disable Watch" if watches else "Enable Watch"), (DETACH, "Detach"),
        )  # fmt: skip
        width = size()[1] or 80
        plain = "".join(f"   {key} {text}" for key, text in parts)
        text = "".join(f"   \x1b[1m{key}\x1b[0m \x1b[2m{text}\x1b[0m" for key, text in parts)
        self._printer.footer(text if len(plain) < width else "")

    def close(self) -> None:
        """Remove the menu and restore the terminal; a second call has no effect."""
        if not self._is_open:
            return
        self._is_open = False
        self._printer.footer("")
        os.write(self._stop[1], b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._mode.__exit__(None, None, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        for fd in self._stop:
            os.close(fd)

    def _read(self) -> None:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._stop[0], select.POLLIN)
        while self._is_open:
            ready = {fd for fd, _ in poll.poll()}
            if self._stop[0] in ready:
                return
            try:
                data = os.read(0, _PIECE)
            except OSError:
                return  # the terminal was closed
            if not data:
                return
            for key in data.decode(errors="replace"):
                self._on_key(key)
