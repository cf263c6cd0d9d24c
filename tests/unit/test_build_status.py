"""A build's progress for clients that ask late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from portside.builder.wire import control_service
from portside.builder.wire.control_service import Jobs
from portside.model.errors import NotFound


async def test_a_quick_builds_progress_is_found_after_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two calls come over one connection, in no order; a client that gets no progress soon
    after the result gives up ("context canceled")."""
    monkeypatch.setattr(control_service, "ARRIVAL", 0.2)
    jobs = Jobs()
    job: Any = SimpleNamespace(ref="quick", returned=None, frontend_inputs={})
    jobs.add(job)
    jobs.remove(job)
    assert await jobs.get("quick", ended=True) is job
    with pytest.raises(NotFound):
        await jobs.get("quick")
    jobs.add(job)  # its name is free at once
    jobs.remove(job)
    await asyncio.sleep(0.4)
    with pytest.raises(NotFound):
        await jobs.get("quick", ended=True)


async def test_progress_of_a_build_that_is_about_to_come() -> None:
    jobs = Jobs()
    job: Any = SimpleNamespace(ref="late", returned=None, frontend_inputs={})
    asyncio.get_running_loop().call_later(0.05, jobs.add, job)
    assert await jobs.get("late") is job
