"""One call of ``compose``: its project, its engine, and the output of progress."""

from __future__ import annotations

import os
import sys
import time

from portside.cli.session import Failed, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from portside.cli.compose.progress_board import Board
    from portside.cli.compose.remote_sources import RemoteSources
    from portside.compose.actions import Actions
    from portside.compose.engine_pool import EnginePool
    from portside.compose.project import Project
    from portside.compose.project_loading import Request
    from portside.compose.remote_files import RemoteFiles
    from portside.compose.yaml_source import Map
    from portside.flags.table import Options

_MODES = ("auto", "tty", "plain", "json", "quiet")
_BEGUN = time.monotonic()


class ComposeSession(Session):
    """The argument of a verb of ``compose``."""

    dry_run = False
    parallel = -1
    progress = "auto"
    ansi = "auto"
    _globals: Options
    _pool: EnginePool | None = None
    _board: Board | None = None
    _remotes: RemoteFiles | None = None

    def configure(self, options: Options) -> None:
        """Take the global flags and the variables that stand for them. Raises Failed."""
        self._globals = options
        self.dry_run = options.flag("dry-run")
        self.debug = self.debug or options.flag("verbose")
        self.ansi = options.text("ansi") or os.environ.get("COMPOSE_ANSI") or "auto"
        if options.flag("no-ansi"):
            self.ansi = "never"
        if os.environ.get("NO_COLOR"):
            self.ansi = "never"
        mode = options.text("progress") or os.environ.get("COMPOSE_PROGRESS") or "auto"
        mode = "quiet" if mode == "none" else mode
        if mode not in _MODES:
            raise Failed(1, f'unsupported --progress value "{mode}"')
        if mode == "tty" and self.ansi == "never":
            raise Failed(1, "can't use --progress tty while ANSI support is disabled")
        if mode == "plain" and self.ansi == "always":
            raise Failed(1, "can't use --progress plain while ANSI support is forced")
        if mode == "auto":
            mode = {"never": "plain", "always": "tty"}.get(self.ansi, "auto")
        self.progress = mode
        limit = os.environ.get("COMPOSE_PARALLEL_LIMIT", "")
        if options.given("parallel"):
            self.parallel = options.number("parallel") or -1
        elif limit:
            if not limit.lstrip("-").isdecimal():
                raise Failed(1, f"COMPOSE_PARALLEL_LIMIT must be an integer (found: {limit!r})")
            self.parallel = int(limit)

    # -- the project ------------------------------------------------------------------------

    def load(self, names: Iterable[str] = (), *, dependencies: bool = True,
             environment: bool = True, **more: Any) -> Project:  # fmt: skip
        """The project of the files, restricted to some services. Raises ComposeError,
        NotFound."""
        from portside.compose import project_loading

        found = project_loading.load(self._request(resolves_environment=environment, **more))
        if self.is_compatible:
            found.separator = "_"
        found.select(list(names), dependencies)
        if not self._globals.flag("all-resources"):
            found.drop_unused()
        return found

    def load_model(self, **more: Any) -> Map:
        """The merged files with variables as they are written. Raises ComposeError."""
        from portside.compose import project_loading

        return project_loading.load_model(self._request(interpolates=False, **more))

    def _request(self, **more: Any) -> Request:
        from portside.compose import project_loading

        options = self._globals
        return project_loading.Request(
            files=options.many("file"), name=options.text("project-name"),
            directory=options.text("project-directory"), env_files=options.many("env-file"),
            profiles=options.many("profile"), warn=self.warning, remotes=self.remotes, **more,
        )  # fmt: skip

    @property
    def remotes(self) -> RemoteFiles:
        """Fetches the project's files that are not on this machine."""
        if self._remotes is None:
            from portside.compose.project_loading import FILES
            from portside.compose.remote_files import RemoteFiles

            self._remotes = RemoteFiles(self._sources, os.environ, FILES)
        return self._remotes

    def _sources(self) -> RemoteSources:
        from portside.cli.compose.remote_sources import RemoteSources

        return RemoteSources(self.config, lambda: self.pool)

    @property
    def is_compatible(self) -> bool:
        """Names have the form of Compose version 1."""
        return self._globals.flag("compatibility") or _is_set("COMPOSE_COMPATIBILITY")

    def project_or_name(self, names: Iterable[str] = ()) -> tuple[Project | None, str]:
        """The project of the files, unless only its name was given."""
        from portside.model.errors import PortsideError

        name = self._globals.text("project-name")
        if name and not self._globals.many("file"):
            return None, name
        try:
            found = self.load(names, environment=False)
        except PortsideError:
            name = os.environ.get("COMPOSE_PROJECT_NAME", "")
            if not name:
                raise
            return None, name
        return found, found.name

    def known_project(self, names: Iterable[str] = ()) -> Project:
        """The project of the files, or else what the engine has under its name."""
        from portside.compose.labelled_project import labelled
        from portside.model.errors import NotFound

        names = list(names)
        found, name = self.project_or_name(names)
        if found is not None:
            return found
        made = labelled(self.pool, name)
        for other in names:
            if other not in made.services:
                raise NotFound(f"no such service: {other}")
        made.select(names)
        return made

    # -- the engine -------------------------------------------------------------------------

    @property
    def pool(self) -> EnginePool:
        if self._pool is None:
            from portside.compose.engine_pool import EnginePool

            first = [self.client]
            self._pool = EnginePool(lambda: first.pop() if first else self.another_client())
        return self._pool

    def actions(self, project: Project, **more: Any) -> Actions:
        """The functions that change a project, with progress on the board."""
        from portside.compose.actions import Actions

        return Actions(
            self.pool, project, self.board().report, self.config.proxies(self.endpoint.text),
            dry_run=self.dry_run, warn=self.warning, api_socket=self._api_socket, **more,
        )  # fmt: skip

    def _api_socket(self) -> tuple[str, str]:
        from portside.cli import api_socket

        return api_socket.path(self, "use_api_socket"), api_socket.config_text(self)

    # -- output -----------------------------------------------------------------------------

    @property
    def has_colors(self) -> bool:
        """Standard output takes control characters."""
        return self.ansi == "always" or (self.ansi == "auto" and self.is_terminal)

    def board(self, title: str = "Running") -> Board:
        """Where progress is shown, from now until :meth:`finish`."""
        if self._board is None:
            from portside.cli.compose.progress_board import board

            stream = sys.stdout if switch("COMPOSE_STATUS_STDOUT") else sys.stderr
            self._board = board(self.progress, self.dry_run, title, stream)
        return self._board

    def finish(self) -> None:
        """Progress is over: what follows is other output."""
        if self._board is not None:
            self._board.finish()
            self._board = None

    def warning(self, text: str) -> None:
        """Print a warning in the form of Docker's programs."""
        from portside.model.golang.quoting import quote

        sys.stdout.flush()
        if os.isatty(2):
            sys.stderr.write(f"\x1b[33mWARN\x1b[0m[{int(time.monotonic() - _BEGUN):04}] {text} \n")
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        stamp = f"{stamp[:-2]}:{stamp[-2:]}" if stamp[-5:] != "+0000" else f"{stamp[:-5]}Z"
        sys.stderr.write(f'time="{stamp}" level=warning msg={quote(text)}\n')

    def confirm(self, question: str, default: bool = False) -> bool:
        """Ask on the terminal; ``default`` elsewhere when nothing is said."""
        self.finish()
        sys.stderr.write(f"? {question} [{'Y/n' if default else 'y/N'}] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        return answer in ("y", "yes", "true", "1") if answer else default


def _is_set(name: str) -> bool:
    from portside.model.golang.booleans import parse_bool

    try:
        return parse_bool(os.environ.get(name, "") or "0")
    except ValueError:
        return False


def switch(name: str, environment: Callable[[str], str | None] = os.environ.get) -> bool:
    """A variable that is a switch, ``COMPOSE_REMOVE_ORPHANS``."""
    from portside.model.golang.booleans import parse_bool

    try:
        return parse_bool(environment(name) or "0")
    except ValueError:
        return False
