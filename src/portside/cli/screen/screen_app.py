"""The live screen: three tables, keys for what is done to the chosen row, the mouse."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Header, Input, TabbedContent, TabPane

from portside.cli.screen.engine_feed import EngineFeed, Row
from portside.cli.screen.log_screen import LogScreen
from portside.cli.screen.question import Question
from portside.cli.screen.screen_tables import CONTAINERS, IMAGES, VOLUMES, Column
from portside.cli.session import Session, describe
from portside.client.client import Client, path_of
from portside.model.errors import PortsideError

_COLUMNS = {"containers": CONTAINERS, "images": IMAGES, "volumes": VOLUMES}
_OF_CONTAINERS = frozenset(("logs", "exec", "start_stop", "restart", "pause", "all"))
"""Actions without a meaning for images and volumes."""
_SHELL = "if command -v bash >/dev/null; then exec bash; else exec sh; fi"
_REDRAW = 0.5
"""Seconds between two pictures at least."""
_CSS = """
#filter { display: none; height: 3; }
#filter.shown { display: block; }
DataTable { height: 1fr; }
Question, LogScreen { align: center middle; }
#question { width: 60; height: auto; padding: 1 2; border: round $error; background: $surface; }
#question Horizontal { height: auto; margin-top: 1; align-horizontal: right; }
#question Button { margin-left: 2; }
#log-box { width: 96%; height: 92%; border: round $accent; background: $surface; }
#log-title { text-style: bold; padding: 0 1; }
"""


class ScreenApp(App[None]):
    CSS = _CSS
    TITLE = "Portside"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("l,enter", "logs", "Logs"),
        Binding("e", "exec", "Shell"),
        Binding("s", "start_stop", "Start/stop"),
        Binding("r", "restart", "Restart"),
        Binding("p", "pause", "Pause"),
        Binding("d,delete", "remove", "Remove"),
        Binding("a", "all", "All/running"),
        Binding("o", "order", "Sort"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("1", "tab('containers')", "Containers", show=False),
        Binding("2", "tab('images')", "Images", show=False),
        Binding("3", "tab('volumes')", "Volumes", show=False),
        Binding("escape", "leave_filter", "", show=False),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]

    def __init__(self, session: Session, everything: bool = False) -> None:
        super().__init__()
        self._session, self._everything = session, everything
        self.feed = EngineFeed(session, self._feed_changed, self._feed_failed)
        self._order = {"containers": (2, True), "images": (3, True), "volumes": (0, False)}
        self._dirty = False

    # -- life ------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Header()
        yield Input(placeholder="Filter; Enter keeps it, Escape clears it", id="filter")
        with TabbedContent(id="tabs"):
            for number, (name, columns) in enumerate(_COLUMNS.items(), 1):
                with TabPane(f"{number} {name.title()}", id=name):
                    table: DataTable[Any] = DataTable(
                        id=f"{name}-table", cursor_type="row", zebra_stripes=True
                    )
                    for at, column in enumerate(columns):
                        table.add_column(column.title, key=str(at))
                    yield table
        yield Footer()

    def on_mount(self) -> None:
        self._show_engine()
        self.set_interval(_REDRAW, self._draw_if_dirty)
        self._table("containers").focus()
        self.feed.start()

    def on_unmount(self) -> None:
        self.feed.stop()

    def _feed_changed(self) -> None:
        """Called by the feed's thread: the picture is drawn by the timer."""
        self._dirty = True

    def _feed_failed(self, text: str) -> None:
        if self.is_running:
            self.call_from_thread(self.notify, text, severity="error", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys for containers work, and are shown below, only in the table of containers."""
        return action not in _OF_CONTAINERS or self.tab == "containers"

    # -- the tables ----------------------------------------------------------------------------

    @property
    def tab(self) -> str:
        return self.query_one(TabbedContent).active or "containers"

    def _table(self, name: str) -> DataTable[Any]:
        return self.query_one(f"#{name}-table", DataTable)

    def _things(self, name: str) -> Iterable[tuple[str, Any]]:
        """Keys and values of a tab's rows, as filtered."""
        if name == "containers":
            found: list[tuple[str, Any]] = [
                (row.id, row)
                for row in self.feed.rows.values()
                if self._everything or row.state in ("running", "paused", "restarting")
            ]
        elif name == "images":
            found = [(image["Id"], image) for image in self.feed.images]
        else:
            found = [(volume["Name"], volume) for volume in self.feed.volumes]
        words = self.query_one("#filter", Input).value.lower().split()
        if not words:
            return found
        return [pair for pair in found if all(word in self._text(name, pair[1]) for word in words)]

    @staticmethod
    def _text(name: str, thing: Any) -> str:
        return " ".join(str(column.cell(thing)) for column in _COLUMNS[name]).lower()

    def _draw_if_dirty(self) -> None:
        if self._dirty:
            self._dirty = False
            self._show_engine()
            self._draw()

    def _show_engine(self) -> None:
        """In the title: the engine's address, and whether it answers."""
        mark = " (does not answer)" if self.feed.away else ""
        self.sub_title = f"{self._session.endpoint.text}{mark}"

    def _draw(self) -> None:
        """Fill the table in front; rows keep their place unless their order changes."""
        name = self.tab
        table, columns = self._table(name), _COLUMNS[name]
        at, down = self._order[name]
        things = sorted(self._things(name), key=lambda pair: pair[0])
        things.sort(key=lambda pair: columns[at].key(pair[1]), reverse=down)
        shown = [str(row.key.value) for row in table.ordered_rows]
        wanted = [key for key, _ in things]
        self._head(table, columns, at, down)
        if shown == wanted:
            for number, (_, thing) in enumerate(things):
                for index, column in enumerate(columns):
                    cell = column.cell(thing)
                    place = Coordinate(number, index)
                    if table.get_cell_at(place) != cell:
                        table.update_cell_at(place, cell, update_width=True)
            return
        chosen = self._key()
        offset = table.scroll_offset
        table.clear()
        for key, thing in things:
            table.add_row(*(column.cell(thing) for column in columns), key=key)
        if chosen in wanted:
            table.move_cursor(row=wanted.index(chosen), scroll=False)
        table.scroll_to(offset.x, offset.y, animate=False)

    @staticmethod
    def _head(table: DataTable[Any], columns: tuple[Column, ...], at: int, down: bool) -> None:
        for index, column in enumerate(table.ordered_columns):
            mark = (" ↓" if down else " ↑") if index == at else ""
            label = f"{columns[index].title}{mark}"
            if str(column.label) != label:
                column.label = type(column.label)(label)
                table.refresh()

    def _key(self) -> str:
        """ID or name of the chosen row; empty without rows."""
        table = self._table(self.tab)
        rows = table.ordered_rows
        return str(rows[table.cursor_row].key.value) if table.cursor_row < len(rows) else ""

    def _row(self) -> Row | None:
        return self.feed.rows.get(self._key()) if self.tab == "containers" else None

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts; a second one turns the order around."""
        self._sort(event.column_index)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if self.tab == "containers":
            self.action_logs()

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        self._draw()
        self._table(self.tab).focus()
        self.refresh_bindings()

    def _sort(self, at: int) -> None:
        before, down = self._order[self.tab]
        turned = not down if at == before else _COLUMNS[self.tab][at].down
        self._order[self.tab] = (at, turned)
        self._draw()

    # -- keys: what is shown -----------------------------------------------------------------

    def action_tab(self, name: str) -> None:
        self.query_one(TabbedContent).active = name

    def action_order(self) -> None:
        at, _ = self._order[self.tab]
        self._sort((at + 1) % len(_COLUMNS[self.tab]))

    def action_all(self) -> None:
        self._everything = not self._everything
        self._draw()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_leave_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("shown")
        self._table(self.tab).focus()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._table(self.tab).focus()

    def on_key(self, event: events.Key) -> None:
        if event.key == "down" and isinstance(self.focused, Input):
            self._table(self.tab).focus()

    def action_logs(self) -> None:
        row = self._row()
        if row is not None:
            self.push_screen(LogScreen(self._session, row.id, row.name))

    def action_exec(self) -> None:
        """A shell in the container, on the whole terminal; the screen comes back after it."""
        row = self._row()
        if row is None:
            return
        if row.state != "running":
            self.notify(f"{row.name} does not run", severity="warning", markup=False)
            return
        command = [*self._session.own_words(), "exec", "-it", row.id, "sh", "-c", _SHELL]
        with self.suspend():
            print(f"\nshell in {row.name}; 'exit' comes back", flush=True)
            subprocess.run(command, check=False)
        self.refresh()

    # -- keys: what is done ------------------------------------------------------------------

    def action_start_stop(self) -> None:
        if (row := self._row()) is not None:
            verb = "stop" if row.state in ("running", "restarting", "paused") else "start"
            self._act(row, verb)

    def action_restart(self) -> None:
        if (row := self._row()) is not None:
            self._act(row, "restart")

    def action_pause(self) -> None:
        if (row := self._row()) is not None:
            self._act(row, "unpause" if row.state == "paused" else "pause")

    def _act(self, row: Row, verb: str) -> None:
        path = path_of("containers", row.id, verb)
        self._call(f"{verb} {row.name}", lambda client: client.post(path))

    def action_remove(self) -> None:
        key, kind = self._key(), self.tab.removesuffix("s")
        if not key:
            return
        row = self._row()
        name = row.name if row else key.removeprefix("sha256:")
        image = next((i for i in self.feed.images if i["Id"] == key), None)
        if self.tab == "images" and image and image.get("RepoTags"):
            name = ", ".join(image["RepoTags"])
        running = row is not None and row.state != "exited" and row.state != "created"
        text = f"Remove the {kind} {name}?" + (" It runs and will be killed." if running else "")

        def answered(agreed: bool | None) -> None:
            if agreed:
                self._remove(key, name, running)

        self.push_screen(Question(text, "Remove"), answered)

    def _remove(self, key: str, name: str, running: bool) -> None:
        paths = [path_of(self.tab, key)]
        if self.tab == "images":
            image = next((i for i in self.feed.images if i["Id"] == key), {})
            paths = [path_of("images", tag) for tag in image.get("RepoTags") or [key]]

        def call(client: Client) -> None:
            for path in paths:
                client.delete(path, {"force": True if running else None})

        self._call(f"remove {name}", call)

    @work(thread=True)
    def _call(self, what: str, act: Callable[[Client], object]) -> None:
        """Ask the engine in a thread, and show the result."""
        try:
            act(self._session.another_client())
        except (PortsideError, OSError) as err:
            text = describe(err) if isinstance(err, PortsideError) else str(err)
            self.call_from_thread(self.notify, text, title=what, severity="error", markup=False)
        else:
            self.call_from_thread(self.notify, what, title="Done", markup=False)
