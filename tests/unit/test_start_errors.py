"""Errors of a start keep their class on the way from the container's process to the engine."""

import pytest

from portside.model.errors import (
    CommandNotExecutable,
    CommandNotFound,
    NotRunning,
    PortsideError,
    SystemFailure,
)
from portside.runtime import executable, messages, monitor_client


@pytest.mark.parametrize(
    ("raised", "received"),
    [
        (executable.NoCommand("no command"), CommandNotFound),
        (executable.DeniedCommand("denied"), CommandNotExecutable),
        (executable.CommandError("the directory is outside"), SystemFailure),
        (OSError(28, "No space left on device"), SystemFailure),
        (NotRunning("gone"), SystemFailure),
    ],
)
def test_the_class_survives(raised: Exception, received: type[PortsideError]) -> None:
    error = monitor_client.failure(messages.Failed(str(raised), messages.kind_of(raised)))
    assert type(error) is received
    assert str(error) == str(raised)


def test_an_exec_says_so_and_keeps_the_class() -> None:
    error = executable.NoCommand("it is missing").of_exec()
    assert isinstance(error, CommandNotFound)
    assert str(error).startswith("OCI runtime exec failed: ")
    assert str(error).endswith(": it is missing")


def test_finding_distinguishes_missing_from_denied(tmp_path: object) -> None:
    with pytest.raises(CommandNotFound):
        executable.find(("/no/such/command",), {})
    with pytest.raises(CommandNotExecutable):
        executable.find((str(tmp_path),), {})
