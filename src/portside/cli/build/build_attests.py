"""``--provenance``, ``--sbom`` and ``--attest``: what is attested of the image."""

from __future__ import annotations

import os

from portside.cli.build import csv_options
from portside.cli.session import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.flags.table import Options

DEFAULT = "mode=min,inline-only=true"
"""The provenance of an image by default."""
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


def of(options: Options) -> dict[str, str]:
    """Attestations by kind, with their options. Raises Failed."""
    found: dict[str, str | None] = {}
    for text in options.many("attest"):
        kind, value = _parsed(text)
        if kind in found:
            raise Failed(1, f"ERROR: failed to build: duplicate attestation field {kind}")
        found[kind] = value
    for kind in ("provenance", "sbom"):
        if text := options.text(kind):
            if kind in found:
                raise Failed(1, f"ERROR: failed to build: duplicate attestation field {kind}")
            found[kind] = _parsed(_shorthand(kind, text))[1]
    wants_default = os.environ.get("BUILDX_NO_DEFAULT_ATTESTATIONS", "").lower() not in _TRUE
    if "provenance" not in found and wants_default:
        found["provenance"] = DEFAULT
    return {kind: value for kind, value in found.items() if value is not None}


def _shorthand(kind: str, text: str) -> str:
    if text.lower() in _TRUE:
        return f"type={kind}"
    if text.lower() in _FALSE:
        return f"type={kind},disabled=true"
    return f"type={kind},{text}"


def _parsed(text: str) -> tuple[str, str | None]:
    """The kind and its options; None when it is disabled."""
    kind, rest, disabled = "", [], False
    for part in csv_options.fields(text):
        key, equals, value = part.partition("=")
        if not equals:
            raise Failed(1, f"ERROR: failed to build: invalid value {part}")
        key = key.strip().lower()
        if key == "type":
            kind = value
        elif key == "disabled":
            disabled = value.lower() in _TRUE
        else:
            rest.append(f"{key}={value}")
    if not kind:
        raise Failed(1, "ERROR: failed to build: attestation type not specified")
    return kind, None if disabled else ",".join(rest)
