"""One call of the command: the program's name, the engine's address, the output."""

from __future__ import annotations

import os
import sys

from portside.client.client import Client
from portside.client.config import ClientConfig
from portside.client.endpoint import choose
from portside.client.errors import NotAllowed, NotRunning, Refused
from portside.model.errors import InvalidParameter, NotFound, PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portside.client.endpoint import Endpoint, TlsFiles

DOCKER = "docker"


class Failed(PortsideError):
    """The verb has failed with this exit status; an empty message was printed already."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class Session:
    """Everything a verb's function gets besides its options and arguments."""

    def __init__(
        self,
        program: str,
        *,
        host: str = "",
        context: str = "",
        config: str = "",
        tls: TlsFiles | None = None,
        debug: bool = False,
    ) -> None:
        self.program = program
        self.called = program
        """The whole command as it was called: ``portside container ls``."""
        self.config = ClientConfig(config)
        self.debug = debug
        self._where = (host, context, tls)
        self._endpoint: Endpoint | None = None
        self._client: Client | None = None

    # -- the engine ------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            host, context, tls = self._where
            try:
                self._endpoint = choose(
                    self.config,
                    host=host,
                    context=context,
                    tls=tls,
                    current_context=self.program == DOCKER,
                )
            except (InvalidParameter, NotFound) as err:
                raise InvalidParameter(f"Failed to initialize: {err}") from None
        return self._endpoint

    @property
    def client(self) -> Client:
        """A connected client. An engine is started when none answers at the default
        address: the system's for root, else the user's own. Raises NotRunning, Unavailable."""
        if self._client is None:
            client = self.unconnected_client()
            try:
                client.connect()
            except NotAllowed as err:
                from portside.cli import hints

                raise NotAllowed(f"{err}: {hints.group_of(self.endpoint.path)}") from None
            except NotRunning:
                if not self.endpoint.is_default:
                    if self.program != DOCKER:
                        raise
                    raise NotRunning(  # the text that scripts around docker look for
                        f"Cannot connect to the Docker daemon at {self.endpoint.text}. "
                        "Is the docker daemon running?"
                    ) from None
                from portside.cli import engine_start

                engine_start.start_engine(self.endpoint)
                client.connect()
            self._client = client
        return self._client

    def unconnected_client(self) -> Client:
        """A client that starts no engine."""
        version = os.environ.get("DOCKER_API_VERSION", "").removeprefix("v")
        headers = {name: str(value) for name, value in self.config.mapping("HttpHeaders").items()}
        return Client(self.endpoint, version, headers)

    def another_client(self) -> Client:
        """A client of its own connections, for another thread."""
        return Client(self.endpoint, self.client.version)

    def own_words(self) -> list[str]:
        """The command line that calls this program again for the same engine."""
        host, context, tls = self._where
        main = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__main__.py")
        words = [sys.executable, main]
        if host:
            words += ["--host", host]
        elif context:
            words += ["--context", context]
        if tls is not None:
            for flag, value in (
                ("--tlscacert", tls.ca), ("--tlscert", tls.cert), ("--tlskey", tls.key)
            ):  # fmt: skip
                words += [flag, value] if value else []
            words.append("--tlsverify" if tls.verify else "--tls")
        return words

    @property
    def context(self) -> str:
        """The name of the requested context."""
        return self._where[1] or os.environ.get("DOCKER_CONTEXT", "") or "default"

    # -- output ----------------------------------------------------------------------------

    def out(self, text: str) -> None:
        """A line to standard output."""
        sys.stdout.write(f"{text}\n")

    def warn(self, text: str) -> None:
        """A line to standard error."""
        sys.stdout.flush()
        sys.stderr.write(f"{text}\n")

    @property
    def is_terminal(self) -> bool:
        """Standard output is a terminal."""
        return os.isatty(1)

    # -- the same for several --------------------------------------------------------------

    def each(
        self,
        names: Iterable[str],
        act: Callable[[str], str | None],
        *,
        forgives_missing: bool = False,
        silent_when_missing: bool = False,
    ) -> int:
        """Do ``act`` for each name and print what it returns (the name when that is None).

        A failure is reported and the others continue; the exit status is 1 then, unless what is
        missing was to be forgiven.
        With ``silent_when_missing`` these are not even reported.
        """
        status = 0
        for name in names:
            try:
                shown = act(name)
            except PortsideError as err:
                missing = isinstance(err, Refused) and err.is_not_found
                if missing and silent_when_missing:
                    continue
                self.warn(describe(err))
                if isinstance(err, NotRunning):
                    return 1
                status = status if missing and forgives_missing else 1
            else:
                self.out(name if shown is None else shown)
        return status


def write_text(what: str, path: str, text: str) -> None:
    """A text to the file that a flag such as ``--output`` names. Raises InvalidParameter."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        why = (err.strerror or str(err)).lower()
        raise InvalidParameter(f"failed to {what}: open {path}: {why}") from None


def file_error(error: OSError) -> str:
    """The message about a file for which no verb has a message of its own; empty for other errors,
    which are defects of this program."""
    if error.filename is None or isinstance(error, BrokenPipeError):
        return ""
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{name}: {(error.strerror or str(error)).lower()}"


def describe(error: PortsideError) -> str:
    """The message for the user; the engine's errors have Docker's prefix."""
    return f"Error response from daemon: {error}" if isinstance(error, Refused) else str(error)
