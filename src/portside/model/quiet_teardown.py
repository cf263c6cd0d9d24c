"""Undoing what may be undone already: the work continues, and the log says at level debug why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from portside.model.errors import PortsideError


@contextmanager
def teardown(log: logging.Logger, what: str) -> Iterator[None]:
    """Passes over PortsideError, OSError and TimeoutError; ``what`` names the step."""
    try:
        yield
    except (PortsideError, OSError, TimeoutError) as err:
        log.debug("%s: %s", what, err)
