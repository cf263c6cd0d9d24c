"""Findings of ``system audit``: results of the CIS Docker Benchmark's checks."""

from __future__ import annotations

import msgspec

PASS, WARN, INFO = "pass", "warn", "info"
"""Status: as recommended; not as recommended; a choice that depends on the machine."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One recommendation for one subject."""

    id: str
    """Its number in the CIS Docker Benchmark 1.6."""
    title: str
    verdict: str
    subject: str = ""
    """A container's name or a path; empty for the engine itself."""
    reason: str = ""
    fix: str = ""
    """A command or a setting; empty when it is as recommended."""
