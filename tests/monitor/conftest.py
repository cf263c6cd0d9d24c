"""A monitor beside the session's engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from enginekit import RunningEngine
from monitorkit import RunningMonitor


@pytest.fixture(scope="session")
def monitor(
    engine: RunningEngine, docker: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningMonitor]:
    directory = tmp_path_factory.mktemp("monitor")
    running = RunningMonitor(
        directory, "--interval", "200ms", "--details-interval", "500ms", "--logs", "--history",
        str(directory / "history.db"), engine=engine.host,
    ).start()  # fmt: skip
    yield running
    running.stop()
