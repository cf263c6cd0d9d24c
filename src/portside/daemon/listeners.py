"""The engine's listening sockets: unix sockets, TCP with or without TLS, sockets from systemd."""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from portside.daemon.notify import listen_fds
from portside.engine.options import DaemonOptions
from portside.kernel.directories import make_public
from portside.model.errors import Conflict, InvalidParameter, SystemFailure
from portside.model.paths import DEFAULT_SOCKET, rootless_user

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

_LONGEST_PATH = 107
"""Bytes of a socket's path (sockaddr_un.sun_path without its zero byte, unix(7))."""


@dataclass(slots=True)
class Listener:
    """A listening socket; ``tls`` is set for TCP with TLS, ``path`` for our unix sockets."""

    sock: socket.socket
    address: str
    tls: ssl.SSLContext | None = None
    path: Path | None = None

    @property
    def socket_path(self) -> str:
        """Path of the socket in the file system, also when another program made it."""
        if self.sock.family != socket.AF_UNIX:
            return ""
        name = self.sock.getsockname()
        return name if isinstance(name, str) and name.startswith("/") else ""

    def remove(self) -> None:
        """Take the socket's name out of the file system."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def check_addresses(options: DaemonOptions) -> None:
    """Check what can be checked without listening. Raises InvalidParameter."""
    for host in options.effective_hosts:
        scheme, rest = _scheme(host)
        if scheme == "tcp":
            _check_tcp(rest, options)
        elif scheme == "unix":
            _check_unix(Path(rest or DEFAULT_SOCKET))
    _group(options.group)
    if options.buildkit_host:
        if not options.buildkit_host.startswith("unix://"):
            raise InvalidParameter(
                f"buildkit-host: {options.buildkit_host!r} is not supported: use unix:///PATH"
            )
        _check_unix(Path(options.buildkit_host.removeprefix("unix://")))
    if options.metrics_addr:
        try:
            _host_and_port(options.metrics_addr, 9323)
        except InvalidParameter:
            raise InvalidParameter(
                f"metrics-addr: {options.metrics_addr!r} is not HOST:PORT"
            ) from None


def _scheme(host: str) -> tuple[str, str]:
    """``tcp://x`` in two parts; a host alone is TCP, as for dockerd."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = ("tcp", host) if host else ("unix", "")
    if scheme not in ("unix", "tcp", "fd"):
        raise InvalidParameter(f"invalid bind address format: {host}: use unix://, tcp:// or fd://")
    return scheme, rest


def open_all(options: DaemonOptions) -> list[Listener]:
    """Listen on every host of the options. Raises InvalidParameter, Conflict, SystemFailure."""
    found: list[Listener] = []
    try:
        for host in options.effective_hosts:
            found += _open(host, options)
    except BaseException:
        for listener in found:
            listener.sock.close()
            listener.remove()
        raise
    return found


def open_buildkit(options: DaemonOptions) -> list[Listener]:
    """Listen on ``--buildkit-host``: a unix socket with the rights of the API's socket."""
    return [_unix(Path(options.buildkit_host.removeprefix("unix://")), options)]


def open_metrics(address: str) -> list[Listener]:
    """Listen on ``--metrics-addr``: plain HTTP that serves metrics only."""
    return _bind(address, *_host_and_port(address, 9323), None)


def _open(host: str, options: DaemonOptions) -> list[Listener]:
    scheme, rest = _scheme(host)
    if scheme == "unix":
        path = rest or DEFAULT_SOCKET
        return [_unix(Path(path), options)]
    if scheme == "tcp":
        return _tcp(rest, options)
    return [Listener(sock, f"fd://{rest}") for sock in listen_fds(rest)]


def _check_unix(path: Path) -> None:
    if not path.is_absolute():
        raise InvalidParameter(f"invalid bind address: unix://{path}: give an absolute path")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise InvalidParameter(
            f"the socket's path is too long: {path}: at most {_LONGEST_PATH} bytes (unix(7)); "
            "choose a shorter --host"
        )


def _unix(path: Path, options: DaemonOptions) -> Listener:
    _check_unix(path)
    make_public(path.parent)
    if _answers(path):
        raise Conflict(f"can't create unix socket {path}: address already in use")
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as err:
        sock.close()
        raise SystemFailure(f"can't create unix socket {path}: {err.strerror}") from err
    finally:
        os.umask(mask)
    gid = None if rootless_user() else _group(options.group)
    if gid is not None:
        os.chown(path, 0, gid)
    path.chmod(0o600 if rootless_user() else 0o660)  # a user's engine is that user's alone
    sock.listen(1024)
    return Listener(sock, f"unix://{path}", path=path)


def _answers(path: Path) -> bool:
    """Whether a process serves this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _group(name: str) -> int | None:
    if not name:
        return None
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name == "docker":  # the default: many machines have no such group
            return None
        raise InvalidParameter(f"group {name} not found") from None


def _check_tcp(rest: str, options: DaemonOptions) -> tuple[str, int]:
    name, port = _host_and_port(rest, 2376 if options.uses_tls else 2375)
    if not options.uses_tls and not options.insecure_tcp and not _is_loopback(name):
        raise InvalidParameter(
            f"refusing to listen on tcp://{rest} without TLS: whoever reaches it becomes root on "
            "this machine. Use --tlsverify with --tlscacert, --tlscert and --tlskey, or "
            "--insecure-tcp if you really mean it"
        )
    return name, port


def _tcp(rest: str, options: DaemonOptions) -> list[Listener]:
    name, port = _check_tcp(rest, options)
    context = tls_context(options) if options.uses_tls else None
    found = _bind(rest, name, port, context)
    if context is None and not _is_loopback(name):
        log.warning("tcp://%s is not encrypted: whoever reaches it has root access here", rest)
    return found


def _bind(rest: str, name: str, port: int, context: ssl.SSLContext | None) -> list[Listener]:
    """Listen on every address that ``name`` has."""
    try:
        addresses = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as err:
        why = err.strerror or err
        raise InvalidParameter(f"invalid bind address: tcp://{rest}: {why}") from None
    found = []
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as err:
            sock.close()
            raise Conflict(f"failed to listen on tcp://{rest}: {err.strerror}") from err
        sock.listen(1024)
        found.append(Listener(sock, f"tcp://{rest}", tls=context))
        if not port:
            port = sock.getsockname()[1]
    return found


def _host_and_port(rest: str, default: int) -> tuple[str, int]:
    rest = rest.rstrip("/")
    name, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        name, port = rest, str(default)
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidParameter(f"invalid bind address format: tcp://{rest}")
    return name.strip("[]") or ("" if colon else "127.0.0.1"), int(port)


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def tls_context(options: DaemonOptions) -> ssl.SSLContext:
    """TLS as the options say; with ``tlsverify`` clients must show a certificate."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = [options.tlscert, options.tlskey] + [options.tlscacert] * options.tlsverify
    missing = [name for name in files if not Path(name).is_file()]
    if missing:
        raise InvalidParameter(f"could not load the TLS files: {', '.join(missing)}: no such file")
    try:
        # without a password OpenSSL would ask for one on the terminal
        context.load_cert_chain(options.tlscert, options.tlskey, password="")
    except (OSError, ValueError) as err:
        raise InvalidParameter(
            f"could not load the TLS files: {options.tlscert}, {options.tlskey}: {_why(err)}; both "
            "are PEM files, and the key is not encrypted"
        ) from None
    try:
        if options.tlsverify:
            context.load_verify_locations(options.tlscacert)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as err:
        raise InvalidParameter(
            f"could not load the TLS files: {options.tlscacert}: {_why(err)}; it is a PEM file "
            "with the certificates of authorities"
        ) from None
    return context


def _why(error: OSError | ValueError) -> str:
    """The reason for which a TLS file cannot be used, in plain words where there are."""
    reason = str(getattr(error, "reason", "") or "")
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    return reason.lower().replace("_", " ") or getattr(error, "strerror", "") or str(error)


def link_docker_sock(target: Path, link: Path = Path("/var/run/docker.sock")) -> Path | None:
    """Link Docker's socket to ours where no Docker lives; the link when it was made."""
    if link.is_symlink():
        with contextlib.suppress(OSError):
            if link.readlink() == target:
                return link
    if _answers(link):
        log.warning("%s is another engine's socket: not linked", link)
        return None
    if link.exists() and not link.is_symlink():
        return None
    link.unlink(missing_ok=True)
    make_public(link.parent)
    link.symlink_to(target)
    return link
