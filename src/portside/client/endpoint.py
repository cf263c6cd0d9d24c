"""Where the engine is: a socket's path or a host, from flags, environment and contexts."""

from __future__ import annotations

import os

from portside.client.errors import NotAllowed, NotRunning
from portside.model.errors import InvalidParameter, NotFound, Unavailable
from portside.model.paths import DEFAULT_SOCKET, SYSTEM_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from socket import socket

    from portside.client.config import ClientConfig

DEFAULT_CONTEXT = "default"


class TlsFiles:
    """Paths for TLS with client certificates; ``verify`` checks the engine's against ``ca``.

    Without ``ca`` the system's authorities count, without ``cert`` none is shown.
    """

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca, self.cert, self.key, self.verify = ca, cert, key, verify

    @classmethod
    def within(cls, directory: str, verify: bool, *, needs_ca: bool = True) -> TlsFiles:
        """The files of a directory; the client certificate is optional."""
        ca, cert, key = (f"{directory}/{name}.pem" for name in ("ca", "cert", "key"))
        if not os.path.exists(cert):
            cert = key = ""
        if not needs_ca and not os.path.exists(ca):
            ca = ""
        return cls(ca, cert, key, verify)

    def check(self) -> None:
        """That the files exist, though a unix socket needs none. Raises InvalidParameter."""
        for path in filter(None, (self.ca, self.cert, self.key)):
            if not os.path.exists(path):
                raise InvalidParameter(
                    f"unable to resolve docker endpoint: open {path}: no such file or directory"
                )

    def context(self) -> ssl.SSLContext:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.verify and self.ca:
                context.load_verify_locations(self.ca)
            elif self.verify:
                context.load_default_certs()
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as err:
            raise InvalidParameter(
                f"Failed to initialize: unable to resolve docker endpoint: {self._why(err)}"
            ) from err
        return context

    def _why(self, error: OSError) -> str:
        for path in filter(None, (self.ca if self.verify else "", self.cert, self.key)):
            if not os.path.exists(path):
                return f"open {path}: no such file or directory"
        return f"the TLS files {self.ca} and {self.cert} cannot be used: {error}"


class Endpoint:
    """An engine's address. ``is_default``: none was chosen, so an engine may be started."""

    __slots__ = ("host", "is_default", "is_ssh", "path", "port", "text", "tls")

    def __init__(self, text: str, tls: TlsFiles | None = None, is_default: bool = False) -> None:
        self.text, self.tls, self.is_default = text, tls, is_default
        self.path, self.host, self.port = "", "", 0
        self.is_ssh = False
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
            self.text = f"{scheme}://{rest}"
        if scheme == "unix":
            self.path = rest or DEFAULT_SOCKET
        elif scheme in ("tcp", "http", "https"):
            self._set_host(rest.partition("/")[0])
            if scheme == "https" and self.tls is None:
                self.tls = TlsFiles("", "", "", True)
            self.port = self.port or (2376 if self.tls else 2375)
        elif scheme == "ssh":
            from portside.client import ssh

            ssh.command(self.text)  # is the address one?
            self.is_ssh = True
        else:
            raise InvalidParameter(
                f"unable to resolve docker endpoint: invalid bind address format: {text}"
            )

    def _set_host(self, text: str) -> None:
        host, port = text, ""
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            port = rest.removeprefix(":")
        elif ":" in text:
            host, _, port = text.rpartition(":")
        if port and not (port.isdecimal() and int(port) < 65536):
            raise InvalidParameter(f"invalid port {port!r} in the engine's address {self.text}")
        self.host, self.port = host or "127.0.0.1", int(port or 0)

    @property
    def host_header(self) -> str:
        return self.host or "engine"

    @property
    def advice(self) -> str:
        """For an engine that ends a connection without an answer: what to look at."""
        if not self.is_ssh:
            return ""
        return (
            f": ssh to {self.text} has failed, or found no engine there. The address must be "
            "right, portside or docker be installed there, and its engine run"
        )

    def connect(self) -> socket:
        """A connected socket. Raises NotRunning, Unavailable."""
        try:
            if self.is_ssh:
                from portside.client import ssh

                return ssh.connect(self.text)
            return self._connect_unix() if self.path else self._connect_tcp()
        except (FileNotFoundError, ConnectionRefusedError) as err:
            raise NotRunning(
                f"Cannot connect to the Portside engine at {self.text}. Is the engine running?"
            ) from err
        except PermissionError as err:
            raise NotAllowed(
                "permission denied while trying to connect to the Portside engine socket at "
                f"{self.text}"
            ) from err
        except OSError as err:
            raise Unavailable(
                f"Cannot connect to the Portside engine at {self.text}: {err.strerror or err}"
            ) from err

    def _connect_unix(self) -> socket:
        import _socket

        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return sock  # type: ignore[return-value]  # has all of socket.socket that is used

    def _connect_tcp(self) -> socket:
        import socket

        context = self.tls.context() if self.tls is not None else None
        sock = socket.create_connection((self.host, self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if context is None:
            return sock
        import ssl

        from portside.client.tls import TlsSocket

        try:
            return TlsSocket(sock, context, self.host)  # type: ignore[return-value]
        except ssl.SSLError as err:
            sock.close()
            raise Unavailable(f"TLS with the engine at {self.text} failed: {err}") from err


# -- choosing ------------------------------------------------------------------------------


def choose(
    config: ClientConfig,
    *,
    host: str = "",
    context: str = "",
    tls: TlsFiles | None = None,
    current_context: bool = False,
) -> Endpoint:
    """The endpoint that flags, ``DOCKER_HOST``, ``DOCKER_CONTEXT`` and, with
    ``current_context``, ``docker context use`` ask for, in this order."""
    host = host or ("" if context else os.environ.get("DOCKER_HOST", ""))
    if host:
        tls = tls or _tls_of_environment(config)
        if tls is not None:
            tls.check()
        return Endpoint(host, tls)
    context = context or os.environ.get("DOCKER_CONTEXT", "")
    if not context and current_context:
        context = config.text("currentContext")
    if context and context != DEFAULT_CONTEXT:
        return of_context(config, context)
    return Endpoint(f"unix://{default_socket()}", is_default=True)


def default_socket() -> str:
    """The engine's socket when none was chosen: the user's own engine, else the system's
    where the user may use that, else where the user's own will be."""
    if (
        DEFAULT_SOCKET != SYSTEM_SOCKET
        and not os.path.exists(DEFAULT_SOCKET)
        and os.access(SYSTEM_SOCKET, os.W_OK)
    ):
        return SYSTEM_SOCKET
    return DEFAULT_SOCKET


def _tls_of_environment(config: ClientConfig) -> TlsFiles | None:
    if not os.environ.get("DOCKER_TLS_VERIFY") and not os.environ.get("DOCKER_TLS"):
        return None
    directory = os.environ.get("DOCKER_CERT_PATH") or config.directory
    return TlsFiles.within(directory, verify=bool(os.environ.get("DOCKER_TLS_VERIFY")))


def of_context(config: ClientConfig, name: str) -> Endpoint:
    """The endpoint of a docker context. Raises NotFound."""
    import hashlib

    from portside.model import jsontext

    key = hashlib.sha256(name.encode()).hexdigest()
    try:
        with open(f"{config.directory}/contexts/meta/{key}/meta.json", "rb") as file:
            meta = jsontext.loads(file.read())
        docker = meta["Endpoints"]["docker"]
    except (OSError, KeyError, TypeError):
        raise NotFound(
            f'unable to resolve docker endpoint: context "{name}": context not found: open '
            f"{config.directory}/contexts/meta/{key}/meta.json: no such file or directory"
        ) from None
    directory = f"{config.directory}/contexts/tls/{key}/docker"
    tls = None
    if os.path.isdir(directory):
        tls = TlsFiles.within(directory, verify=not docker.get("SkipTLSVerify"), needs_ca=False)
    return Endpoint(docker.get("Host") or f"unix://{DEFAULT_SOCKET}", tls)
