"""Modules of the builder's jobs, imported once by the fork server instead of by every job."""

from __future__ import annotations

from contextlib import suppress

import msgspec
from isal import isal_zlib as _isal

from portside.builder.solver import build_jobs, content_hash, context_receive, file_worker

for _job in (
    build_jobs.SealLayer,
    build_jobs.RunFileOp,
    build_jobs.HashContent,
    build_jobs.InitCache,
    build_jobs.ReceiveContext,
):
    with suppress(msgspec.ValidationError):  # what a type's first decoding prepares, it keeps
        msgspec.json.decode(b"{}", type=_job)

__all__ = ["_isal", "content_hash", "context_receive", "file_worker"]
