"""``up`` in the foreground: output of the services, signals, keys, and the exit status."""

from __future__ import annotations

import select
import sys
import threading
from contextlib import ExitStack

from portside.cli.compose import up_menu
from portside.cli.compose.log_lines import LogPrinter
from portside.cli.compose.log_streams import LogStreams
from portside.cli.compose.progress_board import Lines
from portside.cli.compose.project_monitor import ProjectMonitor
from portside.cli.session import Failed
from portside.cli.signal_fd import SIGINT, SIGTERM, Signals
from portside.client.client import path_of
from portside.compose import bringing_up, transitions
from portside.compose.executor import execute
from portside.compose.observed import Container, containers
from portside.compose.progress_events import silent
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.cli.compose.watch_verb import Watcher
    from portside.compose.actions import Actions
    from portside.compose.project import Project
    from portside.compose.step_plan import Plan
    from portside.flags.table import Options

_INTERRUPTED = 130


def shown_services(project: Project, options: Options, services: list[str]) -> set[str]:
    """The services whose output is shown. Raises Failed."""
    chosen = options.many("attach")
    if chosen:
        if unknown := sorted(set(chosen) - project.services.keys()):
            raise Failed(1, f"cannot attach to services not included in up: {', '.join(unknown)}")
        found = set(chosen)
    else:
        named = set(services) or set(project.services)
        if options.flag("attach-dependencies"):
            named = set(project.with_dependencies(named))
        found = {
            name for name in named
            if project.services[name].get("attach") is not False
            and "provider" not in project.services[name]
        }  # fmt: skip
    return found - set(options.many("no-attach"))


class Foreground:
    """One attached ``up``, after the containers were created."""

    def __init__(
        self, session: ComposeSession, actions: Actions, options: Options, services: list[str]
    ) -> None:
        self._session, self._actions, self._options = session, actions, options
        self._project = actions.project
        self._services = services
        self._shown = shown_services(self._project, options, services)
        colors = session.has_colors and not options.flag("no-color")
        self.printer = LogPrinter(
            color=colors, prefix=not options.flag("no-log-prefix"),
            timestamps=options.flag("timestamps"), terminal=session.is_terminal,
        )  # fmt: skip
        self._streams = LogStreams(session.pool, self.printer)
        self._monitor = ProjectMonitor(
            session.pool, self._project.name, services or self._shown, self.printer, self._streams
        )
        self._monitor.on_exit = self._exited
        self._status = 0
        self._signals = 0
        self._aborted = self._over = False
        self._error: BaseException | None = None
        self._works: list[threading.Thread] = []
        self._menu: up_menu.Menu | None = None
        self._watcher: Watcher | None = None
        self._watch_stop = threading.Event()

    def run(self) -> int:
        """Attach, start everything and stay until all have ended; the exit status."""
        with Signals((SIGINT, SIGTERM)) as signals, ExitStack() as stack:
            threading.Thread(target=self._watch_signals, args=(signals,), daemon=True).start()
            if self._session.progress in ("auto", "tty"):
                self._session.progress = "plain"  # lines go between the output, a board does not
            self._monitor.begin()
            self._attach()
            self._actions.report = silent
            self._actions.hook_output = self._hook_output
            if up_menu.is_wanted(self._session, self._options, self._project):
                self._menu = stack.enter_context(up_menu.Menu(self.printer, self._pressed))
            self._in_background(self._start)
            while (self._monitor.running or self._is_acting()) and not self._over:
                self._take(*self._monitor.queue.get())
            self._watch_stop.set()
            for work in self._works:
                work.join()
        if self._error is not None and not self._signals:
            raise self._error
        return _INTERRUPTED if self._signals else self._status

    def _take(self, kind: str, value: Any) -> None:
        """Handle the received events."""
        if kind == "event":
            self._monitor.take(value)
        elif kind == "signal":
            self._signalled()
        elif kind == "key":
            self._key(value)
        elif kind == "started":
            if self._options.flag("watch") and self._error is None and not self._signals:
                self._toggle_watch()
        elif kind == "acted":
            self._monitor.look()
        elif kind == "ended":
            raise Failed(1, "the engine has ended")

    # -- the menu and watching --------------------------------------------------------------

    def _pressed(self, key: str) -> None:
        self._monitor.queue.put(("key", key))

    def _key(self, key: str) -> None:
        if self._signals or self._aborted:
            return
        if key == up_menu.DETACH:
            self._over = True
        elif key == up_menu.WATCH:
            self._toggle_watch()

    def _is_acting(self) -> bool:
        """Containers of watched services are being replaced."""
        return self._watcher is not None and bool(self._watcher.acting)

    def _toggle_watch(self) -> None:
        from portside.cli.compose.watch_verb import Watcher
        from portside.compose.compose_errors import ComposeError
        from portside.compose.file_sync import rules_of

        if self._watcher is not None:
            self._watch_stop.set()
            self._watcher = None
            self.printer.message("Watch disabled")
        else:
            try:
                rules = rules_of(self._project, self._project.services)
            except ComposeError as err:
                self.printer.message(f"Watch is not possible: {err}")
                return
            self._watch_stop = threading.Event()
            self._watcher = Watcher(self._session, self._project, rules, self.printer)
            self._watcher.on_acted = lambda: self._monitor.queue.put(("acted", None))
            self._in_background(self._watch)
        if self._menu is not None:
            self._menu.show(watches=self._watcher is not None)

    def _watch(self) -> None:
        watcher, stop = self._watcher, self._watch_stop
        assert watcher is not None
        try:
            watcher.run(stop)
        except (OSError, PortsideError) as err:
            self.printer.message(f"Watching has ended: {err}")

    # -- starting ---------------------------------------------------------------------------

    def _watch_signals(self, signals: Signals) -> None:
        poll = select.poll()
        poll.register(signals.fd, select.POLLIN)
        while True:
            if poll.poll() and poll.poll()[0][1] & select.POLLIN:
                for _ in signals.take():
                    self._monitor.queue.put(("signal", None))
            else:
                return

    def _in_background(self, work: object) -> None:
        thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
        self._works.append(thread)
        thread.start()

    def _attach(self) -> None:
        found = containers(self._session.pool, self._project.name, services=self._shown)
        found.sort(key=lambda item: item.name)
        if not self._shown or not found:
            return
        names = [item.short_name for item in found]
        self.printer.register(names)
        sys.stdout.write(f"Attaching to {', '.join(names)}\n")
        sys.stdout.flush()
        for item in found:
            self._streams.attach(item)
            self._monitor.attached.add(item.id)

    def _start(self) -> None:
        try:
            bringing_up.start(self._actions, self._session.parallel)
        except BaseException as err:
            self._error = self._error or err
            self._over = True
        self._monitor.queue.put(("started", None))

    def _hook_output(self, container: Container, line: str) -> None:
        self.printer.line(f"{container.short_name} ->", line)

    # -- ends -------------------------------------------------------------------------------

    def _exited(self, container: Container, status: int) -> None:
        if self._watcher is not None and container.service in self._watcher.acting:
            return
        options = self._options
        chosen = options.text("exit-code-from")
        fails = options.flag("abort-on-container-failure")
        stops = options.flag("abort-on-container-exit") or (bool(chosen) and not fails)
        if (stops or (fails and status)) and not self._aborted:
            self._aborted = True
            self._status = status
            self._close_menu()
            sys.stderr.write("Aborting on container exit...\n")
            sys.stderr.flush()
            self._in_background(self._stop)
        if chosen == container.service:
            self._status = status

    def _signalled(self) -> None:
        self._signals += 1
        self._close_menu()
        if self._signals == 1:
            sys.stdout.write("Gracefully Stopping... press Ctrl+C again to force\n")
            sys.stdout.flush()
            self._in_background(self._stop)
        elif self._signals == 2:
            self._in_background(self._kill)

    def _close_menu(self) -> None:
        self._watch_stop.set()
        if self._menu is not None:
            self._menu.close()

    def _stop(self) -> None:
        try:
            self._actions.report = Lines(False, sys.stderr).report
            transitions.stop(self._actions, self._services, self._session.parallel)
        except BaseException as err:
            self._error = self._error or err
        self._monitor.queue.put(("stopped", None))

    def _kill(self) -> None:
        for item in containers(self._session.pool, self._project.name, all=False):
            if item.service in self._project.services:
                try:
                    self._session.pool.post(path_of("containers", item.id, "kill"))
                except PortsideError:
                    pass  # it has ended meanwhile


def run(
    session: ComposeSession, actions: Actions, plan: Plan, options: Options, services: list[str]
) -> int:
    """Create what the plan says, then stay with it."""
    foreground = Foreground(session, actions, options, services)
    execute(plan, session.parallel)
    session.finish()
    if session.dry_run:
        sys.stdout.write("end of 'compose up' output, interactive run is not supported in "
                         "dry-run mode\n")  # fmt: skip
        return 0
    return foreground.run()
