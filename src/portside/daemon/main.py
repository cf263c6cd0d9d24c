"""``portside daemon``: from options to a served engine, and to its end.

Order matters. The launcher is forked first, while this process has one thread, no event
loop and no descriptors worth hiding; then come the sockets, the services, the API.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from portside.daemon import config
from portside.daemon.logs import set_up_logging
from portside.daemon.notify import machine_ends, notify
from portside.daemon.pidfile import PidFile
from portside.engine.option_checks import warnings
from portside.engine.options import DaemonOptions
from portside.kernel.directories import make_public
from portside.model.errors import PortsideError
from portside.model.instance import Instance
from portside.model.paths import rootless_user

if TYPE_CHECKING:
    import asyncio

    from portside.api.app import Api
    from portside.daemon.buildkit_listener import BuildkitServer
    from portside.daemon.listeners import Listener
    from portside.engine.engine import Engine
    from portside.runtime.launcher_client import Launcher
    from portside.serving.http.server import Server

log = logging.getLogger(__name__)

_PATIENCE = 3
"""Signals after which the engine no longer stops in order."""
_DESCRIPTORS = 1 << 20
"""Descriptors the engine allows itself, when the hard limit lets it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon with these arguments; the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = config.load(arguments)
    except config.HelpWanted:
        print(config.usage(), end="")
        return 0
    except config.VersionWanted:
        from portside import __version__

        print(f"Portside version {__version__}")
        return 0
    except PortsideError as err:
        print(f"{err}\nSee 'portside daemon --help'.", file=sys.stderr)
        return 1
    if options.validate:
        print("configuration OK", file=sys.stderr)  # as dockerd does
        return 0
    set_up_logging(options)
    # a crash in a library says in the log where it happened
    faulthandler.enable()
    for warning in warnings(options):
        log.warning("%s", warning)
    try:
        Daemon(options, arguments).run()
    except PortsideError as err:
        print(f"failed to start daemon: {err}", file=sys.stderr)
        return 1
    except Exception as err:
        log.exception("The engine ended by an internal error")
        print(f"failed to start daemon: {type(err).__name__}: {err}", file=sys.stderr)
        return 1
    return 0


class Daemon:
    """One run of the engine as a process."""

    def __init__(self, options: DaemonOptions, arguments: Sequence[str]) -> None:
        self.options, self.arguments = options, arguments
        self.instance = Instance.of(options.data_root, options.exec_root)
        self._listeners: list[Listener] = []
        self._metrics: list[Listener] = []
        self._buildkit: list[Listener] = []
        self._docker_sock: Path | None = None
        self._passed_sockets: list[str] = []
        """Paths of the service manager's sockets, which it keeps."""
        self._stop_containers = self._reset = False
        self._signals = 0

    def run(self) -> None:
        """Serve until a stop is requested. Raises PortsideError when it cannot start."""
        from portside.daemon.chroot import refuse_plain_chroot

        if os.geteuid() != 0:
            from portside.daemon import rootless_start

            rootless_start.enter(self.options, self.arguments)
        if rootless_user():
            from portside.daemon import rootless_start

            rootless_start.adopt()
        refuse_plain_chroot()
        self._make_directories()
        pidfile = PidFile(self.options.effective_pidfile)
        try:
            launcher = self._spawn_launcher()
            try:
                _raise_descriptor_limit()
                self._serve(launcher)
            except BaseException:
                self._abandon(launcher)
                raise
        finally:
            for listener in (*self._listeners, *self._buildkit):
                listener.remove()
            if self._docker_sock is not None and self._docker_sock.is_symlink():
                self._docker_sock.unlink(missing_ok=True)
            pidfile.remove()
        if self._reset:
            from portside.engine.reset import erase

            erase(self.instance, keep=self._passed_sockets)

    def _make_directories(self) -> None:
        """The two roots. Nobody else enters the data root; the default exec root holds the socket.

        The umask holds for the life of this process: what is made for others says so.
        """
        os.umask(0o077)
        roots = ((self.instance.data_root, 0o700), (self.instance.exec_root, 0o711))
        for path, mode in roots:
            make_public(path.parent)
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(mode)
        if self.options.oom_score_adjust:
            Path("/proc/self/oom_score_adj").write_text(str(self.options.oom_score_adjust))

    def _spawn_launcher(self) -> Launcher:
        from portside.runtime.launcher_client import Launcher

        parent = self.options.cgroup_parent or self.instance.cgroup
        return Launcher.spawn(parent, self.instance.monitors_cgroup)

    def _abandon(self, launcher: Launcher) -> None:
        """A start has failed: take back the control group that the launcher has prepared.

        Directories in which somebody lives stay; another engine of this root makes its own anew.
        """
        from portside.kernel.cgroup import Cgroup

        launcher.end()
        with suppress(PortsideError, OSError):  # its monitor in reserve ends after it
            Cgroup(self.instance.monitors_cgroup).wait_empty(1.0)
        for path in self.instance.monitors_cgroup, self.options.cgroup_parent, self.instance.cgroup:
            if path:
                Cgroup(path).remove_empty()

    def _serve(self, launcher: Launcher) -> None:
        import asyncio

        from portside.daemon import listeners

        self._listeners = listeners.open_all(self.options)
        self._passed_sockets = [each.socket_path for each in self._listeners if each.path is None]
        if self.options.buildkit_host:
            self._buildkit = listeners.open_buildkit(self.options)
        if self.options.metrics_addr:
            self._metrics = listeners.open_metrics(self.options.metrics_addr)
        if self.options.link_docker_sock:
            paths = [item.socket_path for item in self._listeners if item.socket_path]
            if paths:
                self._docker_sock = listeners.link_docker_sock(Path(paths[0]))
        asyncio.run(self._main(launcher))

    async def _main(self, launcher: Launcher) -> None:
        import asyncio

        from portside.engine.engine import Engine

        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        engine = await Engine.start(self.options, self.instance, launcher)

        def stop_requested(containers: bool, reset: bool = False) -> None:
            self._stop_containers = self._stop_containers or containers or reset
            self._reset = self._reset or reset
            stop.set()

        engine.stop_requested = stop_requested
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload, engine)
        loop.add_signal_handler(signal.SIGUSR1, _dump_tasks)
        servers = await self._listen(engine)
        _settle_memory()
        log.info("Daemon has completed initialization")
        notify("READY=1")
        await stop.wait()
        if self._signals and not self._stop_containers:
            self._stop_containers = await asyncio.to_thread(machine_ends)
        log.info("Stopping: containers %s", "too" if self._stop_containers else "continue")
        notify("STOPPING=1")
        await asyncio.gather(*(server.close() for server in servers))
        await engine.close(containers=self._stop_containers)
        # The loop's end gives signals their default back: none may cut short the last steps.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

    async def _listen(self, engine: Engine) -> list[Server | BuildkitServer]:
        from portside.api import errors
        from portside.api.app import Api
        from portside.serving.http.server import Server

        api = Api(engine)
        server = Server(
            api,
            common_headers=api.common_headers,
            error_body=errors.body,
            take_grpc=lambda transport, early: engine.grpc().take(transport, early),
        )
        for listener in self._listeners:
            await server.listen(listener.sock, listener.tls)
            log.info("API listen on %s", listener.address)
        found: list[Server | BuildkitServer] = [server]
        if self._metrics:
            found.append(await self._serve_metrics(engine, api))
        if self._buildkit:
            from portside.daemon.buildkit_listener import BuildkitServer

            found.append(await BuildkitServer.start(
                self._buildkit, lambda transport, early: engine.grpc().take(transport, early)
            ))  # fmt: skip
            log.info("BuildKit's API listens on %s", self.options.buildkit_host)
        return found

    async def _serve_metrics(self, engine: Engine, api: Api) -> Server:
        from portside.api import errors
        from portside.daemon.metrics import Metrics
        from portside.serving.http.server import Server

        metrics = Metrics(engine)
        api.observe = metrics.observe
        server = Server(metrics, error_body=errors.body)
        for listener in self._metrics:
            await server.listen(listener.sock, None)
            log.info("Metrics listen on %s", listener.address)
        return server

    def _signalled(self, number: int, stop: asyncio.Event) -> None:
        """The first SIGTERM or SIGINT ends the engine in order, the third at once."""
        self._signals += 1
        log.info("Processing signal '%s'", signal.strsignal(number))
        if self._signals >= _PATIENCE:
            log.warning("Forcing the engine to stop: the next start repairs what is half done")
            os._exit(128 + number)
        stop.set()

    def _reload(self, engine: Engine) -> None:
        """SIGHUP: read the configuration again; a bad file changes nothing."""
        try:
            self.options = config.reload(self.options, self.arguments)
        except PortsideError as err:
            log.error("Error reconfiguring the daemon: %s", err)
            return
        set_up_logging(self.options)
        engine.reconfigure(self.options)
        log.info("Reloaded configuration")


def _raise_descriptor_limit() -> None:
    """Shells give 1024, which a few hundred containers and clients use up."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _settle_memory() -> None:
    """Objects that exist now live long: exclude them from garbage collection, which would write to
    their pages."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _dump_tasks() -> None:
    """SIGUSR1: where everything stands, to the log."""
    import asyncio
    import io

    for task in asyncio.all_tasks():
        text = io.StringIO()
        task.print_stack(file=text)
        log.info("%s", text.getvalue())
