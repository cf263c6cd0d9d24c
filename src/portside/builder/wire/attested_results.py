"""Attestations of the results of a client's build, in its image and in the history."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from portside.builder.attestations.provenance import Capture, ProvenanceOptions, provenance
from portside.builder.results import Attestation, PlatformResult
from portside.builder.wire.build_job import BuildJob, Reference, Result
from portside.model.ids import new_id

PREFIX = "attest:"


def wanted(job: BuildJob) -> dict[str, str]:
    """The attestations that the request asks for, by kind."""
    attrs: Mapping[str, str] = job.request.FrontendAttrs
    return {key.removeprefix(PREFIX): attrs[key] for key in sorted(attrs) if key.startswith(PREFIX)}


async def attested(job: BuildJob, reference: Reference, made: PlatformResult) -> PlatformResult:
    """One platform's result with what the request asks for. InvalidParameter."""
    attests = wanted(job)
    if not attests:
        return made
    assert job.work is not None
    return await job.service.attested(job.work, made, attests, _capture(job, reference))


def for_history(job: BuildJob, result: Result) -> dict[str, Attestation]:
    """The whole provenance of each result, for the build's record, by platform."""
    text = wanted(job).get("provenance", "")
    version = (ProvenanceOptions.parse(text) if text else None) or ProvenanceOptions()
    options = ProvenanceOptions(is_max=True, version=version.version)
    return {
        key: provenance(_capture(job, reference), options) for key, reference in result.refs.items()
    }


def _capture(job: BuildJob, reference: Reference) -> Capture:
    assert job.work is not None
    source = job.source
    attrs: Any = reference.attrs or job.request.FrontendAttrs
    found = Capture(
        output=reference.output, digests=job.work.digests, started=job.work.started,
        finished=time.time(), invocation=new_id()[:25], attrs=dict(attrs),
        frontend=reference.frontend or job.request.Frontend,
        directories=frozenset(job.directories_read),
    )  # fmt: skip
    if source is None:
        return found
    import dataclasses

    file = attrs.get("filename") or source.name
    return dataclasses.replace(found, file=file, dockerfile=source.data)
