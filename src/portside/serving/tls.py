"""A server's TLS context from files."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from portside.model.errors import InvalidParameter


def server_context(
    certificate: str, key: str, authorities: Iterable[str], setting: str, *, newest: bool = False
) -> ssl.SSLContext | None:
    """None when neither certificate nor key is given. ``newest``: TLS 1.3 only.

    With ``authorities`` clients must show a certificate of one of them. Raises
    InvalidParameter naming ``setting``.
    """
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise InvalidParameter(f"{setting} needs both certificate and key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest else ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        for authority in authorities:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as err:
        raise InvalidParameter(f"{setting}: cannot load {certificate}: {err}") from err
    return context
