"""The client's end of a build's connection."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from portside.cli.build.build_connection import BuildConnection
from portside.model.errors import Unavailable


@pytest.mark.parametrize("directories", [0, 1])
def test_an_engine_that_leaves_at_once(directories: int) -> None:
    """Not a BrokenPipeError: with that the command ends in silence, as for a closed output."""
    ours, theirs = socket.socketpair()
    theirs.close()
    upgraded = SimpleNamespace(status=101, _connection=SimpleNamespace(steal=lambda: (ours, b"")))
    client: Any = SimpleNamespace(request=lambda *_: upgraded)
    fds = [os.open("/", os.O_PATH) for _ in range(directories)]
    try:
        with pytest.raises(Unavailable, match="the engine closed the connection"):
            BuildConnection(client, {}, fds, lambda _: lambda _: None)
    finally:
        ours.close()
        for fd in fds:
            os.close(fd)
