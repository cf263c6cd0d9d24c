"""The log of one container, as it grows."""

from __future__ import annotations

import re
import threading
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, RichLog, Static

from portside.cli.session import Session, describe
from portside.client.client import path_of
from portside.client.framed_lines import Lines
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.client.client import Query

_QUERY: Query = {"stdout": True, "stderr": True, "follow": True, "tail": 500}
_LONGEST = 4096
_MOST = 5000
"""Lines that are kept."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Without what would move the cursor or change the terminal: it is a container's text."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).expandtabs()


class LogScreen(ModalScreen[None]):
    BINDINGS: ClassVar = [
        Binding("escape,q,l", "dismiss", "Back"),
        Binding("f", "follow", "Follow"),
        Binding("home,g", "top", "Begin"),
        Binding("end,G", "end", "End"),
    ]

    def __init__(self, session: Session, identifier: str, name: str) -> None:
        super().__init__()
        self._session, self._identifier, self._name = session, identifier, name
        self._stop = threading.Event()

    def compose(self) -> ComposeResult:
        with Vertical(id="log-box"):
            yield Static(f"Log of {self._name}", id="log-title", markup=False)
            yield RichLog(id="log", max_lines=_MOST, markup=False, wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(RichLog).focus()
        threading.Thread(target=self._read, name="log", daemon=True).start()

    def on_unmount(self) -> None:
        self._stop.set()

    def action_follow(self) -> None:
        log = self.query_one(RichLog)
        log.auto_scroll = not log.auto_scroll
        self.notify("following the log" if log.auto_scroll else "not following the log")

    def action_top(self) -> None:
        self.query_one(RichLog).auto_scroll = False
        self.query_one(RichLog).scroll_home()

    def action_end(self) -> None:
        self.query_one(RichLog).auto_scroll = True
        self.query_one(RichLog).scroll_end()

    def _read(self) -> None:
        """In a thread; it ends with the stream, or at the next piece after the screen's end."""
        try:
            client = self._session.another_client()
            found = client.get(path_of("containers", self._identifier, "json"))
            path = path_of("containers", self._identifier, "logs")
            stream = client.request("GET", path, _QUERY)
            splitter = Lines(not found["Config"]["Tty"], _LONGEST)
            try:
                for piece in stream.pieces():
                    if self._stop.is_set():
                        return
                    self._show(list(splitter.feed(piece)))
                self._show([*splitter.end(), ("— the log has ended —", False)])
            finally:
                stream.close()
        except PortsideError as err:
            self._show([(describe(err), True)])

    def _show(self, lines: list[tuple[str, bool]]) -> None:
        if lines and not self._stop.is_set() and self.app.is_running:
            self.app.call_from_thread(self._write, lines)

    def _write(self, lines: list[tuple[str, bool]]) -> None:
        if not self.is_mounted:
            return
        log = self.query_one(RichLog)
        for text, is_error in lines:
            log.write(Text(plain(text), style="red" if is_error else ""))
