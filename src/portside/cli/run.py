"""run and create."""

from __future__ import annotations

import os

from portside.cli import (
    attached,
    container_config,
    content_trust,
    platform_flag,
    references,
    run_flags,
)
from portside.cli.session import DOCKER, Failed, describe
from portside.cli.verb import verb
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.flags.table import UsageError
from portside.model import jsontext
from portside.model.embedded_names import EMBEDDED
from portside.model.errors import InvalidParameter, PortsideError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

_LACKING = ("No such image", "does not match the specified platform",
            "does not provide the specified platform")  # fmt: skip
_PULLS = ("always", "missing", "never")
_USAGE = "[OPTIONS] IMAGE [COMMAND] [ARG...]"


@verb("create", "container create", usage=_USAGE, about="Create a container without starting it",
      flags=run_flags.CREATE, arguments=(1, None), interspersed=False,
      completes="image")  # fmt: skip
def create(session: Session, options: Options, arguments: list[str]) -> int:
    try:
        _check(options)
        session.out(_create(session, options, arguments))
    except (Refused, Unavailable, _NoFile):
        raise
    except InvalidParameter as err:
        raise _failed(session, err, 125) from err
    return 0


@verb("run", "container run", usage=_USAGE, about="Create a container from an image and start it",
      flags=run_flags.RUN, arguments=(1, None), interspersed=False, completes="image")  # fmt: skip
def run(session: Session, options: Options, arguments: list[str]) -> int:
    if options.flag("detach"):
        if options.many("attach"):
            raise Failed(1, "conflicting options: cannot specify both --attach and --detach")
    else:
        attached.check_terminal(options.flag("tty"), options.flag("interactive"))
    started = _Clock()
    try:
        _check(options)
        container = _create(session, options, arguments, started)
        started.mark("create")
        if options.flag("detach"):
            return _run_detached(session, options, container, started)
        return _Foreground(session, options, container, started).run()
    except Failed as err:
        raise _with_hint(session, options, arguments, err) from err.__cause__
    except UsageError:
        raise
    except PortsideError as err:
        asked = isinstance(err, (Refused, _NoFile))
        status = attached.status_of_failed_start(err) if asked else 125
        raise _failed(session, err, status) from err


def _check(options: Options) -> None:
    platform_flag.checked(options)
    if options.text("pull", "missing") not in _PULLS:
        given = options.text("pull")
        raise InvalidParameter(
            f'invalid pull option: \'{given}\': must be one of "always", "missing" or "never"'
        )


def _failed(session: Session, error: PortsideError, status: int) -> Failed:
    """A failure as ``docker run`` shows it."""
    return Failed(
        status,
        f"{session.program}: {describe(error)}\n\n"
        f"Run '{session.called} --help' for more information",
    )


def _with_hint(session: Session, options: Options, arguments: list[str], failed: Failed) -> Failed:
    """The failure, with a hint where there is one. docker's own text stays."""
    if session.program == DOCKER or not isinstance(failed.__cause__, Refused):
        return failed
    from portside.cli import hints

    hint = hints.failed_start(
        session.client, bool(session.endpoint.path), options, arguments, failed.__cause__
    )
    return Failed(failed.status, f"{failed}\n\n{hint}") if hint else failed


class _NoFile(InvalidParameter):
    """The file for the container's ID cannot be made."""


# -- create ----------------------------------------------------------------------------------


def _create(
    session: Session, options: Options, arguments: list[str], clock: _Clock | None = None
) -> str:
    """Create the container, pulling its image as ``--pull`` says; its ID."""
    image, *command = arguments
    content_trust.check(options, image)
    if not image.islower() or " " in image or "@" in image:  # the engine checks the rest
        references.check(image)
    proxies = session.config.proxies(session.endpoint.text)
    body = container_config.build(options, image, command, proxies)
    if options.flag("tty"):
        from portside.cli import caller_terminal

        body["HostConfig"]["ConsoleSize"] = list(caller_terminal.size())
    if options.flag("use-api-socket"):
        from portside.cli import api_socket

        api_socket.add(session, body)
    cidfile = _open_cidfile(options.text("cidfile"))
    try:
        created = _ask(session, options, image, body, clock)
        if options.flag("use-api-socket"):
            api_socket.put_credentials(session, created["Id"])
    except PortsideError:
        if cidfile >= 0:
            os.unlink(options.text("cidfile"))
        raise
    for warning in created.get("Warnings") or ():
        session.warn(f"WARNING: {warning}")
    if cidfile >= 0:
        os.write(cidfile, created["Id"].encode())
        os.close(cidfile)
    return str(created["Id"])


def _open_cidfile(path: str) -> int:
    if not path:
        return -1
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise InvalidParameter(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as err:
        raise _NoFile(
            f"failed to create the container ID file: open {path}: {(err.strerror or '').lower()}"
        ) from None


def _ask(
    session: Session, options: Options, image: str, body: dict[str, Any], clock: _Clock | None
) -> dict[str, Any]:
    policy = options.text("pull", "missing")
    query = {
        "name": options.text("name") or None,
        "platform": platform_flag.wanted(options) or None,
    }
    client = session.client
    if policy == "always":
        _pull(session, options, image, clock)
    try:
        created: dict[str, Any] = client.post("/containers/create", query, body)
    except Refused as err:
        if not err.is_not_found or policy != "missing" or not _lacks_image(str(err)):
            raise
        known = references.familiar(image)
        if not options.flag("quiet") and known not in EMBEDDED:  # the engine reports these
            session.warn(f"Unable to find image '{known}' locally")
        _pull(session, options, image, clock)
        created = client.post("/containers/create", query, body)
    return created


def _lacks_image(message: str) -> bool:
    """Whether the image, or its content for this platform, is missing, and not another object."""
    return any(text in message for text in _LACKING)


def _pull(session: Session, options: Options, image: str, clock: _Clock | None) -> None:
    from portside.cli.pull_push import pull_image

    since = clock.now() if clock is not None else 0.0
    platform = platform_flag.wanted(options)
    pull_image(session, image, platform=platform, quiet=options.flag("quiet"), fd=2)
    if clock is not None:
        clock.within("create", "pull", since)


# -- run -------------------------------------------------------------------------------------


def _run_detached(session: Session, options: Options, container: str, started: _Clock) -> int:
    try:
        started.start(session, options, container)
    except PortsideError as err:
        session.out(container)
        raise _failed(session, err, attached.status_of_failed_start(err)) from err
    session.out(container)
    if options.flag("timings"):
        started.print_timings(session)
    return 0


class _Foreground:
    """A container we are attached to from its start to its end."""

    def __init__(self, session: Session, options: Options, container: str, started: _Clock) -> None:
        self.session, self.options, self.container = session, options, container
        self.client = session.client
        self.started = started
        self.path = path_of("containers", container)
        self.tty = options.flag("tty")
        self.removes = options.flag("rm")
        self.keys = attached.detach_keys(session, options.text("detach-keys"))

    def run(self) -> int:
        streams = container_config._attached(self.options)
        query = {name: True for name in container_config.STREAMS if name in streams}
        # Both questions are on their way before either answer is read.
        attaching = self.client.begin_hijack(
            f"{self.path}/attach", {"stream": True, **query, "detachKeys": self._key_text()}
        )
        waiting = attached.Waiting(
            self.client, self.container, "removed" if self.removes else "next-exit"
        )
        hijacked = self.client.hijacked(attaching)
        waiting.accepted()
        self.started.mark("attach")

        def begin() -> None:
            self._start(waiting)

        stays = attached.stream(
            self.client,
            hijacked,
            target=self.path,
            tty=self.tty,
            stdin="stdin" in streams,
            keys=self.keys[1],
            proxy=self.options.flag("sig-proxy"),
            begin=begin,
        )
        status = self._ended(waiting) if stays else 0
        if self.options.flag("timings"):
            self.started.print_timings(self.session)
        return status

    def _ended(self, waiting: attached.Waiting) -> int:
        """The exit status, after the last output."""
        self.started.mark("wait for its end")
        status = waiting.status()
        self.started.mark("removal" if self.removes else "exit status")
        return status

    def _key_text(self) -> str | None:
        """The keys to send with the request; None leaves the engine's default."""
        return self.options.text("detach-keys") or self.session.config.text("detachKeys") or None

    def _start(self, waiting: attached.Waiting) -> None:
        try:
            self.started.start(self.session, self.options, self.container)
        except PortsideError as err:
            if self.removes:
                waiting.status()  # the engine removes it: leave nothing behind when we return
            raise _failed(self.session, err, attached.status_of_failed_start(err)) from err


class _Clock:
    """Where the milliseconds of a run went, as ``--timings`` reports: steps, and steps in them."""

    def __init__(self) -> None:
        from time import perf_counter

        self._now = perf_counter
        self._first = self._last = perf_counter()
        self._steps: list[tuple[str, float]] = []
        self._within: dict[str, dict[str, float]] = {}

    def mark(self, name: str) -> None:
        """A step has ended; the next begins."""
        now = self._now()
        self._steps.append((name, (now - self._last) * 1000))
        self._last = now

    def within(self, step: str, name: str, since: float) -> None:
        """Note a part of the step under way, such as the pull of ``create``."""
        self._within.setdefault(step, {})[name] = (self._now() - since) * 1000

    def now(self) -> float:
        return self._now()

    def start(self, session: Session, options: Options, container: str) -> None:
        """Start the container, with the engine's steps when they are asked for."""
        path = path_of("containers", container, "start")
        if options.flag("timings"):
            response = session.client.request("POST", path, {"timings": True})
            self._within["start"] = jsontext.loads(response.headers.get("portside-timings", "{}"))
            session.client.release(response)
        else:
            session.client.post(path)
        self.mark("start")

    def print_timings(self, session: Session) -> None:
        rows = [("asked the engine to", "ms")]
        for name, spent in self._steps:
            rows.append((f"  {name}", f"{spent:.1f}"))
            rows += _nested(self._within.get(name, {}))
        rows.append(("total", f"{(self._last - self._first) * 1000:.1f}"))
        width = max(len(name) for name, _ in rows)
        session.warn("\n".join(f"{name:<{width}}  {spent:>8}" for name, spent in rows))


def _nested(steps: dict[str, float]) -> list[tuple[str, str]]:
    """The engine's steps; the steps of init are part of ``runtime``."""
    rows, inner = [], []
    for name, spent in steps.items():
        kind, _, rest = name.partition(" ")
        if kind == "init" and rest:
            inner.append((f"      {rest}", f"{spent:.1f}"))
        else:
            rows.append((f"    {name}", f"{spent:.1f}"))
    at = next((n + 1 for n, row in enumerate(rows) if row[0].strip() == "runtime"), len(rows))
    return rows[:at] + inner + rows[at:]
