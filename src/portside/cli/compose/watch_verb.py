"""watch: changed files are brought into the containers, or make images anew."""

from __future__ import annotations

from portside.cli.compose import build_output
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.compose.log_lines import LogPrinter
from portside.compose import bringing_up, file_sync
from portside.compose.changes import DIVERGED
from portside.compose.converge import UpOptions
from portside.compose.observed import containers
from portside.compose.service_hooks import run as run_hook
from portside.model.counted import counted
from portside.model.errors import PortsideError
from portside.model.light_dataclass import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.file_sync import Rule
    from portside.compose.project import Project
    from portside.flags.table import Options

_DEBOUNCE = 500
"""Milliseconds for which changes are collected, as editors and tools write several files."""


@compose_verb("watch", usage="[SERVICE...]", flags="""
      --no-up   Do not build and start the services first
      --prune   hidden: (default true)
      --quiet   Do not show output of builds
""", about="Watch files, and bring their changes into the containers")  # fmt: skip
def watch(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.load(arguments)
    names = arguments or list(project.services)
    rules = file_sync.rules_of(project, names)
    if not options.flag("no-up"):
        actions = session.actions(project)
        bringing_up.up(actions, UpOptions(services=arguments),
                       build_output.image_tools(session, project), session.parallel)  # fmt: skip
        session.finish()
    printer = LogPrinter(color=session.has_colors, prefix=True, timestamps=False,
                         terminal=session.is_terminal)  # fmt: skip
    Watcher(session, project, rules, printer).run(_interrupted())
    raise KeyboardInterrupt


def _interrupted() -> Event:
    """Set by an interrupt, which is an exception, too: what is being done may take that for its own
    failure, as a build does, or lose it in a destructor."""
    import signal
    from threading import Event

    found = Event()

    def interrupted(*_: object) -> None:
        found.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    return found


class Watcher:
    """Acts on changed files until it is interrupted."""

    def __init__(
        self, session: ComposeSession, project: Project, rules: list[Rule], printer: LogPrinter
    ) -> None:
        self._session, self._project = session, project
        self._rules, self._printer = rules, printer
        self.acting: set[str] = set()
        """Services whose containers are being restarted or replaced."""
        self.on_acted: Callable[[], None] = lambda: None

    def _say(self, text: str) -> None:
        self._printer.line("watch", text)

    def run(self, stop: Event) -> None:
        """Watch until ``stop`` is set."""
        from watchfiles import watch as watch_files

        self._initial()
        paths = sorted({rule.path for rule in self._rules})
        self._say("Watch enabled")
        for changes in watch_files(
            *paths, debounce=_DEBOUNCE, watch_filter=None, stop_event=stop, raise_interrupt=True,
        ):  # fmt: skip
            self.take(sorted({path for _, path in changes}))

    def _initial(self) -> None:
        """Files that are newer than the image of their service."""
        from portside.cli.times import seconds_of
        from portside.client.client import path_of

        for rule in self._rules:
            if not (rule.syncs and rule.initial_sync):
                continue
            found = containers(self._session.pool, self._project.name, services=[rule.service])
            if not found:
                continue
            image = self._session.pool.get(path_of("images", found[0].raw["ImageID"], "json"))
            pairs = list(file_sync.files_below(rule, seconds_of(image["Created"])))
            if pairs:
                self._say(f'Syncing service "{rule.service}" with {counted(len(pairs), "files")}')
                file_sync.sync(self._session.pool, found, pairs)

    def take(self, paths: list[str]) -> None:
        """Act on the changed files of one batch; failures are reported, and watching continues."""
        rebuilt: set[str] = set()
        for rule in self._rules:
            changed = [path for path in paths if rule.matches(path)]
            if not changed or rule.service in rebuilt:
                continue
            self.acting.add(rule.service)
            try:
                self._act(rule, changed)
            except PortsideError as err:
                self._say(f"{rule.action} of service {rule.service!r} failed: {err}")
            finally:
                self.acting.discard(rule.service)
                self.on_acted()
            if rule.action == "rebuild":
                rebuilt.add(rule.service)

    def _act(self, rule: Rule, changed: list[str]) -> None:
        service, count = rule.service, len(changed)
        if rule.action == "rebuild":
            self._say(f'Rebuilding service "{service}" after {count} changes were detected...')
            with self._printer:
                self._rebuild(service)
            self._say(f'service "{service}" successfully built')
            return
        found = containers(self._session.pool, self._project.name, all=False, services=[service])
        if rule.syncs:
            self._say(f'Syncing service "{service}" after {count} changes were detected')
            pairs = [(path, rule.place(path)) for path in changed]
            file_sync.sync(self._session.pool, found, pairs)
        if rule.action in ("restart", "sync+restart"):
            from portside.client.client import path_of

            for item in found:
                self._session.pool.post(path_of("containers", item.id, "restart"))
            self._say(f'service(s) ["{service}"] restarted')
        elif rule.action == "sync+exec":
            for item in found:
                run_hook(self._session.pool, item, rule.exec or {}, self._output(service))

    def _output(self, service: str) -> Callable[[str], None]:
        return lambda line: self._printer.line(service, line)

    def _rebuild(self, service: str) -> None:
        build_output.build_services(self._session, self._project, [service])
        alone = replace(self._project, services={service: self._project.services[service]},
                        disabled={**self._project.disabled, **self._project.services})  # fmt: skip
        alone.services = {service: dict(alone.services[service], depends_on={})}
        actions = self._session.actions(alone)
        bringing_up.up(actions, UpOptions(recreate=DIVERGED, ignore_orphans=True),
                       build_output.image_tools(self._session, alone),
                       self._session.parallel)  # fmt: skip
        self._session.finish()
