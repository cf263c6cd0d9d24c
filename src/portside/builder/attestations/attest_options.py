"""The attestations that a build is asked for: ``--attest``, or the attributes ``attest:…``."""

from __future__ import annotations

from collections.abc import Mapping

from portside.builder.attestations.provenance import ProvenanceOptions
from portside.builder.attestations.sbom import check_generator
from portside.model.errors import InvalidParameter

_OFF = ("false", "disabled=true")


def check_attests(attests: Mapping[str, str]) -> None:
    """``attests``: the options' text by type. InvalidParameter."""
    for kind, text in attests.items():
        if kind == "provenance":
            ProvenanceOptions.parse(text)
        elif kind == "sbom":
            check_generator(text)
        else:
            raise InvalidParameter(f'unknown attestation type "{kind}": use provenance or sbom')


def has_sbom(attests: Mapping[str, str]) -> bool:
    return attests.get("sbom", "false") not in _OFF
