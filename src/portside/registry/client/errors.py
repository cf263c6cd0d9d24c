"""What registries answer when they refuse, and what the network says, in Docker's words."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from portside.model.errors import SystemFailure

if TYPE_CHECKING:
    import aiohttp

_STATUS_CODES = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("UNKNOWN", "not found"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}
MAX_ERROR_BODY = 64 << 10
_UNKNOWN_ISSUERS = {18, 19, 20, 21}
"""X509_V_ERR_* of a chain that ends in nobody we trust (openssl-verification-options(1))."""
_BAD_TIMES = {9, 10}
_BAD_HOST = {62, 64}


class RegistryError(SystemFailure):
    """A registry's own refusal; ``code`` is distribution-spec's (``MANIFEST_UNKNOWN`` …)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(f"{code.replace('_', ' ').lower()}: {message}")

    @property
    def is_missing(self) -> bool:
        return self.status == 404 or self.code in (
            "MANIFEST_UNKNOWN",
            "NAME_UNKNOWN",
            "BLOB_UNKNOWN",
        )

    @property
    def is_denied(self) -> bool:
        return self.status in (401, 403) or self.code in ("DENIED", "UNAUTHORIZED")


class NoCredentials(SystemFailure):
    """The registry wants a name and a password and none were given."""


class Unreachable(SystemFailure):
    """No answer from a registry: name, connection, TLS or time."""

    def __init__(self, message: str, *, plain_http: bool = False) -> None:
        self.plain_http = plain_http
        """The peer speaks HTTP where HTTPS was tried."""
        super().__init__(message)


class BadRedirect(Unreachable):
    """A redirect that is not followed: a loop, another scheme, no address. Trying again does
    not help."""


class TooSlow(Unreachable):
    """A peer that sends, but less than the lower bound on progress."""


class BadContent(SystemFailure):
    """What arrived is not what its digest or size says."""


class _ErrorEntry(msgspec.Struct):
    code: str = "UNKNOWN"
    message: str = ""


class _ErrorBody(msgspec.Struct):
    errors: list[_ErrorEntry] = []
    details: str = ""
    message: str = ""


def from_response(status: int, body: bytes, challenges: list[dict[str, str]]) -> RegistryError:
    """The error of an answer that is not a success.

    A 401 whose challenge says ``insufficient_scope`` is a denial: the token was good, the
    right was missing (RFC 6750, section 3.1).
    """
    if status == 401:
        for challenge in challenges:
            if challenge.get("error") == "insufficient_scope":
                return RegistryError(status, "DENIED", _STATUS_CODES[403][1])
    try:
        parsed = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        parsed = _ErrorBody()
    if parsed.errors:
        entry = parsed.errors[0]
        return RegistryError(status, entry.code or "UNKNOWN", entry.message or entry.code.lower())
    code, message = _STATUS_CODES.get(status, ("UNKNOWN", f"unexpected status {status}"))
    return RegistryError(status, code, parsed.details or parsed.message or message)


def from_network(method: str, url: str, err: BaseException) -> Unreachable:
    """A failure below HTTP, as ``Get "https://host/v2/": dial tcp …`` (Go's ``url.Error``)."""
    text, plain = _reason(url, err)
    return Unreachable(f'{method.capitalize()} "{url}": {text}', plain_http=plain)


def _reason(url: str, err: BaseException) -> tuple[str, bool]:
    import aiohttp

    if isinstance(err, aiohttp.ClientConnectorCertificateError):
        return _certificate(url, err.certificate_error), False
    if isinstance(err, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {urlsplit(url).hostname}: no such host", False
    if isinstance(err, aiohttp.ClientConnectorSSLError):
        return _tls(err)
    if isinstance(err, aiohttp.ConnectionTimeoutError):
        return f"dial tcp {_peer(url)}: i/o timeout", False
    if isinstance(err, aiohttp.ClientConnectorError):
        return f"dial tcp {_peer(url)}: {_os_reason(err)}", False
    if isinstance(err, TimeoutError):
        return "net/http: timeout awaiting response headers", False
    if isinstance(err, aiohttp.ServerDisconnectedError):
        return "EOF", False
    if isinstance(err, aiohttp.ClientPayloadError):
        return "unexpected EOF", False
    if isinstance(err, aiohttp.ClientHttpProxyError):
        return f"proxyconnect tcp: {err.message}", False
    if isinstance(err, aiohttp.ClientResponseError):
        return f"malformed HTTP response: {err.message}", False
    if isinstance(err, OSError):
        return f"read tcp {_peer(url)}: {_os_reason(err)}", False
    return str(err) or type(err).__name__, False


def _certificate(url: str, err: Exception) -> str:
    prefix = "tls: failed to verify certificate: x509: "
    code = err.verify_code if isinstance(err, ssl.SSLCertVerificationError) else 0
    if code in _UNKNOWN_ISSUERS:
        return prefix + "certificate signed by unknown authority"
    if code in _BAD_TIMES:
        return prefix + "certificate has expired or is not yet valid"
    if code in _BAD_HOST:
        return prefix + f"certificate is not valid for {urlsplit(url).hostname}"
    return prefix + str(getattr(err, "verify_message", "") or err)


def _tls(err: aiohttp.ClientConnectorSSLError) -> tuple[str, bool]:
    text = str(err.os_error)
    reason = getattr(err.os_error, "reason", "") or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "http: server gave HTTP response to HTTPS client", True
    if "ALERT" in reason:
        words = reason.lower().replace("_", " ").rpartition("alert ")[2]
        return f"remote error: tls: {words}", False
    return f"tls: {text}", False


def _os_reason(err: OSError) -> str:
    number = err.errno
    inner = getattr(err, "os_error", None)
    if number is None and isinstance(inner, OSError):
        number = inner.errno
    if number is None or number < 0:
        return str(err)
    words = os.strerror(number).lower()
    call = (
        "connect: " if number in (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH) else ""
    )
    return call + words


def _peer(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    try:
        socket.inet_pton(socket.AF_INET6, host)
    except OSError:
        return f"{host}:{port}"
    return f"[{host}]:{port}"
